"""Brain tumour MRI (Kaggle, 4 classes): 7,023 slices (later 7,200), glioma, meningioma, pituitary tumour or none.

The split it comes with puts a near-duplicate of about a third of its test images into training, and its patients are not
published. It is therefore not kept: groups of near-duplicates make the split, unless ``published_split=1`` is given.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

SOURCE = "Kaggle, https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset"
TERMS = "CC0 as its publisher states; put together from three earlier sets, whose own terms differ"
LAYOUT = """Training/glioma/Tr-gl_0010.jpg (also meningioma, notumor, pituitary)
Testing/glioma/Te-gl_0010.jpg"""
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
PARTS = {"Training": "train", "Testing": "test"}


def load(root: Path, published_split: bool = False) -> Dataset:
    """Load the slices with their class.

    Args:
        root: the folder that holds ``Training`` and ``Testing``.
        published_split: keep the split of the folders, near-duplicates and all.

    Raises:
        UsageError: none of the folders holds an image.
    """
    frame = base.class_folders(root, LAYOUT, *(f"{part}/{name}" for part in PARTS for name in CLASSES))
    if published_split:
        frame["split"] = frame["image_path"].str.split("/").str[0].map(PARTS)
    return base.dataset("brain_tumor_mri", frame.rename(columns={"folder": "label"}), root, LAYOUT)
