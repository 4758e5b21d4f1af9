"""Label draws: which labels one classifier may see."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scotoma.data.labels.targets import Target
from scotoma.data.splits.splits import Split, label_fraction


@dataclass(frozen=True)
class Draw:
    """The labels that one classifier may see: positions of its training rows, and of the rows by which it makes choices.

    ``tied`` are training rows of soft labels on which annotators tie: only a loss that takes shares can use them.
    """

    fraction: float
    seed: int
    train: np.ndarray
    val: np.ndarray
    tied: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def seen(self) -> np.ndarray:
        """All training rows, for a loss that takes shares."""
        return np.union1d(self.train, self.tied)


def draw(target: Target, split: Split, fraction: float, seed: int) -> Draw:
    """Draw labels: at fraction f, training and choices use f of the training and of the validation labels."""
    train, val = (label_fraction(target.y, split.rows(name), fraction, seed) for name in ("train", "val"))
    tied = label_fraction(np.where(target.tied, 0, -1), split.rows("train"), fraction, seed)
    return Draw(fraction, seed, train, val, tied)
