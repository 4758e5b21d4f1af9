from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.lookalike import column, hashed, under

from scotoma.data import sources
from scotoma.data.datasets import brats
from scotoma.data.io import read
from scotoma.errors import UsageError


def scan(folder: Path, old: bool, suffix: str = ".nii.gz", mask: str | None = None) -> Path:
    """The five volumes of a scan under their old or new names; each modality has another number of slices."""
    folder.mkdir(parents=True)
    names = ("_t1", "_t1ce", "_t2", "_flair", "_seg") if old else ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
    for slices, name in zip((4, 5, 6, 7, 7), names, strict=True):
        file = mask if name.endswith("seg") and mask else f"{folder.name}{name}{suffix}"
        nibabel.save(nibabel.Nifti1Image(np.ones((9, 8, slices), np.uint8), np.eye(4)), folder / file)
    return folder


def test_old_and_new_names(tmp_path: Path) -> None:
    scan(tmp_path / "BraTS2021_00000", old=True)
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001"):
        scan(tmp_path / name, old=False)
    found = brats.load(tmp_path)
    old, new = "BraTS2021_00000/BraTS2021_00000", [f"BraTS-GLI-00005-00{k}/BraTS-GLI-00005-00{k}" for k in (0, 1)]
    assert under(found, tmp_path) == [f"{old}_flair.nii.gz"] * 3 + [f"{n}-t2f.nii.gz" for n in new for _ in range(3)]
    assert under(found, tmp_path, "mask_path") == [f"{old}_seg.nii.gz"] * 3 + [f"{n}-seg.nii.gz" for n in new for _ in range(3)]
    assert column(found, "frame") == [0, 3, 6] * 3
    assert column(found, "patient") == [hashed("BraTS2021_00000")] * 3 + [hashed("BraTS-GLI-00005")] * 6
    assert column(found, "study")[3:] == [hashed(f"BraTS-GLI-00005-00{k}") for k in (0, 1) for _ in range(3)]


@pytest.mark.parametrize(("modality", "slices"), [("t1", 4), ("t1ce", 5), ("t2", 6), ("flair", 7)])
def test_modalities(tmp_path: Path, modality: str, slices: int) -> None:
    scan(tmp_path / "MICCAI_BraTS2020_TrainingData" / "BraTS20_Training_001", old=True, suffix=".nii")
    scan(tmp_path / "new" / "BraTS-GLI-00000-000", old=False)
    found = sources.load(f"brats:{tmp_path}?modality={modality}&every=1")
    assert len(found) == 2 * slices
    assert set(column(found, "modality")) == {modality}


@pytest.mark.parametrize(("axis", "slices"), [("axial", 7), ("coronal", 8), ("sagittal", 9)])
def test_slices_along_an_axis_and_their_masks(tmp_path: Path, axis: str, slices: int) -> None:
    scan(tmp_path / "BraTS-GLI-00000-000", old=False)
    found = sources.load(f"brats:{tmp_path}?axis={axis}&every=1")
    assert column(found, "frame") == list(range(slices))
    last = found.table.iloc[-1]
    image = read.read(last["image_path"], int(last["frame"])).pixels
    labels = read.read_labels(last["mask_path"], int(last["frame"]))
    assert image.shape == labels.shape == {"axial": (8, 9), "coronal": (7, 9), "sagittal": (7, 8)}[axis]
    assert (labels == 1).all()


def test_the_outline_that_has_another_name_and_a_scan_without_one(tmp_path: Path) -> None:
    scan(tmp_path / "BraTS20_Training_355", old=True, suffix=".nii", mask="W39_1998.09.19_Segm.nii")
    (scan(tmp_path / "BraTS20_Validation_001", old=True) / "BraTS20_Validation_001_seg.nii.gz").unlink()
    masks = under(brats.load(tmp_path, every=10), tmp_path, "mask_path")
    assert masks == ["BraTS20_Training_355/W39_1998.09.19_Segm.nii", None]


def test_what_is_refused(tmp_path: Path) -> None:
    folder = scan(tmp_path / "BraTS20_Training_001", old=True)
    (folder / "BraTS20_Training_001_t2.nii.gz").write_bytes(b"no")
    with pytest.raises(UsageError, match=r"BraTS20_Training_001: .*copy it again"):
        brats.load(tmp_path, modality="t2")
    with pytest.raises(UsageError, match="modality=t3"):
        brats.load(tmp_path, modality="t3")  # type: ignore[arg-type]
