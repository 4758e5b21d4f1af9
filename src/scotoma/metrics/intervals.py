"""95 % intervals of metrics over patients and label draws, and paired comparisons of two models.

A metric is computed once with all images and once without those of each group (a patient, or near-duplicates): the jackknife, whose
variance holds images of one patient to be what they are, no independent evidence (for an AUROC it is that of Obuchowski 1997,
"Nonparametric analysis of clustered ROC curve data"). The interval is symmetric on a scale that suits the metric:

- proportions (sensitivity, specificity, predictive values, accuracy): Clopper and Pearson's (1934) interval of so many images as
  would give that variance, at most of all of them (Korn and Graubard 1998, "Confidence intervals for proportions with small
  expected number of positive counts estimated from survey data"); where no error was made, of the groups, each counted as one
  image;
- other fractions (AUROC, average precision, Dice, ...): Wilson's (1927) interval with that number of images;
- errors (mean absolute error, Brier score, log loss): of the logarithm, the upper end at least that of Hall (1992, "On the removal
  of skewness by transformation"), as a few large errors may be in no sample, and at most the highest error there can be (of a Brier
  score); R squared: the same of 1 - R²; correlations: Fisher's z;
- differences and anything else: as it is.

What is the same without any group shows no spread, which is no certainty: it has no interval (the AUROC of a constant predictor
is 0.5 in every sample), but for a proportion, and for a fraction at its end: there are Clopper and Pearson's and Wilson's.

The quantile is Student's t. Its degrees of freedom follow from how unequal the groups' influences are (2 / (kurtosis - 1) of
their number) and are at most those of the rarer side, as 5 positive patients among 500 are 5. How often such intervals hold the
truth is measured in ``benchmarks/coverage.py``.

To the arrays ``y`` and ``p`` of ``metrics.classification`` comes ``groups``: ``(n,)`` of anything hashable. Its conventions hold
here too: class ids or multi-label targets, NaN for what has no value, ``ValueError`` for wrong input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, norm
from scipy.stats import t as student

from scotoma.metrics.bootstrap import Groups, number_groups
from scotoma.metrics.classification import (
    METRICS,
    PER_CLASS_METRICS,
    Array,
    FloatArray,
    check_cases,
    check_name,
    check_weights,
    classwise,
    mean_of_known,
    overall,
    score,
)
from scotoma.metrics.support import FEW, Support, support_of

Predictions = Sequence[Array]
Names = Sequence[str] | None
LEVEL = 0.95
MOST_BLOCKS = 500  # groups are left out one by one up to so many, then several at a time
LEAST_DRAWS = 3  # label draws; the spread of two states too little of that of all
PROPORTIONS = ("sensitivity", "specificity", "accuracy", "ppv", "npv", "frequency", "precision")
FRACTIONS = ("auroc", "average_precision", "f1", "balanced_accuracy", "dice", "iou", "fraction")
ERRORS = ("mae", "rmse", "brier", "log_loss", "hausdorff95")
NUMBERS = ("mae", "rmse", "bias", "r2", "pearson")
WITHOUT = ("ece",)  # it is above 0 by chance alone, so that no interval around it holds the truth: see `calibration`
TINY = 1e-12  # a variance that is rounding error
NO_SPREAD = 1e-9  # so small a standard error, as a share of the value, is rounding error


class Spread(NamedTuple):
    """How an estimate varies: its variance, its third moment's cube root, degrees of freedom; the centre of its interval."""

    variance: float
    third: float
    freedom: float
    centre: float


