"""NIH ChestX-ray14: 112,120 frontal chest X-rays of 30,805 patients, 14 findings mined from the reports.

Every image has every finding, 1 or 0, as the publisher's text mining gave them; ``no_finding`` is its own column. The
published split keeps patients apart; validation is drawn from its training patients.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.errors import UsageError

SOURCE = "NIH Clinical Center, https://nihcc.app.box.com/v/ChestXray-NIHCC"
TERMS = "use unrestricted; cite the paper, acknowledge the NIH Clinical Center and link to the source"
LAYOUT = """Data_Entry_2017_v2020.csv or Data_Entry_2017.csv
train_val_list.txt, test_list.txt
images_001/images/00000001_000.png to images_012/images/, or images/00000001_000.png"""
FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia", "Infiltration",
            "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax", "No Finding")  # fmt: skip
# The header has unquoted commas in "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]": pandas reads four columns.
COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "View Position")
SPACING = "y]"


def load(root: Path) -> Dataset:
    """Load the images with their findings, age, sex, view, spacing and split.

    Args:
        root: the folder that holds the table and ``images_001`` to ``images_012``.

    Raises:
        UsageError: the table, a column or every image is absent, or a finding is unknown.
    """
    import pandas as pd

    path = base.find(root, LAYOUT, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    gender = "Patient Sex" if "Patient Sex" in pd.read_csv(path, nrows=0).columns else "Patient Gender"
    frame = base.read(path, (*COLUMNS, gender, SPACING))
    labels = frame["Finding Labels"].str.get_dummies("|")
    unknown = set(labels.columns) - set(FINDINGS)
    if unknown:
        raise UsageError(f"{path}: unknown finding {sorted(unknown)[0]!r}; this is not the published table")
    split = pd.Series(dtype=object)
    for name, file in (("train", "train_val_list.txt"), ("test", "test_list.txt")):
        names = base.find(root, LAYOUT, file).read_text().split()
        split = pd.concat([split, pd.Series(name, names, dtype=object)])
    details = pd.DataFrame(
        {
            "image_path": base.by_name(frame["Image Index"], root, [*base.folders(root, "images_*/images"), "images"]),
            "patient": frame["Patient ID"],
            "split": frame["Image Index"].map(split),
            "follow_up": frame["Follow-up #"],
            "age": base.age(frame["Patient Age"]),
            "sex": base.sex(frame[gender]),
            "view": frame["View Position"],
            "spacing_mm": frame[SPACING],
        }
    )
    labels = labels.reindex(columns=list(FINDINGS), fill_value=0).rename(columns=base.snake)
    return base.dataset("nih_chestxray14", details.join(labels), root, LAYOUT)
