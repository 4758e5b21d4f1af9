"""What every format shares: the image they return, the limits they keep and the grey levels they show."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scotoma.data.io.sampling import some

MAX_PIXELS = 2**27  # of one image, channels included: a header that claims more is refused before allocation
EQUALIZE = ("none", "histogram", "clahe")
WINDOWS = {  # centre, width (HU), as radiology reads CT
    "brain": (40.0, 80.0),
    "subdural": (80.0, 200.0),
    "bone": (400.0, 1800.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "softtissue": (40.0, 400.0),
    "abdomen": (50.0, 400.0),
}


FRAGMENT = re.compile(r"(\.npz|\.nii|\.nii\.gz)#.*$", re.IGNORECASE)  # of a path: the member, axis or volume that is meant


class ImageError(ValueError):
    """One line that states what is wrong with this file. It may name the file (not its folder), never a patient."""


class UnavailableError(ImageError):
    """This time the file could not be read: it was away or locked, the disk or memory failed. Another time it may be."""


@dataclass(frozen=True)
class Display:
    """How stored values become grey levels; part of a store's settings and of an encoder's header.

    Args:
        windows: (centre, width) in the file's rescaled units (CT: HU), one per channel: none (as the file states), 1 or 3.
            ``centre - width / 2`` and below is black, ``centre + width / 2`` and above is white.
        equalize: none, histogram or clahe, of the grey levels.
        offset: added to the values of formats without a rescale of their own (PNG, TIFF, npz) before the windows, such as
            -32768 for a 16-bit PNG that holds HU + 32768.
        levels: without windows, (kind of value, black, white) of deeper values of such formats, such as ("uint16", 0, 4095): one
            decision for all images of a data set. A kind that is not named is decided where it is met.
        redact: whether burned-in text is painted over (``scotoma.data.io.text_detector``).

    Raises:
        ValueError: one line that states what is wrong.
    """

    windows: tuple[tuple[float, float], ...] = ()
    equalize: str = "none"
    offset: float = 0.0
    levels: tuple[tuple[str, float, float], ...] = ()
    redact: bool = False

    def __post_init__(self) -> None:
        if len(self.windows) not in (0, 1, 3):
            raise ValueError(f"{len(self.windows)} windows: name 1 or 3, one per channel")
        for centre, width in self.windows:
            if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
                raise ValueError(f"window {centre:g}:{width:g}: its width must be above 0")
        if self.equalize not in EQUALIZE:
            raise ValueError(f"equalize {self.equalize!r}: one of {', '.join(EQUALIZE)}")
        if not np.isfinite(self.offset):
            raise ValueError("the offset must be a number")
        if any(not (np.isfinite(low) and np.isfinite(high)) for _, low, high in self.levels):
            raise ValueError("black and white levels must be numbers")

    def settings(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {name: [list(entry) for entry in getattr(self, name)] for name in ("windows", "levels")}

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> Display:
        """What ``settings`` gave; files as they say where there are none."""
        found = dict(settings or {})
        windows = tuple((float(centre), float(width)) for centre, width in found.pop("windows", ()))
        levels = tuple((str(kind), float(low), float(high)) for kind, low, high in found.pop("levels", ()))
        return cls(windows, levels=levels, **found)

    def __str__(self) -> str:
        windows = ",".join(f"{centre:g}:{width:g}" for centre, width in self.windows) or "as the files say"
        offset = f", offset {self.offset:g}" if self.offset else ""
        levels = "".join(f", {kind} from {low:g} to {high:g}" for kind, low, high in self.levels)
        return f"windows {windows}, equalize {self.equalize}{offset}{levels}{', redact' if self.redact else ''}"


def parse_windows(names: list[str] | tuple[str, ...]) -> tuple[tuple[float, float], ...]:
    """Names of ``WINDOWS`` or free ``centre:width`` -> windows.

    Raises:
        ValueError: one line that states what is wrong.
    """
    found = []
    for name in names:
        centre, colon, width = name.partition(":")
        try:
            found.append((float(centre), float(width)) if colon else WINDOWS[name.strip().lower()])
        except (KeyError, ValueError):
            raise ValueError(f"window {name!r}: one of {', '.join(WINDOWS)}, or centre:width") from None
    return tuple(found)


@dataclass(frozen=True)
class Decoded:
    """A decoded image, upright, black to white as a viewer would show it.

    Attributes:
        pixels: (H, W), or (H, W, 3) RGB. uint8 for 8-bit files; uint16 or float32 for deeper ones, where the full
            range of the dtype (float: 0 to 1) is black to white.
        facts: ``format``, ``width``, ``height`` (the upright image at full resolution, before non-square pixels are
            corrected), ``channels``, ``bits``, ``frames`` (of a file of several images; of TIFF, GIF and WebP where
            none of them was requested); for DICOM, where present, ``modality``, ``photometric``, ``vendor``,
            ``model``, ``view``, ``laterality``, ``spacing_mm`` (between rows), ``age`` (years), ``sex``, ``window``
            ([centre, width] that was applied), ``transfer_syntax``, ``patient_id``, ``study_uid``, ``series_uid``; for NIfTI
            ``spacing_mm``, ``slices``. All are plain numbers, strings and lists. ``patient_id`` and the UIDs are
            raw identifiers: the caller turns them into keyed hashes at once and keeps nothing else of them.
        source: what the content hash is made of, where that is not ``pixels``: the values as stored, whatever the display; of JPEG
            and JPEG 2000 the compressed stream, so that it is the same at whatever size it is decoded.
        clipped: the share of its values below black or above white, where these are no choice of the file's; None elsewhere.
    """

    pixels: np.ndarray
    facts: dict[str, object]
    source: np.ndarray | bytes | None = None
    clipped: float | None = None


def file_stamp(path: str) -> tuple[int, int, int]:
    """Whether a cached file is still the same; the process id keeps a forked child off its parent's file offsets."""
    entry = Path(path).stat()
    return entry.st_size, entry.st_mtime_ns, os.getpid()


