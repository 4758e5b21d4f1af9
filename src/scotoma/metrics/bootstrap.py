"""Intervals of metrics, bootstrapped over patients, and paired comparisons of two models.

To the arrays ``y`` and ``p`` of ``metrics.classification`` comes ``groups``: ``(n,)`` of anything hashable, the unit that is
resampled: the patient or the near-duplicate group. Its conventions hold here too: class ids or multi-label targets, NaN
for what has no value, ``ValueError`` for wrong input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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

Groups = Sequence[Any] | Array
Predictions = Sequence[Array]
Names = Sequence[str] | None
FEW = 10  # units; a bootstrap over fewer has too few different resamples, and too little of the spread between units


def _codes(groups: Groups) -> NDArray[np.intp]:
    """Group of every row as 0..G-1 in order of first appearance (a dictionary, as mixed types cannot be sorted)."""
    values = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    if any(value is None or value != value for value in values):
        raise ValueError("groups has missing values: give every row a patient or a group of its own")
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.intp)


def bootstrap_weights(groups: Groups, resamples: int = 1000, seed: int = 0) -> NDArray[np.uint16]:
    """How often each row is drawn when G of G groups are drawn with replacement (cluster bootstrap): (resamples, n).

    Rows of one group have the same count. The same groups and seed give the same draws, so two models are compared on
    the same resamples. One group alone can only be drawn as it is, which states nothing of chance: its counts are all 0, so that
    no resample has a value, and there is no interval. Raises ``ValueError`` where a group is missing (None or NaN).
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


