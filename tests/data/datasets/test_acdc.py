from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.lookalike import column, hashed, text, under

from scotoma.data.datasets import acdc
from scotoma.data.io import read
from scotoma.errors import UsageError


def volume(path: Path, shape: tuple[int, ...]) -> None:
    """Each slice of a level of its own."""
    values = np.zeros(shape, np.int16) + np.arange(shape[2], dtype=np.int16).reshape(1, 1, -1, *[1] * (len(shape) - 3))
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 10, 1])), path)


def patient(root: Path, part: str, number: int, group: str, slices: int, masks: bool = True) -> None:
    folder = root / part / f"patient{number:03}"
    text(folder / "Info.cfg", "ED: 1", "ES: 12", f"Group: {group}", "Height: 184.0", "NbFrame: 30", "Weight: 95.0")
    for frame in (1, 12):
        for end in ("", "_gt") if masks else ("",):
            volume(folder / f"patient{number:03}_frame{frame:02}{end}.nii.gz", (12, 10, slices))
    volume(folder / f"patient{number:03}_4d.nii.gz", (12, 10, slices, 3))


@pytest.mark.parametrize("within", ["", "database/"])
def test_slices_of_both_phases(tmp_path: Path, within: str) -> None:
    patient(tmp_path / within, "training", 1, "DCM", 3)
    patient(tmp_path / within, "testing", 101, "NOR", 2, masks=False)
    text(tmp_path / within / "training" / "MANDATORY_CITATION.md", "cite")
    found = acdc.load(tmp_path)
    first = f"{within}training/patient001/patient001_frame"
    second = f"{within}testing/patient101/patient101_frame"
    test = [f"{second}{p}.nii.gz" for p in ("01", "12") for _ in range(2)]
    train = [f"{first}{p}.nii.gz" for p in ("01", "12") for _ in range(3)]
    assert under(found, tmp_path) == test + train
    assert under(found, tmp_path, "mask_path") == [None] * 4 + [p.replace(".nii.gz", "_gt.nii.gz") for p in train]
    assert column(found, "frame") == [0, 1, 0, 1, 0, 1, 2, 0, 1, 2]
    assert column(found, "phase") == ["ed"] * 2 + ["es"] * 2 + ["ed"] * 3 + ["es"] * 3
    assert column(found, "label") == ["nor"] * 4 + ["dcm"] * 6
    assert column(found, "split") == ["test"] * 4 + ["train"] * 6
    assert column(found, "patient") == [hashed("patient101")] * 4 + [hashed("patient001")] * 6
    assert column(found, "height_cm") == [184] * 10
    assert column(found, "weight_kg") == [95] * 10
    assert read.read(found.table["image_path"][6], 2).pixels.max() > read.read(found.table["image_path"][4], 0).pixels.max()


def test_what_is_absent_or_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patient(tmp_path, "training", 1, "RV", 2)
    folder = tmp_path / "training" / "patient001"
    (folder / "patient001_frame12.nii.gz").unlink()
    found = acdc.load(tmp_path)
    assert column(found, "phase") == ["ed", "ed"]
    assert "split" not in found.table  # training patients alone
    assert "1 of 3 images" in capsys.readouterr().err
    (folder / "patient001_frame01.nii.gz").write_bytes(b"no")
    with pytest.raises(UsageError, match="patient001_frame01"):
        acdc.load(tmp_path)
    text(folder / "Info.cfg", "ED: 1", "Group: RV")
    with pytest.raises(UsageError, match="does not state ED, ES and Group"):
        acdc.load(tmp_path)
