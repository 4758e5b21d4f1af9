"""The store: decoded once, whole or absent, taken up where a killed process stopped."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma.data import dataset as dataset_
from scotoma.data import pseudonyms, sources
from scotoma.data.io import read as images
from scotoma.data.io.sampling import spread
from scotoma.data.store import builder, decode_worker, hashes, levelling, store
from scotoma.errors import RunError, UsageError

PREPARE = """
import sys; from pathlib import Path; from scotoma.data import sources; from scotoma.data.store import store
store.prepare(sources.load(sys.argv[1]), 32, out=Path(sys.argv[2]), workers=2, quiet=True)
"""


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def beside(folder: Path) -> list[str]:
    """What lies beside a store, other than the store."""
    return [p.name for p in folder.parent.iterdir() if p.name.startswith(folder.name) and p != folder]


def test_pixels_are_those_of_square_and_read(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(4, suffix=".jpg")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 70), dtype=np.uint8)).save(root / "left" / "wide.png")
    dataset, opened = store.prepare(sources.load(root), 32, quiet=True)
    assert (opened.side, opened.channels, len(opened)) == (48, 1, 9)
    assert opened.pixels.dtype == np.uint8
    assert not opened.pixels.flags.writeable
    key = pseudonyms.load_key()
    for row, path in zip(dataset.table["row"], dataset.table["image_path"], strict=True):
        image = images.read(path)
        read, source = image.pixels, image.source
        assert source is not None
        assert np.array_equal(opened.pixels[row], images.square(read, 48, 1))
        assert opened.facts["content"][row] == pseudonyms.pseudonym(hashes.content(source), key)
        assert np.array_equal(opened.hashes[row], hashes.difference(hashes.cells(read)))
    assert opened.facts["width"].max() == 70
    batch = opened.batch(np.array([3, 0, 3]))
    assert batch.shape == (3, 1, 48, 48)
    assert np.array_equal(batch[1, 0], opened.pixels[0, :, :, 0])


def test_colour_is_kept_where_any_image_has_it(grey_folder) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(3)
    colour = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    assert store.prepare(sources.load(root), 32, quiet=True)[1].channels == 1
    Image.fromarray(np.repeat(colour[:, :, :1], 3, 2)).save(root / "left" / "grey_in_three.png")
    assert store.prepare(sources.load(root), 32, quiet=True)[1].channels == 1
    Image.fromarray(colour).save(root / "left" / "z.png")
    dataset, opened = store.prepare(sources.load(root), 32, quiet=True)
    assert opened.channels == 3
    row = [Path(p).name for p in dataset.table["image_path"]].index("z.png")
    assert np.array_equal(opened.pixels[row], images.square(colour, 48, 3))
    assert store.prepare(sources.load(root), 32, 1, quiet=True)[1].channels == 1


@pytest.mark.parametrize("size", [16, 64, 96, 100, 224])
def test_the_side_leaves_a_crop_its_margin(size: int) -> None:
    side = store.side_for(size)
    assert side % 16 == 0
    assert 1.3 * size <= side < 1.3 * size + 16


def test_the_cache_is_found_again_and_renewed_where_a_file_changes(grey_folder) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(2)
    first = store.prepare(sources.load(root), 32, quiet=True)[1].path
    written = (first / "pixels.npy").stat().st_mtime_ns
    assert first.parent == Path(os.environ["SCOTOMA_CACHE"]) / "stores"
    assert store.prepare(sources.load(root), 32, quiet=True)[1].path == first
    assert (first / "pixels.npy").stat().st_mtime_ns == written
    assert store.prepare(sources.load(root), 64, quiet=True)[1].path != first
    changed = root / "left" / "scan_0.png"
    os.utime(changed, ns=(1, 1))
    second = store.prepare(sources.load(root), 32, quiet=True)[1].path
    assert second != first
    (root / "right" / "scan_3.png").unlink()
    assert store.prepare(sources.load(root), 32, quiet=True)[1].path not in (first, second)
    assert beside(first) == []


def test_an_unreadable_image_is_left_out_and_listed_or_stops_a_strict_run(grey_folder, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(3)
    (root / "left" / "scan_1.png").write_bytes(b"no image")
    out = tmp_path / "store"
    with pytest.raises(RunError, match=r"^1 of 6 images of scans cannot be read \(first: row 1: .*--strict they are left out$"):
        store.prepare(sources.load(root), 32, out=out, strict=True, quiet=True)
    assert not out.exists()
    files = sources.load(root)
    capsys.readouterr()
    dataset, opened = store.prepare(files, 32, out=out, quiet=True)
    line = capsys.readouterr().err
    assert line.startswith("1 of 6 images of scans cannot be read")
    assert line.count("\n") == 1
    assert str(root) not in line
    assert dataset.table["row"].tolist() == [0, 2, 3, 4, 5]
    assert [Path(p).name for p in dataset.table["image_path"]] == [f"scan_{k}.png" for k in (0, 2, 3, 4, 5)]
    assert opened.facts["error"].notna().tolist() == [False, True, False, False, False, False]
    with pytest.raises(RunError, match="1 of 6"):
        store.prepare(sources.load(root), 32, out=out, strict=True, quiet=True)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(RunError, match="1 of 1"):
        store.prepare(sources.load(tmp_path), 32, quiet=True)


def test_a_column_named_row_does_not_lead_astray(grey_folder) -> None:  # type: ignore[no-untyped-def]
    frame = sources.load(grey_folder(2)).table.assign(row=[3, 3, 3, 3])
    assert store.prepare(sources.load(frame), 32, quiet=True)[0].table["row"].tolist() == [0, 1, 2, 3]


def killed(partial: Path, dataset: dataset_.Dataset, settings: dict[str, object], tail: bytes = b"") -> int:
    """Leave what a killed build leaves: one of two workers' chunks, and the line that a process was writing."""
    builder._allocate(partial, dataset, settings)
    decode_worker.decode(partial, 1, 2, decode_worker.SECONDS)
    if tail:
        with (partial / "facts-0.jsonl").open("ab") as file:
            file.write(tail)
    return int(np.count_nonzero(np.fromfile(partial / "status.u1", np.uint8)))


