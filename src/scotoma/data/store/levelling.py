"""One black and white for all images that belong together, decided while a store is built.

Images whose file states what is black and white (8 bits, a window, Hounsfield units) are decoded at once. The others wait. What
they have in common (the series; of PNG, TIFF and npz the type of their values) is written down; a process looks at some images of
each group (``python -m scotoma.data.store.levelling FOLDER WORKER WORKERS SECONDS``, bounded as decoding is), and then they are
decoded with what was decided.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from scotoma import processes
from scotoma.data import pseudonyms
from scotoma.data.io import read
from scotoma.data.io.levels import FRAMES, PERCENTILES, Alone, Levels, Measured, Undecided
from scotoma.data.io.sampling import spread

CHUNK = 64  # images of one group that are looked at, at most; a series needs no more than ``FRAMES``
GROUPS, WAITING, DECIDED, FOLDER = "groups.jsonl", "waiting-{}.jsonl", "levels.json", "levels"
CLIPPED = 0.05  # a larger share of an image's values beyond black and white is reported
_TOGETHER = "group:"  # before the keyed hash of a series, a file or a folder
_PENDING, _READ, _UNREADABLE, _BEGUN = 0, 1, 2, 3  # as in ``decode``

Decided = dict[str, tuple[float, float] | None]


class Shared(Levels):
    """What was decided for the group of an image; its file alone where it is the only one, or unknown.

    Args:
        decided: black and white of each group; None where nothing is decided yet.
        key: for the hashes of what images have in common.
        alone: decides for the file.
    """

    def __init__(self, decided: Decided | None, key: bytes, alone: Alone) -> None:
        self.decided, self.key, self.alone = decided, key, alone

    def look(self, kind: str, frames: int = 1) -> None:
        """Let the image wait where nothing is decided yet."""
        if self.decided is None:
            raise Undecided(self.name(kind), frames)

    def of(self, kind: str, values: np.ndarray, frames: int = 1) -> tuple[float, float]:
        """As decided."""
        return (self.decided or {}).get(self.name(kind)) or self.alone.of(kind, values, frames)

    def name(self, kind: str) -> str:
        """A group's name without what identifies anybody."""
        return _TOGETHER + pseudonyms.pseudonym(kind, self.key) if ":" in kind else kind


def read_decided(folder: Path) -> Decided | None:
    """What was decided in a store that is being built; None where nothing is yet."""
    path = folder / DECIDED
    return {k: v and (v[0], v[1]) for k, v in json.loads(path.read_text()).items()} if path.exists() else None


def list_waiting(folder: Path) -> dict[int, dict[str, Any]]:
    """Row -> its group and how many images its file holds."""
    found: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob(WAITING.format("*"))):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the line a killed process was writing
            found[record["row"]] = record
    return dict(sorted(found.items()))


def group_waiting(folder: Path) -> tuple[Decided, list[tuple[str, list[tuple[str, int | None]]]]]:
    """Groups of one image, which are left to its file, and what is to be looked at of each of the others."""
    lines = (folder / "jobs.jsonl").read_text().splitlines()
    rows: dict[str, list[tuple[str, int | None, int]]] = {}
    for row, record in list_waiting(folder).items():
        path, frame = json.loads(lines[row])[:2]
        rows.setdefault(record["kind"], []).append((path, frame, record["frames"]))
    single: Decided = {}
    groups = []
    for kind, members in rows.items():
        if not kind.startswith(_TOGETHER):
            groups.append((kind, [members[k][:2] for k in spread(len(members), CHUNK)]))
        elif len(members) == 1:
            single[kind] = None
        else:
            groups.append((kind, list(_of_series(members))))
    return single, groups


