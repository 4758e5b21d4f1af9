"""The two hashes of an image."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from scotoma.data.store import hashes


def blobs(height=240, width=300, seed=0) -> np.ndarray:
    """A smooth image with structure at many scales, uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    rough = Image.fromarray(np.clip(noise * 40 + 128, 0, 255).astype(np.uint8))
    total = sum(np.asarray(rough.filter(ImageFilter.GaussianBlur(r)), float) * r for r in (2, 8, 24))
    low, high = total.min(), total.max()
    return ((total - low) / (high - low) * 255).astype(np.uint8)


def of(pixels: np.ndarray) -> np.ndarray:
    return hashes.difference(hashes.cells(pixels))


def bits_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.unpackbits(of(a) ^ of(b)).sum())


def test_difference_hash_of_copies_and_of_others():
    for seed in range(5):
        pixels = blobs(seed=seed)
        packed = io.BytesIO()
        Image.fromarray(pixels).save(packed, "JPEG", quality=60)
        recompressed = np.asarray(Image.open(packed))
        assert hashes.content(recompressed) != hashes.content(pixels)
        assert bits_apart(pixels, recompressed) <= 6
        assert bits_apart(pixels, np.asarray(Image.fromarray(pixels).resize((150, 120), Image.Resampling.BICUBIC))) <= 8
        assert bits_apart(pixels, np.repeat(pixels[..., None], 3, -1)) == 0
        assert bits_apart(pixels, pixels.astype(np.uint16) * 257) == 0
        assert bits_apart(pixels, blobs(seed=seed + 100)) > 60


def test_difference_hash_in_closed_form():
    flat = np.full((160, 170), 90, np.uint8) + np.random.default_rng(0).integers(0, 2, (160, 170), np.uint8)
    assert of(flat).tobytes() == bytes(32)
    rising = np.repeat(np.arange(17, dtype=np.uint8) * 10, 10)[None].repeat(160, 0)
    assert of(rising).tobytes() == b"\xff" * 32
    assert of(rising[:, ::-1]).tobytes() == bytes(32)
    half = rising.copy()
    half[80:] = 0
    assert of(half).tobytes() == b"\xff" * 16 + bytes(16)


def test_content_hash_tells_shape_dtype_and_values():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    others = [pixels.reshape(4, 3), pixels.view(np.uint16), pixels + np.uint8(1), pixels.astype(np.uint16)]
    found = {hashes.content(other) for other in (pixels, *others)}
    assert len(found) == 5
    assert {len(h) for h in found} == {32}
    assert hashes.content(np.asfortranarray(pixels)) == hashes.content(pixels)


def test_an_empty_image_is_blank_whatever_its_noise():
    noise = np.random.default_rng(0).integers(0, 40, (200, 200), np.uint8)
    assert hashes.is_blank(hashes.cells(noise))
    noise[50:90, 50:90] += 60
    assert not hashes.is_blank(hashes.cells(noise))
