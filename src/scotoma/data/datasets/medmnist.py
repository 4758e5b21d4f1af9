"""MedMNIST v2 and its larger sizes: one .npz with train, validation and test images; classes under their names.

Any of its two-dimensional sets (``pathmnist.npz``, ``chestmnist_224.npz``); the three-dimensional ones hold volumes and are
refused.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from scotoma.data import sources
from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.errors import UsageError

SOURCE = "Zenodo, https://zenodo.org/records/10519652, or https://medmnist.com"
TERMS = "CC BY 4.0 (dermamnist CC BY-NC 4.0: not commercial); cite the source set too"
LAYOUT = """the path is the file: pathmnist.npz, pathmnist_64.npz, ...
members train_images, train_labels, val_images, val_labels, test_images, test_labels"""
_ORGANS = ("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left", "lung-right",
           "pancreas", "spleen")  # fmt: skip
CLASSES = {
    "pathmnist": ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
                  "cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    "chestmnist": ("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
                   "consolidation", "edema", "emphysema", "fibrosis", "pleural_thickening", "hernia"),
    "dermamnist": ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal or benign"),
    "bloodmnist": ("basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
                   "platelet"),
    "tissuemnist": ("collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
                    "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments",
                    "thick ascending limb"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}  # fmt: skip


def load(root: Path) -> Dataset:
    """Load the images with their classes (``chestmnist``: one column per finding) and the published split.

    Args:
        root: the ``.npz``, under its own name.

    Raises:
        UsageError: it is no file, none of MedMNIST's sets, one of its volumes, or labels do not fit its classes.
    """
    if not root.is_file():
        raise base.absent(root, LAYOUT, ".npz of MedMNIST")
    flag = re.sub(r"_\d+$", "", root.stem.lower())
    if flag.endswith("3d"):
        raise UsageError(f"{root.name} holds volumes, not images: save their slices, or take a two-dimensional set")
    if flag not in CLASSES:
        raise UsageError(f"{root.name} is named as none of MedMNIST's sets ({', '.join(CLASSES)}); load it by its path alone")
    dataset, classes = sources.load(root), CLASSES[flag]
    labels = [c for c in dataset.table.columns if c.startswith("label")]
    if flag == "chestmnist" and len(labels) == len(classes):
        return replace(dataset, table=dataset.table.rename(columns=dict(zip(labels, classes, strict=True))))
    if labels != ["label"] or not dataset.table["label"].dropna().between(0, len(classes) - 1).all():
        raise UsageError(f"{root.name}: its labels are not the {len(classes)} classes of {flag}")
    return replace(dataset, table=dataset.table.assign(label=dataset.table["label"].map(dict(enumerate(classes)))))
