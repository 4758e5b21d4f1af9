from __future__ import annotations

from pathlib import Path

import pytest
from helpers.lookalike import column, draw_image, hashed, text, under

from scotoma.data.datasets import isic2018
from scotoma.errors import UsageError

HEADER = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"


def part(root: Path, name: str, rows: dict[str, int]) -> None:
    """One part of the challenge: image -> which class is 1."""
    lines = [f"{image},{','.join('1.0' if k == chosen else '0.0' for k in range(7))}" for image, chosen in rows.items()]
    text(root / f"ISIC2018_Task3_{name}_GroundTruth" / f"ISIC2018_Task3_{name}_GroundTruth.csv", HEADER, *lines)
    for image in rows:
        draw_image(root / f"ISIC2018_Task3_{name}_Input" / f"{image}.jpg", colour=True)


def test_the_parts_are_the_split_and_lesions_the_group(tmp_path: Path) -> None:
    part(tmp_path, "Training", {"ISIC_0024306": 1, "ISIC_0024307": 1, "ISIC_0024310": 0})
    found = isic2018.load(tmp_path)
    assert under(found, tmp_path)[2] == "ISIC2018_Task3_Training_Input/ISIC_0024310.jpg"
    assert list(found.table.columns) == ["image_path", "label"]  # a split of training images alone would be none
    part(tmp_path, "Validation", {"ISIC_0034321": 3})
    part(tmp_path, "Test", {"ISIC_0034524": 6, "ISIC_0034525": 2})
    text(
        tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv",
        "image,lesion_id,diagnosis_confirm_type",
        "ISIC_0024310,HAM_0003521,histopathology",
        "ISIC_0024306,HAM_0000550,serial imaging showing no change",
        "ISIC_0024307,HAM_0000550,serial imaging showing no change",
    )
    found = isic2018.load(tmp_path)
    assert column(found, "label") == ["nv", "nv", "mel", "akiec", "vasc", "bcc"]
    assert column(found, "split") == ["train"] * 3 + ["val", "test", "test"]
    assert column(found, "group") == [*map(hashed, ("HAM_0000550", "HAM_0000550", "HAM_0003521")), None, None, None]
    assert column(found, "confirmed_by")[2:4] == ["histopathology", None]


def test_a_image_of_two_classes_is_refused(tmp_path: Path) -> None:
    part(tmp_path, "Training", {"ISIC_0024306": 1})
    path = tmp_path / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    path.write_text(f"{HEADER}\nISIC_0024306,1.0,1.0,0,0,0,0,0\n")
    with pytest.raises(UsageError, match="two classes"):
        isic2018.load(tmp_path)
