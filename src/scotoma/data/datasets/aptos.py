"""APTOS 2019: 3,662 fundus photographs graded for diabetic retinopathy (0 none to 4 proliferative), 1,928 without grades.

The patients are not published. Photographs without a grade (``test_images``) have no label and no split of their own.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

SOURCE = "Kaggle, https://www.kaggle.com/c/aptos2019-blindness-detection"
TERMS = "the rules of the competition, to be accepted there: see the publisher's page"
LAYOUT = """train.csv: id_code, diagnosis
train_images/000c1434d8d7.png
test.csv, test_images/ (may be absent)"""


def load(root: Path) -> Dataset:
    """Load the photographs with their grade.

    Args:
        root: the folder that holds ``train_images``.

    Raises:
        UsageError: the table, a column or every image is absent.
    """
    import pandas as pd

    frame = base.read(base.find(root, LAYOUT, "train.csv"), ("id_code", "diagnosis"))
    frame["image_path"] = base.by_name(frame["id_code"], root, ["train_images", "train_images/train_images"])
    test = base.optional(root, "test.csv")
    if test is not None:
        more = base.read(test, ("id_code",))
        more["image_path"] = base.by_name(more["id_code"], root, ["test_images", "test_images/test_images"])
        frame = pd.concat([frame, more], ignore_index=True)
    return base.dataset("aptos", frame.rename(columns={"diagnosis": "label"})[["image_path", "label"]], root, LAYOUT)
