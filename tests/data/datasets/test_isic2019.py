from __future__ import annotations

from pathlib import Path

import pytest
from helpers.lookalike import column, draw_image, hashed, text, under

from scotoma.data.datasets import isic2019

TRUTH = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    text(
        tmp_path / "ISIC_2019_Training_GroundTruth.csv",
        TRUTH,
        "ISIC_0000000,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0000002,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0053463,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0",
    )
    text(  # in another order than the labels
        tmp_path / "ISIC_2019_Training_Metadata.csv",
        "image,age_approx,anatom_site_general,lesion_id,sex",
        "ISIC_0000002,30.0,upper extremity,,female",
        "ISIC_0000000,55.0,anterior torso,HAM_0000118,male",
        "ISIC_0053463,,,BCN_0003925,",
    )
    for name in ("ISIC_0000000", "ISIC_0000002", "ISIC_0053463"):
        draw_image(tmp_path / "ISIC_2019_Training_Input" / "ISIC_2019_Training_Input" / f"{name}.jpg", colour=True)
    return tmp_path


def test_training_images(root: Path) -> None:
    found = isic2019.load(root)
    assert under(found, root)[0] == "ISIC_2019_Training_Input/ISIC_2019_Training_Input/ISIC_0000002.jpg"
    assert column(found, "label") == ["mel", "nv", "scc"]
    assert column(found, "group") == [None, hashed("HAM_0000118"), hashed("BCN_0003925")]
    assert column(found, "site") == [None, "HAM", "BCN"]
    assert column(found, "age") == [30, 55, None]
    assert column(found, "sex") == ["F", "M", None]
    assert column(found, "body_part") == ["upper extremity", "anterior torso", None]
    assert "split" not in found.table


def test_the_test_set_with_and_without_its_labels(root: Path) -> None:
    text(root / "ISIC_2019_Test_Metadata.csv", "image,age_approx,anatom_site_general,sex", "ISIC_0034321,40.0,palms/soles,female")
    draw_image(root / "ISIC_2019_Test_Input" / "ISIC_0034321.jpg", colour=True)
    found = isic2019.load(root)
    assert column(found, "split") == ["train"] * 3 + ["test"]
    assert column(found, "label")[3] is None
    text(
        root / "ISIC_2019_Test_GroundTruth.csv",
        f"{TRUTH},score_weight,validation_weight",
        "ISIC_0034321,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0",
    )
    found = isic2019.load(root)
    assert column(found, "label") == ["mel", "nv", "scc", "unk"]
    assert column(found, "group")[3] is None
