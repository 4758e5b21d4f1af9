"""EyePACS (Kaggle 2015): 88,702 fundus photographs of both eyes, graded for diabetic retinopathy (0 none to 4 proliferative).

The number before ``_left`` and ``_right`` is the patient. Where the test grades are there, the competition's split is kept: it
keeps patients apart.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

SOURCE = "Kaggle, https://www.kaggle.com/c/diabetic-retinopathy-detection"
TERMS = "the rules of the competition, to be accepted there: see the publisher's page"
LAYOUT = """trainLabels.csv: image, level
train/10_left.jpeg
retinopathy_solution.csv, test/ (may be absent)"""


def load(root: Path) -> Dataset:
    """Load the photographs with their grade, patient and side.

    Args:
        root: the folder that holds ``train``.

    Raises:
        UsageError: the table, a column or every image is absent.
    """
    import pandas as pd

    frame = base.read(base.find(root, LAYOUT, "trainLabels.csv"), ("image", "level"))
    frame["image_path"] = base.by_name(frame["image"], root, ["train"])
    test = base.optional(root, "retinopathy_solution.csv")
    if test is not None:
        more = base.read(test, ("image", "level"))
        more["image_path"] = base.by_name(more["image"], root, ["test"])
        frame = pd.concat([frame.assign(split="train"), more.assign(split="test")], ignore_index=True)
    eye = frame["image"].str.extract(r"^(\d+)_(left|right)$")
    frame = frame.assign(patient=eye[0], laterality=eye[1].map({"left": "L", "right": "R"}))
    return base.dataset("eyepacs", frame.rename(columns={"level": "label"}).drop(columns="image"), root, LAYOUT)