def _of_series(members: list[tuple[str, int | None, int]]) -> Iterable[tuple[str, int | None]]:
    """Images from all over a series: of its one file, or of its files that the table names."""
    files: dict[str, list[int | None]] = {}
    for path, frame, _ in members:
        files.setdefault(path, []).append(frame)
    names = list(files)
    if len(names) == 1:
        return [(names[0], int(k)) for k in spread(members[0][2], FRAMES)]
    chosen = spread(len(names), FRAMES)
    each = max(1, FRAMES // len(chosen))
    return [(names[k], files[names[k]][j]) for k in chosen for j in spread(len(files[names[k]]), each)]


def measure(folder: Path, worker: int, workers: int, seconds: int) -> None:
    """Decide for every group whose number is ``worker`` modulo ``workers``; die where one image takes over ``seconds``."""
    groups = [json.loads(line) for line in (folder / GROUPS).read_text().splitlines()]
    status = np.memmap(folder / "status.u1", np.uint8, "r+")
    with (folder / f"decided-{worker}.jsonl").open("a") as out:
        out.write("\n")  # a killed process may have been writing a line
        for number in range(worker, len(groups), workers):
            kind, members = groups[number]
            measured = Measured(len(members))
            for k, (path, frame) in enumerate(members, number * CHUNK):
                if status[k] == _UNREADABLE:
                    continue
                status[k] = _BEGUN
                signal.alarm(seconds)
                try:
                    read.read(path, frame, levels=measured)
                    status[k] = _READ
                except read.ImageError:  # said when it is decoded
                    status[k] = _UNREADABLE
            out.write(json.dumps([kind, measured.decided(kind) if measured.samples else None]) + "\n")
            out.flush()
    signal.alarm(0)


def begin(folder: Path, groups: list[tuple[str, list[tuple[str, int | None]]]]) -> int:
    """Write down what is to be looked at; how many places that is in the status of the processes."""
    folder.mkdir()
    (folder / GROUPS).write_text("".join(json.dumps(group) + "\n" for group in groups))
    status = np.full((len(groups), CHUNK), _READ, np.uint8)
    for number, (_, members) in enumerate(groups):
        status[number, : len(members)] = _PENDING
    (folder / "status.u1").write_bytes(status.tobytes())
    return status.size


def gather_decisions(folder: Path) -> Decided:
    """What the processes decided."""
    found: Decided = {}
    for path in sorted(folder.glob("decided-*.jsonl")):
        for line in path.read_text().splitlines():
            if line:
                kind, levels = json.loads(line)
                found[kind] = levels and (levels[0], levels[1])
    return found


def kinds(decided: Decided) -> list[str]:
    """The groups that are kinds of value, which all data have in common; not series."""
    return [kind for kind, levels in decided.items() if levels and not kind.startswith(_TOGETHER)]


def describe(decided: Decided, rows: dict[int, dict[str, Any]], bits: list[int], clipped: int) -> list[str]:
    """A line for each thing that was decided for several images together, and what did not fit.

    Args:
        decided: black and white of each group.
        rows: of the images that waited, as ``waiting`` gives them.
        bits: of a sample of every image that could be read.
        clipped: how many images have more than ``CLIPPED`` of their values beyond their black and white.
    """
    counts = Counter(record["kind"] for record in rows.values())
    lines = []
    of_kind = {kind: counts[kind] for kind in kinds(decided)}
    for kind, count in of_kind.items():
        low, high = decided[kind] or (0, 0)
        as_stored = (low, high) == ((0, 1) if kind.startswith("float") else (0, 65535))
        together = f"percentiles {PERCENTILES[0]} and {PERCENTILES[1]} of {min(count, CHUNK)} images together"
        how = "as stored" if as_stored else together
        lines.append(f"{count} images hold {kind} values: {low:g} is shown as black, {high:g} as white in all of them ({how})")
    shallow = sum(b <= 8 for b in bits)
    if of_kind and (len(of_kind) > 1 or shallow):
        others = [f"{count} of {kind}" for kind, count in of_kind.items()] + ([f"{shallow} of 8 bits"] if shallow else [])
        lines.append(f"images of different depths, each kind shown by itself: {', '.join(others)}")
    series = [kind for kind, levels in decided.items() if kind.startswith(_TOGETHER) and levels]
    if series:
        images_of = sum(counts[kind] for kind in series)
        lines.append(f"{images_of} images have no window: one black and white for each of {len(series)} series, by percentiles")
    if clipped:
        lines.append(f"{clipped} images have more than {CLIPPED:.0%} of their values below this black or above this white")
    return lines


if __name__ == "__main__":
    processes.end_with_parent()
    measure(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:5]))
