"""On how much a metric rests: the images and groups by which its interval is bounded, and whether they are too few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scotoma.metrics.bootstrap import Groups, number_groups
from scotoma.metrics.classification import Array, Cases, FloatArray

FEW, FEW_NUMBERS = 10, 30  # groups of the rarer class, or with a number, below which an interval is marked
SHARPER = 1.5  # times as many images as Hanley and McNeil's variance has that a ranking may seem to rest on (coverage was measured)


@dataclass(frozen=True)
class Support:
    """On how much a value rests.

    Args:
        images: as how many images at most it can count.
        groups: as how many at most if all images of a group are alike.
        fewest: groups of the rarer side (the positive or negative patients, of the rarest class), summed over the classes averaged.
        few: whether the rarer side of any class is too small for an interval that holds.
        most: the highest value there can be, of an error.
    """

    images: float
    groups: float
    fewest: int
    few: bool
    most: float = np.inf

    @classmethod
    def of(cls, groups: Groups, least: int = FEW) -> Support:
        """Of a mean over images, whose groups these are."""
        count = len(set(number_groups(groups)[1].tolist()))
        return cls(len(groups), count, count, count < least)


def effective_pairs(auroc: ArrayLike, positive: ArrayLike, negative: ArrayLike) -> FloatArray:
    """As how many images of a proportion so many positive and negative ones count: A (1 - A) over Hanley and McNeil's variance.

    Equal numbers are put for both in the terms of the ranks, as Newcombe (2006, "Confidence intervals for an effect size measure
    based on the Mann-Whitney statistic", method 5) does. Arguments are broadcast.
    """
    a, m, n = (np.asarray(v, dtype=np.float64) for v in (auroc, positive, negative))
    others = (m + n) / 2 - 1
    return np.asarray(m * n / (1 + others * ((1 - a) / (2 - a) + a / (1 + a))))


def support_of(name: str, cases: Cases, codes: Array, columns: Sequence[int], value: float) -> Support:
    """On what a metric rests over some classes.

    Args:
        name: one of ``METRICS``.
        cases: the prediction set.
        codes: (n,) number of each row's group.
        columns: the classes averaged.
        value: the metric, on which an AUROC's support depends.
    """
    sides = {"positive": cases.known & cases.truth, "negative": cases.known & ~cases.truth}
    images = {side: rows[:, columns].sum(0) for side, rows in sides.items()}
    groups = {side: np.array([len(np.unique(codes[rows[:, k]])) for k in columns]) for side, rows in sides.items()}
    has_both = (groups["positive"] > 0) & (groups["negative"] > 0)
    one = {"sensitivity": "positive", "specificity": "negative"}.get(name)
    rarer = groups[one] if one else np.minimum(groups["positive"], groups["negative"])
    rarer = rarer[rarer > 0] if rarer.any() else rarer
    if name == "auroc":
        limits = [float(effective_pairs(value, n["positive"], n["negative"])[has_both].sum()) for n in (images, groups)]
        limits[0] *= SHARPER
    elif name == "average_precision":
        limits = [SHARPER * float(images["positive"].sum()), float(groups["positive"].sum())]
    elif one:
        limits = [float(n[one].sum()) for n in (images, groups)]
    else:
        any_known = cases.known[:, columns].any(1)
        limits = [float(any_known.sum()), float(len(np.unique(codes[any_known])))]
        if name in ("f1", "balanced_accuracy", "mcc"):  # on the rarer side rests at least a third of them
            least = [np.minimum(n["positive"], n["negative"]).sum() for n in (images, groups)]
            limits = [min(limit, 3.0 * float(rare)) for limit, rare in zip(limits, least, strict=True)]
    if name == "accuracy":  # of all classes together, however rare
        rarer = np.array([limits[1]], dtype=int)
    freedom = int(np.maximum(rarer - 1, 1).sum()) + 1
    most = np.inf if name != "brier" else 2.0 if cases.categorical and cases.truth.shape[1] > 2 else 1.0  # summed over classes
    return Support(limits[0], limits[1], freedom, bool((rarer < FEW).any()), most)