def leave_out(groups: Groups, rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """Which rows each line of the jackknife holds, (1 + B, n) of 0 and 1: all of them in the first, then all but a group's.

    Above ``MOST_BLOCKS`` groups, blocks of them are left out, to which they are assigned at random. One group alone gives no
    other line.

    Raises:
        ValueError: ``groups`` do not cover ``rows`` rows, or one is missing.
    """
    names, codes = number_groups(groups)
    blocks = min(len(names), MOST_BLOCKS)
    weights = np.ones((1 + (blocks if blocks > 1 else 0), len(codes)), dtype=np.uint8)
    if blocks > 1:
        block = np.random.default_rng(seed).permutation(len(names)) % blocks if len(names) > blocks else np.arange(blocks)
        weights[1 + block[codes], np.arange(len(codes))] = 0
    return check_weights(weights, rows)


def estimate(values: ArrayLike, name: str, support: Support) -> dict[str, Any]:
    """``value, low, high`` (95 %) of a metric, and ``few`` where the interval rests on too few groups.

    Args:
        values: (1 + B,) the metric under the lines of `leave_out`, or anything computed from it elementwise.
        name: of the metric, by which the scale is chosen.
        support: on what it rests.
    """
    found = np.asarray(values, dtype=np.float64)
    return _ends(name, float(found[0]), _jackknife(found, name, support), support) | ({"few": True} if support.few else {})


def _jackknife(values: FloatArray, name: str, support: Support) -> Spread:
    """The spread over groups; its variance is NaN where there is none."""
    value = float(values[0])
    if name == "specificity":  # which has no value without positive rows by convention, though it does not rest on them
        values = np.where(np.isnan(values), value, values)
    moving = values[1:][values[1:] != value]  # what is the same without a group does not rest on it
    if name in WITHOUT or len(values) < 2 or np.isnan(values).any() or support.groups < 2:
        return Spread(np.nan, np.nan, np.nan, value)
    if len(moving) < 2:
        return Spread(0.0, 0.0, max(1.0, support.fewest - 1.0), value)
    count, mean = len(moving), moving.mean()
    largest = float(np.abs(mean - moving).max())
    apart = (mean - moving) / largest if largest > 0 else np.zeros(count)  # so that no power is too small for a number
    second, third, fourth = (float((apart**power).sum()) for power in (2, 3, 4))
    variance, kurtosis = (count - 1) / count * second * largest**2, count * fourth / second**2 if second > 0 else np.inf
    third *= (count - 1) ** 2 / (count * (count - 2)) if count > 2 else 0.0  # without its bias in a small sample
    third = largest * float(np.cbrt(third))
    freedom = 2 * count / (kurtosis - 1) if kurtosis > 1 + TINY else count - 1
    if name in PROPORTIONS:  # whose influences are as unequal as the proportion makes them
        freedom = count - 1
    freedom = max(1.0, min(freedom, count - 1, support.fewest - 1))
    # Average precision is too high of few positive rows: the jackknife's estimate of that is taken off (Quenouille 1956).
    bias = (count - 1) * (mean - value) if name == "average_precision" else 0.0
    return Spread(variance, third, freedom, value - bias)


def _ends(name: str, value: float, spread: Spread, support: Support) -> dict[str, Any]:
    """The interval on the scale of the metric."""
    variance, third, freedom, centre = spread
    low = high = np.nan
    ends = {"mcc": (-1.0, 1.0), **dict.fromkeys(FRACTIONS, (0.0, 1.0))}.get(name, ())
    is_at_end = any(abs(value - end) <= NO_SPREAD for end in ends)
    # A proportion, and a fraction at its end, have an interval with a width without any spread.
    has_spread = variance > (NO_SPREAD * value) ** 2 or name in PROPORTIONS or is_at_end
    if not np.isnan(value) and not np.isnan(variance) and has_spread:
        reach = float(student.ppf((1 + LEVEL) / 2, freedom))
        step = reach * np.sqrt(variance)
        with np.errstate(over="ignore"):
            if name in PROPORTIONS:
                low, high = _clopper_pearson(float(np.clip(centre, 0, 1)), variance, reach, support)
            elif name in FRACTIONS:
                low, high = _wilson(float(np.clip(centre, 0, 1)), variance, reach, support)
            elif name == "mcc":
                low, high = (2 * end - 1 for end in _wilson((centre + 1) / 2, variance / 4, reach, support))
            elif name in ERRORS and value > 0:
                low, high = _of_error(value, variance, third, reach)
                high = min(high, support.most)
            elif name == "r2" and value < 1:
                low, high = (1 - end for end in reversed(_of_error(1 - value, variance, -third, reach)))
            elif name == "pearson" and abs(value) < 1:
                low, high = (np.tanh(np.arctanh(value) + sign * step / (1 - value**2)) for sign in (-1, 1))
            else:
                low, high = value - step, value + step
    if not (np.isfinite(low) and np.isfinite(high)):
        return {"value": value, "low": np.nan, "high": np.nan}
    if name in PROPORTIONS or name in FRACTIONS:
        low = low if low > TINY else 0.0  # far below it the quantile of a beta distribution is not found
    return {"value": value, "low": float(min(low, value)), "high": float(max(high, value))}


def _of_error(value: float, variance: float, third: float, reach: float) -> tuple[float, float]:
    """The interval of a positive number: of its logarithm, the upper end at least that of Hall's transformation."""
    error = np.sqrt(variance)
    skew = (third / error) ** 3 if variance > TINY * value**2 else 0.0
    further = 3 / skew * (1 - np.cbrt(1 - skew * (reach + skew / 6))) if abs(skew) > TINY else reach
    step = reach * error / value
    return value * np.exp(-step), max(value * np.exp(step), value + error * further)


def _images(share: float, variance: float, support: Support) -> float:
    """As how many independent images of a proportion a value counts that varies so."""
    known = variance > TINY and 0 < share < 1
    return min(share * (1 - share) / variance, support.images) if known else support.groups


def _clopper_pearson(share: float, variance: float, reach: float, support: Support) -> tuple[float, float]:
    """Clopper and Pearson's interval with an effective number of images."""
    images = _images(share, variance, support) * (float(norm.ppf((1 + LEVEL) / 2)) / reach) ** 2
    right, tail = share * images, (1 - LEVEL) / 2
    low = float(beta.ppf(tail, right, images - right + 1)) if right > 0 else 0.0
    return low, float(beta.ppf(1 - tail, right + 1, images - right)) if right < images else 1.0


def _wilson(share: float, variance: float, reach: float, support: Support) -> tuple[float, float]:
    """Wilson's interval with an effective number of images."""
    images = _images(share, variance, support)
    square = reach**2 / images
    middle, half = share + square / 2, reach * np.sqrt(share * (1 - share) / images + square / images / 4)
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def evaluate(
    y: ArrayLike, p: ArrayLike, groups: Groups, names: Names = None, decision: Array | None = None
) -> list[dict[str, Any]]:
    """Metrics of one prediction set with their 95 % intervals over groups, as rows.

    ``names`` None is all of `METRICS` that the target allows. A row is ``metric, value, low, high, n, patients``, the
    last two counting rows and groups whose target is known: one per metric and, with the key ``class`` (the column of p),
    one per class for AUROC, average precision, sensitivity and specificity. ``few`` marks what rests on fewer than
    ``FEW`` groups. ``decision``: (n, K) bool of other decisions than `classification`'s.
    """
    cases = check_cases(y, p, decision)
    chosen = [m for m in METRICS if m != "mcc" or cases.categorical] if names is None else list(names)
    for name in chosen:
        check_name(name, cases)
    weights, codes = leave_out(groups, len(cases.truth)), number_groups(groups)[1]
    every = list(range(cases.truth.shape[1]))

    def row(name: str, values: FloatArray, columns: list[int]) -> dict[str, Any]:
        known = cases.known[:, columns].any(1)
        counts = {"n": int(known.sum()), "patients": len(np.unique(codes[known]))}
        found = estimate(values, name, support_of(name, cases, codes, columns, float(values[0])))
        return {"metric": name, **found, **counts}

    rows: list[dict[str, Any]] = []
    for name in chosen:
        columns = cases.columns(name)
        if name == "f1" or name not in PER_CLASS_METRICS:
            rows.append(row(name, overall(name, cases, weights), columns if name == "brier" else every))
            continue
        # The overall value is a mean of the classes' values, so that each is computed once.
        values = classwise(name, cases, weights, every)
        rows.append(row(name, mean_of_known(values[:, columns]), columns))
        rows += [{**row(name, values[:, k], [k]), "class": k} for k in every]
    return rows


def image_means(values: ArrayLike, weights: Array) -> FloatArray:
    """Means of numbers that each image has under weights (R, n): (R,); NaN where none has one.

    Args:
        values: (n,), or (n, K) of K classes, whose means are averaged; NaN for none.
        weights: (R, n).
    """
    each = np.asarray(values, dtype=np.float64)
    each = each[:, None] if each.ndim == 1 else each
    known = ~np.isnan(each)
    total = weights.astype(np.float64) @ known
    sums = weights.astype(np.float64) @ np.where(known, each, 0.0)
    return mean_of_known(np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0))


