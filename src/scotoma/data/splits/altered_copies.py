"""Copies that a hash alone does not know again: cropped by a few per cent, brightened, mirrored, turned by right angles.

Every image is hashed once more in each of these ways, and the hashes are compared as in ``near_duplicates``, so that
time still grows as the number of images. What comes near is looked at again, in more pixels: the one image and the other,
altered, must correlate in their detail.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from scotoma import files
from scotoma.data.splits.near_duplicates import LEAST_SET, MOST_BITS, Groups, by_value, information, near_duplicates
from scotoma.data.store import hashes
from scotoma.data.store.store import Store
from scotoma.errors import RunError, notice

DETAIL = 48  # side of the thumbnails that are compared, pixels
CORRELATION = 0.75  # of their detail; measured in docs/results/audit.md
BRIGHTNESS = 1.25  # an image brightened or darkened by about this factor
Box = tuple[float, float, float, float]
KEPT = "copies.npy"  # of a store: the groups of all its images, once they are found
NOT_LOOKED_FOR = "not checked (`scotoma audit` looks for them)"
_MANY = 2000  # images that take so long that it is reported


def _windows(share: float, places: int) -> list[Box]:
    """Left, upper, right and lower edge, as fractions, of windows of ``share`` of either side, at places x places."""
    starts = [k * (1 - share) / (places - 1) for k in range(places)]
    return [(x, y, x + share, y + share) for x in starts for y in starts]


WINDOWS = [*_windows(0.975, 3), *_windows(0.95, 5)]  # 1.25 % apart: a quarter of a cell of the hash
TURNS = [
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
]
MARGINS = [BRIGHTNESS, 1 / BRIGHTNESS]
PLAIN = len(WINDOWS) + len(TURNS) + len(MARGINS)  # the number of alterations; as a look's number: the image as it is


def find_copies(store: Store, rows: np.ndarray) -> np.ndarray:
    """Group images of which one looks like another, or like another after one of these alterations.

    Args:
        store: of the images.
        rows: (n,) their rows in the store.

    Returns:
        (n,) int group numbers, in order of appearance: those of `near_duplicates`, joined where there are such copies.
    """
    return find_copies_of_stores([(store, rows)])


def find_copies_of_store(store: Store, rows: np.ndarray) -> np.ndarray:
    """As `copies`, joined by way of all images of the store, whose groups are kept in its folder: found once, at 4 ms per image."""
    import pandas as pd

    readable = np.flatnonzero(store.facts["error"].isna().to_numpy())
    groups = load_groups(store)
    if groups is None:
        if len(readable) > _MANY:
            notice(
                store.path.name.rpartition("-")[0] or store.path.name, f"looking for altered copies of {len(readable)} images, once"
            )
        groups = np.full(len(store), -1, np.int64)
        groups[readable] = find_copies(store, readable)
        with contextlib.suppress(RunError), files.replacing(store.path / KEPT) as temporary, temporary.open("wb") as file:
            np.save(file, groups)  # a store that may not be written is looked through again the next time
    return pd.factorize(groups[rows])[0]


def load_groups(store: Store) -> np.ndarray | None:
    """(rows of the store,) the groups that were found in it before; None where they were not looked for."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        groups = np.load(store.path / KEPT)
        if groups.shape == (len(store),):
            return np.asarray(groups)
    return None


def find_copies_of_stores(parts: Sequence[tuple[Store, np.ndarray]]) -> np.ndarray:
    """As `copies`, of the images of several stores one after the other."""
    import pandas as pd

    every = [grey for store, rows in parts for grey in greys(store, rows)]
    plain = np.concatenate([store.hashes[rows] for store, rows in parts])
    with ThreadPoolExecutor() as pool:  # Pillow resizes without Python's lock
        looks = np.concatenate([plain, *pool.map(alterations, every, chunksize=64)])
    owner = np.r_[np.arange(len(plain)), np.repeat(np.arange(len(plain)), PLAIN)]
    look = np.r_[np.full(len(plain), PLAIN), np.tile(np.arange(PLAIN), len(plain))]
    telling = np.flatnonzero(information(looks) >= LEAST_SET)
    order = telling[np.argsort(by_value(looks[telling]), kind="stable")]
    owner, look = owner[order], look[order]
    known: dict[tuple[int, int, int], bool] = {}

    def check(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        one_plain = (look[left] == PLAIN) | (look[right] == PLAIN)
        left, right = np.where(look[left] == PLAIN, right, left), np.where(look[left] == PLAIN, left, right)
        found = np.zeros(len(left), bool)
        for k in np.flatnonzero(one_plain).tolist():
            key = int(owner[left[k]]), int(look[left[k]]), int(owner[right[k]])
            if key not in known:
                known[key] = is_alike(every[key[0]], key[1], every[key[2]])
            found[k] = known[key]
        return found

    groups = Groups(np.ascontiguousarray(looks[order]), MOST_BITS, owner, near_duplicates(plain), check)
    return pd.factorize(groups.found())[0]


def greys(store: Store, rows: np.ndarray) -> list[Image.Image]:
    """Images of the store in grey, without the black that makes them square."""
    sizes = store.facts[["width", "height"]].iloc[rows].to_numpy(float)
    return [without_padding(store.pixels[r], w, h) for r, (w, h) in zip(rows.tolist(), sizes.tolist(), strict=True)]


def without_padding(pixels: np.ndarray, width: float, height: float) -> Image.Image:
    """An image of the store, (side, side, channels), in grey, in the aspect that the file had."""
    side = len(pixels)
    wide, high = (max(1, round(v * side / max(width, height))) for v in (width, height))
    left, top = (side - wide) // 2, (side - high) // 2
    grey = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).convert("L")
    return grey.crop((left, top, left + wide, top + high))


def alterations(image: Image.Image) -> np.ndarray:
    """(PLAIN, 32) uint8: the hashes that copies of a grey image may have; cropped, turned, brightened."""
    looks = [hashes.difference(_alter(image, k)) for k in range(PLAIN - len(MARGINS))]
    whole = hashes.cells(image)  # a margin of another size does what a change of brightness would
    return np.stack([*looks, *(hashes.difference(whole, hashes.MARGIN * factor) for factor in MARGINS)])


def _alter(image: Image.Image, look: int, size: tuple[int, int] = hashes.CELLS) -> np.ndarray:
    """One look of an image as a thumbnail, (rows, columns) int16; a change of brightness is none."""
    box = None
    if look < len(WINDOWS):
        (left, top, right, bottom), (wide, high) = WINDOWS[look], image.size
        box = (left * wide, top * high, right * wide, bottom * high)
    elif look < len(WINDOWS) + len(TURNS):
        image = image.transpose(TURNS[look - len(WINDOWS)])
    return hashes.cells(image, size, box)


def is_alike(one: Image.Image, look: int, other: Image.Image) -> bool:
    """Whether one image, altered, and another correlate in their detail."""
    a, b = _detail(one, look), _detail(other, PLAIN)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return norm > 0 and float((a * b).sum()) / norm >= CORRELATION


def _detail(image: Image.Image, look: int) -> np.ndarray:
    """(DETAIL, DETAIL) of mean 0: one look of an image without its coarse shades, which images of one kind share."""
    from scipy.ndimage import gaussian_filter

    fine = _alter(image, look, (DETAIL, DETAIL)).astype(np.float32)
    fine -= gaussian_filter(fine, 2, mode="nearest")
    return np.asarray(fine - fine.mean())
