"""LGG segmentation (Kaggle): 3,929 brain MR slices of 110 patients with lower-grade glioma, with tumour outlines.

The three channels are before contrast, FLAIR and after contrast (some patients lack the first or last; FLAIR stands in).
``tumour`` is 1 where the mask is not empty.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.data.io import read
from scotoma.errors import UsageError

SOURCE = "Kaggle, https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation (images of TCGA-LGG, The Cancer Imaging Archive)"
TERMS = "CC BY-NC-SA 4.0: not commercial, attribution, share alike"
LAYOUT = """TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_1.tif, here or in kaggle_3m/
TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_1_mask.tif
data.csv (may be absent)"""


def load(root: Path) -> Dataset:
    """Load the slices with their masks, patient and age.

    Args:
        root: the folder ``kaggle_3m`` or the one that holds it.

    Raises:
        UsageError: there is no slice, or a mask cannot be read.
    """
    within = "kaggle_3m/" if (root / "kaggle_3m").is_dir() else ""
    frame = base.class_folders(root, LAYOUT, *base.folders(root, f"{within}TCGA_*"))
    mask = frame["image_path"].str.endswith("_mask.tif")
    masks = {path.removesuffix("_mask.tif"): path for path in frame["image_path"][mask]}
    frame = frame[~mask].reset_index(drop=True)
    stems = frame["image_path"].str.removesuffix(".tif")
    frame = frame.assign(
        mask_path=stems.map(masks),
        tumour=stems.map({stem: _any(root, path) for stem, path in masks.items()}),
        patient=frame["folder"].str.rsplit("_", n=1).str[0],
        slice=stems.str.rsplit("_", n=1).str[1].astype(int),
    )
    details = base.optional(root, f"{within}data.csv")
    if details is not None:
        ages = base.read(details, ("Patient", "age_at_initial_pathologic")).set_index("Patient")["age_at_initial_pathologic"]
        frame["age"] = base.age(frame["patient"].map(ages))
    return base.dataset("lgg", frame.drop(columns="folder"), root, LAYOUT)


def _any(root: Path, mask: str) -> int:
    """1 where a mask has anything in it, else 0."""
    try:
        return int(read.read(str(root / mask)).pixels.any())
    except read.ImageError as error:
        raise UsageError(f"a mask cannot be read ({error}): copy it again") from error
