"""Burned-in text, found by the text detector and the recogniser of PP-OCR, which the package ``rapidocr`` (extra ``ocr``) ships.

Both networks run on onnxruntime directly, on one thread a call: neither OpenCV nor rapidocr is imported, nothing is downloaded.
The detector marks what looks like text, at scales that find small letters; the recogniser reads it. Fewer than ``LETTERS`` letters
or digits in a row, such as a side or view marker, are no finding, nor is what cannot be read. Lines run along a side of the image:
slanted and mirrored ones are mostly missed. ``docs/results/audit.md`` has the measured rates.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scotoma.data.io.base import to_uint8

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels of the image as it is

DETECTOR, RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
MISSING = "the text detector is not installed: pip install 'scotoma[ocr]'"
LETTERS = 4  # letters or digits in a row
WORD = 2  # letters or digits of a word that belongs to a finding beside, above or below it: LEE, 58Y
CONFIDENCE = 0.7  # of a reading: the mean probability of its characters
PROBABILITY = 0.3  # of a pixel, from which on it belongs to text
GROWN = 1.6  # a mark is grown to the letters' outlines by its area times this over its perimeter (DB's "unclip")
SCALES = {400: (1, 2, 3), 1024: (1, 2), 4096: (1, 1.5)}  # at which images of at most so many pixels a side are looked at
TILE, OVERLAP = 1024, 128  # pixels, of what the detector sees at once
FLAT = 24  # grey levels; a tile that spans fewer shows no text
MOST = 200  # marks of one image and scale that are read, the likeliest first
RIM = 2  # pixels around a box that are painted over with it: smoothing and compression leave a halo
LINE = 48  # pixels, a line's height as the recogniser reads it
LONGEST = 3200  # pixels of a line that is read


@dataclass(frozen=True)
class Mark:
    """What looks like text, and what is read there.

    Args:
        box: of its outlines.
        letters: how many letters and digits are read; 0 where the reading is not to be trusted.
    """

    box: Box
    letters: int


def models() -> Path | None:
    """The folder of the networks; None where the extra ``ocr`` is not installed."""
    found = importlib.util.find_spec("rapidocr")
    if found is None or found.origin is None or importlib.util.find_spec("onnxruntime") is None:
        return None
    folder = Path(found.origin).parent / "models"
    return folder if all((folder / name).exists() for name in (DETECTOR, RECOGNISER)) else None


def text_lines(pixels: np.ndarray) -> list[Box]:
    """Boxes of lines of text.

    Args:
        pixels: (H, W) or (H, W, 3), as `images.read` gives them, at full resolution.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """
    image = Image.fromarray(to_uint8(pixels)).convert("L")
    found: list[Box] = []
    for scale in next((scales for side, scales in SCALES.items() if max(image.size) <= side), (1,)):
        for line in _lines(_marks(image, scale)):
            if not any(_is_within(line, other) for other in found):
                found.append(line)
    return found


def paint_over(pixels: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """A copy in which each pixel of the boxes, and of a rim around them, is as the nearest pixel outside; black where none is.

    Letters leave no trace in it that could be read or learned, and no new edge is made on a plain or slowly varying ground.
    """
    from scipy.ndimage import distance_transform_edt, find_objects, label

    painted = pixels.copy()
    hidden = np.zeros(pixels.shape[:2], bool)
    for left, upper, right, lower in boxes:
        hidden[max(0, upper - RIM) : lower + RIM, max(0, left - RIM) : right + RIM] = True
    for place in find_objects(label(hidden, np.ones((3, 3), int))[0]):
        around = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in place)
        inside = hidden[around]
        if inside.all():
            painted[around] = 0
            continue
        nearest = distance_transform_edt(inside, return_distances=False, return_indices=True)
        painted[around] = pixels[around][tuple(nearest)]
    return painted


@cache
def _session(name: str) -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # from 1.29 on it writes an id of the machine and reports sessions to its maker
    import onnxruntime

    folder = models()
    if folder is None:
        raise ModuleNotFoundError("rapidocr is not installed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # decoding has a process for each core
    options.enable_cpu_mem_arena = False  # images differ in size: an arena keeps the room of all of them
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])


@cache
def _alphabet() -> tuple[str, ...]:
    return ("", *_session(RECOGNISER).get_modelmeta().custom_metadata_map["character"].splitlines(), " ")


def _run(network: str, grey: np.ndarray) -> np.ndarray:
    """What a network states of (H, W) grey levels."""
    values = grey.astype(np.float32) / 127.5 - 1
    result: np.ndarray = _session(network).run(None, {"x": np.ascontiguousarray(np.broadcast_to(values, (1, 3, *grey.shape)))})[0]
    return result


def _probabilities(grey: np.ndarray) -> np.ndarray:
    """(H, W): how likely each pixel belongs to text, tile by tile."""
    found = np.zeros(grey.shape, np.float32)
    for rows in _tiles(grey.shape[0]):
        for columns in _tiles(grey.shape[1]):
            part = grey[rows, columns]
            if np.ptp(part) < FLAT:
                continue
            height, width = part.shape
            padded = np.pad(part, ((0, -height % 32), (0, -width % 32)), "edge")
            np.maximum(found[rows, columns], _run(DETECTOR, padded)[0, 0, :height, :width], out=found[rows, columns])
    return found


def _tiles(length: int) -> Iterator[slice]:
    """Tiles of equal length that overlap."""
    count = max(1, -(-(length - OVERLAP) // (TILE - OVERLAP)))
    size = -(-(length + (count - 1) * OVERLAP) // count)
    for k in range(count):
        start = min(k * (size - OVERLAP), length - min(size, length))
        yield slice(start, start + size)


def _marks(image: Image.Image, scale: float) -> list[Mark]:
    """What looks like text at one scale, read."""
    from scipy.ndimage import find_objects, label, mean

    seen = (
        image if scale == 1 else image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    )
    chance = _probabilities(np.asarray(seen))
    marks, count = label(chance > PROBABILITY, np.ones((3, 3), int))
    places = find_objects(marks)
    likely = np.argsort(-np.asarray(mean(chance, marks, np.arange(1, count + 1)))) if count else np.zeros(0, int)
    found = []
    for k in likely[:MOST].tolist():
        height, width = (part.stop - part.start for part in places[k])
        if min(height, width) < 3:
            continue
        grown = GROWN * height * width / (2 * (height + width))
        (upper, lower), (left, right) = (
            (max(0, int((p.start - grown) / scale)), min(limit, int((p.stop + grown) / scale) + 1))
            for p, limit in zip(places[k], (image.height, image.width), strict=True)
        )
        box = left, upper, right, lower
        found.append(Mark(box, _letters(image.crop(box))))
    return found


def _letters(crop: Image.Image) -> int:
    """How many letters and digits are read in a line; turned by a quarter where it is higher than wide."""
    if crop.height > 1.5 * crop.width:
        return max(_read(crop.transpose(turn)) for turn in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270))
    return _read(crop)


def _read(line: Image.Image) -> int:
    width = min(max(16, round(line.width * LINE / line.height)), LONGEST)
    chances = _run(RECOGNISER, np.asarray(line.resize((width, LINE), Image.Resampling.BICUBIC)))[0]
    best = chances.argmax(1)
    is_first = (best != 0) & np.r_[True, best[1:] != best[:-1]]  # a character stands where the network first gives it (CTC)
    if not is_first.any() or chances.max(1)[is_first].mean() < CONFIDENCE:
        return 0
    return sum(_alphabet()[k].isalnum() for k in best[is_first].tolist())


def _lines(marks: list[Mark]) -> list[Box]:
    """Marks that hold ``LETTERS``, alone or with their neighbours in a row; and shorter words of the same block."""
    waiting = sorted((m for m in marks if m.letters), key=lambda m: m.box)
    found = []
    while waiting:
        row, letters = [waiting[0].box], waiting.pop(0).letters
        for mark in list(waiting):
            if any(_is_beside(box, mark.box) for box in row):
                row.append(mark.box)
                letters += mark.letters
                waiting.remove(mark)
        if letters >= LETTERS:
            found += row
    words = [m.box for m in marks if m.letters >= WORD and m.box not in found]
    return found + [word for word in words if any(_near(word, line) for line in found)]


def _is_beside(a: Box, b: Box) -> bool:
    """Whether two boxes stand in one row, no further apart than they are high."""
    height = min(a[3] - a[1], b[3] - b[1])
    level = min(a[3], b[3]) - max(a[1], b[1]) >= 0.6 * max(a[3] - a[1], b[3] - b[1])
    return level and max(a[0], b[0]) - min(a[2], b[2]) <= height


def _near(a: Box, b: Box) -> bool:
    """Whether two boxes are no further apart than twice their height."""
    gaps = (max(a[k], b[k]) - min(a[k + 2], b[k + 2]) for k in (0, 1))
    return max(gaps) <= 2 * min(a[3] - a[1], b[3] - b[1])


def _is_within(a: Box, b: Box) -> bool:
    """Whether most of ``a`` lies in ``b``."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared >= 0.8 * (a[2] - a[0]) * (a[3] - a[1])