def settings_of(dataset: dataset_.Dataset) -> dict[str, object]:
    settings = {"protocol": store.PROTOCOL, "name": dataset.name, "side": 48, "channels": 1, "labels": False}
    return settings | {"display": dataset.display.settings(), "fingerprint": store._fingerprint(dataset, 48, 1)}


@pytest.mark.parametrize("tail", [b"", b'{"row": 3, "cont'])
def test_a_build_goes_on_where_it_was_killed(grey_folder, tmp_path: Path, tail: bytes) -> None:  # type: ignore[no-untyped-def]
    dataset = sources.load(grey_folder(35))
    whole = store.prepare(dataset, 32, out=tmp_path / "whole", quiet=True)[1]
    partial = tmp_path / "resumed.partial"
    assert killed(partial, dataset, settings_of(dataset), tail) == 32
    before = np.load(partial / "pixels.npy")
    marked = (partial / "jobs.jsonl").stat().st_mtime_ns
    assert before[32:64].any()
    assert not before[:32].any()
    assert marked
    with (partial / "jobs.jsonl").open("r+") as file:  # what is decoded is not read again: its path may lead nowhere
        lines = [line if not 32 <= i < 64 else '["/nowhere.png", null]\n' for i, line in enumerate(file.readlines())]
    (partial / "jobs.jsonl").write_text("".join(lines))
    resumed = store.prepare(dataset, 32, out=tmp_path / "resumed", quiet=True)[1]
    assert np.array_equal(resumed.pixels, whole.pixels)
    assert np.array_equal(resumed.hashes, whole.hashes)
    pd.testing.assert_frame_equal(resumed.facts[whole.facts.columns], whole.facts)
    assert sorted(files(resumed.path)) == sorted(files(whole.path)) == ["facts.parquet", "hashes.npy", "pixels.npy", "store.json"]
    assert beside(resumed.path) == []


