from __future__ import annotations

from pathlib import Path

from helpers.lookalike import column, draw_image, hashed, text, under

from scotoma.data.datasets import eyepacs


def test_eyes_patients_and_the_later_test_set(tmp_path: Path) -> None:
    text(tmp_path / "trainLabels.csv", "image,level", "10_left,0", "10_right,0", "13_left,3")
    for name in ("10_left", "10_right", "13_left"):
        draw_image(tmp_path / "train" / f"{name}.jpeg", colour=True)
    found = eyepacs.load(tmp_path)
    assert under(found, tmp_path) == ["train/10_left.jpeg", "train/10_right.jpeg", "train/13_left.jpeg"]
    assert column(found, "patient") == [hashed("10"), hashed("10"), hashed("13")]
    assert column(found, "laterality") == ["L", "R", "L"]
    assert column(found, "label") == [0, 0, 3]
    assert "split" not in found.table
    text(tmp_path / "retinopathy_solution.csv", "image,level,Usage", "1_left,1,Private")
    draw_image(tmp_path / "test" / "1_left.jpeg", colour=True)
    found = eyepacs.load(tmp_path)
    assert column(found, "split") == ["train"] * 3 + ["test"]
    assert column(found, "patient")[3] == hashed("1")
