"""Classification metrics of one prediction set, or of many resamples of it at once.

A *prediction set* is two arrays of the same n rows:

- ``y``: ``(n,)`` class ids 0..C-1 (categorical), or ``(n, K)`` 1 / 0 / NaN = unknown (multi-label);
- ``p``: ``(n, C)`` or ``(n, K)`` finite probabilities.

A resampling is a matrix of counts, ``weights`` ``(R, n)``: how often each of R resamples holds each row (see
:mod:`scotoma.metrics.intervals`, which leaves patients out and makes intervals and paired tests of it). Every metric
takes one and is computed for all resamples at once: one sort, then cumulative sums; or one matrix product. Without
``weights`` every row counts once and the result has no axis R.

Conventions. Categorical decisions are the argmax, multi-label ones ``p > 0.5``. With two classes ``auroc``,
``average_precision``, ``sensitivity``, ``specificity`` and ``brier`` are those of class 1; otherwise a metric is the
mean over classes, each against the rest, or over labels. A class without a positive row, in y or in a resample, has no
value: it is NaN and left out of that mean. A row whose label is unknown is left out for that label only. Values are
fractions, not percentages. Wrong input (shapes that disagree, values that are not finite) raises ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PER_CLASS_METRICS: tuple[str, ...] = ("auroc", "average_precision", "sensitivity", "specificity", "f1")
METRICS: tuple[str, ...] = (*PER_CLASS_METRICS, "accuracy", "balanced_accuracy", "mcc", "brier", "ece")
ECE_BINS = 15
_RANKING = ("auroc", "average_precision")
_BLOCK = 1 << 17  # entries of a block of resamples: 1 MiB of float64, so that cumulative sums stay in the L2 cache

Array = NDArray[Any]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Cases:
    """A checked prediction set in one form for both kinds: every array is (n, K), one column per class or label."""

    truth: NDArray[np.bool_]
    known: NDArray[np.bool_]
    probability: FloatArray
    decision: NDArray[np.bool_]
    categorical: bool

    def columns(self, name: str) -> list[int]:
        """Columns whose mean is the overall value: class 1 alone where there are two classes (F1 stays macro)."""
        count = self.truth.shape[1]
        return [1] if self.categorical and count == 2 and name != "f1" else list(range(count))


def check_cases(y: ArrayLike, p: ArrayLike, decision: ArrayLike | None = None) -> Cases:
    """The two arrays, checked and in one form; with ``decision`` (n, K) bool instead of the argmax or p > 0.5.

    Raises:
        ValueError: they disagree in shape, are empty, or hold anything but what the module states.
    """
    truth, probability = np.asarray(y), np.asarray(p, dtype=np.float64)
    if bad := int((~np.isfinite(probability)).sum()):
        raise ValueError(f"predictions must be finite, but {bad} of {probability.size} are NaN or infinite")
    if probability.ndim != 2 or not len(probability) or truth.shape[:1] != probability.shape[:1]:
        raise ValueError(f"y and p must hold the same rows, at least one: y is {truth.shape}, p {probability.shape}")
    if truth.ndim == 1:
        ids = np.arange(probability.shape[1])
        if len(ids) < 2 or not np.isin(truth, ids).all():
            raise ValueError(f"y must hold class ids 0..{len(ids) - 1}, one for each of the two or more columns of p")
        one_hot, likeliest = truth[:, None] == ids, probability.argmax(1)[:, None] == ids
        called = likeliest if decision is None else _check_decision(decision, probability)
        return Cases(one_hot, np.ones_like(one_hot), probability, called, categorical=True)
    labels = truth.astype(np.float64)
    known = ~np.isnan(labels)
    if labels.shape != probability.shape or not np.isin(labels[known], (0.0, 1.0)).all():
        raise ValueError(f"multi-label y must be 1, 0 or NaN, shaped as p: y is {labels.shape}, p {probability.shape}")
    called = probability > 0.5 if decision is None else _check_decision(decision, probability)
    return Cases(labels == 1, known, probability, called & known, categorical=False)


def _check_decision(decision: ArrayLike, probability: FloatArray) -> NDArray[np.bool_]:
    called = np.asarray(decision, dtype=bool)
    if called.shape != probability.shape:
        raise ValueError(f"decisions must be shaped as p: they are {called.shape}, p {probability.shape}")
    return called


def check_name(name: str, cases: Cases) -> None:
    """Raise ValueError unless the metric exists and can be computed of these targets and probabilities."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}: choose from {', '.join(METRICS)}")
    if name == "mcc" and not cases.categorical:
        raise ValueError("mcc is for class ids only, not for multi-label targets")
    # A half-precision softmax may overshoot one by a rounding error; logits overshoot by far more.
    if name not in _RANKING and (cases.probability.min() < -1e-3 or cases.probability.max() > 1 + 1e-3):
        raise ValueError(f"{name} needs probabilities between 0 and 1: apply softmax or sigmoid to the logits")