def interval(samples: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of (R,) bootstrap samples that holds ``level`` of them, the two tails being equal.

    NaN (a resample in which the metric does not exist) are ignored; both ends are NaN where every sample is.
    """
    values = np.asarray(samples, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def with_original(groups: Groups, rows: int, resamples: int, seed: int) -> Array:
    """The bootstrap below a first line of ones, whose metric is the value itself: (1 + resamples, n)."""
    return np.pad(check_weights(bootstrap_weights(groups, resamples, seed), rows), ((1, 0), (0, 0)), constant_values=1)


def samples(name: str, y: ArrayLike, p: ArrayLike, groups: Groups, resamples: int = 1000, seed: int = 0) -> FloatArray:
    """A metric and its bootstrap over groups, (1 + resamples,): the value itself first; alike for all p of the same rows."""
    return np.asarray(score(name, y, p, with_original(groups, len(np.asarray(y)), resamples, seed)))


def estimate(values: ArrayLike, groups: Groups | None = None) -> dict[str, float]:
    """``value, low, high`` (95 %) of what `samples` gives, or of anything computed from it elementwise.

    ``groups`` are those of the rows on which the value rests, where that is a part of the rows that were drawn: of one group there
    is no interval (NaN).
    """
    first, *rest = np.asarray(values, dtype=np.float64)
    low, high = interval(rest if groups is None or len(set(_codes(groups).tolist())) > 1 else [])
    return {"value": float(first), "low": low, "high": high}


def caution(units: int, unit: str, several: str) -> str:
    """What is reported of intervals over so few units, of which one is called ``unit``; empty where they are enough."""
    if units == 1:
        return f"all test images are of one {unit}, which gives no interval"
    return f"intervals over {units} {several} are unreliable, mostly too narrow" if units < FEW else ""


def evaluate(
    y: ArrayLike, p: ArrayLike, groups: Groups, names: Names = None, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Metrics of one prediction set with their 95 % intervals over groups, as rows.

    ``names`` None is all of `METRICS` that the target allows. A row is ``metric, value, low, high, n, patients``, the
    last two counting rows and groups whose target is known: one per metric and, with the key ``class`` (the column of p),
    one per class for AUROC, average precision, sensitivity and specificity.
    """
    cases = check_cases(y, p)
    chosen = [m for m in METRICS if m != "mcc" or cases.categorical] if names is None else list(names)
    for name in chosen:
        check_name(name, cases)
    weights, codes = with_original(groups, len(cases.truth), resamples, seed), _codes(groups)
    labelled, classes = np.logical_or.reduce(cases.known, axis=1), range(cases.truth.shape[1])

    def row(name: str, samples: FloatArray, known: Array, column: int | None = None) -> dict[str, Any]:
        truth = None if column is None else cases.truth[:, column]
        resting = known if truth is None else {"sensitivity": known & truth, "specificity": known & ~truth}.get(name, known)
        counts = {"n": int(known.sum()), "patients": len(np.unique(codes[known]))}
        return {"metric": name, **estimate(samples, codes[resting]), **counts}

    rows: list[dict[str, Any]] = []
    for name in chosen:
        if name == "f1" or name not in PER_CLASS_METRICS:
            rows.append(row(name, overall(name, cases, weights), labelled))
            continue
        # The overall value is a mean of the classes' values, so that each is bootstrapped once.
        samples = classwise(name, cases, weights, classes)
        columns = list(cases.columns(name))
        rows.append(row(name, mean_of_known(samples[:, columns]), labelled, columns[0] if len(columns) == 1 else None))
        rows += [{**row(name, samples[:, k], cases.known[:, k], k), "class": k} for k in classes]
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


def two_level(scores: Sequence[FloatArray], n: int, seed: int) -> tuple[dict[str, Any], FloatArray]:
    """The result for one model's (1 + R, D) scores, or for the first's less the second's, and its (R,) samples."""
    samples = scores[0] - scores[1] if len(scores) == 2 else scores[0]
    draws = samples.shape[1]
    # [seed, 1] is another stream than the patients', who are drawn from the bare seed.
    picks = np.random.default_rng([seed, 1]).integers(draws, size=samples[1:].shape)
    means = np.take_along_axis(samples[1:], picks, axis=1).mean(1)
    low, high = interval(means)
    return {"value": float(samples[0].mean()), "low": low, "high": high, "n": n, "draws": draws}, means


def _of_draws(
    name: str | None, y: ArrayLike, models: Sequence[Predictions], groups: Groups, resamples: int, seed: int
) -> tuple[dict[str, Any], FloatArray]:
    """`two_level` of the metric of models, or where ``name`` is None of `image_means` of what they give each image."""
    draws = len(models[0])
    if not draws or draws != len(models[-1]):
        raise ValueError(f"give one prediction set per label draw, not {draws} and {len(models[-1])}")
    weights = with_original(groups, len(np.asarray(y)), resamples, seed)
    if name is None:  # images without a value say nothing of chance
        valued = np.any([~np.isnan(np.asarray(p, float).reshape(len(p), -1)).all(1) for model in models for p in model], axis=0)
        if len(set(_codes(groups)[valued].tolist())) < 2:
            weights[1:] = 0
    of = [[image_means(p, weights) if name is None else score(name, y, p, weights) for p in model] for model in models]
    return two_level([np.stack(scores, axis=1) for scores in of], weights.shape[1], seed)


def mean_over_draws(
    name: str | None, y: ArrayLike, predictions: Predictions, groups: Groups, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Mean of a metric over models trained on different draws of the labels, with a two-level bootstrap interval.

    ``predictions`` holds one p per label draw (seed), all on the test rows of ``y``; with ``name`` None each is what
    `image_means` takes (a Dice coefficient of each image, say). Every resample draws patients (the same for every model)
    and, independently, label draws, both with replacement. With D draws the variance between them enters at (D - 1) / D of
    its size: the interval is too narrow for two or three, and blind to the draw with one.
    Returns ``value, low, high`` (95 %), ``n`` test rows and ``draws``.
    """
    return _of_draws(name, y, [predictions], groups, resamples, seed)[0]


def paired_difference(
    name: str | None,
    y: ArrayLike,
    predictions_a: Predictions,
    predictions_b: Predictions,
    groups: Groups,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Difference of two models, score(a) - score(b), on the same test rows and label draws; bootstrap on two levels.

    The lists hold one p per label draw (seed), in the same order for both; ``name`` as in `mean_over_draws`. Every resample
    draws patients (the same for both models and every draw) and, independently, label draws (the same for both), with
    `mean_over_draws`'s limits.
    The sign is not turned for metrics of which lower is better. Returns what `mean_over_draws` does and the two-sided
    ``p_value``: twice the smaller of the shares of resamples <= 0 and >= 0, at least 1 / resamples and at most 1.
    """
    result, differences = _of_draws(name, y, [predictions_a, predictions_b], groups, resamples, seed)
    finite = differences[~np.isnan(differences)]
    share = min((finite <= 0).mean(), (finite >= 0).mean()) if len(finite) else float("nan")
    return {**result, "p_value": float(np.clip(2 * share, 1 / resamples, 1.0))}


def holm(p_values: ArrayLike) -> FloatArray:
    """P-values (m,) adjusted for several tests, step-down (Holm 1979), in the given order; NaN stay, uncounted."""
    given = np.asarray(p_values, dtype=np.float64)
    tests = np.flatnonzero(~np.isnan(given))
    order = tests[np.argsort(given[tests], kind="stable")]
    adjusted = np.full(given.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return adjusted


def number_groups(groups: Groups) -> tuple[list[Any], NDArray[np.intp]]:
    """The different groups in order of first appearance, (G,), and the number of each row's, (n,); ``ValueError`` if one misses."""
    codes = _codes(groups)
    first = np.unique(codes, return_index=True)[1]
    values = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    return [values[i] for i in first], codes
