"""Builds a store's folder: room for all images, decoding processes, and the gathering of what they found.

Under its name with ``.partial`` until it is complete; what a killed build had decoded is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files, processes
from scotoma.data.dataset import Dataset
from scotoma.data.io import read
from scotoma.data.store import decode_worker, levelling
from scotoma.errors import RunError, UsageError

if TYPE_CHECKING:
    import pandas as pd

CACHE_VARIABLE = "SCOTOMA_CACHE"
IMAGE = "mask_of"  # of a table of masks: the column of the images on which they lie
ASKED, NOTICES = "asked", "notices"  # of a store's settings: the display that was requested, and lines about what was decided
LATER = "later.json"  # of a store: the rows that may be readable another time


def build(dataset: Dataset, folder: Path, settings: dict[str, Any], workers: int, strict: bool, quiet: bool) -> None:
    """Build a store in ``folder``, or go on with one that was killed; the arguments are those of ``store.prepare``."""
    partial = folder.with_name(folder.name + ".partial")
    n = len(dataset)
    if (partial / "jobs.jsonl").exists() and is_same(partial, settings) and not _is_unfinished(partial, n):
        files.sweep(partial)
        _again(partial)
    else:
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _allocate(partial, dataset, settings)
        except (OSError, RunError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = error.__cause__ if isinstance(error, RunError) else error
            if isinstance(reason, OSError) and reason.errno in files.NO_ROOM:
                need = f"{n * settings['side'] ** 2 * settings['channels'] / 2**30:.2f} GiB"
                raise RunError(
                    f"no room for the store ({need}) in {partial.parent}: free some, or name another disk (a prepared store's with "
                    f"--out, the cache's with {CACHE_VARIABLE})"
                ) from error
            raise RunError(f"cannot write the store in {partial.parent} ({files.why(error) or error})") from error
    try:
        workers = max(1, min(workers, n // decode_worker.CHUNK))
        _run_workers(partial, n, workers, quiet)
        if _decide(partial, workers, quiet):
            _run_workers(partial, n, workers, quiet)
        _finish(partial, n, "" if settings["labels"] else dataset.name, strict)
        if folder.exists():
            folder.rmdir()
        files.rename(partial, folder)
        files.sync(folder.parent)
    except OSError as error:
        raise RunError(f"cannot finish the store in {partial.parent} ({error.strerror}); what was decoded is kept") from error


def _allocate(partial: Path, dataset: Dataset, settings: dict[str, Any]) -> None:
    """Take all the room at once, so that a full disk is found before the first image is decoded."""
    n, side, channels = len(dataset), settings["side"], settings["channels"]
    partial.mkdir(parents=True)
    np.lib.format.open_memmap(partial / "pixels.npy", "w+", np.uint8, (n, side, side, channels)).flush()
    np.lib.format.open_memmap(partial / "hashes.npy", "w+", np.uint8, (n, 32)).flush()
    for name in ("pixels.npy", "hashes.npy"):
        with (partial / name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, (partial / name).stat().st_size)
    (partial / "status.u1").write_bytes(bytes(n))
    files.write(partial / "store.json", json.dumps(settings))
    with files.replacing(partial / "jobs.jsonl", 0o600) as temporary:  # it alone holds paths; it goes with the complete store
        temporary.write_text("".join(json.dumps(job) + "\n" for job in list_requests(dataset.table)))


def _is_unfinished(partial: Path, n: int) -> bool:
    """Whether the room of a killed build is not all there, or black and white were decided without files that were away."""
    try:
        if (
            levelling.read_decided(partial) is not None
            and (np.fromfile(partial / "status.u1", np.uint8) == decode_worker.LATER).any()
        ):
            return True
        sizes = [len(np.load(partial / name, mmap_mode="r")) for name in ("pixels.npy", "hashes.npy")]
        return [*sizes, (partial / "status.u1").stat().st_size] != [n] * 3
    except (OSError, ValueError):
        return True


def _again(partial: Path) -> None:
    """Have what could not be read last time tried again."""
    status = np.memmap(partial / "status.u1", np.uint8, "r+")
    later = set(np.flatnonzero(status == decode_worker.LATER).tolist())
    if later:
        for path in partial.glob("facts-*.jsonl"):
            lines = path.read_text().splitlines(keepends=True)
            files.write(path, "".join(line for line in lines if (_record(line) or {"row": None})["row"] not in later))
        status[sorted(later)] = decode_worker.PENDING
        status.flush()


def _record(line: str) -> dict[str, Any] | None:
    """A line of facts; None of one that a killed process was writing (its image is decoded again)."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