def check_weights(weights: Array | None, rows: int) -> Array:
    """The weights, (1, rows) ones for None; ValueError where they cover other than ``rows`` rows."""
    if weights is None:
        return np.ones((1, rows), dtype=np.uint16)
    if weights.ndim != 2 or weights.shape[1] != rows:
        raise ValueError(f"weights (or groups) must cover each of the {rows} rows once; their shape is {weights.shape}")
    return weights


def _blocks(weights: Array) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, weights.shape[1]))
    return (slice(start, start + step) for start in range(0, len(weights), step))


def divide(top: Array, bottom: Array) -> FloatArray:
    """Quotient that is NaN, without a warning, where the denominator is 0."""
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def mean_of_known(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    present = ~np.isnan(values)
    return divide(np.where(present, values, 0.0).sum(-1), present.sum(-1))


def _sums(weights: Array, features: Array) -> FloatArray:
    """Weighted column sums, (R, n) x (n, k) -> (R, k), without a float64 copy of all weights."""
    features = features.astype(np.float64)
    return np.concatenate([weights[block].astype(np.float64) @ features for block in _blocks(weights)])


def _running_sums(weights: Array, order: Array) -> FloatArray:
    """(r, n) -> (r, len(order) + 1): column j is the weight of the first j rows in that order."""
    result = np.zeros((len(weights), len(order) + 1))
    np.cumsum(weights.take(order, axis=1), axis=1, dtype=np.float64, out=result[:, 1:])
    return result


def _auroc(truth: Array, known: Array, score: Array, weights: Array) -> FloatArray:
    """Mann-Whitney form: the weight of the negatives below each positive, ties counted half; -> (R,)."""
    positives, negatives = np.flatnonzero(truth & known), np.flatnonzero(~truth & known)
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    below = np.searchsorted(score[negatives], score[positives], side="left")
    not_above = np.searchsorted(score[negatives], score[positives], side="right")
    result = np.empty(len(weights))
    for block in _blocks(weights):
        positive = weights[block].take(positives, axis=1).astype(np.float64)
        negative = _running_sums(weights[block], negatives)
        beaten = negative.take(below, axis=1) + negative.take(not_above, axis=1)
        result[block] = divide(np.einsum("ri,ri->r", positive, beaten) / 2, positive.sum(1) * negative[:, -1])
    return result


def _average_precision(truth: Array, known: Array, score: Array, weights: Array) -> FloatArray:
    """Mean, over the positives, of the precision among all rows scored at least as high; -> (R,)."""
    order = np.flatnonzero(known)
    order = order[np.argsort(-score[order], kind="stable")]
    positives = order[truth[order]]
    # Rows with the same score enter together, so a positive is read at the end of its run of ties.
    end = np.searchsorted(-score[order], -score[positives], side="right")
    end_positive = np.searchsorted(-score[positives], -score[positives], side="right")
    result = np.empty(len(weights))
    for block in _blocks(weights):
        positive = weights[block].take(positives, axis=1).astype(np.float64)
        true_positives = _running_sums(weights[block], positives)
        drawn = _running_sums(weights[block], order).take(end, axis=1)
        drawn[drawn == 0] = 1.0  # the positive itself then has weight 0, and any finite precision will do
        precision = true_positives.take(end_positive, axis=1) / drawn
        result[block] = divide(np.einsum("ri,ri->r", positive, precision), true_positives[:, -1])
    return result


def _counts(cases: Cases, weights: Array, columns: Sequence[int]) -> tuple[FloatArray, ...]:
    """True positives, positives, positive decisions and known rows, each (R, len(columns))."""
    truth, decision, known = (a[:, columns] for a in (cases.truth, cases.decision, cases.known))
    sums = _sums(weights, np.concatenate([truth & decision, truth, decision, known], axis=1))
    return tuple(np.split(sums, 4, axis=1))


def classwise(name: str, cases: Cases, weights: Array, columns: Sequence[int]) -> FloatArray:
    """One of `PER_CLASS_METRICS` for some columns, (R, len(columns))."""
    if name in _RANKING:
        curve = _auroc if name == "auroc" else _average_precision
        parts = [curve(cases.truth[:, k], cases.known[:, k], cases.probability[:, k], weights) for k in columns]
        return np.stack(parts, axis=1)
    true_positive, positive, decided, total = _counts(cases, weights, columns)
    negative = total - positive
    share = {
        "sensitivity": (true_positive, positive),
        "specificity": (negative - decided + true_positive, negative),
        "f1": (2 * true_positive, positive + decided),
    }[name]
    return np.where(positive > 0, divide(*share), np.nan)


def _calibration_error(confidence: Array, outcome: Array, known: Array, weights: Array) -> FloatArray:
    bins = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], confidence, side="right")
    gaps = np.where(known, outcome - confidence, 0.0)[:, None] * (bins[:, None] == np.arange(ECE_BINS))
    sums = _sums(weights, np.column_stack([gaps, known]))
    return divide(np.abs(sums[:, :-1]).sum(1), sums[:, -1])


