from __future__ import annotations

from pathlib import Path

import pytest
from lookalike import column, picture, under

from scotoma.data.datasets import busi


@pytest.mark.parametrize("within", ["", "Dataset_BUSI_with_GT/"])
def test_classes_and_one_or_several_masks(tmp_path: Path, within: str) -> None:
    pictures = ["benign/benign (1)", "benign/benign (4)", "benign/benign (10)", "malignant/malignant (53)", "normal/normal (1)"]
    for name in pictures:
        picture(tmp_path / within / f"{name}.png", colour=True)
        if name != "malignant/malignant (53)":
            picture(tmp_path / within / f"{name}_mask.png")
    for k in (1, 2):
        picture(tmp_path / within / f"benign/benign (4)_mask_{k}.png")
    found = busi.load(tmp_path)
    assert under(found, tmp_path) == [f"{within}{name}.png" for name in pictures]
    assert column(found, "label") == ["benign"] * 3 + ["malignant", "normal"]
    assert under(found, tmp_path, "mask_path") == [
        f"{within}benign/benign (1)_mask.png",
        f"{within}benign/benign (4)_mask.png|benign (4)_mask_1.png|benign (4)_mask_2.png",
        f"{within}benign/benign (10)_mask.png",
        None,
        f"{within}normal/normal (1)_mask.png",
    ]
