"""ISIC 2019: 25,331 dermoscopies in 8 diagnoses for training, and the challenge's test images.

The lesion is the group where it is known (for some 2,000 images it is not); its name begins with the clinic's collection,
kept as ``site``. The test images' class ``unk`` (none of the others) does not occur in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

if TYPE_CHECKING:
    import pandas as pd

SOURCE = "ISIC Archive, https://challenge.isic-archive.com/data/#2019"
TERMS = "CC BY-NC 4.0: not commercial, attribution to BCN_20000, HAM10000 and MSK"
LAYOUT = """ISIC_2019_Training_GroundTruth.csv, ISIC_2019_Training_Metadata.csv
ISIC_2019_Training_Input/[ISIC_2019_Training_Input/]ISIC_0000000.jpg
ISIC_2019_Test_GroundTruth.csv, ISIC_2019_Test_Metadata.csv, ISIC_2019_Test_Input/ (may be absent)"""
CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
DETAILS = ("age_approx", "anatom_site_general", "sex")


def load(root: Path) -> Dataset:
    """Load the images with their diagnosis, lesion, age, sex, site of the body and split.

    Args:
        root: the folder that holds ``ISIC_2019_Training_Input``; the test set is taken where its metadata are there.

    Raises:
        UsageError: a table, a column or every image is absent.
    """
    import pandas as pd

    parts = [_part(root, "Training", ("lesion_id",))]
    if base.optional(root, "ISIC_2019_Test_Metadata.csv") is not None:
        parts = [parts[0].assign(split="train"), _part(root, "Test", ()).assign(split="test")]
    frame = pd.concat(parts, ignore_index=True)
    frame["site"] = frame["group"].str.extract(r"^([A-Za-z]+)", expand=False)
    return base.dataset("isic2019", frame, root, LAYOUT)


def _part(root: Path, part: str, extra: tuple[str, ...]) -> pd.DataFrame:
    """The rows of ``Training`` or ``Test``; the labels of the test set were published later and may be absent."""
    import pandas as pd

    details = base.read(base.find(root, LAYOUT, f"ISIC_2019_{part}_Metadata.csv"), ("image", *DETAILS, *extra))
    folder = f"ISIC_2019_{part}_Input"
    frame = pd.DataFrame(
        {
            "image_path": base.by_name(details["image"], root, [folder, f"{folder}/{folder}"]),
            "group": details["lesion_id"] if extra else None,
            "age": base.age(details["age_approx"]),
            "sex": base.sex(details["sex"]),
            "body_part": details["anatom_site_general"],
        }
    )
    truth = f"ISIC_2019_{part}_GroundTruth.csv"
    path = base.find(root, LAYOUT, truth) if part == "Training" else base.optional(root, truth)
    if path is not None:
        labels = base.read(path, ("image", *CLASSES))
        frame["label"] = details["image"].map(base.one_hot(labels, CLASSES).set_axis(labels["image"]))
    return frame
