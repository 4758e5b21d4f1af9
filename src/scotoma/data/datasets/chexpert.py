"""CheXpert (v1.0 and v1.0-small): 224,316 chest X-rays of 65,240 patients, 14 findings read from the reports.

A finding is 1, 0 or -1 (uncertain) where a report speaks of it and blank where it does not; blank stays missing unless
``blank=0`` takes silence for absence. The 200 studies of ``valid.csv`` were labelled by radiologists. Where ``test.csv`` is
absent they are the test set and validation is drawn from the training patients; where it is there, each keeps its name.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.data.datasets.base import Blank, Unknown

SOURCE = "Stanford AIMI, https://aimi.stanford.edu/datasets/chexpert-chest-x-rays (registration)"
TERMS = "Stanford University Dataset Research Use Agreement: research, not commercial; no redistribution"
LAYOUT = """train.csv, valid.csv[, test.csv]: Path is CheXpert-v1.0[-small]/train/patient00001/study1/view1_frontal.jpg
train/patient00001/study1/view1_frontal.jpg
valid/patient64541/study1/view1_frontal.jpg"""
FINDINGS = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
            "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
            "Support Devices")  # fmt: skip
DETAILS = ("Sex", "Age", "Frontal/Lateral", "AP/PA")


def load(root: Path, uncertain: Unknown = "missing", blank: Blank = "missing") -> Dataset:
    """Load the images with their findings, sex, age, view and split.

    Args:
        root: the folder ``CheXpert-v1.0`` or ``CheXpert-v1.0-small``.
        uncertain: what -1 counts as.
        blank: what a finding that the report does not mention counts as.

    Raises:
        UsageError: a table, a column or every image is absent.
    """
    import pandas as pd

    test = base.optional(root, "test.csv")
    parts = [
        base.read(base.find(root, LAYOUT, f"{name}.csv"), ("Path", *DETAILS, *FINDINGS)).assign(
            split={"train": "train", "valid": "val" if test else "test"}[name]
        )
        for name in ("train", "valid")
    ]
    if test:  # has no details
        parts.append(base.read(test, ("Path", *FINDINGS)).assign(split="test"))
    frame = pd.concat(parts, ignore_index=True)
    paths = frame["Path"].str.replace(r"^(?:.*/)?(?=(?:train|valid|test)/patient)", "", regex=True)
    folder = paths.str.split("/")
    lateral = frame["Frontal/Lateral"].eq("Lateral")
    details = pd.DataFrame(
        {
            "image_path": base.on_disk(paths, root),
            "patient": folder.str[1],
            "study": folder.str[1] + "/" + folder.str[2],
            "split": frame["split"],
            "age": base.age(frame["Age"]),
            "sex": base.sex(frame["Sex"]),
            "view": frame["AP/PA"].where(~lateral, "LATERAL"),
        }
    )
    return base.dataset("chexpert", details.join(base.findings(frame, FINDINGS, uncertain, blank)), root, LAYOUT)
