"""Headers are believed within what the file can hold."""

from __future__ import annotations

import gzip
import os
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from scotoma.commands.prepare import prepare
from scotoma.data import encoder_header, pseudonyms, sources
from scotoma.data.io import dicom_elements, dicom_phi, dicom_seg, read
from scotoma.data.io.read import ImageError
from scotoma.data.labels import delimited
from scotoma.data.store import store
from scotoma.errors import UsageError
from scotoma.models import encoders
from scotoma.models.pretrained_weights import start
from scotoma.run_folder import read_config, read_rows


@pytest.mark.parametrize("claimed", [5, 100_000, 2_000_000_000, 2**31 - 1])
def test_frames_beyond_the_file_are_refused(claimed: int, write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((20, 20), np.uint8), NumberOfFrames=claimed)
    assert path.stat().st_size < 1500
    for count in (read.frames, read.frame_numbers):
        with pytest.raises(ImageError, match=f"the header claims {claimed} frames, more than the file can hold"):
            count(str(path))
    assert len(sources.load(tmp_path)) == 1
    with pytest.raises(ImageError, match="more than the file can hold"):
        read.read(str(path))


def test_frames_that_are_there_are_counted(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    values = np.arange(7 * 400, dtype=np.uint16).astype(np.uint8)
    path = write_dicom(tmp_path / "a.dcm", np.zeros((20, 20), np.uint8), NumberOfFrames=7, PixelData=values.tobytes())
    assert read.frames(str(path)) == 7
    assert len(sources.load(tmp_path)) == 7


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.parquet"])
def test_a_table_that_is_no_regular_file_is_not_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="no regular file, which is not opened"):
        sources.load(str(tmp_path / name))


def test_compressed_frames_may_be_small_but_not_nothing(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    """Of a transfer syntax that nobody knows here too: a frame of any takes the 8 bytes of its item's header."""
    from pydicom import dcmread

    path = write_dicom(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8), Rows=512, Columns=512, NumberOfFrames=50)
    content = path.read_bytes()
    assert content.count(b"1.2.840.10008.1.2.1\0") == 1
    path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0"))
    assert dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.9.9"
    assert read.frames(str(path)) == 50
    write_dicom(tmp_path / "b.dcm", np.zeros((2, 2), np.uint8), Rows=512, Columns=512, NumberOfFrames=50)
    with pytest.raises(ImageError, match="claims 50 frames"):
        read.frames(str(tmp_path / "b.dcm"))


@pytest.fixture
def in_time() -> Iterator[None]:
    """What waits for a pipe or reads a device without end fails instead."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    """Put a pipe in the place of a file."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path: Path) -> None:
    """Put a link to a device in the place of a file."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def of_the_system(path: Path) -> None:
    """Put a link to what looks like a regular file in the place of one."""
    path.unlink(missing_ok=True)
    path.symlink_to("/proc/self/status")


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("put", [pipe, endless, of_the_system])
def test_what_is_no_regular_file_is_not_opened(put: Callable[[Path], None], tmp_path: Path) -> None:
    """The key, a configuration, the parts of a run and its weights, tables, an npz: each ends in one line at once."""
    run = tmp_path / "run"
    run.mkdir()
    opened: list[tuple[Path, Callable[[Path], object]]] = [
        (tmp_path / "key", pseudonyms.load_key),
        (tmp_path / "c.yaml", read_config),
        (run / "config.yaml", lambda _: read_config(run)),
        (run / "rows.jsonl", lambda _: read_rows(run)),
        (tmp_path / "w.safetensors", encoder_header.read_info),
        (run / "encoder.safetensors", lambda _: encoders.load(run)),
        (tmp_path / "w.pth", lambda path: start(nn.Identity(), None, str(path))),  # type: ignore[arg-type]
        (tmp_path / "a.csv", sources.load),
        (tmp_path / "a.csv.gz", sources.load),
        (tmp_path / "a.npz", sources.load),
        (tmp_path / "s.xlsx", lambda path: sources.load("phantom:3", labels=path, on="name")),
    ]
    for path, act in opened:
        put(path)
        with pytest.raises(UsageError, match=r"(no regular file|a file of the system), which is not opened") as told:
            act(path)
        assert "\n" not in str(told.value)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("name", ["store.json", "table.parquet", "facts.parquet", "pixels.npy", "hashes.npy"])
@pytest.mark.parametrize("put", [pipe, endless])
def test_a_store_with_a_pipe_in_it_is_not_opened(name: str, put: Callable[[Path], None], tmp_path: Path) -> None:
    prepare("phantom:3", str(tmp_path / "s"), size=16, quiet=True)
    put(tmp_path / "s" / name)
    with pytest.raises(UsageError, match=r"not opened|is damaged"):
        store.prepare(sources.load(tmp_path / "s"), 16)


@pytest.mark.usefixtures("in_time")
def test_a_pipe_in_a_store_of_the_cache_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOTOMA_CACHE", str(tmp_path / "c"))
    path = store.prepare(sources.load("phantom:3"), 16)[1].path
    before = (path / "pixels.npy").read_bytes()
    for name in ("store.json", "facts.parquet"):
        pipe(path / name)
        assert store.prepare(sources.load("phantom:3"), 16)[1].path == path and (path / "pixels.npy").read_bytes() == before


def deflated(path: Path, content: Iterable[bytes]) -> Path:
    """A DICOM file whose data set is deflated: what it inflates to is given in pieces."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info

    meta, start, deflate = FileMetaDataset(), DicomBytesIO(), zlib.compressobj(wbits=-zlib.MAX_WBITS)
    meta.TransferSyntaxUID = dicom_elements.DEFLATED
    write_file_meta_info(start, meta, enforce_standard=False)
    body = b"".join([*map(deflate.compress, content), deflate.flush()])
    path.write_bytes(bytes(128) + b"DICM" + start.getvalue() + body)
    return path


