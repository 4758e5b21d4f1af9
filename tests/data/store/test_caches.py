"""The cache of stores: a limit, least recently used first, nothing in use, and leftovers of killed builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma import files
from scotoma.data import sources
from scotoma.data.store import caches, store
from scotoma.errors import UsageError


def made(root: Path, name: str, age: float, count: int = 1000) -> Path:
    """A store of so many bytes, last used so many seconds ago."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "pixels.npy").write_bytes(bytes(count))
    (folder / "store.json").write_text("{}")
    (folder / "used").touch()
    os.utime(folder / "used", (time.time() - age,) * 2)
    return folder


def test_the_least_recently_used_go_and_those_in_use_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [made(tmp_path, name, age) for name, age in (("a", 10), ("b", 40), ("c", 30), ("d", 20))]
    monkeypatch.setenv("SCOTOMA_CACHE_LIMIT", str(2100 / 2**30))
    code = f"import time; from pathlib import Path; from scotoma.data.store import caches; caches.hold(Path({str(folders[2])!r})); "
    with subprocess.Popen([sys.executable, "-c", code + "print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        os.utime(folders[2] / "used", (time.time() - 30,) * 2)
        assert [p.name for p in caches.stores(tmp_path)] == ["b", "c", "d", "a"]
        caches.tidy(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "c"]  # c is older than d, and in use
        with pytest.raises(files.Busy):
            caches.remove(folders[2])
        other.kill()
    assert capsys.readouterr().err.startswith("cache: 2 stores least recently used removed (0.00 GiB); the limit is ")
    caches.remove(folders[2])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    caches.tidy(tmp_path)
    assert capsys.readouterr().err == ""


def test_leftovers_of_killed_builds_go_after_a_week_unless_they_are_being_built(tmp_path: Path) -> None:
    for name in ("old.partial", "new.partial", "busy.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pixels.npy").touch()
        if name != "new.partial":
            for path in (tmp_path / name / "pixels.npy", tmp_path / name):
                os.utime(path, (time.time() - 8 * 86400,) * 2)
    with files.lock(tmp_path / "busy.lock"):
        caches.tidy(tmp_path)
    assert {p.name for p in tmp_path.glob("*.partial")} == {"new.partial", "busy.partial"}


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_is_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOTOMA_CACHE_LIMIT", text)
    with pytest.raises(UsageError, match="a number of GiB"):
        caches.limit()


def test_a_store_of_the_cache_keeps_whose_images_it_holds(grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("SCOTOMA_CACHE", str(tmp_path / "cache"))
    frame = sources.load(grey_folder(4, classes=())).table
    for names in (["p", "p", "q", None], ["p", "x", "q", "q"]):  # the same images under two tables
        dataset = sources.load(frame.assign(patient=names))
        _, opened = store.prepare(dataset, 16, quiet=True)
    kept = pd.read_parquet(opened.path / "patients.parquet")
    hashed = sources.load(frame.assign(patient=["p", "x", "q", "q"])).table["patient"]
    p, x, q = hashed[0], hashed[1], hashed[2]
    assert set(zip(kept["row"], kept["name"], strict=True)) == {(0, p), (1, p), (2, q), (1, x), (3, q)}
    before = np.array(opened.pixels)
    caches.release()
    caches.remove(opened.path)
    _, again = store.prepare(dataset, 16, quiet=True)  # held once, gone since, and made anew
    assert np.array_equal(again.pixels, before)
    assert (again.path / "used").exists()


def test_a_cache_in_which_another_process_builds_is_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going = tmp_path / "a.partial" / "facts-0.jsonl"
    going.parent.mkdir()
    for name in ("a", "b"):
        (tmp_path / name).mkdir(), (tmp_path / name / "store.json").write_text("{}")
    plain = Path.stat

    def stat(self: Path, **given: bool) -> os.stat_result:
        if self == going:  # listed, and taken away before it is looked at
            self.unlink(missing_ok=True)
        if self.parent == tmp_path and self.name == "b":
            shutil.rmtree(self, ignore_errors=True)
        return plain(self, **given)

    going.write_text("x")
    monkeypatch.setattr(Path, "stat", stat)
    caches.tidy(tmp_path)
    assert (tmp_path / "a" / "store.json").exists() and going.parent.exists() and not going.exists()
