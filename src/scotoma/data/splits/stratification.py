"""Units assigned to the sides of a split, or to folds, balanced over rows and over every label at once.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data"), by unit and in bulk:
units of one size with the same labels are interchangeable, so whole shares of them are assigned at once. Large units before
that, and what is left over after it, are assigned one by one, those with the rarest label first, each to the side that needs its
labels most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNDECIDED = -1
LARGE = 1e-3  # a unit with more than this share of the rows is never dealt in bulk


def assign(
    units: np.ndarray, y: np.ndarray | None, shares: Sequence[float], seed: int, given: np.ndarray | None = None
) -> np.ndarray:
    """Deal units out to sides.

    Args:
        units: (n,) int, the unit of each row; a unit is never divided.
        y: labels to balance: (n,) int class ids, -1 unknown; or (n, K) float 0/1, NaN unknown; None for none.
        shares: the share of the rows, and of the rows of each label, that each side is to have; they sum to 1.
        seed: of the shuffle.
        given: (n,) int, the side that a unit has already (on all of its rows), -1 where it has none. New units are assigned so that
            old and new together come near the shares.

    Returns:
        (n,) int: the side of each row, an index into ``shares``.
    """
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    count = len(first)
    if not count:
        return np.zeros(0, np.int64)
    counts, wanted = _counts(unit, count, y), np.asarray(shares, float)
    sides = np.full(count, UNDECIDED) if given is None else given[first].astype(np.int64)
    order = np.random.default_rng(seed).permutation(count)
    if (sides == UNDECIDED).all():
        rows = counts[:, 0]
        _one_by_one(sides, counts, order[rows[order] > LARGE * rows.sum()], wanted)
        have = np.bincount(sides[sides >= 0], rows[sides >= 0], len(wanted))
        need = np.maximum(wanted * rows.sum() - have, 0)
        _in_bulk(sides, counts, order[sides[order] == UNDECIDED], need / max(need.sum(), 1))
    _one_by_one(sides, counts, order[sides[order] == UNDECIDED], wanted)
    return sides[unit]


def _counts(unit: np.ndarray, count: int, y: np.ndarray | None) -> np.ndarray:
    """(units, 1 + labels) float: the rows of each unit, and those with each class, or with each answer to each 0/1 target."""
    columns: list[np.ndarray] = []
    if y is not None and y.ndim == 1:
        columns = [y == k for k in range(int(y.max(initial=-1)) + 1)]
    elif y is not None:
        columns = [y[:, k] == value for k in range(y.shape[1]) for value in (1, 0)]
    found = [np.bincount(unit, minlength=count), *(np.bincount(unit[c], minlength=count) for c in columns)]
    table = np.stack(found, 1).astype(float)
    return table[:, table.any(0)]  # an answer that no row gives is nothing to balance


def _in_bulk(sides: np.ndarray, counts: np.ndarray, chosen: np.ndarray, shares: np.ndarray) -> None:
    """Of chosen units that are alike, deal out as many as come in whole shares; in place."""
    keys = np.random.default_rng(0).integers(1, 2**62, counts.shape[1])
    alike = (counts[chosen].astype(np.int64) * keys).sum(1)  # wraps around; two kinds under one key would cost balance only
    by_kind = np.argsort(alike, kind="stable")
    starts = np.flatnonzero(np.diff(alike[by_kind], prepend=alike[by_kind[:1]] - 1))
    sizes = np.diff(np.r_[starts, len(chosen)])
    place = np.arange(len(chosen)) - np.repeat(starts, sizes)
    bounds = np.cumsum(np.floor(sizes[:, None] * shares + 1e-9), 1)
    side = (place[:, None] >= np.repeat(bounds, sizes, 0)).sum(1)
    sides[chosen[by_kind]] = np.where(side < len(shares), side, UNDECIDED)


def _one_by_one(sides: np.ndarray, counts: np.ndarray, chosen: np.ndarray, shares: np.ndarray) -> None:
    """Deal the chosen units, in place: each to the side where it lowers the distance to the wanted counts most.

    The distance is the sum over sides and labels of (have - wanted)^2 / (wanted x the label's total squared). Units with the
    rarest label come first and, among these, large ones: what is rare or large is the hardest to make up for.
    """
    open_sides = np.flatnonzero(shares > 0)
    totals = counts.sum(0)
    rarity = np.where(counts[chosen] > 0, totals, np.inf).min(1)
    wanted = totals * shares[open_sides, None]  # (sides, labels)
    have = np.stack([counts[sides == side].sum(0) for side in open_sides])
    weight, twice = 1 / (wanted * totals**2), 2 * (have - wanted)
    for unit in chosen[np.lexsort((-counts[chosen, 0], rarity))].tolist():
        own = counts[unit]
        side = int(((twice + own) * (own * weight)).sum(1).argmin())
        sides[unit] = open_sides[side]
        twice[side] += 2 * own
