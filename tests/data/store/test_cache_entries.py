"""The cache of stores: its key covers the files as they are, what is damaged is built anew, what was away is tried again."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma import files
from scotoma.data import sources
from scotoma.data.io import read as images
from scotoma.data.store import builder, decode_worker, levelling, looking, store
from scotoma.errors import RunError, UsageError


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode here, so that what fails can be chosen."""

    def run(partial: Path, n: int, workers: int, quiet: bool, *of_levels: object) -> None:
        (levelling.measure if of_levels else decode_worker.decode)(partial, 0, 1, decode_worker.SECONDS)

    monkeypatch.setattr(builder, "_run_workers", run)
    monkeypatch.setattr(looking, "at", lambda jobs, labels=False: (looking._look(*job, labels) for job in jobs))


def prepared(root: Path) -> store.Store:
    return store.prepare(sources.load(root), 32, 1, quiet=True)[1]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What the cache said of itself."""
    return "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if "built anew" in line)


def fails(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    read = images._read

    def failing(path: str, *given: object) -> images.Decoded:
        if Path(path).name == name:
            raise error
        return read(path, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "_read", failing)


PASSING = [OSError(code, os.strerror(code)) for code in (errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.ENOENT)]
PASSING += [MemoryError(), FileNotFoundError("No such file or no access")]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_could_not_be_read_for_a_passing_reason_is_tried_again(error, grey_folder, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(3)
    with monkeypatch.context() as patch:
        fails(patch, "scan_1.png", error)
        first = prepared(root)
        assert first.facts["error"].notna().tolist() == [False, True, False, False, False, False]
        assert builder.find_retries(first.path) == [1]
        assert prepared(root).facts["error"].notna().sum() == 1  # still away: the store stays
        assert "built anew" not in capsys.readouterr().err
    again = prepared(root)
    assert not again.facts["error"].notna().any() and not builder.find_retries(again.path)
    assert again.pixels[1].any()
    line = said(capsys)
    assert line == "scans: 1 of the images that could not be read last time are tried again: the store is built anew\n"


def test_what_is_broken_is_remembered(grey_folder, capsys) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(3)
    (root / "left" / "scan_1.png").write_bytes(b"no image")
    written = (prepared(root).path / "pixels.npy").stat().st_mtime_ns
    again = prepared(root)
    assert (again.path / "pixels.npy").stat().st_mtime_ns == written and not (again.path / builder.LATER).exists()


def test_where_everything_was_away_all_is_tried_again(grey_folder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(1, classes=())
    with monkeypatch.context() as patch:
        fails(patch, "scan_0.png", OSError(errno.EIO, "no"))
        with pytest.raises(RunError, match="1 of 1"):
            prepared(root)
    assert not prepared(root).facts["error"].notna().any()


def test_a_file_replaced_while_it_is_read_is_not_kept(grey_folder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(3)
    read = images._read

    def slow(path: str, *given: object) -> images.Decoded:
        image = read(path, *given)  # type: ignore[arg-type]
        if path.endswith("scan_2.png"):
            Image.fromarray(np.zeros((40, 40), np.uint8)).save(path)
        return image

    with monkeypatch.context() as patch:
        patch.setattr(images, "_read", slow)
        first = prepared(root)
    assert first.facts["error"][2] == "it changed while it was read"
    assert prepared(root).path != first.path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "pixels cut short": ("pixels.npy", truncate),
    "no pixels": ("pixels.npy", Path.unlink),
    "empty pixels": ("pixels.npy", lambda p: p.write_bytes(b"")),
    "hashes cut short": ("hashes.npy", truncate),
    "no facts": ("facts.parquet", Path.unlink),
    "facts cut short": ("facts.parquet", truncate),
    "no settings": ("store.json", Path.unlink),
    "settings cut short": ("store.json", truncate),
    "settings of another kind": ("store.json", lambda p: p.write_text("[1]")),
    "hashes of fewer": ("hashes.npy", lambda p: np.save(p, np.zeros((2, 32), np.uint8))),
}


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_a_damaged_cache_is_built_anew_and_a_damaged_store_refused(kind: str, grey_folder, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(2)
    whole = prepared(root)
    expected = whole.pixels.copy()
    name, harm = DAMAGE[kind]
    harm(whole.path / name)
    again = prepared(root)
    assert again.path == whole.path and np.array_equal(again.pixels, expected) and len(again.facts) == 4
    assert said(capsys) == "scans: its store in the cache is damaged, and is built anew\n"
    from scotoma.commands.prepare import prepare

    out = prepare(str(root), tmp_path / "store", 32, quiet=True)
    harm(out / name)
    if name != "store.json" or kind == "settings cut short":
        with pytest.raises(UsageError, match=r"damaged \([a-z.]+\): prepare it anew"):
            store.prepare(sources.load(out), 32, quiet=True)


def test_other_content_of_the_same_size_and_time_is_another_store(grey_folder) -> None:  # type: ignore[no-untyped-def]
    path = grey_folder(2, suffix=".bmp") / "left" / "scan_0.bmp"
    first = prepared(path.parent.parent)
    entry = path.stat()
    content = bytearray(path.read_bytes())
    content[-1000:] = bytes(1000)
    path.write_bytes(content)
    os.utime(path, ns=(entry.st_atime_ns, entry.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (entry.st_size, entry.st_mtime_ns)
    second = prepared(path.parent.parent)
    assert second.path != first.path and not np.array_equal(second.pixels[0], first.pixels[0])


@pytest.mark.parametrize("name", ["a#1.png", "b|2.png", "c#x|y.png"])
def test_names_with_hashes_and_bars_are_files_like_others(name: str, tmp_path: Path) -> None:
    for level in (40, 200):
        Image.fromarray(np.full((20, 20), level, np.uint8)).save(tmp_path / name)
        found = store.prepare(sources.load(pd.DataFrame({"image_path": [str(tmp_path / name)]})), 16, 1, quiet=True)[1]
        assert (found.pixels[0] == level).all()


def test_every_mask_of_an_image_counts(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "image.png")
    mask = np.zeros((20, 20), np.uint8)
    mask[:9] = 1
    for name in ("one.png", "two.png"):
        Image.fromarray(mask).save(tmp_path / name)
    frame = pd.DataFrame({"image_path": [str(tmp_path / "image.png")], "mask_path": [f"{tmp_path / 'one.png'}|two.png"]})
    dataset = sources.load(frame)
    before = store.open_masks(dataset, 20)[0]
    Image.fromarray(mask[::-1]).save(tmp_path / "two.png")
    after = store.open_masks(dataset, 20)[0]
    assert before.pixels[0].sum() == 9 * 20 and after.pixels[0].sum() == 18 * 20


def test_a_disk_that_fills_up_while_decoding_is_one_line_and_is_gone_on_with(grey_folder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(3)
    whole = prepared(root).pixels.copy()
    dataset = replace(sources.load(root), name="another")
    for name in ("put", "sync", "rename"):
        with monkeypatch.context() as patch:

            def full(*given: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(files, name, full)
            with pytest.raises(RunError, match="no room for the store"):
                store.prepare(dataset, 32, 1, quiet=True)
    assert np.array_equal(store.prepare(dataset, 32, 1, quiet=True)[1].pixels, whole)


def test_special_files_are_listed_and_never_opened(tmp_path: Path, grey_folder) -> None:  # type: ignore[no-untyped-def]
    import socket

    root = grey_folder(2, classes=())
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe.dcm")
    os.mkfifo(root / "pipe")  # without suffix: looked into for DICOM's preamble
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "zero.nii.gz").symlink_to("/dev/zero")
    (root / "memory.tif").symlink_to("/proc/self/mem")
    assert len(sources.load(root)) == 3  # the two images, and what looks like a file
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s.png"))
        paths = sorted(str(p) for p in root.iterdir())
        _, opened = store.prepare(sources.load(pd.DataFrame({"image_path": paths})), 32, 1, quiet=True)
    assert opened.facts["error"].notna().sum() == len(paths) - 2 == 7
    assert set(opened.facts["error"].dropna()) == {
        "no regular file, which is not opened", "a file of the system, which is not opened"
    }  # fmt: skip
    assert not (opened.path / builder.LATER).exists()
    masks = pd.DataFrame({"image_path": [str(root / "scan_0.png")], "mask_path": [str(root / "pipe.png")]})
    with pytest.raises(RunError, match="1 of 1"):
        store.open_masks(sources.load(masks), 48)


def test_settings_are_written_last_of_what_makes_a_partial_store(tmp_path: Path, grey_folder) -> None:  # type: ignore[no-untyped-def]
    """A build killed while it took its room is begun anew."""
    dataset = sources.load(grey_folder(2))
    partial = tmp_path / "store.partial"
    partial.mkdir()
    (partial / "store.json").write_text(json.dumps({"side": 48}))
    (partial / "jobs.jsonl").write_text("")
    opened = store.prepare(dataset, 32, 1, tmp_path / "store", quiet=True)[1]
    assert len(opened) == 4


@pytest.mark.parametrize("deep", [False, True])
def test_names_that_are_not_utf8_are_left_out_and_counted(deep: bool, grey_folder, capsys) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(2, classes=("å",))
    place = os.fsencode(root / "å") + (b"/caf\xe9" if deep else b"")
    os.makedirs(place, exist_ok=True)  # noqa: PTH103
    content = (root / "å" / "scan_0.png").read_bytes()
    with open(place + b"/p\xff.png", "wb") as file:  # noqa: PTH123
        file.write(content)
    dataset = sources.load(root)
    assert len(dataset) == 2
    assert "1 names that are not UTF-8" in capsys.readouterr().err
    assert len(store.prepare(dataset, 32, 1, quiet=True)[0]) == 2


def test_a_folder_whose_own_name_is_not_utf8(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from scotoma.commands.prepare import prepare

    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/scans\xff"))
    grey_folder(2).rename(odd)
    with pytest.raises(UsageError, match=r"scans\?: its name is not UTF-8") as error:
        prepare(str(odd), tmp_path / "store", 32, quiet=True)
    str(error.value).encode()
    (tmp_path / "scans").symlink_to(odd)
    assert len(store.open_store(prepare(str(tmp_path / "scans"), tmp_path / "store", 32, quiet=True))) == 4
