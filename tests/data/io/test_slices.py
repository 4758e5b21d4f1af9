from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from scotoma.commands.prepare import prepare
from scotoma.data import sources
from scotoma.data.io import read, slices
from scotoma.data.store import store
from scotoma.errors import UsageError

SHAPE = (6, 5, 4)  # to the right, to the front, upwards


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Two volumes of noise whose lowest axial slice and hindmost two coronal slices are empty."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for k in range(2):
        values = np.random.default_rng(k).integers(100, 1000, SHAPE).astype(np.int16)
        values[:, :, 0] = 0
        values[:, :2] = 0
        nibabel.save(nibabel.Nifti1Image(values, np.diag([2, 2, 2, 1])), folder / f"scan_{k}.nii.gz")
    return folder


@pytest.mark.parametrize(("axis", "count"), [("axial", 4), ("coronal", 5), ("sagittal", 6)])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_volumes_are_cut_along_the_axis_in_order(volumes: Path, axis: str, count: int, every: int) -> None:
    found = slices.choose(sources.load(str(volumes)), axis, every).table
    mark = "" if axis == "axial" else f"#{axis}"
    kept = list(range(0, count, every))
    wanted = [(f"scan_{k}.nii.gz{mark}", frame) for k in range(2) for frame in kept]
    assert [(Path(p).name, f) for p, f in zip(found["image_path"], found["frame"], strict=True)] == wanted
    assert found.index.tolist() == list(range(len(wanted)))


def test_a_volume_without_frames_stays_one_row_and_other_files_stay(volumes: Path) -> None:
    frame = pd.DataFrame({"image_path": ["phantom:1", str(volumes / "scan_0.nii.gz"), "phantom:2"], "sick": [0, 1, 1]})
    found = slices.choose(sources.load(frame), "coronal", 2).table
    assert found["image_path"].tolist() == ["phantom:1", str(volumes / "scan_0.nii.gz") + "#coronal", "phantom:2"]
    assert found["sick"].tolist() == [0, 1, 1]


def test_a_mask_is_cut_as_its_volume_is(volumes: Path) -> None:
    scan, mask = (str(volumes / f"scan_{k}.nii.gz") for k in range(2))
    found = slices.choose(sources.load(pd.DataFrame({"image_path": [scan], "mask_path": [mask]})), "coronal").table
    assert found.loc[0, ["image_path", "mask_path"]].tolist() == [f"{scan}#coronal", f"{mask}#coronal"]


def test_what_cannot_be_cut_is_refused(volumes: Path) -> None:
    scan = str(volumes / "scan_0.nii.gz")
    for frame, message in (
        (pd.DataFrame({"image_path": ["phantom:1"]}), "holds no volumes"),
        (pd.DataFrame({"image_path": [scan, scan], "frame": [0, 1]}), "names some axial slices"),
        (pd.DataFrame({"image_path": [scan] * 4, "frame": range(4), "sick": [0, 0, 1, 1]}), "more than their frame"),
    ):
        with pytest.raises(UsageError, match=message):
            slices.choose(sources.load(frame), "sagittal")
    with pytest.raises(UsageError, match="--axis oblique: one of axial, coronal, sagittal"):
        slices.choose(sources.load(str(volumes)), "oblique")


def test_prepare_leaves_empty_slices_out_and_keeps_the_order(volumes: Path, tmp_path: Path) -> None:
    folder = prepare(str(volumes), tmp_path / "store", size=16, axis="coronal", every=2, skip_empty=True, windows=["500:1000"],
                     quiet=True)  # fmt: skip
    dataset, opened = store.prepare(sources.load(str(folder)), 16)
    assert opened.display == read.Display(((500.0, 1000.0),))
    assert opened.facts["blank"].tolist() == [True, False, False] * 2
    assert dataset.table["row"].tolist() == [1, 2, 4, 5]
    path = str(volumes / "scan_1.nii.gz#coronal")
    shown = read.read(path, 2, display=opened.display).pixels
    np.testing.assert_array_equal(opened.pixels[4], read.square(shown, opened.side, 1))
    with pytest.raises(UsageError, match=r"was prepared with windows 500:1000, equalize none, not windows as the files say"):
        from dataclasses import replace

        store.prepare(replace(dataset, display=read.AS_STORED), 16)
    with pytest.raises(UsageError, match="`every` 0"):
        prepare(str(volumes), tmp_path / "other", every=0)
    with pytest.raises(UsageError, match="window 'tooth'"):
        prepare(str(volumes), tmp_path / "other", windows=["tooth"])
    with pytest.raises(UsageError, match="1 windows do not make 3 channels"):
        prepare(str(volumes), tmp_path / "other", windows=["lung"], channels=3)
    assert not (tmp_path / "other").exists()


def test_every_so_many_th_says_how_many_rows_are_no_slices(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = pd.DataFrame({"image_path": [str(p) for p in sorted(volumes.iterdir())]})
    for frame in (whole, whole.assign(frame=np.nan)):
        assert len(slices.choose(sources.load(frame), "axial", 2).table) == 2
        assert capsys.readouterr().err == "table: `every` 2: 2 of 2 rows name no slice of their file and stay\n"
    slices.choose(sources.load(whole), "axial", 1)
    slices.choose(sources.load(str(volumes)), "axial", 2)
    assert "`every`" not in capsys.readouterr().err