def test_a_killed_process_leaves_nothing_that_looks_finished(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root, out = grey_folder(64, side=260), tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", PREPARE, str(root), str(out)], start_new_session=True)
    status = tmp_path / "store.partial" / "status.u1"
    until = time.monotonic() + 20
    while time.monotonic() < until and not (status.exists() and np.count_nonzero(np.fromfile(status, np.uint8)) > 4):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = np.count_nonzero(np.fromfile(status, np.uint8))
    assert 4 < done < 128
    _dataset, opened = store.prepare(sources.load(root), 32, out=out, quiet=True)
    _, again = store.prepare(sources.load(root), 32, out=tmp_path / "again", quiet=True)
    assert np.array_equal(opened.pixels, again.pixels)
    assert opened.facts.equals(again.facts[opened.facts.columns])
    assert beside(out) == []


def test_a_partial_store_of_other_images_is_not_gone_on_with(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    other = sources.load(grey_folder(35, seed=5, name="other"))
    killed(tmp_path / "store.partial", other, settings_of(other))
    dataset = sources.load(grey_folder(35))
    _, opened = store.prepare(dataset, 32, out=tmp_path / "store", quiet=True)
    assert np.array_equal(opened.pixels[40], images.square(images.read(dataset.table["image_path"][40]).pixels, 48, 1))


def test_two_processes_that_prepare_at_once_make_one_store(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root, out = grey_folder(40), tmp_path / "store"
    processes = [subprocess.Popen([sys.executable, "-c", PREPARE, str(root), str(out)], stderr=subprocess.PIPE) for _ in range(2)]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [(b"scans: label: the folder's name, 2 classes\n", 0)] * 2
    assert len(store.open_store(out)) == 80
    assert beside(out) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match=r"^no room for the store \(0\.00 GiB\) in .* --out, the cache's with SCOTOMA_CACHE\)$"):
        store.prepare(sources.load(grey_folder(3)), 32, out=tmp_path / "out" / "store", quiet=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        store.prepare(sources.load(grey_folder(1)), 32, out=tmp_path / "file" / "store", quiet=True)


DEAD = """
import os, sys
if any("scotoma.data.store.decode_worker" in word for word in sys.orig_argv):
    os._exit(1)
"""


def test_a_dead_worker_is_one_line_and_its_work_is_kept(grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    dataset = sources.load(grey_folder(2))
    with monkeypatch.context() as patch:
        (tmp_path / "sitecustomize.py").write_text(DEAD)
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(RunError, match=r"a decoding process died .*run again"):
            store.prepare(dataset, 32, out=tmp_path / "store", quiet=True)
    assert not (tmp_path / "store").exists()
    assert len(store.prepare(dataset, 32, out=tmp_path / "store", quiet=True)[1]) == 4


FULL = """
import resource, sys
if any("scotoma.data.store.decode_worker" in word for word in sys.orig_argv):
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
"""


def test_a_disk_that_fills_while_decoding_is_one_line_and_the_work_is_kept(
    grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """The pixels have their room from the start; the facts of each image grow, and after a few there is no more room for them."""
    dataset = sources.load(grey_folder(10))
    alone = store.prepare(dataset, 32, out=tmp_path / "alone", quiet=True)[1]
    with monkeypatch.context() as patch:
        (tmp_path / "sitecustomize.py").write_text(FULL)
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(RunError, match=r"^no room left in .*: free some, then run again to go on where it stopped$"):
            store.prepare(dataset, 32, out=tmp_path / "store", quiet=True)
    assert not (tmp_path / "store").exists()
    states = np.concatenate([np.fromfile(path, np.uint8) for path in tmp_path.rglob("status.u1")])
    assert 0 < np.count_nonzero(states == decode_worker.DECODED) < 20
    resumed = store.prepare(dataset, 32, out=tmp_path / "store", quiet=True)[1]
    assert np.array_equal(resumed.pixels, alone.pixels)
    pd.testing.assert_frame_equal(resumed.facts, alone.facts)
    assert beside(tmp_path / "store") == []


def test_a_folder_that_holds_something_is_left_alone(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        store.prepare(sources.load(grey_folder(1)), 32, out=tmp_path / "out", quiet=True)
    assert files(tmp_path / "out") == {"thesis.txt": b"mine"}
    assert beside(tmp_path / "out") == []


def test_open_store_refuses_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a prepared store"):
        store.open_store(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"protocol": store.PROTOCOL + 1, "side": 48, "channels": 1}))
    with pytest.raises(UsageError, match="another version"):
        store.open_store(tmp_path)


def test_statistics_are_those_of_numpy(grey_folder) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(6)
    for k, path in enumerate(sorted(root.rglob("*.png"))[:2]):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    _, opened = store.prepare(sources.load(root), 32, quiet=True)
    rows = np.array([0, 1, 4, 7])
    mean, deviation = store.statistics(opened, rows)
    x = opened.pixels[rows].astype(float) / 255
    assert mean == pytest.approx(x.mean((0, 1, 2)), abs=1e-6)
    assert deviation == pytest.approx(x.std((0, 1, 2)), abs=1e-6)
    few, _ = store.statistics(opened, np.arange(12), sample=2)
    assert few == pytest.approx(opened.pixels[spread(12, 2)].mean((0, 1, 2)) / 255, abs=1e-6)


def test_dicom_identifiers_become_hashes_and_nothing_else_stays(data_root: Path, tmp_path: Path) -> None:
    import pydicom

    folder = tmp_path / "dicom"
    folder.mkdir()
    read = pd.read_csv(data_root / "dicom_samples" / "table.csv")
    raw: set[str] = set()
    for path in read["image_path"]:
        if len(raw) == 5:
            break
        header = pydicom.dcmread(data_root / "dicom_samples" / path, force=True, stop_before_pixels=True)
        if len(str(header.get("PatientID") or "")) > 5:
            raw.add(str(header.PatientID))
            shutil.copy(data_root / "dicom_samples" / path, folder)
    assert raw
    dataset, opened = store.prepare(sources.load(folder), 32, quiet=True)
    key = pseudonyms.load_key()
    assert set(dataset.table["patient"].dropna()) <= {pseudonyms.pseudonym(pseudonyms.canonical(p), key) for p in raw}
    assert dataset.table["patient"].notna().any()
    assert "patient_id" not in opened.facts
    content = b"".join(files(opened.path).values())
    assert not [p for p in raw if p.encode() in content]


def test_ages_from_headers_stop_at_ninety(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    for k, age in enumerate(("089Y", "090Y", "101Y", "006M")):
        write_dicom(tmp_path / "scans" / f"{k}.dcm", np.full((20, 20), 50 * k, np.uint8), PatientAge=age)
    dataset, _ = store.prepare(sources.load(tmp_path / "scans"), 16, quiet=True)
    assert dataset.table["age"].tolist() == [89, 90, 90, 0.5]


SLOW = """
import sys
if any("scotoma.data.store.decode_worker" in word for word in sys.orig_argv):
    import PIL.Image, time
    opened = PIL.Image.open
    PIL.Image.open = lambda file, *given: time.sleep(600) if "endless" in getattr(file, "name", "") else opened(file, *given)
"""


def test_a_image_that_hangs_a_decoder_is_left_out(grey_folder, tmp_path: Path, monkeypatch, capfd) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(4)
    images = sorted(str(p) for p in root.rglob("*.png"))
    (tmp_path / "endless.png").write_bytes(b"")
    (tmp_path / "sitecustomize.py").write_text(SLOW)  # stands for a codec that does not return
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(decode_worker, "SECONDS", 1)
    rows = pd.DataFrame({"image_path": [*images[:3], str(tmp_path / "endless.png"), *images[3:]]})
    dataset, opened = store.prepare(sources.load(rows), 32, 1, quiet=True)
    assert dataset.table["row"].tolist() == [0, 1, 2, *range(4, len(rows))]
    assert opened.facts["error"][3] == "decoding took more than 1 seconds"
    assert f"1 of {len(rows)} images" in capfd.readouterr().err
    assert all(opened.pixels[row].any() for row in dataset.table["row"])


def test_a_row_that_names_a_file_of_several_images_and_none_of_them_is_said(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    grey = np.add.outer(np.arange(20), np.arange(24)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "one.tif")
    Image.fromarray(grey).save(tmp_path / "stack.tif", save_all=True, append_images=[Image.fromarray(grey // 2)])
    np.savez(tmp_path / "three.npz", np.stack([grey] * 3))
    nibabel.save(nibabel.Nifti1Image(np.stack([grey.astype(np.int16)] * 4, -1), np.eye(4)), tmp_path / "four.nii.gz")
    frame = pd.DataFrame(
        {"image_path": ["one.tif", "stack.tif", "three.npz", "four.nii.gz", "stack.tif"], "frame": [np.nan] * 4 + [1]}
    )
    dataset = sources.from_frame("several", frame, tmp_path)
    store.prepare(dataset, 16, channels=1, quiet=True)
    assert "several: 3 rows name a file of several images and none of them: the first stands" in capsys.readouterr().err
    store.prepare(replace(dataset, table=dataset.table.iloc[[0, 4]].reset_index(drop=True)), 16, channels=1, quiet=True)
    assert "several images" not in capsys.readouterr().err


def test_after_a_files_first_timeout_its_other_images_are_given_up_too(tmp_path: Path) -> None:
    """Each would take as long again; images of other files, and those that were read, stay as they are."""
    jobs = [("a.dcm", k) for k in range(4)] + [("b.dcm", 0), ("a.dcm", 4)]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    status = np.array([decode_worker.DECODED, decode_worker.BEGUN, 0, 0, 0, 0], np.uint8)
    assert builder._blame(tmp_path, status, 0, 1, -signal.SIGALRM, decode_worker.CHUNK)
    bad = decode_worker.UNREADABLE
    assert status.tolist() == [decode_worker.DECODED, bad, bad, bad, decode_worker.PENDING, bad]
    facts = [json.loads(line) for line in (tmp_path / "facts-0.jsonl").read_text().split("\n") if line]
    text = f"decoding took more than {decode_worker.SECONDS} seconds"
    assert facts == [{"row": 1, "error": text}, *({"row": k, "error": f"{text} at another image of its file"} for k in (2, 3, 5))]
    status = np.array(
        [decode_worker.DECODED, decode_worker.BEGUN, 0, 0, 0, 0], np.uint8
    )  # a crash ends at once: the others are tried
    assert builder._blame(tmp_path, status, 0, 1, -signal.SIGSEGV, decode_worker.CHUNK)
    assert status.tolist() == [decode_worker.DECODED, bad, 0, 0, 0, 0]


def test_of_grey_levels_a_files_other_images_are_given_up_too(tmp_path: Path) -> None:
    groups = [("one", [("a.dcm", 0)]), ("two", [("b.dcm", 0), ("a.dcm", 1), ("b.dcm", 1), ("b.dcm", 2)])]
    places = levelling.begin(tmp_path / "levels", groups)
    status = np.fromfile(tmp_path / "levels" / "status.u1", np.uint8)
    status[levelling.CHUNK] = decode_worker.BEGUN
    assert builder._blame(tmp_path / "levels", status, 1, 2, -signal.SIGALRM, levelling.CHUNK)
    assert len(status) == places and status[levelling.CHUNK :][:4].tolist() == [
        decode_worker.UNREADABLE,
        0,
        *[decode_worker.UNREADABLE] * 2,
    ]
    assert status[0] == decode_worker.PENDING


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SCOTOMA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert store.cache_folder() == tmp_path / ".cache" / "scotoma"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification says to ignore
    assert store.cache_folder() == tmp_path / ".cache" / "scotoma"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.cache_folder() == tmp_path / "xdg" / "scotoma"
    monkeypatch.setenv("SCOTOMA_CACHE", str(tmp_path / "own"))
    assert store.cache_folder() == tmp_path / "own"
