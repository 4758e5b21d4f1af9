"""How many more labels, and how many test patients: learning curves continued, and the width of an AUROC's interval.

A learning curve is taken to be an inverse power law, score = a - b n^(-c) of n labels (Figueroa et al. 2012, "Predicting sample
size required for classification performance"): a is what it tends to, b and c say how far below it starts and how fast it gets
there. A continued curve is a guess: its interval states what test patients and label draws leave open, not that the law holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar, nnls
from scipy.stats import norm

from scotoma.metrics.classification import FloatArray

PROTOCOL = 2  # of the rows that a study writes
WANTED = (0.8, 0.85, 0.9, 0.95, 0.99)  # AUROCs for which the number of labels is extrapolated
WIDTHS = (0.05, 0.1)  # of an AUROC's interval
LEAST_POINTS = 3  # as many as the law has parameters
LEAST_DRAWS = 3  # label draws; the spread of two states too little
RESAMPLES = 200  # of the test patients
DECAYS = (1e-3, 10.0)  # between which c is looked for
STARTS = 24  # values of c from which the best is refined
MOST_LABELS = 10**10  # more than there are people: out of reach
TIMES = (2, 5, 10)
NOTHING = 1e-12  # less growth than this is a rounding error


@dataclass(frozen=True)
class Curve:
    """The law a - b n^(-c); b = c = 0 where scores do not grow."""

    a: float
    b: float
    c: float

    def at(self, labels: ArrayLike) -> FloatArray:
        """The score with so many labels (any shape)."""
        return np.asarray(self.a - self.b * np.asarray(labels, dtype=np.float64) ** -self.c)


def fit(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, bound: float = 1.0) -> Curve:
    """The law that lies nearest to the scores, by least squares, with a <= ``bound`` and b, c >= 0.

    For a given c the law is linear in bound - a and b, neither of them negative, which is solved exactly; so c alone is searched.

    Args:
        labels: (k,) label counts, at least 1, three of them different.
        scores: (k,) of which more is better.
        weights: (k,) of the squared errors; equal by default.
        bound: the best score there can be.

    Raises:
        ValueError: fewer than three different counts; shapes that disagree; values that are not finite or above the bound.
    """
    n, y = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    w = np.ones_like(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if n.ndim != 1 or n.shape != y.shape or n.shape != w.shape:
        raise ValueError(f"labels, scores and weights must be lists of one length: {n.shape}, {y.shape}, {w.shape}")
    if (points := len(np.unique(n[w > 0]))) < LEAST_POINTS:
        raise ValueError(f"a curve has three parameters: scores at three different label counts are needed, not {points}")
    if not (np.isfinite(n).all() and np.isfinite(y).all() and n.min() >= 1 and w.min() >= 0 and y.max() <= bound):
        raise ValueError(f"label counts must be at least 1, weights at least 0, scores finite and at most {bound:g}")
    root, first = np.sqrt(w), n.min()

    def solved(log_c: float) -> tuple[FloatArray, float]:
        fall = (n / first) ** -np.exp(log_c)
        return nnls(np.column_stack([root, root * fall]), root * (bound - y))

    grid = np.linspace(math.log(DECAYS[0]), math.log(DECAYS[1]), STARTS)
    best = int(np.argmin([solved(x)[1] for x in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, STARTS - 1)])
    refined = minimize_scalar(lambda x: solved(x)[1] ** 2, bounds=around, method="bounded", options={"xatol": 1e-9}).x
    log_c = min((refined, grid[best]), key=lambda x: solved(x)[1])
    (short, drop), c = solved(log_c)[0], math.exp(log_c)
    if drop < NOTHING:
        return Curve(float(bound - short), 0.0, 0.0)
    return Curve(float(bound - short), float(drop * first**c), c)


def labels_needed(curve: Curve, wanted: float) -> int | None:
    """The fewest labels with which the curve reaches ``wanted``; None beyond its reach (a <= wanted, or 10^10 labels and more)."""
    if curve.a <= wanted:
        return None
    if curve.b == 0:
        return 1
    exponent = math.log(curve.b / (curve.a - wanted)) / curve.c
    if exponent >= math.log(MOST_LABELS):
        return None
    return max(1, math.ceil(math.exp(exponent) * (1 - 1e-12)))  # a whole number stays it where rounding errs upwards


def extrapolate(labels: ArrayLike, curves: ArrayLike, wanted: Sequence[float], seed: int = 0, bound: float = 1.0) -> dict[str, Any]:
    """How many labels some scores need, and what more labels would give, with 95 % intervals over test patients and label draws.

    Every resample has its own patients and draws label draws with replacement, whole curves as smaller fractions lie inside larger
    ones; the law is fitted to their mean.

    Args:
        labels: (k,) label counts.
        curves: (1 + R, draws, k) scores: of all test patients first, then of each resample of them (`bootstrap_weights`); where all
            labels can be drawn in one way only, the same value in every draw.
        wanted: the scores to be reached.
        seed: of the label draws of the resamples.
        bound: the best score there can be.

    Returns:
        ``needed``, of each score ``wanted``: ``value`` (median), ``low, high`` of the labels, each None where it is out of
        reach, and ``never``, the share of resamples in which it is; ``curve``, fitted to all draws; ``predicted``, of 2, 5 and 10
        times the most labels ``labels, value, low, high``.

    Raises:
        ValueError: as `fit`; fewer than three draws, which leave too much of their spread unseen.
    """
    n, scores = np.asarray(labels, dtype=np.float64), np.asarray(curves, dtype=np.float64)
    if scores.ndim != 3 or scores.shape[2:] != n.shape:
        raise ValueError(f"curves must be (1 + resamples, draws, label counts): {scores.shape} for {n.shape} label counts")
    whole = fit(n, scores[0].mean(0), bound=bound)
    if scores.shape[1] < LEAST_DRAWS:
        raise ValueError(
            f"an interval needs {LEAST_DRAWS} or more draws of the labels; with fewer, fit a curve and take it as a guess"
        )
    rng, draws = np.random.default_rng(seed), scores.shape[1]
    means = [of_patients[rng.integers(draws, size=draws)].mean(0) for of_patients in scores[1:]]
    fitted = [fit(n, mean, bound=bound) for mean in means if np.isfinite(mean).all()]
    most = int(n.max())
    further = np.array([curve.at(most * np.array(TIMES)) for curve in fitted])
    lows, highs = np.quantile(further, [0.025, 0.975], axis=0)
    return {
        "needed": [{"wanted": w, **_needed(fitted, w)} for w in wanted],
        "curve": whole,
        "predicted": [
            {"labels": t * most, "value": float(whole.at(t * most)), "low": float(lows[i]), "high": float(highs[i])}
            for i, t in enumerate(TIMES)
        ],
    }


def _needed(fitted: Sequence[Curve], wanted: float) -> dict[str, Any]:
    """Median and 95 % interval of the labels that resamples need."""
    needed = np.array([np.inf if count is None else count for count in (labels_needed(curve, wanted) for curve in fitted)])
    # Order statistics, as no mean can be taken of a number and infinity.
    low, middle, high = np.quantile(needed, [0.025, 0.5, 0.975], method="inverted_cdf")
    ends = (("value", middle), ("low", low), ("high", high))
    return {key: int(v) if np.isfinite(v) else None for key, v in ends} | {"never": float(np.isinf(needed).mean())}


def curve_rows(labels: Sequence[int], curves: ArrayLike) -> list[dict[str, Any]]:
    """What a study writes of one classifier's curve: none with fewer than three label counts or draws.

    Args:
        labels: (k,) label counts.
        curves: (1 + R, draws, k) AUROCs, as `extrapolate` takes them.

    Returns:
        Rows ``labels_for_auroc`` (of ``wanted``; ``never``), ``auroc_predicted`` (with so many ``labels``) and ``misfit``, the
        farthest that the mean curve lies from the law; each with ``points``, the label counts, and ``draws``.
    """
    scores = np.asarray(curves, dtype=np.float64)
    if len(set(labels)) < LEAST_POINTS or scores.shape[1] < LEAST_DRAWS or not np.isfinite(scores[0]).all():
        return []
    found = extrapolate(labels, scores, WANTED)
    misfit = float(np.abs(found["curve"].at(labels) - scores[0].mean(0)).max())
    rows = [
        *({"metric": "labels_for_auroc", "labels": max(labels), **row} for row in found["needed"]),
        *({"metric": "auroc_predicted", **row} for row in found["predicted"]),
        {"metric": "misfit", "value": misfit},
    ]
    return [{**row, "points": len(set(labels)), "draws": scores.shape[1]} for row in rows]


def width_rows(name: str, prevalence: float) -> list[dict[str, Any]]:
    """How many test patients a class needs, as a study writes it: rows ``patients_for_width`` of ``wanted`` AUROC and ``width``."""
    common = {"metric": "patients_for_width", "class": name, "prevalence": prevalence}
    return [{**common, "wanted": a, "width": w, "value": labels_for_width(a, w, prevalence)} for w in WIDTHS for a in WANTED]


def _terms(auroc: float) -> tuple[float, float, float]:
    """A (1 - A), Q1 - A² and Q2 - A² of negative exponential scores (Hanley and McNeil 1982)."""
    if not 0 < auroc < 1:
        raise ValueError(f"an AUROC between 0 and 1 is needed, not {auroc}")
    return auroc * (1 - auroc), auroc / (2 - auroc) - auroc**2, 2 * auroc**2 / (1 + auroc) - auroc**2


def labels_for_width(auroc: float, width: float, prevalence: float, level: float = 0.95) -> int:
    """How many labelled test patients make the interval of an AUROC at most ``width`` wide, from low to high.

    Args:
        auroc: expected, in (0, 1).
        width: wanted, in (0, 1).
        prevalence: share of positive patients, in (0, 1).
        level: of the interval.

    Returns:
        Positive and negative patients together: Hanley and McNeil's variance (1982, equation 1) solved for n, of which a share
        ``prevalence`` is positive.
    """
    fixed, of_positives, of_negatives = _terms(auroc)
    if not (0 < width < 1 and 0 < prevalence < 1 and 0 < level < 1):
        raise ValueError("width, prevalence and level must lie between 0 and 1")
    variance = (width / (2 * float(norm.ppf((1 + level) / 2)))) ** 2
    # variance * prevalence * (1 - prevalence) * n^2 - linear * n - constant = 0
    square = variance * prevalence * (1 - prevalence)
    linear = prevalence * of_positives + (1 - prevalence) * of_negatives
    constant = fixed - of_positives - of_negatives
    return math.ceil((linear + math.sqrt(linear**2 + 4 * square * constant)) / (2 * square))
