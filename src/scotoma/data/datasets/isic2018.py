"""ISIC 2018, task 3: 11,720 dermoscopies in 7 diagnoses (training, validation and test of the challenge).

The training images are HAM10000's, several of a lesion; with ``ISIC2018_Task3_Training_LesionGroupings.csv`` the lesion is
the group.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

SOURCE = "ISIC Archive, https://challenge.isic-archive.com/data/#2018"
TERMS = "CC BY-NC 4.0: not commercial, attribution"
LAYOUT = """ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv (also Validation, Test)
ISIC2018_Task3_Training_Input/ISIC_0024306.jpg (also Validation, Test)
ISIC2018_Task3_Training_LesionGroupings.csv (may be absent)"""
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
PARTS = {"Training": "train", "Validation": "val", "Test": "test"}


def load(root: Path) -> Dataset:
    """Load the images with their diagnosis, lesion and split.

    Args:
        root: the folder that holds ``ISIC2018_Task3_Training_Input``; validation and test are taken where they are there.

    Raises:
        UsageError: a table, a column or every image is absent.
    """
    import pandas as pd

    base.find(root, LAYOUT, *_tables("Training"))
    parts = []
    for part, split in PARTS.items():
        path = base.optional(root, *_tables(part))
        if path is not None:
            frame = base.read(path, ("image", *CLASSES))
            found = base.by_name(frame["image"], root, [f"ISIC2018_Task3_{part}_Input"])
            parts.append(frame[["image"]].assign(image_path=found, label=base.one_hot(frame, CLASSES), split=split))
    frame = pd.concat(parts, ignore_index=True)
    name = "ISIC2018_Task3_Training_LesionGroupings.csv"
    lesions = base.optional(root, name, f"ISIC2018_Task3_Training_GroundTruth/{name}")
    if lesions is not None:
        known = base.read(lesions, ("image", "lesion_id", "diagnosis_confirm_type"))
        frame["group"] = frame["image"].map(known.set_index("image")["lesion_id"])
        frame["confirmed_by"] = frame["image"].map(known.set_index("image")["diagnosis_confirm_type"])
    if len(parts) == 1:
        frame = frame.drop(columns="split")
    return base.dataset("isic2018", frame.drop(columns="image"), root, LAYOUT)


def _tables(part: str) -> tuple[str, str]:
    name = f"ISIC2018_Task3_{part}_GroundTruth"
    return f"{name}/{name}.csv", f"{name}.csv"
