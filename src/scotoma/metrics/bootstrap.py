"""Units that are drawn together (patients, groups of near-duplicates), and bootstraps over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scotoma.metrics.classification import Array

Groups = Sequence[Any] | Array


def _codes(groups: Groups) -> NDArray[np.intp]:
    """Group of every row as 0..G-1 in order of first appearance (a dictionary, as mixed types cannot be sorted)."""
    values = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    if any(value is None or value != value for value in values):
        raise ValueError("groups has missing values: give every row a patient or a group of its own")
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.intp)


def number_groups(groups: Groups) -> tuple[list[Any], NDArray[np.intp]]:
    """The different groups in order of first appearance, (G,), and the number of each row's, (n,); ``ValueError`` if one misses."""
    codes = _codes(groups)
    first = np.unique(codes, return_index=True)[1]
    values = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    return [values[i] for i in first], codes


def bootstrap_weights(groups: Groups, resamples: int = 1000, seed: int = 0) -> NDArray[np.uint16]:
    """How often each row is drawn when G of G groups are drawn with replacement (cluster bootstrap): (resamples, n).

    Rows of one group have the same count. The same groups and seed give the same draws, so two models are compared on
    the same resamples. One group alone can only be drawn as it is, which states nothing of chance: its counts are all 0, so that
    no resample has a value. Raises ``ValueError`` where a group is missing (None or NaN).
    """
    codes = _codes(groups)
    count = int(codes.max(initial=-1)) + 1
    if count < 2:
        return np.zeros((resamples, len(codes)), dtype=np.uint16)
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, len(codes)), dtype=np.uint16)
    for line in weights:
        line[:] = np.bincount(rng.integers(count, size=count), minlength=count)[codes]
    return weights
