from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scotoma.data.io.clahe import CLIP_LIMIT, TILES, equalize


def draw_image(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.linspace(0, 60, height), np.linspace(20, 90, width))
    return np.clip(ramp + rng.normal(0, 6, (height, width)), 0, 255).astype(np.uint8)


def test_histogram_in_closed_form() -> None:
    pixels = np.array([[10, 10, 10, 10], [20, 20, 30, 40]], np.uint8)  # 4, 2, 1 and 1 of 8; the darkest becomes black
    np.testing.assert_array_equal(equalize(pixels, "histogram"), [[0, 0, 0, 0], [128, 128, 191, 255]])
    deep = (pixels.astype(np.uint16) << 8).astype(np.uint16)
    np.testing.assert_allclose(equalize(deep, "histogram"), [[0, 0, 0, 0], [0.5, 0.5, 0.75, 1]])
    constant = np.full((4, 4), 7, np.uint8)
    np.testing.assert_array_equal(equalize(constant, "histogram"), constant)


def test_histogram_does_not_care_for_any_rising_change_of_grey_levels() -> None:
    pixels = draw_image()
    changed = (np.sqrt(pixels / 255.0) * 0.5 + 0.2).astype(np.float32)
    np.testing.assert_allclose(equalize(changed, "histogram"), equalize(pixels, "histogram") / 255.0, atol=0.003)


def slow_clahe(pixels: np.ndarray) -> np.ndarray:
    """Pixel by pixel, as it is written: the curve of each tile, then the mean of the four nearest, weighted by distance."""
    height, width = pixels.shape
    rows, columns = -(-height // TILES), -(-width // TILES)
    padded = np.pad(pixels, ((0, rows * TILES - height), (0, columns * TILES - width)), mode="symmetric")
    curves = {}
    for i in range(TILES):
        for j in range(TILES):
            tile = padded[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            counts = [float((tile == level).sum()) for level in range(256)]
            limit = max(1.0, CLIP_LIMIT * tile.size / 256)
            excess = sum(c - limit for c in counts if c > limit)
            counts = [min(c, limit) + excess / 256 for c in counts]
            curves[i, j] = [sum(counts[: level + 1]) / tile.size for level in range(256)]
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) / rows - 0.5, (x + 0.5) / columns - 0.5
            for i in (int(np.floor(v)), int(np.floor(v)) + 1):
                for j in (int(np.floor(u)), int(np.floor(u)) + 1):
                    weight = (1 - abs(v - i)) * (1 - abs(u - j))
                    out[y, x] += weight * curves[min(max(i, 0), TILES - 1), min(max(j, 0), TILES - 1)][pixels[y, x]]
    return out * 255


@pytest.mark.parametrize("size", [(48, 64), (37, 41)])
def test_clahe_agrees_with_a_slow_version(size: tuple[int, int]) -> None:
    pixels = draw_image(*size)
    assert np.abs(equalize(pixels, "clahe") - slow_clahe(pixels)).max() <= 0.51
    assert equalize(pixels, "clahe").std() > 1.2 * pixels.std()


def test_clahe_of_deeper_pixels_agrees_with_that_of_eight_bits() -> None:
    pixels = draw_image(256, 256)
    deep = equalize((pixels / 255.0).astype(np.float32), "clahe")
    assert deep.dtype == np.float32
    assert 0 <= deep.min() < deep.max() <= 1
    np.testing.assert_allclose(deep, equalize(pixels, "clahe") / 255.0, atol=0.01)
    fine = equalize((pixels.astype(int) * 257 + np.arange(256)).astype(np.uint16), "clahe")  # between two levels of 8 bits
    np.testing.assert_allclose(fine, deep, atol=0.03)


@pytest.mark.parametrize("method", ["histogram", "clahe"])
def test_colours_keep_their_hue_and_windows_are_spread_apart(method: str) -> None:
    grey = draw_image()
    colours = np.stack([grey, grey // 2, grey // 4], axis=-1)
    apart = equalize(colours, method, apart=True)
    for k in range(3):
        np.testing.assert_array_equal(apart[..., k], equalize(np.ascontiguousarray(colours[..., k]), method))
    before = np.asarray(Image.fromarray(colours).convert("YCbCr"), int)
    after = np.asarray(Image.fromarray(equalize(colours, method)).convert("YCbCr"), int)
    inside = (after[..., 0] > 60) & (after[..., 0] < 195)
    assert inside.sum() > 200
    assert np.abs(after - before)[inside][:, 1:].max() <= 2
    assert np.abs(after - before)[..., 0].mean() > 10
