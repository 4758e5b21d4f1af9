"""What is shown as black and white where a file does not state it: one decision for all images that belong together.

``Levels`` is called twice by what reads a file. Before anything is decoded, ``look`` may refuse; then ``of`` gives black and white.
A single image is decided by its file (:class:`Alone`); a store decides for a series, or for all values of one kind in a data set
(:mod:`scotoma.data.store.levelling`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from scotoma.data.io.base import Display, ImageError, measure_clipping, show
from scotoma.data.io.sampling import SAMPLE, some, spread

PERCENTILES = (0.5, 99.5)  # shown as black and white where nothing else states what is
FRAMES = 16  # of one file or series that are looked at
HALF = 0.5  # floats that reach it, and not beyond 1, have black at 0 and white at 1; a map of 0.0007 mm2/s would be black
FULL = 2**15  # 16-bit values above it need all 16 bits
LEAST_WHITE = 2**13  # of such values the upper percentile must reach this: a marker or a hot pixel alone needs no 16 bits
MOST = 2**20  # values of all images together
BYTES = ("uint8", "bool")  # have a black and white of their own
INVERTED = " with white as zero"  # of a kind of value
FEW = 32  # whole numbers that span less are label maps


class Undecided(Exception):
    """Nothing is decided yet for the images to which this one belongs."""

    def __init__(self, kind: str, frames: int) -> None:
        super().__init__(kind)
        self.kind, self.frames = kind, frames


class Levels:
    """Black and white of what belongs together."""

    def look(self, kind: str, frames: int = 1) -> None:
        """Raise ``Undecided`` here, before anything is decoded, where ``kind`` is not decided yet."""

    def of(self, kind: str, values: np.ndarray, frames: int = 1) -> tuple[float, float]:
        """Black and white.

        Args:
            kind: what belongs together: the values' type (``uint16``), or a series (``series:UID``).
            values: of this image, without padding.
            frames: how many images the file holds.
        """
        raise NotImplementedError


@dataclass
class Measured(Levels):
    """Looks at the values of several images and decides for them together.

    Args:
        images: how many there will be at most.
    """

    images: int
    samples: list[np.ndarray] = field(default_factory=list)
    lowest: float = np.inf
    highest: float = -np.inf
    whole: bool = True

    def of(self, kind: str, values: np.ndarray, frames: int = 1) -> tuple[float, float]:
        """Take note of the values."""
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
            self.whole = False
        if values.size:
            self.lowest, self.highest = min(self.lowest, float(values.min())), max(self.highest, float(values.max()))
            self.samples.append(some(values, min(SAMPLE, MOST // self.images)))
        return 0.0, 1.0

    def decided(self, kind: str) -> tuple[float, float]:
        """Percentiles of all samples together, or what the type of the values states.

        Whole numbers that span less than ``FEW``, such as label maps, and values whose percentiles coincide are shown from lowest
        to highest: clipping would merge labels. Unsigned 16-bit values that use their range, and floats in [0, 1] that do, stay
        as they are.
        """
        if not self.samples:
            return 0.0, 1.0
        if kind.startswith("float") and self.lowest >= 0 and HALF <= self.highest <= 1:
            return 0.0, 1.0
        if self.whole and self.highest - self.lowest < FEW:
            return self.lowest, self.highest
        low, high = _percentiles(np.concatenate(self.samples), self.lowest, self.highest)
        if kind == "uint16" and self.highest >= FULL and high >= LEAST_WHITE:
            return 0.0, 65535.0
        if kind == "uint16" + INVERTED and self.lowest <= 65535 - FULL and low <= 65535 - LEAST_WHITE:
            return 0.0, 65535.0
        return (low, high) if high > low else (self.lowest, self.highest)


class Alone(Levels):
    """Decides for one file by itself: by the image, or by some of its images.

    Args:
        another: reads one image of the file, telling what it reads to the levels that it is given; None for the image by itself.
    """

    def __init__(self, another: Callable[[int, Levels], object] | None = None) -> None:
        self.another = another

    def of(self, kind: str, values: np.ndarray, frames: int = 1) -> tuple[float, float]:
        """Of this image where it is the only one."""
        if frames == 1 or self.another is None:
            return black_and_white(values, kind)
        measured = Measured(min(frames, FRAMES))
        for frame in spread(frames, FRAMES).tolist():
            with suppress(ImageError):  # whoever reads that frame is told
                self.another(frame, measured)
        return measured.decided(kind)


def black_and_white(values: np.ndarray, kind: str = "") -> tuple[float, float]:
    """What to show as black and white in one array: percentiles, of large arrays those of a sample that no axis is aligned with."""
    measured = Measured(1)
    measured.of(kind, values)
    return measured.decided(kind)


def look(kind: str, display: Display, levels: Levels) -> None:
    """Before values of this kind are decoded: let ``levels`` refuse, where nothing else states what is black and white."""
    if kind.removesuffix(INVERTED) not in BYTES and not display.windows and all(kind != name for name, _, _ in display.levels):
        levels.look(kind)


def to_shown_pixels(
    values: np.ndarray, display: Display, levels: Levels, frames: int = 1, kind: str = ""
) -> tuple[np.ndarray, float | None]:
    """Values of a format that does not state what black and white are -> pixels, and the share of values that is clipped.

    The second is None where the values have a black and white of their own: bytes, and where windows are given.
    """
    kind = kind or values.dtype.name
    if display.windows or kind.removesuffix(INVERTED) in BYTES:
        return show(values, display, None), None
    given = next(((low, high) for name, low, high in display.levels if name == kind), None)
    black, white = given or levels.of(kind, values, frames)
    return show(values, display, (black, white)), measure_clipping(values, black, white)


def _percentiles(values: np.ndarray, lowest: float, highest: float) -> list[float]:
    """``PERCENTILES``; of whole numbers that span little by counting, which takes a fifth of the time of sorting."""
    if values.dtype.kind not in "iu" or highest - lowest > 2**16:
        return [float(level) for level in np.percentile(values, PERCENTILES)]
    ends = np.cumsum(np.bincount(values.astype(np.int64) - int(lowest)))
    places = np.array(PERCENTILES) / 100 * (len(values) - 1)
    below, above = (np.searchsorted(ends, np.floor(places) + k, side="right") for k in (0, 1))
    above = np.minimum(above, len(ends) - 1)
    return [float(level) + lowest for level in below + (places - np.floor(places)) * (above - below)]
