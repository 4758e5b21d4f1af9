"""Copies that a hash alone does not know again: cropped, brightened, mirrored, turned; and images that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

from scotoma.data import sources
from scotoma.data.splits import altered_copies, near_duplicates
from scotoma.data.store import hashes, store


def smooth(rng: np.random.Generator, side: int = 128) -> Image.Image:
    """Smooth noise, (side, 0.8 side), with some detail."""
    size = (round(0.8 * side), side)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC), float)
        for n in (6, 24)
    ]
    return Image.fromarray((0.6 * layers[0] + 0.2 * layers[1]).astype(np.uint8))


def stored(images: list[Image.Image], folder: Path) -> store.Store:
    folder.mkdir()
    paths = []
    for i, image in enumerate(images):
        paths.append(str(folder / f"{i}.png"))
        image.save(paths[-1])
    return store.prepare(sources.load(pd.DataFrame({"image_path": paths})), 72, out=folder / "store", quiet=True)[1]


def test_hashes_of_alterations_are_those_of_the_altered_image() -> None:
    image = smooth(np.random.default_rng(1), 96)
    altered = np.unpackbits(altered_copies.alterations(image), axis=1)
    assert altered.shape == (altered_copies.PLAIN, 256)
    wide, high = image.size
    expected = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.transpose(Image.Transpose.ROTATE_90)]
    expected += [ImageEnhance.Brightness(image).enhance(f) for f in (0.8, 1.25)]
    expected += [image.crop((0, 0, round(0.95 * wide), round(0.95 * high))), image.crop((wide // 20, high // 20, wide, high))]
    for changed in expected:
        wanted = np.unpackbits(hashes.difference(hashes.cells(changed)))
        assert (altered != wanted).sum(1).min() <= 20  # of 256; the alterations are not these, to the pixel
    turned = image.transpose(Image.Transpose.ROTATE_180)
    exact = np.unpackbits(hashes.difference(hashes.cells(turned)))
    assert np.array_equal(altered[len(altered_copies.WINDOWS) + altered_copies.TURNS.index(Image.Transpose.ROTATE_180)], exact)
    unlike = np.unpackbits(hashes.difference(hashes.cells(smooth(np.random.default_rng(2)))))
    assert (altered != unlike).sum(1).min() > 40


def test_altered_copies_are_found_and_other_images_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, truth = [], []
    for index in range(12):
        image = smooth(rng)
        wide, high = image.size
        keep_x, keep_y = round(0.95 * wide), round(0.95 * high)
        left, top = rng.integers(0, wide - keep_x + 1), rng.integers(0, high - keep_y + 1)
        images += [
            image,
            image.crop((left, top, left + keep_x, top + keep_y)),
            ImageEnhance.Brightness(image).enhance(0.8),
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            image.transpose(Image.Transpose.ROTATE_270),
        ]
        truth += [index] * 5
    opened = stored(images, tmp_path / "made")
    rows = np.arange(len(truth))
    assert altered_copies.find_copies(opened, rows).tolist() == truth
    assert len(set(near_duplicates.near_duplicates(opened.hashes).tolist())) > 36  # cropped, mirrored and turned ones stand alone
    assert altered_copies.find_copies_of_stores([(opened, rows[:5]), (opened, rows[5:])]).tolist() == truth
    assert altered_copies.find_copies(opened, rows[::-1]).tolist() == truth  # a permutation that names groups by appearance again


def test_images_alike_in_coarse_shades_alone_are_no_copies() -> None:
    """Films of two patients in one position: only the detail tells."""
    rng = np.random.default_rng(0)
    shades = np.asarray(Image.fromarray(rng.integers(0, 200, (4, 4), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC))
    first, second = (Image.fromarray((shades + rng.normal(25, 8, (96, 96))).clip(0, 255).astype(np.uint8)) for _ in range(2))
    assert np.corrcoef(np.ravel(first), np.ravel(second))[0, 1] > 0.95
    for look, turn in enumerate(altered_copies.TURNS, len(altered_copies.WINDOWS)):
        assert altered_copies.is_alike(first, look, first.transpose(turn))
        assert not altered_copies.is_alike(first, look, second.transpose(turn))
    assert altered_copies.is_alike(first, altered_copies.PLAIN, ImageEnhance.Brightness(first).enhance(0.8))
    assert not altered_copies.is_alike(first, altered_copies.PLAIN, second)


def test_blank_images_are_no_copies(tmp_path: Path) -> None:
    opened = stored([Image.new("L", (60, 50), level) for level in (0, 0, 90, 255)], tmp_path / "blank")
    assert altered_copies.find_copies(opened, np.arange(4)).tolist() == [0, 1, 2, 3]


def test_copies_between_two_public_collections_are_found(data_root: Path) -> None:
    """Most images without, and some with a tumour of the smaller collection stand in the larger one, recompressed."""
    parts, label = [], []
    for name in ("brain_tumor_yesno", "brain_tumor_mri"):
        dataset = sources.load(data_root / name / "table.csv")
        dataset, opened = store.prepare(dataset, 96, quiet=True)
        parts.append(opened.hashes[dataset.table["row"]])
        label.append(dataset.table["label"].to_numpy(object))
    groups = near_duplicates.near_duplicates(np.concatenate(parts))
    small = np.isin(groups[: len(parts[0])], groups[len(parts[0]) :])
    assert {k: int(small[label[0] == k].sum()) for k in ("no", "yes")} == {"no": 96, "yes": 18}
