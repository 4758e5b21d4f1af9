"""What every format shares: the picture they return, the limits they keep and the grey levels they show."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

MAX_PIXELS = 2**27  # of one picture, channels included: a header that claims more is refused before allocation
PERCENTILES = (0.5, 99.5)  # shown as black and white where nothing else says what is


class ImageError(ValueError):
    """One line that says what is wrong with this file. It may name the file (not its folder), never a patient."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, black to white as a viewer would show it.

    Attributes:
        pixels: (H, W), or (H, W, 3) RGB. uint8 for 8-bit files; uint16 or float32 for deeper ones, where the full
            range of the dtype (float: 0 to 1) is black to white.
        facts: ``format``, ``width``, ``height`` (the upright picture at full resolution, before non-square pixels are
            corrected), ``channels``, ``bits``; for DICOM, where present, ``modality``, ``photometric``, ``vendor``,
            ``model``, ``view``, ``laterality``, ``spacing_mm`` (between rows), ``age`` (years), ``sex``, ``window``
            ([centre, width] that was applied), ``transfer_syntax``, ``patient_id``, ``study_uid``; for NIfTI
            ``spacing_mm``, ``slices``. All are plain numbers, strings and lists. ``patient_id`` and ``study_uid`` are
            raw identifiers: the caller turns them into keyed hashes at once and keeps nothing else of them.
    """

    pixels: np.ndarray
    facts: dict[str, object]


def file_stamp(path: str) -> tuple[int, int, int]:
    """Whether a cached file is still the same; the process id keeps a forked child off its parent's file offsets."""
    entry = Path(path).stat()
    return entry.st_size, entry.st_mtime_ns, os.getpid()


def check_size(count: int, limit: int = MAX_PIXELS) -> None:
    """Raise ImageError for a picture of ``count`` pixels that is empty or larger than ``limit``."""
    if count <= 0:
        raise ImageError("the header states an empty picture")
    if count > limit:
        raise ImageError(f"the header claims {count} pixels, more than the {limit} allowed")


def check_frame(frame: int, count: int) -> int:
    """Give ``frame`` back, or raise ImageError where the file holds only ``count``."""
    if frame >= count:
        raise ImageError(f"no frame {frame}: the file holds {count}")
    return frame


def picture_facts(name: str, pixels: np.ndarray, bits: int) -> dict[str, object]:
    """The facts that every format has; ``bits`` are those of one sample in the file."""
    channels = 3 if pixels.ndim == 3 else 1
    return {"format": name, "width": pixels.shape[1], "height": pixels.shape[0], "channels": channels, "bits": bits}


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """The store's levels: 0..255, rounded to nearest."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def black_and_white(values: np.ndarray) -> tuple[float, float]:
    """What to show as black and white: percentiles of (at most a million evenly spaced) finite values.

    Whole numbers that span less than 32, such as label maps, and values whose percentiles coincide are shown from
    lowest to highest: clipping would merge labels.
    """
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    lowest, highest = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and highest - lowest < 32:
        return lowest, highest
    low, high = (float(level) for level in np.percentile(values.ravel()[:: max(1, values.size >> 20)], PERCENTILES))
    return (low, high) if high > low else (lowest, highest)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Float32 in [0, 1]: ``low`` and below is 0, ``high`` and above is 1, not-a-number is 0."""
    out = (values - np.float32(low)).astype(np.float32, copy=False)
    out *= np.float32(1 / (high - low)) if high > low else np.float32(0)
    return np.nan_to_num(np.clip(out, 0, 1, out=out), copy=False, nan=0.0)


def display(values: np.ndarray) -> np.ndarray:
    """Values of a format that does not say what black and white are -> pixels.

    uint8, uint16 that use at least an eighth of their range, and floats within [0, 1] stay as they are; others, such
    as 12 bits in a 16-bit PNG, are stretched between their percentiles.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values
    low, high = black_and_white(values)
    if values.dtype == np.uint16 and high - low >= 8192:
        return values
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return values.astype(np.float32)
    return stretch(values, low, high)


def square_pixels(pixels: np.ndarray, vertical: float, horizontal: float) -> np.ndarray:
    """Enlarge the axis whose pixels are larger; ratios under 1 % or over 20 (a broken header) are left alone."""
    ratio = vertical / horizontal if vertical > 0 and horizontal > 0 else 1.0
    if not 0.05 < ratio < 20 or abs(ratio - 1) < 0.01:
        return pixels
    height, width = pixels.shape[:2]
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    check_size(size[0] * size[1])
    if pixels.ndim == 3:
        return np.asarray(Image.fromarray(to_uint8(pixels)).resize(size, Image.Resampling.BILINEAR))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
