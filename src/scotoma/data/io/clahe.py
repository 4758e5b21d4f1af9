"""Equalisation of grey levels: over the whole image, or over tiles with limited contrast (CLAHE)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scotoma.data.io.base import to_uint8

TILES = 8  # a side, as OpenCV's default
CLIP_LIMIT = 2.0  # times the mean count of a bin; what is above is spread over all bins
DEEP_BINS = 4096  # of the whole histogram of images deeper than 8 bits: those of a 12-bit radiograph


def equalize(pixels: np.ndarray, method: str, apart: bool = False) -> np.ndarray:
    """Spread the grey levels of an image.

    Args:
        pixels: (H, W) or (H, W, 3), uint8, uint16 or float in [0, 1].
        method: ``histogram`` (the darkest level becomes black, the cumulated share of pixels the level), or ``clahe`` (Zuiderveld,
            Graphics Gems IV, 1994: the same in each of 8 x 8 tiles, with bins clipped at ``CLIP_LIMIT`` times their mean, and
            interpolated between the tiles' centres).
        apart: three channels are three windows, each spread by itself; otherwise they are colours, and their luma is spread.

    Returns:
        uint8 for uint8, else float32 in [0, 1].
    """
    change = _histogram if method == "histogram" else _clahe
    if pixels.ndim == 2:
        return change(pixels)
    if apart:
        return np.stack([change(pixels[..., k]) for k in range(pixels.shape[-1])], axis=-1)
    luma, blue, red = Image.fromarray(to_uint8(pixels)).convert("YCbCr").split()
    spread = Image.fromarray(change(np.asarray(luma)))
    return np.asarray(Image.merge("YCbCr", (spread, blue, red)).convert("RGB"))


def _bin_levels(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Grey levels as indices of bins, and their number."""
    if pixels.dtype == np.uint8:
        return pixels, 256
    if pixels.dtype == np.uint16:
        return pixels >> 4, DEEP_BINS
    return (np.clip(pixels, 0, 1) * (DEEP_BINS - 1) + 0.5).astype(np.uint16), DEEP_BINS


def _levels(share: np.ndarray, like: np.ndarray) -> np.ndarray:
    return (share * 255 + 0.5).astype(np.uint8) if like.dtype == np.uint8 else share.astype(np.float32)


def _histogram(pixels: np.ndarray) -> np.ndarray:
    index, bins = _bin_levels(pixels)
    counts = np.bincount(index.ravel(), minlength=bins)
    below = np.cumsum(counts)
    first = int(counts[np.flatnonzero(counts)[0]])
    if first == index.size:  # one level only
        return pixels
    return _levels(np.clip((below - first) / (index.size - first), 0, 1), pixels)[index]


def _clahe(pixels: np.ndarray) -> np.ndarray:
    """Curves of 256 bins, whatever the depth (finer bins of a tile would be too sparse to be clipped), read between their bins."""
    place = pixels if pixels.dtype == np.uint8 else pixels * np.float32(255 / 65535 if pixels.dtype == np.uint16 else 255)
    index = pixels if pixels.dtype == np.uint8 else (np.clip(place, 0, 255) + 0.5).astype(np.uint8)
    height, width = index.shape
    rows, columns = -(-height // TILES), -(-width // TILES)
    padded = np.pad(index, ((0, rows * TILES - height), (0, columns * TILES - width)), mode="symmetric")
    tiles = padded.reshape(TILES, rows, TILES, columns).swapaxes(1, 2).reshape(TILES * TILES, -1)
    flat = tiles + 256 * np.arange(TILES * TILES, dtype=np.int64)[:, None]
    counts = np.bincount(flat.ravel(), minlength=TILES * TILES * 256).reshape(-1, 256).astype(np.float64)
    clipped = np.minimum(counts, max(1.0, CLIP_LIMIT * rows * columns / 256))
    clipped += (rows * columns - clipped.sum(1, keepdims=True)) / 256
    curves = np.clip(np.cumsum(clipped, 1) / (rows * columns), 0, 1).astype(np.float32).ravel()
    upper, lower, down = _find_neighbours(height, rows)
    left, right, across = _find_neighbours(width, columns)
    below = np.clip(place, 0, 255).astype(np.int64)
    between = None if pixels.dtype == np.uint8 else (place - below).astype(np.float32)

    def mapped(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        at = (row[:, None] * TILES + column) * 256 + below
        if between is None:
            return curves[at]
        return (1 - between) * curves[at] + between * curves[at + (below < 255)]

    down, across = down[:, None], across[None, :]
    top = (1 - across) * mapped(upper, left) + across * mapped(upper, right)
    bottom = (1 - across) * mapped(lower, left) + across * mapped(lower, right)
    return _levels((1 - down) * top + down * bottom, pixels)


def _find_neighbours(length: int, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of an axis, the tiles whose centres lie before and after it, and its share of the way between these."""
    place = (np.arange(length) + 0.5) / tile - 0.5
    before = np.floor(place)
    share = (place - before).astype(np.float32)
    return np.clip(before, 0, TILES - 1).astype(np.int64), np.clip(before + 1, 0, TILES - 1).astype(np.int64), share