def overall(name: str, cases: Cases, weights: Array) -> FloatArray:
    """Any metric over resamples, (R,)."""
    columns = cases.columns(name)
    if name in PER_CLASS_METRICS:
        return mean_of_known(classwise(name, cases, weights, columns))
    if name == "brier":
        squares = np.where(cases.known, (cases.probability - cases.truth) ** 2, 0.0)[:, columns]
        errors = divide(_sums(weights, squares), _sums(weights, cases.known[:, columns]))
        return errors.sum(1) if cases.categorical else mean_of_known(errors)
    if name == "ece":
        parts = list(zip(cases.probability.T, cases.truth.T, cases.known.T, strict=True))
        if cases.categorical:
            correct = np.logical_or.reduce(cases.truth & cases.decision, axis=1)
            parts = [(cases.probability.max(1), correct, cases.known[:, 0])]
        return mean_of_known(np.stack([_calibration_error(*part, weights) for part in parts], axis=1))
    every = range(cases.truth.shape[1])
    if name == "balanced_accuracy":
        recall = classwise("sensitivity", cases, weights, every)
        return mean_of_known(recall if cases.categorical else (recall + classwise("specificity", cases, weights, every)) / 2)
    true_positive, positive, decided, total = _counts(cases, weights, every)
    if name == "accuracy" and cases.categorical:
        return divide(true_positive.sum(1), total[:, 0])
    if name == "accuracy":
        return mean_of_known(divide(total - positive - decided + 2 * true_positive, total))
    # mcc: Gorodkin's (2004) R_K; 0 where truth or decisions are constant, as in scikit-learn.
    rows = total[:, 0]
    covariance = true_positive.sum(1) * rows - (positive * decided).sum(1)
    spread = (rows**2 - (positive**2).sum(1)) * (rows**2 - (decided**2).sum(1))
    return np.where(spread > 0, divide(covariance, np.sqrt(spread)), np.where(rows > 0, 0.0, np.nan))


def _one_label(y01: ArrayLike, score: ArrayLike) -> Cases:
    return check_cases(np.asarray(y01, dtype=np.float64)[:, None], np.asarray(score)[:, None])


def score(name: str, y: ArrayLike, p: ArrayLike, weights: Array | None = None) -> float | FloatArray:
    """Any of `METRICS`: a float, or (R,) with ``weights``, over all classes or labels.

    ``accuracy`` and ``balanced_accuracy`` of multi-label targets are means over labels; ``mcc`` is for class ids only.
    ``brier`` is the mean squared error of p: of class 1 with two classes, summed over more, averaged over labels;
    ``ece`` the expected calibration error (Guo et al. 2017) in 15 equal-width bins [low, high), the last one closed: of
    the top probability for class ids, of p itself for labels. For these two lower is better.

    Raises ``ValueError`` for an unknown metric and, but for the two ranking metrics, for p outside [0, 1] (logits).
    """
    cases = check_cases(y, p)
    check_name(name, cases)
    values = overall(name, cases, check_weights(weights, len(cases.truth)))
    return float(values[0]) if weights is None else values