def of_images(name: str, values: ArrayLike, groups: Groups) -> dict[str, Any]:
    """Mean over images of a number (n,), or of K classes' (n, K) averaged, with its interval over groups.

    Images without a value (NaN) are left out; ``name`` is as in `estimate`. Returns ``value, low, high, n``, all NaN where none
    has one.
    """
    each = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(each.reshape(len(each), -1)).all(1) if len(each) else np.zeros(0, bool)
    if not known.any():
        return {"value": np.nan, "low": np.nan, "high": np.nan, "n": 0}
    codes = number_groups(groups)[1][known]
    means = image_means(each[known], leave_out(codes, len(codes)))
    return estimate(means, name, Support.of(codes)) | {"n": int(known.sum())}


def over_draws(scores: FloatArray, name: str, support: Support) -> dict[str, Any]:
    """Mean of a metric over the models of several label draws, with its interval.

    The variance over patients (of the mean over draws) and that over draws are added, their degrees of freedom by Satterthwaite
    (1946). Fewer than ``LEAST_DRAWS`` draws, or draws that are all alike, leave the patients alone in the interval.

    Args:
        scores: (1 + B, D) of D draws under the lines of `leave_out`.
        name: of the metric.
        support: on what it rests.

    Returns:
        ``value, low, high, draws``, ``over``, what the interval is over (patients, or patients and draws), and ``few`` as
        `estimate`.
    """
    means = scores.mean(1)
    of_patients = _jackknife(means, name, support)
    found: dict[str, Any] = {"draws": scores.shape[1], "over": "patients"}
    spread = _add(of_patients, scores[0])
    if spread != of_patients:
        found["over"] = "patients and draws"
    return _ends(name, float(means[0]), spread, support) | found | ({"few": True} if support.few else {})


