from __future__ import annotations

from pathlib import Path

import pytest
from helpers.lookalike import column, draw_image, hashed, text, under

from scotoma.data.datasets import messidor2


def test_grades_and_pairs_of_eyes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text(
        tmp_path / "messidor_data.csv",
        "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable",
        "20051020_43808_0100_PP.png,0.0,0.0,1",
        "20051020_43832_0100_PP.png,1.0,0.0,1",
        "IM004832.jpg,4.0,1.0,1",
        "20060411_58550_0200_PP.png,,,0",
    )
    for name in ("20051020_43808_0100_PP.png", "20051020_43832_0100_PP.png", "IM004832.JPG", "20060411_58550_0200_PP.png"):
        draw_image(tmp_path / "IMAGES" / name.replace("JPG", "jpg")).rename(tmp_path / "IMAGES" / name)
    found = messidor2.load(tmp_path)
    assert under(found, tmp_path)[2] == "IMAGES/IM004832.JPG"  # the table writes it otherwise
    assert column(found, "label") == [0, 1, 4, None]
    assert column(found, "macular_oedema") == [0, 0, 1, None]
    assert column(found, "gradable") == [1, 1, 1, 0]
    assert "patient" not in found.table
    assert "messidor-2.csv" in capsys.readouterr().err
    text(
        tmp_path / "messidor-2.csv",
        "left;right",
        "20051020_43808_0100_PP.png;20051020_43832_0100_PP.png",
        ";IM004832.JPG",
        "",
    )
    found = messidor2.load(tmp_path)
    left = hashed("20051020_43808_0100_PP")
    assert column(found, "patient") == [left, left, hashed("IM004832"), None]
    assert column(found, "laterality") == ["L", "R", "R", None]
    assert capsys.readouterr().err == ""