def roc_curve(y01: ArrayLike, score: ArrayLike, grid: ArrayLike) -> FloatArray:
    """True-positive rates at the false-positive rates ``grid`` (g,), linear between the points of the exact ROC.

    ``y01`` (n,) is 1 / 0, rows with NaN are left out; ``score`` (n,) is finite, higher = more likely positive. Where the curve is
    vertical, its upper end; all NaN where a class is absent.
    """
    cases, rates = _one_label(y01, score), np.asarray(grid, dtype=np.float64)
    truth, values = cases.truth[cases.known], -cases.probability[cases.known]
    if truth.all() or not truth.any():
        return np.full(rates.shape, np.nan)
    positive, negative = np.sort(values[truth]), np.sort(values[~truth])
    thresholds = np.concatenate([[-np.inf], np.unique(values)])
    tpr = np.searchsorted(positive, thresholds, side="right") / len(positive)
    fpr = np.searchsorted(negative, thresholds, side="right") / len(negative)
    return np.interp(rates, fpr, tpr)  # which takes the last of several points at one false-positive rate


def confusion(y: ArrayLike, p: ArrayLike, decision: ArrayLike | None = None) -> NDArray[np.int64]:
    """Confusion matrix (C, C) of the argmax, or of decisions (n, C) of one class each: counts, rows = truth.

    Raises ``ValueError`` for multi-label targets.
    """
    cases = check_cases(y, p, decision)
    if not cases.categorical:
        raise ValueError("a confusion matrix needs class ids, not multi-label targets")
    return cases.truth.T.astype(np.int64) @ cases.decision.astype(np.int64)


MICRO = ("auroc", "average_precision")
MICRO_BLOCK = 64  # resamples that are spread over all classes at a time


def check_label(y01: ArrayLike, score: ArrayLike) -> tuple[Array, Array, FloatArray]:
    """One label, checked: truth (n,) bool, known (n,) bool, score (n,)."""
    cases = _one_label(y01, score)
    return cases.truth[:, 0], cases.known[:, 0], cases.probability[:, 0]


def check_both_classes(y01: ArrayLike, score: ArrayLike) -> tuple[Array, FloatArray]:
    """Truth and score of the known rows; ValueError unless both classes are there."""
    truth, known, values = check_label(y01, score)
    truth, values = truth[known], values[known]
    if truth.all() or not truth.any():
        raise ValueError(f"positive and negative rows are needed, not {int(truth.sum())} positive of {len(truth)} known rows")
    return truth, values


def check_probabilities(p: ArrayLike, missing: bool = False) -> FloatArray:
    """P as it is; ValueError unless all of it lies between 0 and 1, or is NaN where some may be ``missing``."""
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1) | (missing & np.isnan(values))).all():
        raise ValueError("p must be probabilities between 0 and 1: apply softmax or sigmoid to the logits")
    return values


def micro(name: str, y: ArrayLike, p: ArrayLike, weights: Array | None = None) -> float | FloatArray:
    """AUROC or average precision micro-averaged: every pair of a row and a class (or known label) counts as a row of one label.

    A float, or (R,) with ``weights``.
    """
    cases = check_cases(y, p)
    check_name(name, cases)
    if name not in MICRO:
        raise ValueError(f"{name} has no micro average here: choose from {', '.join(MICRO)}")
    columns = cases.truth.shape[1]
    column = (-1, 1)
    flat = Cases(
        cases.truth.reshape(column),
        cases.known.reshape(column),
        cases.probability.reshape(column),
        cases.decision.reshape(column),
        categorical=False,
    )
    counts = check_weights(weights, len(cases.truth))
    blocks = (counts[i : i + MICRO_BLOCK] for i in range(0, len(counts), MICRO_BLOCK))
    values = np.concatenate([overall(name, flat, np.repeat(block, columns, axis=1)) for block in blocks])
    return float(values[0]) if weights is None else values