def _add(spread: Spread, draws: FloatArray) -> Spread:
    """A spread over groups with that of the mean of so many draws, where they are enough and differ (Satterthwaite 1946)."""
    if len(draws) < LEAST_DRAWS or np.ptp(draws) <= TINY or np.isnan(spread.variance):
        return spread
    of_draws = float(draws.var(ddof=1) / len(draws))
    both = spread.variance + of_draws
    freedom = both**2 / (spread.variance**2 / spread.freedom + of_draws**2 / (len(draws) - 1))
    return spread._replace(variance=both, freedom=freedom)


def _scores(name: str | None, y: ArrayLike, predictions: Predictions, weights: Array) -> FloatArray:
    """(1 + B, D) of the metric, or where ``name`` is None of `image_means` of what each model gives each image."""
    return np.stack([image_means(p, weights) if name is None else np.asarray(score(name, y, p, weights)) for p in predictions], 1)


def _support(name: str | None, y: ArrayLike, models: Sequence[Predictions], groups: Groups, value: float) -> Support:
    """Of a metric, or of means over the images that have a number in any model."""
    if name is not None:
        cases = check_cases(y, models[0][0])
        return support_of(name, cases, number_groups(groups)[1], cases.columns(name), value)
    each = [np.asarray(p, dtype=np.float64).reshape(len(p), -1) for model in models for p in model]
    valued = np.any([~np.isnan(p).all(1) for p in each], axis=0)
    return Support.of(number_groups(groups)[1][valued])


