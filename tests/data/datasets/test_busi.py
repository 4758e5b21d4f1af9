from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.lookalike import column, draw_image, under
from PIL import Image

from scotoma.data.datasets import busi
from scotoma.data.io import read


@pytest.mark.parametrize("within", ["", "Dataset_BUSI_with_GT/"])
def test_classes_and_one_or_several_masks(tmp_path: Path, within: str) -> None:
    images = ["benign/benign (1)", "benign/benign (4)", "benign/benign (10)", "malignant/malignant (53)", "normal/normal (1)"]
    for name in images:
        draw_image(tmp_path / within / f"{name}.png", colour=True)
        if name != "malignant/malignant (53)":
            draw_image(tmp_path / within / f"{name}_mask.png")
    for k in (1, 2):
        draw_image(tmp_path / within / f"benign/benign (4)_mask_{k}.png")
    found = busi.load(tmp_path)
    assert under(found, tmp_path) == [f"{within}{name}.png" for name in images]
    assert column(found, "label") == ["benign"] * 3 + ["malignant", "normal"]
    assert under(found, tmp_path, "mask_path") == [
        f"{within}benign/benign (1)_mask.png",
        f"{within}benign/benign (4)_mask.png|benign (4)_mask_1.png|benign (4)_mask_2.png",
        f"{within}benign/benign (10)_mask.png",
        None,
        f"{within}normal/normal (1)_mask.png",
    ]


def test_several_masks_are_read_as_their_union(tmp_path: Path) -> None:
    draw_image(tmp_path / "benign" / "benign (4).png", size=(8, 8))
    union = np.zeros((8, 8), int)
    for end, rows in (("", slice(0, 2)), ("_1", slice(1, 3)), ("_2", slice(6, 8))):
        mask = np.zeros((8, 8), np.uint8)
        mask[rows, 2:5] = 255
        union[rows, 2:5] = 255
        Image.fromarray(mask).save(tmp_path / "benign" / f"benign (4)_mask{end}.png")
    path = busi.load(tmp_path).table["mask_path"][0]
    assert np.array_equal(read.read_labels(path), union)
    draw_image(tmp_path / "benign" / "benign (4)_mask_2.png", size=(9, 8))
    with pytest.raises(read.ImageError, match="differ in size"):
        read.read_labels(path)
    (tmp_path / "benign" / "benign (4)_mask_2.png").unlink()
    with pytest.raises(read.ImageError, match=r"\(4\)_mask_2\.png"):
        read.read_labels(path)
