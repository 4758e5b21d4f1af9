from __future__ import annotations

from pathlib import Path

import pytest
from helpers.lookalike import column, draw_image, hashed, text, under

from scotoma.data.datasets import ham10000


@pytest.mark.parametrize(("name", "extra"), [("HAM10000_metadata.csv", ""), ("HAM10000_metadata", ",dataset")])
def test_images_of_both_parts(tmp_path: Path, name: str, extra: str) -> None:
    value = ",vidir_modern" if extra else ""
    text(
        tmp_path / name,
        f"lesion_id,image_id,dx,dx_type,age,sex,localization{extra}",
        f"HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp{value}",
        f"HAM_0000118,ISIC_0025030,bkl,histo,80.0,male,scalp{value}",
        f"HAM_0002730,ISIC_0026769,nv,follow_up,,unknown,unknown{value}",
    )
    draw_image(tmp_path / "HAM10000_images_part_1" / "ISIC_0027419.jpg", colour=True)
    draw_image(tmp_path / "HAM10000_images_part_1" / "ISIC_0025030.jpg", colour=True)
    draw_image(tmp_path / "HAM10000_images_part_2" / "ISIC_0026769.jpg", colour=True)
    found = ham10000.load(tmp_path)
    assert under(found, tmp_path) == [
        "HAM10000_images_part_1/ISIC_0027419.jpg",
        "HAM10000_images_part_1/ISIC_0025030.jpg",
        "HAM10000_images_part_2/ISIC_0026769.jpg",
    ]
    assert column(found, "group") == [hashed(lesion) for lesion in ("HAM_0000118", "HAM_0000118", "HAM_0002730")]
    assert column(found, "label") == ["bkl", "bkl", "nv"]
    assert column(found, "confirmed_by") == ["histo", "histo", "follow_up"]
    assert column(found, "age") == [80, 80, None]
    assert column(found, "sex") == ["M", "M", None]
    assert column(found, "body_part") == ["scalp", "scalp", None]
    assert not {"mask_path", "patient", "split"} & set(found.table.columns)
    draw_image(tmp_path / "HAM10000_segmentations_lesion_tschandl" / "ISIC_0025030_segmentation.png")
    masks = under(ham10000.load(tmp_path), tmp_path, "mask_path")
    assert masks == [None, "HAM10000_segmentations_lesion_tschandl/ISIC_0025030_segmentation.png", None]
