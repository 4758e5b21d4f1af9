from __future__ import annotations

from pathlib import Path

import pytest
from helpers.lookalike import column, draw_image, hashed, text, under
from helpers.public_sets import FINDINGS, HEADER

from scotoma.data.datasets import chexpert

PATHS = [
    "train/patient00001/study1/view1_frontal.jpg",
    "train/patient00002/study2/view1_frontal.jpg",
    "train/patient00002/study2/view2_lateral.jpg",
    "valid/patient64541/study1/view1_frontal.jpg",
]


def lookalike(root: Path, prefix: str = "CheXpert-v1.0-small/") -> Path:
    for path in PATHS:
        draw_image(root / path)
    text(
        root / "train.csv",
        HEADER,
        f"{prefix}{PATHS[0]},Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
        f"{prefix}{PATHS[1]},Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
        f"{prefix}{PATHS[2]},Unknown,0,Lateral,,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
    )
    text(
        root / "valid.csv", HEADER, f"{prefix}{PATHS[3]},Male,73,Frontal,AP,0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0"
    )
    return root


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0-small/", "CheXpert-v1.0/", ""])
def test_images_and_what_is_known_of_them(tmp_path: Path, prefix: str) -> None:
    found = chexpert.load(lookalike(tmp_path, prefix))
    assert under(found, tmp_path) == PATHS
    assert column(found, "patient") == [hashed(p) for p in ("patient00001", "patient00002", "patient00002", "patient64541")]
    assert column(found, "study")[1] == column(found, "study")[2] == hashed("patient00002/study2")
    assert column(found, "sex") == ["F", "M", None, "M"]
    assert column(found, "age") == [68, 87, 0, 73]
    assert column(found, "view") == ["AP", "PA", "LATERAL", "AP"]
    assert column(found, "split") == ["train", "train", "train", "test"]


def test_uncertain_findings(tmp_path: Path) -> None:
    lookalike(tmp_path)
    assert column(chexpert.load(tmp_path), "cardiomegaly") == [None, None, None, 1]
    assert column(chexpert.load(tmp_path, uncertain="1"), "cardiomegaly") == [None, 1, 1, 1]
    assert column(chexpert.load(tmp_path, uncertain="0", blank="0"), "cardiomegaly") == [0, 0, 0, 1]
    assert column(chexpert.load(tmp_path), "support_devices") == [1, None, None, 0]


def test_the_later_test_set(tmp_path: Path) -> None:
    """Its table has no sex, age and view; the validation set then keeps its name."""
    draw_image(lookalike(tmp_path) / "test/patient64741/study1/view1_frontal.jpg")
    text(tmp_path / "test.csv", f"Path,{FINDINGS}", f"test/patient64741/study1/view1_frontal.jpg{',1.0' * 14}")
    found = chexpert.load(tmp_path)
    assert column(found, "split") == ["train", "train", "train", "val", "test"]
    assert column(found, "sex")[4] is None
    assert column(found, "view")[4] is None
    assert column(found, "fracture")[4] == 1