def check_size(count: int, limit: int = MAX_PIXELS) -> None:
    """Raise ImageError for an image of ``count`` pixels that is empty or larger than ``limit``."""
    if count <= 0:
        raise ImageError("the header states an empty image")
    if count > limit:
        raise ImageError(f"the header claims {count} pixels, more than the {limit} allowed")


def check_frame(frame: int, count: int) -> int:
    """Give ``frame`` back, or raise ImageError where the file holds only ``count``."""
    if frame >= count:
        raise ImageError(f"no frame {frame}: the file holds {count}")
    return frame


def image_facts(name: str, pixels: np.ndarray, bits: int, frames: int = 1) -> dict[str, object]:
    """The facts that every format has; ``bits`` are those of one sample in the file, which holds so many ``frames``."""
    channels = 3 if pixels.ndim == 3 else 1
    facts = {"format": name, "width": pixels.shape[1], "height": pixels.shape[0], "channels": channels, "bits": bits}
    return facts | ({"frames": frames} if frames > 1 else {})


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """The store's levels: 0..255, rounded to nearest."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Float32 in [0, 1]: ``low`` and below is 0, ``high`` and above is 1, not-a-number is 0."""
    out = (values - np.float32(low)).astype(np.float32, copy=False)
    out *= np.float32(1 / (high - low)) if high > low else np.float32(0)
    np.clip(out, 0, 1, out=out)
    return out if values.dtype.kind in "iu" else np.nan_to_num(out, copy=False, nan=0.0)


def measure_clipping(values: np.ndarray, low: float, high: float) -> float:
    """The share of (a sample of the) values below black or above white; not-a-number is neither."""
    seen = some(values)
    return float(np.mean((seen < low) | (seen > high))) if seen.size else 0.0


def apply_windows(values: np.ndarray, windows: tuple[tuple[float, float], ...]) -> np.ndarray:
    """(H, W) values, or a list of levels, -> the same of one window, with a last axis of 3 of three; float32 in [0, 1].

    Raises:
        ImageError: colours, which have no units.
    """
    if values.ndim > 2:
        raise ImageError("windows are for grey values, and this image has colours")
    shown = [stretch(values, centre - width / 2, centre + width / 2) for centre, width in windows]
    return shown[0] if len(shown) == 1 else np.stack(shown, axis=-1)


def show(values: np.ndarray, display: Display, levels: tuple[float, float] | None) -> np.ndarray:
    """Values of a format that does not state what black and white are -> pixels.

    Without windows, bytes stay as they are, as do deeper ones whose levels are the whole range of their type (of floats: 0 to 1).

    Args:
        values: (H, W) or (H, W, 3).
        display: windows, and what is added before them.
        levels: black and white of deeper values without windows.

    Raises:
        ImageError: windows for colours or for 8-bit grey levels, which have no units.
    """
    if display.windows:
        if values.dtype in (np.uint8, np.bool_):
            raise ImageError("windows are for values with units, and this image has 8-bit grey levels")
        return apply_windows(values.astype(np.float32) + np.float32(display.offset), display.windows)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if levels is None or (values.dtype == np.uint16 and levels == (0, 65535)):
        return values
    return stretch(values, *levels)


def require_whole_numbers(values: np.ndarray) -> np.ndarray:
    """(H, W) int32 of values that must be whole and of one channel.

    Raises:
        ImageError: they are not.
    """
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ImageError("a colour image is no label map: save one whole number per pixel")
        values = values[..., 0]
    labels = np.rint(values) if values.dtype.kind == "f" else values
    if not np.array_equal(labels, values) or labels.min() < -(2**31) or labels.max() >= 2**31:
        raise ImageError("its values are no labels: they are not whole numbers")
    return labels.astype(np.int32)


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
    if pixels.dtype.kind == "i":  # labels
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
