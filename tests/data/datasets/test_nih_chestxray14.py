from __future__ import annotations

from pathlib import Path

import pytest
from helpers.lookalike import column, draw_image, hashed, text, under

from scotoma.data.datasets import nih_chestxray14
from scotoma.errors import UsageError

HEADERS = {  # the header has unquoted commas; the first publication ends its lines with one
    "Data_Entry_2017.csv": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
    "Data_Entry_2017_v2020.csv": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]",
}


def lookalike(root: Path, name: str = "Data_Entry_2017_v2020.csv", folders: bool = True) -> Path:
    rows = (
        "00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.143,0.143",
        "00000001_001.png,Cardiomegaly|Pleural_Thickening,1,1,58,M,AP,2894,2729,0.143,0.143",
        "00000002_000.png,No Finding,0,2,414,F,PA,2500,2048,0.168,0.171",
        "00000013_005.png,Infiltration|Hernia,5,13,060Y,F,AP,3056,2544,0.139,0.139",
    )
    text(root / name, HEADERS[name], *[row + ("," if name == "Data_Entry_2017.csv" else "") for row in rows])
    for k, row in enumerate(rows):
        draw_image(root / (f"images_{(1, 1, 2, 12)[k]:03}/images" if folders else "images") / row.split(",")[0])
    text(root / "train_val_list.txt", "00000001_000.png", "00000001_001.png", "00000002_000.png")
    text(root / "test_list.txt", "00000013_005.png")
    return root


@pytest.mark.parametrize("name", list(HEADERS))
def test_images_labels_and_what_is_known_of_them(tmp_path: Path, name: str) -> None:
    found = nih_chestxray14.load(lookalike(tmp_path, name))
    assert under(found, tmp_path) == [
        "images_001/images/00000001_000.png",
        "images_001/images/00000001_001.png",
        "images_002/images/00000002_000.png",
        "images_012/images/00000013_005.png",
    ]
    assert column(found, "patient") == [hashed("1"), hashed("1"), hashed("2"), hashed("13")]
    assert column(found, "split") == ["train", "train", "train", "test"]
    assert column(found, "age") == [58, 58, None, 60]  # nobody is 414
    assert column(found, "sex") == ["M", "M", "F", "F"]
    assert column(found, "view") == ["PA", "AP", "PA", "AP"]
    assert column(found, "spacing_mm") == [0.143, 0.143, 0.171, 0.139]
    positive = {c: [k for k, v in enumerate(column(found, c)) if v] for c in found.table.columns if c in LABELS}
    expected = {"cardiomegaly": [0, 1], "pleural_thickening": [1], "no_finding": [2], "infiltration": [3], "hernia": [3]}
    assert {c: rows for c, rows in positive.items() if rows} == expected
    assert len(positive) == 15


LABELS = [
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "edema",
    "effusion",
    "emphysema",
    "fibrosis",
    "hernia",
    "infiltration",
    "mass",
    "nodule",
    "pleural_thickening",
    "pneumonia",
    "pneumothorax",
    "no_finding",
]


def test_all_images_in_one_folder_and_an_unknown_finding(tmp_path: Path) -> None:
    found = nih_chestxray14.load(lookalike(tmp_path, folders=False))
    assert under(found, tmp_path)[3] == "images/00000013_005.png"
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text().replace("Hernia", "Hiccup"))
    with pytest.raises(UsageError, match="'Hiccup'"):
        nih_chestxray14.load(tmp_path)