def _decide(partial: Path, workers: int, quiet: bool) -> bool:
    """Decide on black and white where images wait for it, and let these be decoded; False where none waits."""
    status = np.memmap(partial / "status.u1", np.uint8, "r+")
    waits = np.flatnonzero(status == decode_worker.WAITING)
    if not len(waits):
        return False
    if levelling.read_decided(partial) is None:
        decided, groups = levelling.group_waiting(partial)
        folder = partial / levelling.FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        if groups:
            places = levelling.begin(folder, groups)
            _run_workers(
                folder, places, min(workers, len(groups)), quiet, levelling.CHUNK, "scotoma.data.store.levelling", "grey levels"
            )
            decided |= levelling.gather_decisions(folder)
        files.write(partial / levelling.DECIDED, json.dumps(decided))
    status[waits] = decode_worker.PENDING
    status.flush()
    return True


def _run_workers(partial: Path, n: int, workers: int, quiet: bool, chunk: int = decode_worker.CHUNK,
                 module: str = "scotoma.data.store.decode_worker", what: str = "decoding") -> None:  # fmt: skip
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    status = np.memmap(partial / "status.u1", np.uint8, "r+")
    environment = processes.environment(OMP_NUM_THREADS="1")
    command = [*processes.COMMAND, "-m", module, str(partial.absolute())]
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (partial / "workers.log").open("w") as log, Progress(*columns, disable=quiet, transient=True) as progress:

        def start(worker: int) -> subprocess.Popen[bytes]:
            numbers = [str(n) for n in (worker, workers, decode_worker.SECONDS)]
            return subprocess.Popen([*command, *numbers], env=environment, stdout=log, stderr=log)

        bar = progress.add_task("", total=n)
        running = [start(k) for k in range(workers)]
        try:
            while any(p.poll() is None for p in running):
                progress.update(bar, completed=int(np.count_nonzero(status)))
                time.sleep(0.05)
                for k, process in enumerate(running):
                    if process.poll() in processes.CRASHES and _blame(partial, status, k, workers, process.returncode, chunk):
                        running[k] = start(k)
        finally:
            for process in running:
                process.kill()
                process.wait()
    if any(p.returncode == decode_worker.FULL for p in running):
        raise RunError(f"no room left in {partial.parent}: free some, then run again to go on where it stopped")
    if any(p.returncode for p in running):
        last = ((partial / "workers.log").read_text().strip().splitlines() or ["killed"])[-1]
        last = last.partition(":")[0]  # the kind of an error without its words, which may quote a header
        raise RunError(f"a decoding process died ({last}); run again to go on where it stopped")


