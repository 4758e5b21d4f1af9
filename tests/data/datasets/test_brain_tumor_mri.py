from __future__ import annotations

from pathlib import Path

from helpers.lookalike import column, draw_image, under

from scotoma.data import sources
from scotoma.data.datasets import brain_tumor_mri


def test_classes_and_the_split_that_is_not_kept(tmp_path: Path) -> None:
    names = [
        "Training/glioma/Tr-gl_0010.jpg",
        "Training/notumor/Tr-no_0010.jpg",
        "Training/pituitary/Tr-pi_0010.jpg",
        "Testing/meningioma/Te-me_0010.jpg",
    ]
    for name in names:
        draw_image(tmp_path / name)
    found = brain_tumor_mri.load(tmp_path)
    assert under(found, tmp_path) == names
    assert column(found, "label") == ["glioma", "notumor", "pituitary", "meningioma"]
    assert "split" not in found.table
    assert column(sources.load(f"brain-tumor-mri:{tmp_path}?published_split=1"), "split") == ["train"] * 3 + ["test"]


def test_the_real_folder(data_root: Path) -> None:
    found = brain_tumor_mri.load(data_root / "brain_tumor_mri" / "images")
    assert len(found) == 7019
    assert found.table["label"].value_counts().to_dict().keys() == {"glioma", "meningioma", "notumor", "pituitary"}
