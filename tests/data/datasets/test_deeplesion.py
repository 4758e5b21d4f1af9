from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.lookalike import column, draw_image, hashed, text, under

from scotoma.data import sources
from scotoma.data.datasets import deeplesion
from scotoma.data.io import read
from scotoma.errors import UsageError

HEADER = (
    "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,Lesion_diameters_Pixel_,"
    "Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,Image_size,DICOM_windows,"
    "Patient_gender,Patient_age,Train_Val_Test"
)


def lesion(name: str, kind: int, noisy: int, sex: str, age: str, split: int) -> str:
    patient, study, series, key = name.removesuffix(".png").split("_")
    return (
        f'{name},{int(patient)},{int(study)},{int(series)},{int(key)},"233.537, 95.0204, 234.057, 106.977",'
        f'"226.169, 90.0204, 241.252, 111.977","11.9677, 5.10387","0.44666, 0.283794, 0.434454",{kind},{noisy},"103, 115",'
        f'"0.488281, 0.488281, 5","512, 512","-175, 275",{sex},{age},{split}'
    )


@pytest.fixture(params=["Images_png", "Images_png/Images_png"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    text(
        tmp_path / "DL_info.csv",
        HEADER,
        lesion("000001_01_01_109.png", -1, 0, "F", "62.0", 1),
        lesion("000001_03_01_088.png", 5, 0, "F", "63.0", 1),
        lesion("000001_03_01_088.png", 5, 1, "F", "63.0", 1),
        lesion("000002_01_01_162.png", 2, 0, "M", "NaN", 2),
        lesion("000002_01_01_162.png", 8, 0, "M", "NaN", 2),
        lesion("000003_01_01_020.png", 7, 0, "M", "72.0", 3),
    )
    for name in (
        "000001_01_01/109",
        "000001_03_01/088",
        "000002_01_01/162",
        "000003_01_01/020",
        "000003_01_01/019",
        "000003_01_01/021",
    ):
        draw_image(tmp_path / request.param / f"{name}.png", level=32768 + int(name[-3:]))
    return tmp_path


def test_key_slices(root: Path) -> None:
    found = deeplesion.load(root)
    tails = [str(p).rpartition("Images_png/")[2] for p in under(found, root)]
    assert tails == ["000001_01_01/109.png", "000001_03_01/088.png", "000002_01_01/162.png", "000003_01_01/020.png"]
    assert column(found, "label") == [None, "lung", None, "soft tissue"]  # unknown; two of a kind; two of two kinds
    assert column(found, "lesions") == [1, 2, 2, 1]
    assert column(found, "noisy") == [0, 1, 0, 0]
    assert column(found, "patient") == [hashed("1"), hashed("1"), hashed("2"), hashed("3")]
    assert column(found, "study") == [hashed(s) for s in ("1_1", "1_3", "2_1", "3_1")]
    assert column(found, "split") == ["train", "train", "val", "test"]
    assert column(found, "age") == [62, 63, None, 72]
    assert column(found, "sex") == ["F", "F", "M", "M"]
    assert column(found, "spacing_mm") == [0.488281] * 4


def test_the_slices_around_are_unlabelled_and_of_the_same_patient(root: Path) -> None:
    found = sources.load(f"deeplesion:{root}?slices=all")
    assert [str(p)[-7:] for p in under(found, root)] == ["109.png", "088.png", "162.png", "020.png", "019.png", "021.png"]
    assert column(found, "label")[3:] == ["soft tissue", None, None]
    assert column(found, "patient")[3:] == [hashed("3")] * 3
    assert column(found, "split")[3:] == ["test"] * 3
    assert column(found, "lesions")[3:] == [1, None, None]
    with pytest.raises(UsageError, match="slices=some"):
        deeplesion.load(root, slices="some")  # type: ignore[arg-type]


def test_pixels_are_hounsfield_units_in_three_windows(root: Path) -> None:
    """109 HU: white in the lung window, 0.5 + 69 / 400 in soft tissue, 0.5 - 291 / 1800 in bone."""
    found = deeplesion.load(root)
    pixels = read.read(found.table["image_path"][0], display=found.display).pixels
    np.testing.assert_allclose(pixels.reshape(-1, 3)[0], [709 / 1500 + 0.5, 0.5 + 69 / 400, 0.5 - 291 / 1800], atol=1e-4)
