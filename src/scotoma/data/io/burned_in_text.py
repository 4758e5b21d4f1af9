"""Burned-in text: lines of at least four small letters, painted on an image in one extreme grey level.

A name or a date that an apparatus wrote into the pixels stays there when the header is cleaned. Looked for are strokes as bright as
the brightest (or as dark as the darkest) pixels, thin for their height, in a row. A side marker (L, R) or a
single digit is none. What is written smaller than about six pixels, in grey, or by hand is missed; a ruler or a row of clips may be
taken for text: docs/results/audit.md has the measured rates.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from scotoma.data.io.base import to_uint8

LONGEST = 1024  # pixels; larger images are shrunk to it
LETTERS = 4  # in one line
HEIGHTS = (6, 48)  # of a letter, pixels
NEAR_EXTREME = 40  # grey levels from the extreme that a letter's brightest pixel may be
STROKE = 9  # pixels; what is wider in both directions is no stroke
CONTRAST = 60  # grey levels of a stroke above what it lies on
FILL = (0.12, 0.75)  # of a letter's box that its strokes cover; a bar covers all


def text_lines(pixels: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes of lines of text: left, upper, right, lower, in pixels of the image as it is.

    Args:
        pixels: (H, W) or (H, W, 3), as `images.read` gives them.
    """
    image = Image.fromarray(to_uint8(pixels)).convert("L")
    scale = min(1.0, LONGEST / max(image.size))
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX)
    grey = np.asarray(image)
    lines = [line for levels in (grey, 255 - grey) for line in _lines(_letters(levels))]
    found: list[tuple[int, int, int, int]] = []
    for line in sorted(
        lines, key=lambda box: box[0] - box[2]
    ):  # longest first; what lies between bright letters can look like dark
        if not any(_overlap(line, other) for other in found):
            found.append(line)
    return [tuple(round(v / scale) for v in box) for box in found]  # type: ignore[misc]


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _letters(grey: np.ndarray) -> np.ndarray:
    """(k, 4) boxes (left, upper, right, lower) of bright strokes that may be letters."""
    from scipy.ndimage import find_objects, grey_opening, label, uniform_filter

    ground = grey_opening(uniform_filter(grey, 3), (STROKE, STROKE))  # what a square of STROKE pixels fits into, without noise
    marks, count = label(grey.astype(np.int16) - ground >= CONTRAST, np.ones((3, 3), int))
    sizes = np.bincount(marks.ravel(), minlength=count + 1)
    marks *= ((sizes >= HEIGHTS[0]) & (sizes <= HEIGHTS[1] ** 2))[marks]  # specks of noise are many
    least = max(int(grey.max()) - NEAR_EXTREME, 128)
    boxes = []
    for number, place in enumerate(find_objects(marks), 1):
        if place is None:
            continue
        height, width = (part.stop - part.start for part in place)
        if not (HEIGHTS[0] <= height <= HEIGHTS[1] and width <= 1.6 * height):
            continue
        inside = marks[place] == number
        bar = width <= 0.35 * height  # I, l, 1
        if (bar or FILL[0] <= inside.mean() <= FILL[1]) and grey[place][inside].max() >= least:
            boxes.append((place[1].start, place[0].start, place[1].stop, place[0].stop))
    return np.array(boxes, int).reshape(-1, 4)


def _lines(boxes: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Rows of at least ``LETTERS`` boxes of like height that stand side by side."""
    left, upper, right, lower = boxes.T
    waiting = np.argsort(left, kind="stable").tolist()
    found = []
    while waiting:
        line = [waiting.pop(0)]
        for k in list(waiting):
            last = line[-1]
            height = max(lower[last] - upper[last], lower[k] - upper[k])
            level = abs(lower[k] - lower[last]) <= 0.3 * height or abs(upper[k] - upper[last]) <= 0.3 * height
            alike = min(lower[last] - upper[last], lower[k] - upper[k]) >= 0.55 * height
            if level and alike and -1 <= left[k] - right[last] <= 1.1 * height:
                line.append(k)
                waiting.remove(k)
        if len(line) >= LETTERS:
            found.append((left[line].min(), upper[line].min(), right[line].max(), lower[line].max()))
    return found
