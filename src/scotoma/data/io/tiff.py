"""TIFF of other than 8-bit samples, whose values Pillow changes or refuses: 16-bit colours, signed, 32 and 64 bits, floats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from scotoma.data.io.base import ImageError, check_frame, check_size
from scotoma.data.io.geometry import turn
from scotoma.data.io.levels import INVERTED

WHITE_IS_ZERO, YCBCR = 0, 6
_PLAIN = {"MINISWHITE": 0, "MINISBLACK": 1, "RGB": 2, "YCBCR": YCBCR}  # the last: its decoder gives RGB
_ALPHA = (1, 2)  # extra samples that are transparency; others are channels of unknown meaning


def pillow_reads(image: Image.Image) -> bool:
    """Whether Pillow gives the values of this TIFF page as they are: bytes or bits; of two channels with transparency only."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    formats, bits = tags.get(339, (1,)), tags.get(258, (1,))
    if max(bits) > 8 or any(f not in (1, 4) for f in formats):
        return False
    return int(tags.get(277, 1)) in (1, 3, 4) or bool(set(tags.get(338, ())) & set(_ALPHA))


@contextmanager
def page(path: str, frame: int) -> Iterator[tuple[Any, int]]:
    """One page, unread, and how many there are.

    Raises:
        ImageError: no such page, or too large a one. Other exceptions come from tifffile.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        found = file.pages[check_frame(frame, len(file.pages))]
        check_size(int(np.prod(found.shape, dtype=object)))
        if found.dtype is None:
            raise ImageError("its samples are of no known type")
        yield found, len(file.pages)


def kind(page: Any) -> str:
    """What values have in common that are shown alike: their type, and whether white is zero."""
    return str(page.dtype.name) + (INVERTED if int(page.photometric) == WHITE_IS_ZERO else "")


def values(page: Any, as_shown: bool = True) -> tuple[np.ndarray, int]:
    """(H, W) or (H, W, 3) values, upright, and the bits of a sample.

    Args:
        page: of tifffile.
        as_shown: white is not zero, and transparent is black; otherwise as stored.

    Raises:
        ImageError: channels or colours of unknown meaning.
    """
    photometric = int(page.photometric)
    if photometric not in _PLAIN.values():
        raise ImageError(f"its colours ({page.photometric.name}) are not supported at {page.bitspersample} bits: save grey or RGB")
    found: np.ndarray = page.asarray()
    if page.ndim == 3 and page.axes.startswith("S"):
        found = np.moveaxis(found, 0, -1)
    elif found.ndim == 3 and not page.axes.endswith("S"):
        raise ImageError(f"a page of axes {page.axes} is no image: save one page per slice")
    found = found.astype(found.dtype.newbyteorder("="), copy=False)
    bits = int(page.bitspersample)
    if found.ndim == 3:
        extra = tuple(int(sample) for sample in page.extrasamples)
        found = grey_or_rgb(found, bool(set(extra) & set(_ALPHA)), not as_shown, photometric in (2, YCBCR))
    if photometric == WHITE_IS_ZERO and as_shown:
        found = -found if found.dtype.kind == "f" else ~found if found.dtype.kind == "i" else found.dtype.type(2**bits - 1) - found
    orientation = page.tags.get(274)
    return upright(found, int(orientation.value) if orientation is not None else 1), bits


def grey_or_rgb(found: np.ndarray, transparent: bool, opaque: bool, colours: bool = True) -> np.ndarray:
    """(H, W, C) samples -> (H, W) or (H, W, 3): transparent pixels on black (unless ``opaque``), other extra samples left out.

    Raises:
        ImageError: channels that are neither grey nor RGB nor transparency.
    """
    channels = found.shape[2]
    usable = {1, 2, 4} if transparent else {1, 3, 4} if colours else {1, 3}
    if channels not in usable:
        raise ImageError(f"{channels} channels, neither 1 nor 3: save the one to be seen")
    kept = found[..., : 1 if channels <= 2 else 3]
    if transparent and channels in (2, 4) and not opaque:
        if found.dtype.kind == "f":
            kept = kept * found[..., -1:]
        else:
            most = 2 ** (8 * found.dtype.itemsize - (found.dtype.kind == "i")) - 1
            alpha = found[..., -1:].astype(np.float64) / most
            kept = np.rint(kept * alpha).astype(found.dtype)
    return kept[..., 0] if kept.shape[2] == 1 else kept


def upright(found: np.ndarray, orientation: int) -> np.ndarray:
    """Turned as the EXIF or TIFF orientation (1 to 8) states; unchanged for other numbers."""
    return np.ascontiguousarray(turn(found, orientation))
