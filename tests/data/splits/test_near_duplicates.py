"""Near-duplicates: those of all pairs, whatever the images share; blank images are like no other."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma.data.splits import near_duplicates
from scotoma.data.store import hashes


def slow_near(a: np.ndarray, b: np.ndarray, bits: int) -> bool:
    """The rule for one pair, bit by bit."""
    one, two = (format(int.from_bytes(h.tobytes()), "0256b") for h in (a, b))
    told = [min(t.count("1"), t.count("0")) for t in (one, two)]
    distance = sum(x != y for x, y in zip(one, two, strict=True))
    return min(told) >= 8 and distance <= bits and 8 * distance <= sum(told)


def slow_groups(hashes: np.ndarray, bits: int) -> list[int]:
    """All pairs, union-find."""
    parent = list(range(len(hashes)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(hashes)):
        for j in range(i):
            if slow_near(hashes[i], hashes[j], bits):
                parent[root(i)] = root(j)
    return pd.factorize(np.array([root(i) for i in range(len(hashes))]))[0].tolist()


def flipped(bits: np.ndarray, rng: np.random.Generator, most: int, first: int = 0) -> np.ndarray:
    """(n, 256) with up to ``most`` bits of each row changed, from bit ``first`` on; packed."""
    bits = bits.copy()
    for row in bits:
        row[first + rng.choice(256 - first, rng.integers(0, most + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_those_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (12, 32), dtype=np.uint8)
    if seed == 0:
        centres[:] = 0  # plain images
    if seed == 1:
        centres[:, :28] = 0  # nearly plain ones
    hashes = flipped(np.unpackbits(centres[rng.integers(0, 12, 70)], axis=1), rng, 14)
    for limit in (0, 3, 10, 15):
        assert near_duplicates.near_duplicates(hashes, limit).tolist() == slow_groups(hashes, limit)
    assert seed == 0 or len(set(near_duplicates.near_duplicates(hashes).tolist())) < 70
    with pytest.raises(ValueError, match="below 16"):
        near_duplicates.near_duplicates(hashes, 16)


def test_nothing_and_one_image() -> None:
    assert near_duplicates.near_duplicates(np.zeros((0, 32), np.uint8)).tolist() == []
    assert near_duplicates.near_duplicates(np.full((1, 32), 7, np.uint8)).tolist() == [0]


def test_blank_and_nearly_blank_images_are_like_no_other() -> None:
    rng = np.random.default_rng(0)
    blank = np.zeros((50, 256), np.uint8)
    specks = flipped(blank, rng, 7)
    assert len(set(near_duplicates.near_duplicates(np.concatenate([np.packbits(blank, 1), specks])).tolist())) == 100
    assert len(set(near_duplicates.near_duplicates(~specks).tolist())) == 50  # all bits set states as little
    spot = np.zeros((1, 256), np.uint8)
    spot[0, 40:56] = 1
    few = flipped(np.repeat(spot, 40, 0), rng, 2)
    assert len(set(near_duplicates.near_duplicates(few).tolist())) == 1  # yet copies of an image with one spot are found
    elsewhere = np.packbits(np.roll(spot, 8, 1), 1)  # half of its bits in another place: 16 bits apart and 10 allowed
    assert len(set(near_duplicates.near_duplicates(np.concatenate([np.packbits(spot, 1), elsewhere])).tolist())) == 2


@pytest.mark.parametrize("shared", [150, 200])
def test_a_background_that_thousands_share_costs_neither_time_nor_pairs(shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 12_000
    rng = np.random.default_rng(shared)
    bits = rng.integers(0, 2, (n, 256), dtype=np.uint8)
    bits[:, :shared] = np.tile([1, 0], shared // 2)
    copies = rng.permutation(n)[: n // 10].reshape(2, -1)
    bits[copies[1]] = bits[copies[0]]
    hashes = np.packbits(bits, 1)
    hashes[copies[1]] = flipped(bits[copies[1]], rng, 8, shared)
    compared = 0
    plain = near_duplicates.Groups._join

    def counted(self: near_duplicates.Groups, left: np.ndarray, right: np.ndarray) -> None:
        nonlocal compared
        compared += len(left)
        plain(self, left, right)

    monkeypatch.setattr(near_duplicates.Groups, "_join", counted)
    groups = near_duplicates.near_duplicates(hashes)
    assert (groups[copies[0]] == groups[copies[1]]).mean() > (0.999 if shared == 150 else 0.95)
    assert compared < n * near_duplicates.BUCKET * 121
    assert compared < n * n / 2  # 72 million pairs
    if shared == 150:
        assert len(set(groups.tolist())) == n - copies.shape[1]


def test_ten_thousand_copies_of_one_image_are_one_group() -> None:
    rng = np.random.default_rng(0)
    one = np.repeat(rng.integers(0, 2, (1, 256), dtype=np.uint8), 10_000, 0)
    assert set(near_duplicates.near_duplicates(flipped(one, rng, 5)).tolist()) == {0}


def test_recompressed_and_resized_copies_are_near_duplicates_and_other_images_are_not() -> None:
    found, truth = [], []
    rng = np.random.default_rng(0)
    for index in range(10):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((128, 128), Image.Resampling.BICUBIC))
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, "JPEG", quality=60)
        smaller = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
        for copy in (pixels, np.asarray(Image.open(jpeg)), np.asarray(smaller)):
            found.append(hashes.difference(hashes.cells(copy)))
            truth.append(index)
    assert near_duplicates.near_duplicates(np.stack(found)).tolist() == truth