def test_a_deflated_file_that_inflates_to_more_than_a_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private element of 3 MiB zeros, and one byte fewer than the bound: the first is never inflated by pydicom."""
    head = b"\x08\x00\x60\x00CS\x02\x00CR" + b"\x09\x00\x10\x00LO\x04\x00DOOM" + b"\x09\x00\x01\x10OB\0\0"
    size = 3 * 2**20
    monkeypatch.setattr(dicom_elements, "MOST_INFLATED", len(head) + 4 + size)
    whole = deflated(tmp_path / "whole.dcm", [head, size.to_bytes(4, "little"), bytes(size)])
    assert read.frames(str(whole)) == 1
    bomb = deflated(tmp_path / "bomb.dcm", [head, (size + 2).to_bytes(4, "little"), bytes(size + 2)])
    assert bomb.stat().st_size < 8000
    monkeypatch.setattr(zlib, "decompress", lambda *_: pytest.fail("inflated at once"))
    for act in (read.frames, read.frame_numbers, read.read, read.read_labels, partial(dicom_seg.geometry, frame=0)):
        with pytest.raises(ImageError, match="its deflated data set inflates to more than the 3 MiB allowed"):
            act(str(bomb))
    assert read.read_owners(str(bomb)) == (None, None) and dicom_phi.find_filled(str(bomb)) is None
    whole.unlink()
    assert len(sources.load(tmp_path)) == 1


def test_a_deflated_file_is_read_as_the_one_it_was_made_of(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    from pydicom import dcmread

    values = np.random.default_rng(5).integers(0, 255, (20, 31), dtype=np.uint8)
    plain = write_dicom(tmp_path / "a.dcm", values, PatientID="p")
    ds = dcmread(plain)
    ds.file_meta.TransferSyntaxUID = dicom_elements.DEFLATED
    ds.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    assert b"MONOCHROME2" not in (tmp_path / "b.dcm").read_bytes()
    np.testing.assert_array_equal(read.read(str(tmp_path / "b.dcm")).pixels, values)
    assert read.read_owners(str(tmp_path / "b.dcm")) == read.read_owners(str(plain)) == ("p", None)
    content, broken = (tmp_path / "b.dcm").read_bytes(), tmp_path / "c.dcm"
    for half, told in ((content[:-200] + b"\xff" * 200, "broken|truncated"), (content[:-100], "truncated")):
        broken.write_bytes(half)
        with pytest.raises(ImageError, match=f"its deflated data set is ({told})"):
            read.read(str(broken))


def test_a_gzipped_table_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"image_path\n" + b"phantom:1\n" * 1000))
    assert len(sources.load(tmp_path / "a.csv.gz")) == 1000
    monkeypatch.setattr(delimited, "MOST_BYTES", 10_000)
    with pytest.raises(UsageError, match="of text: save the table as Parquet"):
        sources.load(tmp_path / "a.csv.gz")
