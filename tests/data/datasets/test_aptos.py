from __future__ import annotations

from pathlib import Path

from helpers.lookalike import column, draw_image, text, under

from scotoma.data.datasets import aptos


def test_graded_photographs_and_those_without_a_grade(tmp_path: Path) -> None:
    text(tmp_path / "train.csv", "id_code,diagnosis", "000c1434d8d7,2", "001639a390f0,4")
    draw_image(tmp_path / "train_images" / "000c1434d8d7.png", colour=True)
    draw_image(tmp_path / "train_images" / "001639a390f0.png", colour=True)
    found = aptos.load(tmp_path)
    assert under(found, tmp_path) == ["train_images/000c1434d8d7.png", "train_images/001639a390f0.png"]
    assert column(found, "label") == [2, 4]
    text(tmp_path / "test.csv", "id_code", "0005cfc8afb6")
    draw_image(tmp_path / "test_images" / "0005cfc8afb6.png", colour=True)
    found = aptos.load(tmp_path)
    assert under(found, tmp_path)[2] == "test_images/0005cfc8afb6.png"
    assert column(found, "label") == [2, 4, None]
    assert list(found.table.columns) == ["image_path", "label"]


def test_a_name_of_digits_keeps_its_zeros(tmp_path: Path) -> None:
    text(tmp_path / "train.csv", "id_code,diagnosis", "0024cdab0c1e,1", "005b95c28852,0")
    for name in ("0024cdab0c1e", "005b95c28852"):
        draw_image(tmp_path / "train_images" / f"{name}.png")
    assert column(aptos.load(tmp_path), "label") == [1, 0]
