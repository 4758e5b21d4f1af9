"""BUSI: 780 breast ultrasound images, benign, malignant or normal, with lesion outlines.

The patients are not published, several images show one lesion and some stand in two classes: groups of near-duplicates make
the split, and `scotoma audit` lists them. Where an image has several masks, ``mask_path`` names all of them, with ``|``
between them: the outline is their union.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

SOURCE = "Cairo University, https://scholar.cu.edu.eg/?q=afahmy/pages/dataset"
TERMS = "copies differ (Kaggle's states CC0, MedMNIST's CC BY 4.0): see the publisher's page; cite the paper"
LAYOUT = """benign/benign (1).png, benign/benign (1)_mask.png, benign/benign (4)_mask_1.png, here or in Dataset_BUSI_with_GT/
malignant/, normal/"""
CLASSES = ("benign", "malignant", "normal")


def load(root: Path) -> Dataset:
    """Load the images with their class and masks.

    Args:
        root: the folder ``Dataset_BUSI_with_GT`` or the one that holds it.

    Raises:
        UsageError: none of the folders holds an image.
    """
    within = "Dataset_BUSI_with_GT/" if (root / "Dataset_BUSI_with_GT").is_dir() else ""
    frame = base.class_folders(root, LAYOUT, *(f"{within}{name}" for name in CLASSES))
    stems = frame["image_path"].str.removesuffix(".png")
    of = stems.str.extract(r"^(.*)_mask(?:_\d+)?$")[0]
    # the masks of an image lie beside it: the first by its path, the others by their names
    names = frame["image_path"].where(~of.duplicated(), frame["image_path"].str.rsplit("/", n=1).str[1])
    masks = names[of.notna()].groupby(of).agg("|".join)
    frame = frame.assign(mask_path=stems.map(masks))[of.isna()]
    return base.dataset("busi", frame.rename(columns={"folder": "label"}), root, LAYOUT)
