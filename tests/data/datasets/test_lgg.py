from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.lookalike import column, draw_image, hashed, text, under
from PIL import Image

from scotoma.data.datasets import lgg
from scotoma.errors import UsageError

HEADER = (
    "Patient,RNASeqCluster,MethylationCluster,miRNACluster,CNCluster,RPPACluster,OncosignCluster,COCCluster,histological_type,"
    "neoplasm_histologic_grade,tumor_tissue_site,laterality,tumor_location,gender,age_at_initial_pathologic,race,ethnicity,death01"
)


@pytest.mark.parametrize("within", ["", "kaggle_3m/"])
def test_slices_masks_patients_and_tumours(tmp_path: Path, within: str) -> None:
    folder = tmp_path / within / "TCGA_CS_4941_19960909"
    for k in (1, 2, 10):
        draw_image(folder / f"TCGA_CS_4941_19960909_{k}.tif", colour=True)
        draw_image(folder / f"TCGA_CS_4941_19960909_{k}_mask.tif", level=0)
    mask = np.zeros((12, 10), np.uint8)
    mask[11, 9] = 255
    Image.fromarray(mask).save(folder / "TCGA_CS_4941_19960909_2_mask.tif")
    draw_image(tmp_path / within / "TCGA_DU_5849_19950405" / "TCGA_DU_5849_19950405_1.tif", colour=True)
    text(tmp_path / within / "data.csv", HEADER, "TCGA_CS_4941,2,4,2,2,,3,2,1,2,1,3,2,2,67,3,2,1")
    found = lgg.load(tmp_path)
    scan = f"{within}TCGA_CS_4941_19960909/TCGA_CS_4941_19960909"
    other = f"{within}TCGA_DU_5849_19950405/TCGA_DU_5849_19950405_1.tif"
    assert under(found, tmp_path) == [f"{scan}_1.tif", f"{scan}_2.tif", f"{scan}_10.tif", other]
    assert under(found, tmp_path, "mask_path") == [f"{scan}_1_mask.tif", f"{scan}_2_mask.tif", f"{scan}_10_mask.tif", None]
    assert column(found, "tumour") == [0, 1, 0, None]  # without a mask it is not known
    assert column(found, "slice") == [1, 2, 10, 1]
    assert column(found, "patient") == [hashed("TCGA_CS_4941")] * 3 + [hashed("TCGA_DU_5849")]
    assert column(found, "age") == [67, 67, 67, None]


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    draw_image(tmp_path / "TCGA_CS_4941_19960909" / "TCGA_CS_4941_19960909_1.tif")
    (tmp_path / "TCGA_CS_4941_19960909" / "TCGA_CS_4941_19960909_1_mask.tif").write_bytes(b"no")
    with pytest.raises(UsageError, match=r"a mask cannot be read .*1_mask\.tif"):
        lgg.load(tmp_path)