def mean_over_draws(
    name: str | None, y: ArrayLike, predictions: Predictions, groups: Groups, scale: str = "fraction"
) -> dict[str, Any]:
    """Mean of a metric over models trained on different draws of the labels: what `over_draws` gives, and ``n``.

    ``predictions`` holds one p per label draw (seed), all on the test rows of ``y``; with ``name`` None each is what
    `image_means` takes (a Dice coefficient of each image, say), a number of the kind ``scale``.

    Raises:
        ValueError: no prediction set; shapes that disagree.
    """
    if not len(predictions):
        raise ValueError("give one prediction set per label draw, not 0")
    scores = _scores(name, y, predictions, leave_out(groups, len(np.asarray(y))))
    support = _support(name, y, [predictions], groups, float(scores[0].mean()))
    return over_draws(scores, name or scale, support) | {"n": len(np.asarray(y))}


def paired_difference(
    name: str | None, y: ArrayLike, predictions_a: Predictions, predictions_b: Predictions, groups: Groups
) -> dict[str, Any]:
    """Difference of two models, score(a) - score(b), on the same test rows and label draws.

    The lists hold one p per label draw (seed), in the same order for both; ``name`` as in `mean_over_draws`. The sign is not turned
    for metrics of which lower is better.

    Returns:
        What `mean_over_draws` does, and ``p_value``, two-sided, of the same t distribution: below 0.05 just where the interval
        leaves out 0. There is neither interval nor p-value (NaN) from fewer than ``LEAST_DRAWS`` draws, nor where the difference is
        the same without any patient (a model without an error beside a constant one, or beside another without an error), unless
        both models are one. Where nothing but the patients varies (the same two models in every draw), they alone are in the
        interval (``over``).
    """
    draws = len(predictions_a)
    if not draws or draws != len(predictions_b):
        raise ValueError(f"give one prediction set per label draw, not {draws} and {len(predictions_b)}")
    weights = leave_out(groups, len(np.asarray(y)))
    scores = _scores(name, y, predictions_a, weights) - _scores(name, y, predictions_b, weights)
    support = _support(name, y, [predictions_a, predictions_b], groups, 0.5)
    found = over_draws(scores, "difference", support) | {"n": len(np.asarray(y))}
    alike = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(predictions_a, predictions_b, strict=True))
    if alike and found["value"] == 0 and draws >= LEAST_DRAWS and len(weights) > 1:
        return found | {"low": 0.0, "high": 0.0, "p_value": 1.0}
    if np.isnan(found["low"]) or draws < LEAST_DRAWS:
        return found | {"low": np.nan, "high": np.nan, "p_value": np.nan}
    return found | {"p_value": _p_value(found, scores, support)}


def _p_value(found: dict[str, Any], scores: FloatArray, support: Support) -> float:
    """The level at which the interval of a difference touches 0."""
    spread = _add(_jackknife(scores.mean(1), "difference", support), scores[0])
    return float(2 * student.sf(abs(found["value"]) / np.sqrt(spread.variance), spread.freedom))


def holm(p_values: ArrayLike) -> FloatArray:
    """P-values (m,) adjusted for several tests, step-down (Holm 1979), in the given order; NaN stay, uncounted."""
    given = np.asarray(p_values, dtype=np.float64)
    tests = np.flatnonzero(~np.isnan(given))
    order = tests[np.argsort(given[tests], kind="stable")]
    adjusted = np.full(given.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return adjusted


def caution(units: int, unit: str, several: str) -> str:
    """What is reported of intervals over so few units, of which one is called ``unit``; empty where they are enough."""
    if units == 1:
        return f"all test images are of one {unit}, which gives no interval"
    return f"intervals over {units} {several} are unreliable" if units < FEW else ""
