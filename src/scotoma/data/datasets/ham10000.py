"""HAM10000: 10,015 dermoscopies of 7,470 lesions in 7 diagnoses.

Several images show one lesion: the lesion is the group. The expert's outlines are taken as masks where their folder is there.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

SOURCE = "Harvard Dataverse, https://doi.org/10.7910/DVN/DBW86T"
TERMS = "CC BY-NC 4.0: not commercial, attribution"
LAYOUT = """HAM10000_metadata[.csv]
HAM10000_images_part_1/ISIC_0027419.jpg, HAM10000_images_part_2/
HAM10000_segmentations_lesion_tschandl/ISIC_0027419_segmentation.png (may be absent)"""
FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images")
MASKS = "HAM10000_segmentations_lesion_tschandl"


def load(root: Path) -> Dataset:
    """Load the images with their diagnosis, lesion, age, sex and part of the body.

    Args:
        root: the folder that holds the table and the two parts.

    Raises:
        UsageError: the table, a column or every image is absent.
    """
    import pandas as pd

    path = base.find(root, LAYOUT, "HAM10000_metadata.csv", "HAM10000_metadata")
    columns = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
    published = base.read(path, columns)
    frame = pd.DataFrame(
        {
            "image_path": base.by_name(published["image_id"], root, FOLDERS),
            "group": published["lesion_id"],
            "label": published["dx"],
            "confirmed_by": published["dx_type"],
            "age": base.age(published["age"]),
            "sex": base.sex(published["sex"]),
            "body_part": published["localization"].where(published["localization"] != "unknown"),
        }
    )
    if (root / MASKS).is_dir():
        frame["mask_path"] = base.by_name(published["image_id"] + "_segmentation", root, [MASKS])
    return base.dataset("ham10000", frame, root, LAYOUT)
