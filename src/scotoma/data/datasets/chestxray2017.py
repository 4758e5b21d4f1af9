"""Chest X-rays of children (Kermany 2018): 5,856 films, normal or pneumonia of bacteria or virus.

The names say the patient (``person12_bacteria_34`` is patient 12 of those with bacteria: the two kinds are counted apart). The
published split into train and test keeps these patients apart. The 16 films that a later copy calls ``val`` were taken from
``train``: they go back there, and validation is drawn by patient.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

SOURCE = "Mendeley Data, https://data.mendeley.com/datasets/rscbjbr9sj, or Kaggle, paultimothymooney/chest-xray-pneumonia"
TERMS = "CC BY 4.0: commercial use allowed, attribution"
LAYOUT = """train/NORMAL/IM-0115-0001.jpeg, train/PNEUMONIA/person12_bacteria_34.jpeg
test/NORMAL/, test/PNEUMONIA/
all of these here or in chest_xray/"""


def load(root: Path) -> Dataset:
    """Load the films with their class, subtype, patient and split.

    Args:
        root: the folder ``chest_xray`` or the one that holds it.

    Raises:
        UsageError: none of the folders holds an image.
    """
    splits = {"train": "train", "val": "train", "test": "test"}
    within = "chest_xray/" if (root / "chest_xray" / "train").is_dir() else ""
    paths = [f"{within}{split}/{label}" for split in splits for label in ("NORMAL", "PNEUMONIA")]
    frame = base.class_folders(root, LAYOUT, *paths)
    stem = frame["image_path"].map(base.stem)
    ill = stem.str.extract(r"^(?:person(\d+)_(bacteria|virus)|(BACTERIA|VIRUS)-(\d+))[_-]")
    subtype = ill[1].fillna(ill[2].str.lower())
    patient = subtype + " " + ill[0].fillna(ill[3])
    return base.dataset(
        "chestxray2017",
        frame.assign(
            label=frame["folder"].str.lower(),
            subtype=subtype.where(frame["folder"] == "PNEUMONIA", "normal"),
            patient=patient.fillna(stem.str.extract(r"^((?:NORMAL2?-)?(?:IM-)?\d+)-", expand=False)),
            split=frame["image_path"].str.split("/").str[-3].map(splits),
        ).drop(columns="folder"),
        root,
        LAYOUT,
    )
