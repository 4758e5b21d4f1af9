"""From probabilities to decisions: thresholds, calibration, net benefit, and one answer per patient.

The conventions of ``metrics.classification`` hold: ``y`` ``(n,)`` class ids or ``(n, K)`` 1 / 0 / NaN = unknown, ``p`` ``(n, C)``
or ``(n, K)``, counts ``weights`` ``(R, n)`` of resamples; ``y01`` ``(n,)`` is one label, 1 / 0 / NaN, whose unknown rows are left
out; a value that does not exist is NaN; wrong input raises ``ValueError``. A row is called positive where its score is at or
above the threshold. Thresholds and temperatures are chosen on validation rows and used on test rows; what a local recalibration
would bring is told by `cross_recalibrated`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from scotoma.metrics.bootstrap import Groups, number_groups
from scotoma.metrics.classification import (
    Array,
    FloatArray,
    check_both_classes,
    check_label,
    check_probabilities,
    check_weights,
    divide,
)

Rule = Literal["youden"] | float
Row = dict[str, float]
How = Literal["mean", "max", "noisy_or"]


def threshold(y01: ArrayLike, score: ArrayLike, rule: Rule) -> float:
    """The score at and above which rows are called positive: one of the scores, the highest that satisfies the rule.

    ``rule`` is ``"youden"``, the greatest sensitivity + specificity - 1 (Youden 1950), or the sensitivity to be reached, in (0, 1].
    Raises ``ValueError`` for another rule and where a class is absent.
    """
    truth, values = check_both_classes(y01, score)
    if rule != "youden" and (isinstance(rule, str) or not 0 < rule <= 1):
        raise ValueError(f"rule must be 'youden' or a sensitivity above 0 and at most 1, not {rule!r}")
    positive, negative = np.sort(values[truth]), np.sort(values[~truth])
    candidates = np.unique(values)[::-1]
    found, false = (len(side) - np.searchsorted(side, candidates, side="left") for side in (positive, negative))
    if rule == "youden":  # in whole numbers, so that ties are ties
        return float(candidates[np.argmax(found * len(negative) - false * len(positive))])
    return float(candidates[np.argmax(found >= rule * len(positive) - 1e-9)])


def rates(y01: ArrayLike, score: ArrayLike, threshold: float, weights: Array | None = None) -> dict[str, float | FloatArray]:
    """What the decisions ``score >= threshold`` are worth: floats, or (R,) with ``weights``.

    Keys: ``sensitivity, specificity, ppv, npv, f1, accuracy, balanced_accuracy``; NaN where the denominator is 0.
    """
    truth, known, values = check_label(y01, score)
    called = (values >= threshold) & known
    counts = check_weights(weights, len(truth)) @ np.stack([truth & called, truth, called, known], axis=1).astype(np.float64)
    hit, positive, called_positive, total = counts.T
    negative, called_negative = total - positive, total - called_positive
    rejected = negative - called_positive + hit
    sensitivity, specificity = divide(hit, positive), divide(rejected, negative)
    found = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": divide(hit, called_positive),
        "npv": divide(rejected, called_negative),
        "f1": divide(2 * hit, positive + called_positive),
        "accuracy": divide(hit + rejected, total),
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }
    return {name: float(v[0]) if weights is None else v for name, v in found.items()}


def predictive_values(sensitivity: ArrayLike, specificity: ArrayLike, prevalence: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """PPV and NPV where a share ``prevalence`` of the patients is positive, by Bayes's rule; arguments are broadcast.

    A test set with as many cases as controls states nothing about them by itself. NaN where no row is called positive (negative),
    and where a rate is NaN, as that of a resample without a positive (negative) row is.
    """
    rates_ = (check_probabilities(v, missing=True) for v in (sensitivity, specificity))
    sens, spec, share = np.broadcast_arrays(*rates_, check_probabilities(prevalence))
    hit, rejected = sens * share, spec * (1 - share)
    return divide(hit, hit + (1 - spec) * (1 - share)), divide(rejected, rejected + (1 - sens) * share)


def predictive_intervals(sensitivity: Mapping[str, float], specificity: Mapping[str, float], prevalence: float) -> dict[str, Row]:
    """PPV and NPV at a prevalence with their intervals, from those of sensitivity and specificity (``value, low, high`` each).

    The two rates come from different patients. On the scale of log odds PPV is log(prevalence odds) + log(sensitivity) -
    log(1 - specificity), so the distances of the rates' ends add as squares (MOVER: Zou and Donner 2008); where one of the rates
    is 0 or 1 a logarithm has no end, and the worst (the best) of both ends is taken.

    Returns:
        ``ppv`` and ``npv``, each ``value, low, high``; NaN where no row is called positive (negative).
    """
    se, sp = sensitivity, specificity
    return {
        "ppv": _by_odds(se, {"value": 1 - sp["value"], "low": 1 - sp["high"], "high": 1 - sp["low"]}, prevalence),
        "npv": _by_odds(sp, {"value": 1 - se["value"], "low": 1 - se["high"], "high": 1 - se["low"]}, 1 - prevalence),
    }


def _by_odds(right: Mapping[str, float], wrong: Mapping[str, float], share: float) -> Row:
    """A predictive value: of what is ``share`` frequent and called with rate ``right``, the rest with rate ``wrong``."""

    def at(a: float, b: float) -> float:
        return float(divide(np.array(a * share), np.array(a * share + b * (1 - share))))

    value, low, high = at(right["value"], wrong["value"]), at(right["low"], wrong["high"]), at(right["high"], wrong["low"])
    ends = (right["value"], right["low"], right["high"], wrong["value"], wrong["low"], wrong["high"])
    if all(end > 0 for end in ends):
        a, b = ({k: math.log(v[k]) for k in ("value", "low", "high")} for v in (right, wrong))
        odds = math.log(share / (1 - share)) + a["value"] - b["value"]
        below = math.hypot(a["value"] - a["low"], b["high"] - b["value"])
        above = math.hypot(a["high"] - a["value"], b["value"] - b["low"])
        low, high = float(expit(odds - below)), float(expit(odds + above))
    return {"value": value, "low": low, "high": high}


def aggregate(p: ArrayLike, groups: Groups, how: How, multilabel: bool = False) -> tuple[list[Any], FloatArray]:
    """One prediction per patient (study, group) from those of its images.

    Args:
        p: (n, C) or (n, K) probabilities.
        groups: (n,) of anything hashable.
        how: ``mean``; and of labels alone ``max`` or ``noisy_or``, 1 - prod(1 - p): positive where any image is, images
            erring independently.
        multilabel: whether the columns are labels. Over classes the greatest probabilities no longer sum to 1, and scaled to do
            so they are nothing's probability: there only the mean is given. "Any image of class k" is a label: ``p[:, [k]]``.

    Returns:
        The groups in order of first appearance, and their probabilities (G, C).
    """
    values = check_probabilities(p)
    names, codes = number_groups(groups)
    if values.ndim != 2 or len(codes) != len(values):
        raise ValueError(f"p must be (n, C) and groups cover its rows: p is {values.shape}, groups {len(codes)}")
    if how == "mean":
        sums = np.zeros((len(names), values.shape[1]))
        np.add.at(sums, codes, values)
        return names, sums / np.bincount(codes)[:, None]
    if how not in ("max", "noisy_or"):
        raise ValueError(f"how must be mean, max or noisy_or, not {how!r}")
    if not multilabel:
        raise ValueError(f"{how} is for labels, not for classes: take the mean, or one class as a label")
    most, missed = np.zeros((len(names), values.shape[1])), np.ones((len(names), values.shape[1]))
    np.maximum.at(most, codes, values)
    np.multiply.at(missed, codes, 1 - values)
    return names, most if how == "max" else 1 - missed


def group_labels(y: ArrayLike, groups: Groups) -> Array:
    """The label of each group, in `aggregate`'s order.

    Labels (n, K) -> (G, K): 1 where any known row is positive, NaN where none is known, else 0. Class ids (n,), -1 = unknown,
    -> (G,): what the known rows agree on, -1 where they disagree or none is known.
    """
    truth = np.asarray(y)
    names, codes = number_groups(groups)
    if truth.ndim not in (1, 2) or len(truth) != len(codes):
        raise ValueError(f"y must be (n,) or (n, K) and groups cover its rows: y is {truth.shape}, groups {len(codes)}")
    if truth.ndim == 2:
        labels = np.full((len(names), truth.shape[1]), np.nan)
        np.fmax.at(labels, codes, truth.astype(np.float64))  # fmax takes the number where one of two is NaN
        return labels
    known = truth >= 0
    least, most = np.full(len(names), np.iinfo(np.int64).max), np.full(len(names), -1, np.int64)
    np.minimum.at(least, codes[known], truth[known])
    np.maximum.at(most, codes[known], truth[known])
    return np.where(least == most, most, -1)
