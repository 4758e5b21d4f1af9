"""A decoding process of the store: ``python -m scotoma.data.store.decode_worker FOLDER WORKER WORKERS``.

It imports neither torch nor pandas, so that it starts at once while the parent imports them. Images go straight into the
store's memory-mapped pixels; ``status.u1`` (the numbers are named below) is written after the pixels of an image,
so a killed process leaves nothing that looks finished and another takes up where it stopped. An image over which a codec
crashes, or is busy for longer than ``SECONDS``, ends the process: whoever started it can see by the status which one it was.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from scotoma import files, processes
from scotoma.data import pseudonyms
from scotoma.data.io import alignment, read
from scotoma.data.io.levels import Undecided
from scotoma.data.store import hashes, levelling

CHUNK = 32
PENDING, DECODED, UNREADABLE, BEGUN = 0, 1, 2, 3
WAITING, LATER = 4, 5  # for one black and white (see ``levelling``); for another time, when it may be readable
FULL = 28  # the exit code where the store's disk is full
SECONDS = 300  # for one image, whatever the disk
IDENTIFIERS = {"patient_id": "patient", "study_uid": "study", "series_uid": "series"}
OLDEST = 90.0  # years: higher ages are few enough to identify, so that rules of de-identification have them as 90 and over


def decode(folder: Path, worker: int, workers: int, seconds: int) -> None:
    """Decode every pending chunk whose number is ``worker`` modulo ``workers``; die where one image takes over ``seconds``."""
    settings = json.loads((folder / "store.json").read_text())
    jobs = (folder / "jobs.jsonl").read_text().splitlines()
    display = read.Display.of(settings["display"])
    key = pseudonyms.load_key()
    decided = levelling.read_decided(folder)
    status = np.memmap(folder / "status.u1", np.uint8, "r+")
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "r+")
    looks = np.lib.format.open_memmap(folder / "hashes.npy", "r+")
    path_of_facts = folder / f"facts-{worker}.jsonl"
    half = path_of_facts.exists() and not path_of_facts.read_bytes().endswith(b"\n")
    with path_of_facts.open("a") as facts, (folder / levelling.WAITING.format(worker)).open("a") as waiting:
        waiting.write("\n")
        if half:  # a killed process was writing a line: the next must not become its end
            facts.write("\n")
        for start in range(worker * CHUNK, len(jobs), workers * CHUNK):
            for row in range(start, min(start + CHUNK, len(jobs))):
                if status[row] not in (PENDING, BEGUN):
                    continue
                status[row] = BEGUN
                signal.alarm(seconds)  # nothing handles it: a codec does not return to Python, but it can be ended
                path, frame, *image = json.loads(jobs[row])  # of a mask, the image on which it lies
                record: dict[str, Any] = {"row": row}
                found, stamp = DECODED, read.stamp(path, settings["labels"])
                try:
                    if settings["labels"]:
                        labels, note = alignment.read(path, frame, *image)
                        pixels[row] = read.square_labels(labels, settings["side"])
                        _require_same_file(path, stamp, labels=True)
                        facts.write(json.dumps(record | ({"note": note} if note else {})) + "\n")
                        status[row] = DECODED
                        continue
                    shared = levelling.Shared(decided, key, read.decide_by_itself(path, display))
                    decoded = read.read(path, frame, settings["side"], display, shared)
                    levels = read.to_uint8(decoded.pixels)
                    pixels[row] = read.square(levels, settings["side"], settings["channels"])
                    thumbnail = hashes.cells(levels)
                    looks[row] = hashes.difference(thumbnail)
                    if decoded.clipped is not None and decoded.clipped > levelling.CLIPPED:
                        record["clipped"] = round(decoded.clipped, 3)
                    record["blank"] = hashes.is_blank(thumbnail)
                    source = decoded.pixels if decoded.source is None else decoded.source
                    record["content"] = pseudonyms.pseudonym(hashes.content(source), key)
                    record |= {k: v for k, v in decoded.facts.items() if k not in IDENTIFIERS}
                    if "age" in record:
                        record["age"] = min(record["age"], OLDEST)
                    _require_same_file(path, stamp)
                    names = {new: pseudonyms.canonical(decoded.facts.get(old)) for old, new in IDENTIFIERS.items()}
                    record |= {new: pseudonyms.pseudonym(name, key) for new, name in names.items() if name}
                    whole = None if frame is None else read.file_of(path)
                    record |= {"file": pseudonyms.pseudonym(whole, key)} if whole else {}  # which frames belong together
                except Undecided as undecided:
                    waiting.write(json.dumps(record | {"kind": undecided.kind, "frames": undecided.frames}) + "\n")
                    waiting.flush()
                    status[row] = WAITING
                    continue
                except read.ImageError as error:
                    found = LATER if isinstance(error, read.UnavailableError) else UNREADABLE
                    record = {"row": row, "error": alignment.remove_names(str(error), path, *image)}
                facts.write(json.dumps(record) + "\n")
                facts.flush()
                status[row] = found
    signal.alarm(0)


def _require_same_file(path: str, stamp: str, labels: bool = False) -> None:
    """Refuse, for this time, a file that another one replaced while it was read: it may be half of each."""
    if read.stamp(path, labels) != stamp:
        raise read.UnavailableError("it changed while it was read")


if __name__ == "__main__":
    processes.end_with_parent()
    try:
        decode(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:5]))
    except OSError as error:  # of the store's files: what is wrong with an image's is in its facts
        if error.errno not in files.NO_ROOM:
            raise
        sys.exit(FULL)
