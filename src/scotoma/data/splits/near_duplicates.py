"""Near-duplicates: recompressed and resized copies, found by perceptual hashes in time that grows as their number.

Comparing all pairs takes n (n - 1) / 2 steps. Here the 256 bits of a hash are distributed over one band more than two copies may
differ in bits, so that a pair of copies agrees in at least one whole band, and only hashes that share a band are compared
(multi-index hashing: Norouzi, Punjani and Fleet 2012). Bits that vary much over the images at hand are distributed first, a
band each, so that a background they share fills no band by itself. A band value that more than ``BUCKET`` hashes share is
cut once more in the same way by the bits left; what then still shares two bands with more than ``BUCKET`` others is compared
with the ``BUCKET`` next in order only, which bounds the work at ``BUCKET`` comparisons for each image and pair of bands.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scotoma.data.io.sampling import spread

NEAR_DUPLICATE_BITS = 10  # of 256: recompression moves about 4, another slice of the same patient 30 and more
MOST_BITS = 15  # a band of fewer than 16 bits tells too little apart
LEAST_SET = 8  # an image with fewer bits set (or clear) is so plain that its hash states nothing
SHARE = 4  # copies differ by at most this fraction (1 / SHARE) of the bits that either has set
BUCKET = 64
Check = Callable[[np.ndarray, np.ndarray], np.ndarray]
_KEY_BITS = 32
_PENDING = 1 << 20  # near pairs gathered before groups are merged


def near_duplicates(hashes: np.ndarray, bits: int = NEAR_DUPLICATE_BITS) -> np.ndarray:
    """Group images whose perceptual hashes differ by at most ``bits`` bits.

    Nearly blank images set few bits and would all be alike: a pair may differ by a quarter of the bits that one of them sets on
    average, at most, and a hash with fewer than ``LEAST_SET`` bits set (or clear) is like no other. Images with the same pixels
    are known by their content hash, blank ones too.

    Args:
        hashes: (n, 32) uint8.
        bits: largest Hamming distance within a pair; groups are the connected components.

    Returns:
        (n,) int group numbers, in order of appearance. Exact unless more than ``BUCKET`` hashes share two bands, where pairs
        may be missed; time grows as n.

    Raises:
        ValueError: ``bits`` is above ``MOST_BITS``.
    """
    import pandas as pd

    if bits > MOST_BITS:
        raise ValueError(f"bits must be below {MOST_BITS + 1}, or pairs would be missed")
    groups = np.arange(len(hashes))
    telling = np.flatnonzero(information(hashes) >= LEAST_SET)
    unique, inverse = np.unique(by_value(hashes[telling]), return_inverse=True)
    distinct, places = unique.view(np.uint8).reshape(-1, 32), np.arange(len(unique))
    labels = Groups(distinct, bits, places, places).found()
    groups[telling] = len(hashes) + labels[inverse.ravel()]
    return pd.factorize(groups)[0]


def near_pairs(hashes: np.ndarray, known: np.ndarray, bits: int = NEAR_DUPLICATE_BITS) -> tuple[np.ndarray, np.ndarray]:
    """Which images are near-duplicates of known ones, by the rule of ``near_duplicates``.

    Args:
        hashes: (n, 32) uint8.
        known: (m, 32) uint8.
        bits: largest distance.

    Returns:
        (k,) and (k,) int: positions in ``hashes`` and in ``known``, each pair once.
    """
    import pandas as pd

    groups = near_duplicates(np.concatenate([hashes, known]), bits)
    both = np.intersect1d(groups[: len(hashes)], groups[len(hashes) :])
    of_known = pd.Series(np.arange(len(known))).groupby(groups[len(hashes) :]).indices
    mine, theirs = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    limits = information(hashes), information(known)
    for i in np.flatnonzero(np.isin(groups[: len(hashes)], both)).tolist():
        j = of_known[groups[i]]
        distance = np.bitwise_count(hashes[i] ^ known[j]).sum(1, dtype=np.int64)
        near = j[distance <= np.minimum(bits, (limits[0][i] + limits[1][j]) // (2 * SHARE))]
        mine.append(np.full(len(near), i))
        theirs.append(near)
    return np.concatenate(mine), np.concatenate(theirs)


def by_value(hashes: np.ndarray) -> np.ndarray:
    """(n,) of 32 bytes: hashes as one value each, to be sorted."""
    return np.ascontiguousarray(hashes).view("V32").ravel()


def information(hashes: np.ndarray) -> np.ndarray:
    """(n,) int: how many bits of each hash are set, or clear where those are fewer."""
    counts = np.bitwise_count(hashes).sum(1, dtype=np.int64)
    return np.minimum(counts, 8 * hashes.shape[1] - counts)


class Groups:
    """Groups of images, grown as near pairs of their hashes are found.

    Args:
        hashes: (m, 32) uint8 in sorted order, so that the next in a bucket are the most alike.
        bits: largest distance.
        owner: (m,) int, the image of each hash.
        labels: (images,) int, the groups known already.
        check: (k,) and (k,) places of near hashes of images in different groups -> (k,) bool, which pairs count.
    """

    def __init__(self, hashes: np.ndarray, bits: int, owner: np.ndarray, labels: np.ndarray, check: Check | None = None) -> None:
        self.hashes, self.bits, self.owner, self.labels, self.check = hashes, bits, owner, labels, check
        self.words, self.limits = hashes.view(np.uint64), information(hashes)
        self.pending: list[np.ndarray] = []

    def found(self) -> np.ndarray:
        """(images,) labels of the components, compared band by band."""
        if not len(self.hashes):
            return self.labels
        order = _by_variance(self.hashes)
        everyone = np.arange(len(self.hashes))
        for k in range(self.bits + 1):
            members, keys, full = self._buckets(everyone, _band(self.hashes, order[k :: self.bits + 1]))
            self._compare(members[~full], keys[~full])
            if not full.any():
                continue
            members, numbers = members[full], np.unique(keys[full], return_inverse=True)[1].ravel().astype(np.uint64)
            rest = order[~np.isin(order, order[k :: self.bits + 1])]
            for j in range(self.bits + 1):
                inner = _band(self.hashes[members], rest[j :: self.bits + 1]) | numbers << np.uint64(_KEY_BITS)
                self._compare(*self._buckets(members, inner)[:2])
        self._merge()
        return self.labels

    def _buckets(self, members: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Members by key, where one key holds several groups yet; their keys, and whether more than ``BUCKET`` have it."""
        self._merge()
        order = np.argsort(keys, kind="stable")
        keys, members = keys[order], members[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        sizes = np.diff(np.r_[starts, len(keys)])
        labels = self.labels[self.owner[members]]
        mixed = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
        useful, size = np.repeat(mixed, sizes), np.repeat(sizes, sizes)
        return members[useful], keys[useful], size[useful] > BUCKET

    def _compare(self, members: np.ndarray, keys: np.ndarray) -> None:
        """Compare every member with the next, the second next, ... up to the ``BUCKET``-th that has the same key."""
        here = np.arange(len(members))
        for step in range(1, BUCKET + 1):
            here = here[here + step < len(members)]
            here = here[keys[here] == keys[here + step]]
            if not len(here):
                return
            self._join(members[here], members[here + step])

    def _join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Join the images of the pairs (k,) and (k,) of hashes that are near."""
        apart = self.labels[self.owner[left]] != self.labels[self.owner[right]]
        left, right = left[apart], right[apart]
        distance = np.bitwise_count(self.words[left] ^ self.words[right]).sum(1, dtype=np.int64)
        near = distance <= np.minimum(self.bits, (self.limits[left] + self.limits[right]) // (2 * SHARE))
        left, right = left[near], right[near]
        if self.check is not None and len(left):
            counts = self.check(left, right)
            left, right = left[counts], right[counts]
        self.pending.append(np.stack([self.owner[left], self.owner[right]]))
        if sum(p.shape[1] for p in self.pending) > min(_PENDING, len(self.labels) // 4):
            self._merge()

    def _merge(self) -> None:
        """Bring the labels up to date."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self.pending:
            left, right = self.labels[np.concatenate(self.pending, 1)]
            size = len(self.labels)
            graph = coo_array((np.ones(len(left), bool), (left, right)), (size, size))
            self.labels, self.pending = connected_components(graph, directed=False)[1][self.labels], []


def _by_variance(hashes: np.ndarray) -> np.ndarray:
    """The numbers of the bits, those that vary most first; bits that lie far apart in an image follow one another."""
    width = 8 * hashes.shape[1]
    scattered = np.arange(width) * 101 % width  # odd, so every bit comes once
    sample = hashes[spread(len(hashes), 20_000)]
    share = np.unpackbits(sample, axis=1).mean(0)[scattered]
    return scattered[np.argsort(-np.round(share * (1 - share), 2), kind="stable")]


def _band(hashes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n,) uint64: the first ``_KEY_BITS`` of the ``chosen`` bits of each hash, packed."""
    key = np.zeros(len(hashes), np.uint64)
    for bit in chosen[:_KEY_BITS].tolist():
        key = key << np.uint64(1) | (hashes[:, bit >> 3] >> (7 - (bit & 7)) & 1).astype(np.uint64)
    return key
