"""Images that are looked at before a store is built: by a process that may hang, crash or be killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scotoma import processes
from scotoma.data import sources
from scotoma.data.io import dicom, dicom_phi, read
from scotoma.data.io.read import ImageError
from scotoma.data.store import decode_worker, looking, store
from scotoma.errors import RunError

# Stands for codecs: of a file whose name states it.
CODECS = """
import sys
if any("scotoma.data.store.looking" in word for word in sys.orig_argv):
    import os, signal, time
    import PIL.Image
    opened = PIL.Image.open
    def codec(file, *given):
        name = getattr(file, "name", "")
        if "endless" in name:
            time.sleep(600)
        if "crash" in name or "killed" in name:
            os.kill(os.getpid(), signal.SIGSEGV if "crash" in name else signal.SIGKILL)
        return opened(file, *given)
    PIL.Image.open = codec
"""


@pytest.fixture
def codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(CODECS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)
    monkeypatch.setattr(decode_worker, "SECONDS", 3)


def saved(path: Path, coloured: bool) -> Path:
    levels = np.random.default_rng(len(path.name)).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(levels if coloured else levels[..., :1].repeat(3, 2)).save(path)
    return path


def test_a_word_for_each_image(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [saved(tmp_path / "g.png", False), tmp_path / "absent.png", tmp_path / "broken.png", saved(tmp_path / "c.bmp", True)]
    jobs = [(str(path), None) for path in paths]
    assert list(looking.at(jobs)) == [looking.GREY, looking.AWAY, looking.BROKEN, looking.COLOUR]
    assert list(looking.at(jobs, labels=True)) == [looking.GREY, looking.AWAY, looking.BROKEN, looking.BROKEN]
    with closing(looking.at(jobs * 20)) as found:  # whoever has heard enough goes
        assert next(found) == looking.GREY
    assert list(looking.at([])) == []


@pytest.mark.usefixtures("codecs")
def test_an_image_that_hangs_or_crashes_a_codec_neither_stops_nor_ends_who_asks(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    root.mkdir()
    names = ("a_crash.png", "b_endless.png", "c_grey.png", "d_crash.png", "e_colour.png")
    for name in names:
        saved(root / name, "colour" in name)
    told = list(looking.at([(str(root / name), None) for name in names]))
    assert told == [looking.BROKEN, looking.BROKEN, looking.GREY, looking.BROKEN, looking.COLOUR]
    assert store.prepare(sources.load(root), 16, quiet=True)[1].channels == 3
    (root / "e_colour.png").unlink()
    assert store.prepare(sources.load(root), 16, quiet=True)[1].channels == 1


@pytest.mark.usefixtures("codecs")
def test_a_process_that_is_killed_is_no_broken_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "killed.png", True)
    with pytest.raises(RunError, match="ended from outside"):
        list(looking.at([(str(path), None)]))


def test_what_the_header_of_a_grey_image_says_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "l.png")
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "l.jpg")
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "bitmap.png", format="BMP")
    Image.new("CMYK", (9, 9)).save(tmp_path / "ink.jpg")
    Image.new("P", (9, 9)).save(tmp_path / "palette.png")
    os.mkfifo(tmp_path / "pipe.png")
    grey = {p.name for p in tmp_path.iterdir() if looking.grey_by_header(str(p))}
    assert grey == {"l.png", "l.jpg"}
    monkeypatch.setattr(processes, "COMMAND", ("nothing is started",))
    frame = sources.load("phantom:4").table
    frame.loc[2, "image_path"] = str(tmp_path / "l.png")
    assert store._channels(sources.load(frame)) == 1


def busy(*_: object, **__: object) -> None:
    """A loop over a header that never ends, and that goes on after an error once."""
    try:
        while True:
            pass
    except OSError:
        while True:
            pass


def test_a_header_that_never_ends_is_left(write_dicom: Callable[..., Path], tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    path = write_dicom(tmp_path / "a.dcm", np.zeros((9, 9), np.uint8))
    for name in ("count_frames", "count_image_frames", "read_owners"):
        monkeypatch.setattr(dicom, name, busy)
    monkeypatch.setattr(dicom_phi, "_dicom", busy)
    monkeypatch.setattr(read, "HEADER_SECONDS", 0.05)
    monkeypatch.setattr(dicom_phi, "SECONDS", 0.05)
    for act in (read.frames, read.frame_numbers):
        with pytest.raises(ImageError, match=r"a.dcm: reading its header takes more than 0.05 seconds"):
            act(str(path))
    assert read.read_owners(str(path)) == (None, None) and dicom_phi.find_filled(str(path)) is None
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_alarm_that_is_set_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoding process ends by its alarm, whatever it reads; a thread has none."""
    signal.alarm(100)
    try:
        with processes.in_time(0.01):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 90 and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 90
    finally:
        signal.alarm(0)
    seen = []

    def elsewhere() -> None:
        with processes.in_time(0.01):
            seen.append(signal.getitimer(signal.ITIMER_REAL))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(0, 0)]
