"""Another image for each image of a batch: of the same patient, study or band of age, or the one that follows in the study.

Which one is a pure function of (seed, epoch, row), as views are.
"""

from __future__ import annotations

import numpy as np

from scotoma.rng import KeyedRNG


class GroupPairing:
    """Draws for each image another of its group, uniformly; an image that is alone is paired with itself.

    Args:
        codes: (n,) int, the group of each image.
    """

    def __init__(self, codes: np.ndarray) -> None:
        self.groups = _Groups(codes)

    def draw(self, positions: np.ndarray, rng: KeyedRNG) -> tuple[np.ndarray, None]:
        """(B,) the paired images of the images at these positions."""
        groups = self.groups
        others = groups.size[positions] - 1
        skip = 1 + np.minimum((_uniform(rng, "partner") * others).astype(np.int64), others - 1)
        place = (groups.place[positions] + np.where(others > 0, skip, 0)) % groups.size[positions]
        return groups.order[groups.start[positions] + place], None


class SuccessorPairing:
    """Draws for each image the next of its study or, half the time and where there is none, another that is not the next.

    That other lies in the same study where the study has more than two images, so that knowing the patient is not enough.

    Args:
        codes: (n,) int, the study of each image.
        order: (n,) numbers by which the images of a study are sorted.
    """

    def __init__(self, codes: np.ndarray, order: np.ndarray) -> None:
        self.groups = _Groups(codes, order)

    def draw(self, positions: np.ndarray, rng: KeyedRNG) -> tuple[np.ndarray, np.ndarray]:
        """(B,) the paired images, and (B,) float32 whether each follows its image."""
        groups = self.groups
        size, place, start = (values[positions] for values in (groups.size, groups.place, groups.start))
        follows = (place + 1 < size) & (_uniform(rng, "follows") < 0.5)
        pick, n = _uniform(rng, "other"), len(groups.order)
        # of the study, round the circle: from two places on, so neither the image nor its successor
        last = place + 1 == size
        within = (place + np.where(last, 1, 2) + (pick * np.maximum(size - 2 + last, 1)).astype(np.int64)) % size
        outside = (start + size + (pick * np.maximum(n - size, 1)).astype(np.int64)) % n
        other = np.where(size > 2, groups.order[start + within], groups.order[outside])
        following = groups.order[start + np.minimum(place + 1, size - 1)]
        return np.where(follows, following, other), follows.astype(np.float32)


class _Groups:
    """Images sorted by group: ``order`` (n,), and of each image its group's ``start`` there, ``size`` and its ``place``."""

    def __init__(self, codes: np.ndarray, order: np.ndarray | None = None) -> None:
        numbers = np.unique(codes, return_inverse=True)[1]
        self.order = np.argsort(numbers, kind="stable") if order is None else np.lexsort((order, numbers))
        sizes = np.bincount(numbers)
        starts = np.cumsum(sizes) - sizes
        self.size, self.start = sizes[numbers], starts[numbers]
        self.place = np.empty(len(codes), np.int64)
        self.place[self.order] = np.arange(len(codes))
        self.place -= self.start


def _uniform(rng: KeyedRNG, name: str) -> np.ndarray:
    return rng.of("pairs").uniform(name).double().numpy().ravel()
