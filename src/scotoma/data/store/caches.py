"""The cache of stores: which one a process holds, which goes when there are too many, and whose images each holds.

A store of the cache holds a file ``used``: its time is that of the last use, and a process that reads the store keeps a shared lock
on it. A store is removed under an exclusive lock only, by a rename first, so that no half of one stays under its name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from scotoma import files
from scotoma.errors import RunError, UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

LIMIT_VARIABLE = "SCOTOMA_CACHE_LIMIT"
LIMIT = 50.0  # GiB
USED, PATIENTS = "used", "patients.parquet"
STALE = 7 * 86400  # seconds after which what a killed build had decoded is no longer waited for
_PEOPLE = ("patient", "study", "group")
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Note that a store of the cache is used now, by this process until it ends."""
    try:
        if folder in _held and not _is_same(_held[folder], folder / USED):
            os.close(_held.pop(folder))  # of a store that was removed since
        if folder not in _held:
            descriptor = os.open(folder / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _held[folder] = descriptor
        os.utime(folder / USED)
    except OSError:
        pass  # a cache that may be read only: whoever may write it takes care of it


def _is_same(descriptor: int, path: Path) -> bool:
    return path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino


def release() -> None:
    """Let go of the stores that this process holds."""
    while _held:
        os.close(_held.popitem()[1])


def remove(folder: Path) -> None:
    """Remove a store of the cache.

    Raises:
        Busy: a process uses it.
    """
    descriptor = os.open(folder / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = folder.with_name(f"{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        files.rename(folder, gone)
    except BlockingIOError:
        raise files.Busy from None
    finally:
        os.close(descriptor)
    shutil.rmtree(gone)


def limit() -> int:
    """How many bytes the cache may have: ``$SCOTOMA_CACHE_LIMIT`` GiB, by default 50.

    Raises:
        UsageError: it is no number.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(LIMIT))
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise UsageError(f"{LIMIT_VARIABLE}={text}: a number of GiB")
    return int(found * 2**30)


def size(folder: Path) -> int:
    """Bytes of the files of a folder."""
    return sum(found.st_size for found in _stats(_inside(folder)) if S_ISREG(found.st_mode))


def _inside(folder: Path) -> Iterator[Path]:
    """A folder and all in it; what another process takes away meanwhile may be missing."""
    yield folder
    for parent, folders, names in os.walk(folder):  # which passes over a folder that is gone
        yield from (Path(parent, name) for name in (*folders, *names))


def _stats(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    """Of each path; not of one that is gone by now."""
    for path in paths:
        with suppress(OSError):
            yield path.stat()


def stores(root: Path) -> list[Path]:
    """The finished stores of a cache, the least recently used first."""

    def used(folder: Path) -> float:
        return next((found.st_mtime for found in _stats([folder / USED, folder])), 0.0)

    return sorted((path.parent for path in root.glob("*/store.json") if path.parent.suffix not in (".partial", ".gone")), key=used)


def tidy(root: Path) -> None:
    """Remove the least recently used stores of a cache beyond its limit, and what killed builds left a week ago.

    What a process uses stays, and so does what a process is building. What was removed is reported.
    """
    sizes = {folder: size(folder) for folder in stores(root)}
    excess, gone, freed = sum(sizes.values()) - limit(), 0, 0
    for folder, bytes_of in sizes.items():
        if excess <= freed or folder in _held:
            continue
        with suppress(files.Busy):
            remove(folder)
            gone, freed = gone + 1, freed + bytes_of
    if gone:
        text = f"{gone} stores least recently used removed ({freed / 2**30:.2f} GiB); the limit is {limit() / 2**30:g} GiB"
        notice("cache", f"{text} ({LIMIT_VARIABLE})")
    for partial in list_unfinished(root):
        newest = max((found.st_mtime for found in _stats(_inside(partial))), default=None)
        if newest is not None and time.time() - newest > STALE:
            with suppress(files.Busy):
                remove_unfinished(partial)


def list_unfinished(root: Path) -> list[Path]:
    """What killed builds and removals left in a cache, or what is being built."""
    return sorted([*root.glob("*.partial"), *root.glob("*.gone")])


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed build or removal left.

    Raises:
        Busy: a process is building it.
    """
    with files.lock(folder.with_name(f"{folder.stem}.lock"), wait=False, remove=True):
        shutil.rmtree(folder, ignore_errors=True)


def note_patients(folder: Path, table: pd.DataFrame) -> None:
    """Keep beside a store of the cache whose image each row is, as keyed hashes: `scotoma find` needs it.

    The same images may come with other tables: what each said is kept.
    """
    import pandas as pd

    named = [column for column in _PEOPLE if column in table.columns and table[column].notna().any()]
    if not named:
        return
    rows = pd.concat([pd.DataFrame({"row": range(len(table)), "name": table[column].to_numpy(object)}) for column in named])
    rows = rows.dropna()
    # as in `hold`; one process at a time, or what another table states of the same images would be lost
    with suppress(OSError, RunError), files.lock(folder / f"{PATIENTS}.lock", remove=True, what=str(folder)):
        before = pd.read_parquet(folder / PATIENTS) if (folder / PATIENTS).exists() else rows[:0]
        both = pd.concat([before, rows]).drop_duplicates().reset_index(drop=True)
        if len(both) > len(before):
            with files.replacing(folder / PATIENTS) as temporary:
                both.to_parquet(temporary)
