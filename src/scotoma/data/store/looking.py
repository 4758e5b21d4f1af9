"""Some images decoded by a process of their own, before a store of them is built: a codec that hangs or crashes ends it alone.

``python -m scotoma.data.store.looking SECONDS images|labels`` reads a path and a frame a line and answers each with a word.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import suppress

import numpy as np
from PIL import Image

from scotoma import processes
from scotoma.data.io import read
from scotoma.data.io.levels import Alone
from scotoma.data.store import decode_worker
from scotoma.errors import RunError

GREY, COLOUR, AWAY, BROKEN = "grey", "colour", "away", "broken"
COLOURED = 2  # mean difference of an image's channels, grey levels; less is the rounding of JPEG


def at(jobs: Iterable[tuple[str, int | None]], labels: bool = False) -> Generator[str]:
    """What decoding reports of each image, in their order, as soon as it is known.

    Args:
        jobs: path and frame of each.
        labels: they are label maps.

    Yields:
        ``GREY`` (label maps too) or ``COLOUR``; ``AWAY`` for one that may be readable another time; ``BROKEN``, also for one over
        which decoding crashes or takes more than ``decode.SECONDS``.

    Raises:
        RunError: the process is ended from outside.
    """
    left = list(jobs)
    command = [*processes.COMMAND, "-m", "scotoma.data.store.looking", str(decode_worker.SECONDS), "labels" if labels else "images"]
    while left:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=processes.environment(OMP_NUM_THREADS="1"),
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError), process.stdin as lines:
                lines.write("".join(json.dumps(job) + "\n" for job in left))
            for line in process.stdout:
                left.pop(0)
                yield line.strip()
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if code in processes.CRASHES:
            left.pop(0)
            yield BROKEN
        elif left:
            raise RunError("a decoding process was ended from outside (out of memory?); run again to go on")


def grey_by_header(path: str) -> bool:
    """Whether an image is grey for sure, by a header that is read at once; False where it must be decoded."""
    if path.startswith("phantom:"):
        return True
    try:
        with read.one_line(path):
            read.require_file(path)
            if not path.lower().endswith((".png", ".jpg", ".jpeg")):
                return False
            with Image.open(path) as image:
                return image.format in ("PNG", "JPEG") and image.mode in ("1", "L")
    except read.ImageError:
        return False


def _look(path: str, frame: int | None, labels: bool) -> str:
    try:
        if labels:
            read.read_labels(path, frame)
            return GREY
        pixels = read.read(path, frame, levels=Alone()).pixels
    except read.UnavailableError:
        return AWAY
    except read.ImageError:
        return BROKEN
    apart = pixels.ndim == 3 and float(np.ptp(read.square(pixels, 64, 3).astype(np.int16), axis=2).mean()) > COLOURED
    return COLOUR if apart else GREY


def answer(seconds: int, labels: bool) -> None:
    """Answer what stands on standard input; die where one image takes over ``seconds``."""
    for line in sys.stdin.read().splitlines():
        signal.alarm(seconds)  # nothing handles it, as in ``decode``
        path, frame = json.loads(line)
        print(_look(path, frame, labels), flush=True)
    signal.alarm(0)


if __name__ == "__main__":
    processes.end_with_parent()
    answer(int(sys.argv[1]), sys.argv[2] == "labels")
