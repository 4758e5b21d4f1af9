"""Two hashes of a decoded image: of its content, which only equal values share, and of its look, which copies nearly share."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from scotoma.data.io.base import to_uint8

CELLS = (17, 16)  # columns and rows of the thumbnail
BLANK = 16  # grey levels: an image whose thumbnail spans fewer shows nothing
MARGIN = 2  # grey levels by which a cell must be brighter than its left neighbour


def content(values: np.ndarray | bytes) -> str:
    """SHA-256 of dtype, shape and bytes, 16 bytes of it in hexadecimal: equal for equal arrays only, in whatever order they lie.

    Of a compressed stream, of its bytes.
    """
    if isinstance(values, bytes):
        return hashlib.sha256(values).hexdigest()[:32]
    digest = hashlib.sha256(f"{values.dtype.newbyteorder('=')} {values.shape} ".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:32]


def cells(
    pixels: np.ndarray | Image.Image, size: tuple[int, int] = CELLS, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """A thumbnail of the luma of an image, (H, W) or (H, W, 3), or of its ``box`` (left, upper, right, lower; in pixels).

    Returns:
        (rows, columns) int16.
    """
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(to_uint8(pixels))
    return np.asarray(image.convert("L").resize(size, Image.Resampling.HAMMING, box=box, reducing_gap=3.0), np.int16)


def difference(thumbnail: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """The perceptual hash of a thumbnail of 17 x 16 cells: (32,) uint8, 256 bits.

    A bit states whether a cell is brighter than its left neighbour by more than ``margin`` grey levels, so that a plain background
    gives 0 whatever its noise. Recompressed or resized copies differ in few bits.
    """
    return np.packbits(thumbnail[:, 1:] - thumbnail[:, :-1] > margin)


def is_blank(thumbnail: np.ndarray) -> bool:
    """Whether an image shows nothing, as outermost slices do: its thumbnail spans fewer than ``BLANK`` levels."""
    return int(np.ptp(thumbnail)) < BLANK
