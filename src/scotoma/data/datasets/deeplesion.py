"""DeepLesion: 32,120 key slices of CT of 4,427 patients with lesions of all kinds, and the slices around them.

``label`` is where the lesion lies; it is known for the validation and test slices alone, and missing where lesions of one slice
differ. The PNGs hold HU + 32768: lung, soft tissue and bone window are the three channels. ``slices=all`` adds the unlabelled
neighbours (about 900,000) for pretraining. The published split is by patient.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.data.io.base import WINDOWS, Display
from scotoma.errors import UsageError

SOURCE = "NIH Clinical Center, https://nihcc.app.box.com/v/DeepLesion"
TERMS = "no licence is known: see the publisher's page; cite the paper"
LAYOUT = """DL_info.csv: File_name, Patient_index, ..., Train_Val_Test
Images_png/000001_01_01/109.png, or Images_png/Images_png/"""
COLUMNS = ("File_name", "Patient_index", "Study_index", "Key_slice_index", "Coarse_lesion_type", "Possibly_noisy", "Spacing_mm_px_",
           "Patient_gender", "Patient_age", "Train_Val_Test")  # fmt: skip
PLACES = {1: "bone", 2: "abdomen", 3: "mediastinum", 4: "liver", 5: "lung", 6: "kidney", 7: "soft tissue", 8: "pelvis"}
SPLITS = {1: "train", 2: "val", 3: "test"}
DISPLAY = Display(windows=(WINDOWS["lung"], WINDOWS["softtissue"], WINDOWS["bone"]), offset=-32768)
OF_SERIES = ["patient", "study", "split", "age", "sex", "spacing_mm"]


def load(root: Path, slices: Literal["key", "all"] = "key") -> Dataset:
    """Load the slices with their lesion's place, patient, age, sex, spacing and split.

    Args:
        root: the folder that holds ``Images_png``.
        slices: ``key``, those with a lesion marked; ``all``, their neighbours too.

    Raises:
        UsageError: the table, a column or every slice is absent, or ``slices`` is neither.
    """
    import pandas as pd

    if slices not in ("key", "all"):
        raise UsageError(f"deeplesion: slices={slices} is none of key, all")
    lesions = base.read(base.find(root, LAYOUT, "DL_info.csv"), COLUMNS)
    series = lesions["File_name"].str.rsplit("_", n=1).str[0]
    images = "Images_png/Images_png" if (root / "Images_png" / "Images_png").is_dir() else "Images_png"
    place = lesions["Coarse_lesion_type"].map(PLACES)
    by_slice = place.groupby(lesions["File_name"])
    frame = pd.DataFrame(
        {
            "name": images + "/" + series + "/" + lesions["File_name"].str.rsplit("_", n=1).str[1],
            "series": series,
            "label": lesions["File_name"].map(by_slice.first().where(by_slice.nunique() == 1)),
            "lesions": lesions["File_name"].map(by_slice.size()),
            "noisy": lesions["File_name"].map(lesions.groupby("File_name")["Possibly_noisy"].max()),
            "patient": lesions["Patient_index"],
            "study": lesions["Patient_index"].astype(str) + "_" + lesions["Study_index"].astype(str),
            "split": lesions["Train_Val_Test"].map(SPLITS),
            "age": base.age(lesions["Patient_age"]),
            "sex": base.sex(lesions["Patient_gender"]),
            "spacing_mm": lesions["Spacing_mm_px_"].str.split(",").str[0].astype(float),
        }
    ).drop_duplicates("name", ignore_index=True)
    if slices == "all":
        found = pd.Series(base.files(root, images + "/" + frame["series"].drop_duplicates()), name="name", dtype=object)
        more = pd.DataFrame({"name": found[~found.isin(frame["name"])]})
        more["series"] = more["name"].str.split("/").str[-2]
        known = frame.drop_duplicates("series").set_index("series")[OF_SERIES]
        frame = pd.concat([frame, more.join(known, on="series")], ignore_index=True)
    frame.insert(0, "image_path", base.on_disk(frame["name"], root))
    return base.dataset("deeplesion", frame.drop(columns=["name", "series"]), root, LAYOUT, DISPLAY)