def _blame(partial: Path, status: np.ndarray, worker: int, workers: int, code: int, chunk: int) -> bool:
    """Write down the image over which a decoding process ended as unreadable; False where it had begun none."""
    begun = np.flatnonzero(status == decode_worker.BEGUN)
    begun = begun[begun // chunk % workers == worker]
    if not len(begun):
        return False
    error = f"decoding took more than {decode_worker.SECONDS} seconds" if code == -signal.SIGALRM else "decoding crashed"
    rows = {int(begun[0]): error}
    if code == -signal.SIGALRM:
        rows |= dict.fromkeys(_find_same_file(partial, status, int(begun[0])), f"{error} at another image of its file")
    with (partial / f"facts-{worker}.jsonl").open("a") as facts:
        facts.write("\n" + "".join(json.dumps({"row": row, "error": text}) + "\n" for row, text in rows.items()))
    status[list(rows)] = decode_worker.UNREADABLE
    return True


def _find_same_file(partial: Path, status: np.ndarray, row: int) -> list[int]:
    """The images of a row's file that wait to be read: where one does not end, each of them would take as long."""
    if (partial / levelling.GROUPS).exists():  # those of a group
        first = row // levelling.CHUNK
        members = json.loads((partial / levelling.GROUPS).read_text().splitlines()[first])[1]
        paths = {first * levelling.CHUNK + k: path for k, (path, _) in enumerate(members)}
    else:
        paths = {k: json.loads(line)[0] for k, line in enumerate((partial / "jobs.jsonl").read_text().splitlines())}
    return [k for k, path in paths.items() if path == paths[row] and status[k] == decode_worker.PENDING]


def _finish(partial: Path, n: int, title: str, strict: bool) -> None:
    """Gather the facts and take the workers' files away; under ``strict`` an unreadable image stops this, and nothing is lost.

    Without a title it is a store of masks: whoever opens it counts the unreadable ones.
    """
    import pandas as pd

    columns: dict[str, list[Any]] = {"content": [None] * n, "error": [None] * n}
    for path in sorted(partial.glob("facts-*.jsonl")):
        with path.open() as lines:
            for line in lines:
                record = _record(line)
                if record is None:
                    continue
                row = record.pop("row")
                for name, value in record.items():
                    text = json.dumps(value) if isinstance(value, list) else value  # Parquet and a classifier share no lists
                    columns.setdefault(name, [None] * n)[row] = sys.intern(text) if isinstance(text, str) else text
    table = pd.DataFrame(columns)
    del columns
    if title:
        refuse_unreadable(table, title, strict)
    with files.replacing(partial / "facts.parquet") as temporary:
        table.to_parquet(temporary)
    later = np.flatnonzero(np.fromfile(partial / "status.u1", np.uint8) == decode_worker.LATER).tolist()
    if later:
        files.write(partial / LATER, json.dumps(later))
    for name in ("pixels.npy", "hashes.npy"):
        files.sync(partial / name)
    _write_levels(partial, table)
    for done in ("jobs.jsonl", "status.u1", "workers.log"):
        (partial / done).unlink(missing_ok=True)
    for path in (*partial.glob("facts-*.jsonl"), *partial.glob(levelling.WAITING.format("*")), partial / levelling.DECIDED):
        path.unlink(missing_ok=True)
    shutil.rmtree(partial / levelling.FOLDER, ignore_errors=True)


def _write_levels(partial: Path, facts: pd.DataFrame) -> None:
    """Add to the settings what was decided on black and white, and what is reported of it."""
    settings = json.loads((partial / "store.json").read_text())
    decided = levelling.read_decided(partial) or {}
    requested = read.Display.of(settings.get(ASKED, settings["display"]))
    found = tuple((kind, *(decided[kind] or (0.0, 1.0))) for kind in levelling.kinds(decided))
    clipped = int(facts["clipped"].notna().sum()) if "clipped" in facts.columns else 0
    bits = facts["bits"].dropna().astype(int).tolist() if "bits" in facts.columns else []
    lines = levelling.describe(decided, levelling.list_waiting(partial), bits, clipped)
    if found or lines:
        display = replace(requested, levels=(*requested.levels, *found))
        settings |= {"display": display.settings(), ASKED: requested.settings(), NOTICES: lines}
        files.write(partial / "store.json", json.dumps(settings))


def find_damage(folder: Path, n: int | None = None) -> str | None:
    """What is missing or broken of a finished store (of ``n`` images); None where it is whole, as far as can be seen at once."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    for name in ("store.json", "pixels.npy", "hashes.npy", "facts.parquet"):
        try:
            if files.unfit(folder / name):
                return name
        except OSError:
            return name
    try:
        if dict(json.loads((folder / "store.json").read_text()))["side"] < 1:
            return "store.json"
    except (OSError, ValueError, KeyError, TypeError):
        return "store.json"
    for name in ("pixels.npy", "hashes.npy"):
        try:
            count = len(np.load(folder / name, mmap_mode="r"))
            n = count if n is None else n
            if count != n:
                return name
        except (OSError, ValueError, EOFError):
            return name
    try:
        return None if read_metadata(folder / "facts.parquet").num_rows == n else "facts.parquet"
    except (OSError, ArrowException):
        return "facts.parquet"


def find_retries(folder: Path) -> list[int]:
    """The images of a finished store that could not be read for a reason that may have passed."""
    try:
        return [int(row) for row in json.loads((folder / LATER).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def is_same(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds, complete or in part, the store of these files and settings."""
    try:
        found = json.loads(files.regular(folder / "store.json").read_text())
        found["display"] = found.pop(ASKED, found["display"])
        return bool({k: v for k, v in found.items() if k != NOTICES} == settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError):
        return False


def list_requests(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """What a decoding process receives of every row: path, frame and, of a mask, its image."""
    of = [(image,) for image in table[IMAGE]] if IMAGE in table.columns else [()] * len(table)
    return [(*job, *image) for job, image in zip(list_frames(table), of, strict=True)]


def list_frames(table: pd.DataFrame) -> list[tuple[str, int | None]]:
    """Path and frame of every row."""
    frames = table["frame"].tolist() if "frame" in table.columns else [None] * len(table)
    return [(p, None if f is None or f != f else int(f)) for p, f in zip(table["image_path"], frames, strict=True)]


def refuse_unreadable(facts: pd.DataFrame, name: str, strict: bool) -> str:
    """A line about the unreadable images ("" where all can be read), raised where nothing else is left or under ``strict``."""
    bad = facts["error"].notna()
    if not bad.any():
        return ""
    first = f"row {bad.idxmax()}: {facts.loc[bad, 'error'].iloc[0]}"
    message = f"{int(bad.sum())} of {len(facts)} images of {name} cannot be read (first: {first})"
    if strict or bad.all():
        raise RunError(message + ("" if bad.all() else "; without --strict they are left out"))
    return message
