"""Headers are believed within what the file can hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scotoma.data import images, table
from scotoma.data.images import ImageError
from scotoma.errors import UsageError


@pytest.mark.parametrize("claimed", [5, 100_000, 2_000_000_000, 2**31 - 1])
def test_frames_beyond_the_file_are_refused(claimed: int, write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((20, 20), np.uint8), NumberOfFrames=claimed)
    assert path.stat().st_size < 1500
    for count in (images.frames, images.frame_numbers):
        with pytest.raises(ImageError, match=f"the header claims {claimed} frames, more than the file can hold"):
            count(str(path))
    assert len(table.load(tmp_path)) == 1
    with pytest.raises(ImageError, match="more than the file can hold"):
        images.read(str(path))


def test_frames_that_are_there_are_counted(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    values = np.arange(7 * 400, dtype=np.uint16).astype(np.uint8)
    path = write_dicom(tmp_path / "a.dcm", np.zeros((20, 20), np.uint8), NumberOfFrames=7, PixelData=values.tobytes())
    assert images.frames(str(path)) == 7
    assert len(table.load(tmp_path)) == 7


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.parquet"])
def test_a_table_that_is_no_regular_file_is_not_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="no regular file, which is not opened"):
        table.load(str(tmp_path / name))


def test_compressed_frames_may_be_small_but_not_nothing(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    """Of a transfer syntax that nobody knows here too: a frame of any takes the 8 bytes of its item's header."""
    from pydicom import dcmread

    path = write_dicom(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8), Rows=512, Columns=512, NumberOfFrames=50)
    content = path.read_bytes()
    assert content.count(b"1.2.840.10008.1.2.1\0") == 1
    path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0"))
    assert dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.9.9"
    assert images.frames(str(path)) == 50
    write_dicom(tmp_path / "b.dcm", np.zeros((2, 2), np.uint8), Rows=512, Columns=512, NumberOfFrames=50)
    with pytest.raises(ImageError, match="claims 50 frames"):
        images.frames(str(tmp_path / "b.dcm"))
