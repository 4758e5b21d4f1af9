"""Files are whole or absent, whatever fails; one process at a time; what is no regular file is not opened."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma import files
from scotoma.errors import RunError, UsageError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("primitive", ["put", "sync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_what_cannot_be_written_is_one_line_and_leaves_the_old(
    primitive: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(tmp_path / "a", "old")

    def fail(*given: object) -> None:
        if primitive == "put":
            Path(str(given[0])).write_bytes(b"ha")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, primitive, fail)
    with pytest.raises(RunError) as error:
        files.write(tmp_path / "a", "new")
    assert str(error.value) == f"cannot write {tmp_path / 'a'} ({os.strerror(code)})"
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_its_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(Path(f"/proc/self/fd/{descriptor}").resolve().name))
    rename = os.replace

    def replace(old: Path, new: Path) -> None:
        done.append(f"-> {Path(new).name}")
        rename(old, new)

    monkeypatch.setattr(os, "replace", replace)
    files.write(tmp_path / "a", "new")
    first, *rest = done
    assert first.startswith("a.") and first.endswith(files.NEW) and rest == ["-> a", tmp_path.name]


def _safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(100_000)}, path)


def _torch(path: Path) -> None:
    import torch

    with path.open("wb") as file:
        torch.save({"a": torch.zeros(100_000)}, file)


def _figure(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9))
    figure.subplots().imshow(np.random.default_rng(0).random((300, 300)))
    figure.savefig(path, format="png")


WRITERS = {
    "safetensors": _safetensors,
    "torch": _torch,
    "figure": _figure,
    "parquet": lambda path: pd.DataFrame({"a": np.random.default_rng(0).random(50_000)}).to_parquet(path),
    "csv": lambda path: pd.DataFrame({"a": np.arange(50_000)}).to_csv(path),
    "bytes": lambda path: files.put(path, bytes(100_000)),
}


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_a_full_disk_is_told_whichever_library_writes(writer: str, tmp_path: Path) -> None:
    """Files may not grow beyond 20 kB: what a library makes of the failed write is one line, and no part of the file stays."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"^cannot write .*/a \([^\n]+\)$"), files.replacing(tmp_path / "a") as temporary:
            WRITERS[writer](temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


def test_what_has_nothing_to_do_with_the_disk_is_not_said_to(tmp_path: Path) -> None:
    for error in (ValueError("shapes"), KeyError("label"), UsageError("wrong"), RunError("a loss"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as found, files.replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise error
        assert found.value is error
        assert names(tmp_path) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "a") as one, files.replacing(tmp_path / "a") as two:
        one.write_text("1")
        two.write_text("2")
    assert (tmp_path / "a").read_text() == "1" and names(tmp_path) == ["a"]


def test_special_files_are_unfit(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "plain").write_text("x")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to("plain")
    (tmp_path / "info").symlink_to("/proc/cpuinfo")
    found = {p.name: files.unfit(p) for p in tmp_path.iterdir()}
    assert [name for name, reason in found.items() if reason is None] == ["plain"] or set(
        name for name, reason in found.items() if reason is None
    ) == {"plain", "link"}
    assert found["pipe"] == found["zero"] == "no regular file" and found["info"] == "a file of the system"
    assert files.unfit(tmp_path) == "a folder"
    with pytest.raises(FileNotFoundError):
        files.unfit(tmp_path / "absent")


HOLD = "import sys; from pathlib import Path; from scotoma import files\n"
HOLD += "with files.lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_a_lock_is_waited_for_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    lock = tmp_path / "lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(files.Busy), files.lock(lock, wait=False):
        pass
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    slept = files.time.sleep

    def sleep(seconds: float) -> None:  # the other one ends while this one waits
        other.kill()
        other.wait()
        slept(0)

    monkeypatch.setattr(files.time, "sleep", sleep)
    with files.lock(lock, remove=True, what="the run"):
        pass
    assert capsys.readouterr().err == "waiting for another process that writes the run\n"
    assert names(tmp_path) == []


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_permissions_of_the_umask_whichever_library_writes(umask: int, expected: int, tmp_path: Path) -> None:
    def alone(path: Path) -> None:  # as safetensors does: a file of its own, readable by its owner
        with files.replacing(path) as temporary:
            temporary.unlink()
            temporary.touch(0o600)

    old = os.umask(umask)
    try:
        files.write(tmp_path / "a", "text")
        alone(tmp_path / "b")
        with files.replacing(tmp_path / "c", 0o600) as temporary:
            temporary.write_text("for its owner")
    finally:
        os.umask(old)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "abc"] == [expected, expected, 0o600]
