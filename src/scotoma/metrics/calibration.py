"""Calibration: temperature, recalibration, the reliability diagram, log loss. Conventions as in ``metrics.classification``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, logit, logsumexp, softmax

from scotoma.metrics.bootstrap import Groups, number_groups
from scotoma.metrics.classification import (
    ECE_BINS,
    Array,
    FloatArray,
    check_both_classes,
    check_cases,
    check_label,
    check_probabilities,
    check_weights,
    divide,
)

TEMPERATURES = (0.01, 100.0)  # between which the best one is looked for
FEWEST_FOR_OFFSET, OFFSET = 20, 0.5  # validation rows of a class, and how far its logits are expected to be off
LINES, NEWTON = 64, 6  # resamples fitted at a time, and steps of each
SURE = 1e-7  # probabilities nearer to 0 or 1 count as this near: what a float32 softmax can tell from 1


def temperature(y: ArrayLike, logits: ArrayLike) -> float:
    """The T > 0 at which softmax(logits / T), or sigmoid(logits / T), has the lowest log loss (Guo et al. 2017, section 4.2).

    Between ``TEMPERATURES``: predictions without an error would have it at 0, and useless ones at infinity.
    """
    cases = check_cases(y, logits)
    z, sign = cases.probability, np.where(cases.truth, 1.0, -1.0)

    def loss(log_t: float) -> float:
        scaled = z / np.exp(log_t)
        if cases.categorical:
            return float((logsumexp(scaled, axis=1) - scaled[cases.truth]).mean())
        return float(np.logaddexp(0, -sign * scaled)[cases.known].mean())

    if not cases.known.any():
        raise ValueError("no label is known: there is nothing to calibrate on")
    # The loss is convex in 1 / T, so it has one minimum in log T too.
    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-8}).x))


def offsets(y: ArrayLike, logits: ArrayLike) -> FloatArray:
    """What to add to each class's (or label's) logits so that its mean probability is nearer to its share: (C,).

    The offsets of the lowest log loss, drawn to 0 by a normal prior of standard deviation ``OFFSET``; of a class with fewer than
    ``FEWEST_FOR_OFFSET`` positive (of labels, or negative) rows 0.

    Args:
        y: (n,) class ids, or (n, K) labels.
        logits: (n, C), at their temperature.
    """
    cases = check_cases(y, logits)
    z, sides = cases.probability, [cases.known & cases.truth, cases.known & ~cases.truth]
    enough = np.min([side.sum(0) for side in (sides[:1] if cases.categorical else sides)], axis=0) >= FEWEST_FOR_OFFSET
    if not enough.any():
        return np.zeros(z.shape[1])

    def loss(free: FloatArray) -> tuple[float, FloatArray]:
        added = np.zeros(z.shape[1])
        added[enough] = free
        moved = z + added
        p = softmax(moved, axis=1) if cases.categorical else expit(moved)
        if cases.categorical:
            total = float((logsumexp(moved, axis=1) - moved[cases.truth]).sum())
        else:
            total = float(np.logaddexp(0, np.where(cases.truth, -moved, moved))[cases.known].sum())
        gradient = np.where(cases.known, p - cases.truth, 0.0).sum(0)[enough] + free / OFFSET**2
        return total + float((free**2).sum()) / (2 * OFFSET**2), gradient

    found = np.zeros(z.shape[1])
    found[enough] = minimize(loss, np.zeros(int(enough.sum())), jac=True, method="L-BFGS-B").x
    return found


def apply_temperature(p: ArrayLike, temperature: float, multilabel: bool) -> FloatArray:
    """Probabilities at another temperature, without their logits: p^(1/T) normalised over classes; logit(p) / T of labels."""
    values = check_probabilities(p)
    if not 0 < temperature < np.inf:
        raise ValueError(f"a temperature is above 0 and finite, not {temperature}")
    if multilabel:
        return np.asarray(expit(logit(values) / temperature))
    with np.errstate(divide="ignore"):  # the logarithm of 0 is minus infinity, which softmax makes 0 again
        return np.asarray(softmax(np.log(values) / temperature, axis=-1))


def recalibration(y01: ArrayLike, p: ArrayLike) -> dict[str, float]:
    """Calibration of one label in numbers (Cox 1958; Steyerberg 2019, chapter 15).

    Returns:
        ``intercept`` and ``slope`` of the logistic regression of y on logit(p): 0 and 1 where p is calibrated, the slope below 1
        where it is too sure; ``in_the_large``: the intercept alone, at slope 1, positive where p is too low on average.

    Raises:
        ValueError: a class is absent; or one cut of p parts the classes (nearly) without error, so that no finite slope exists.
    """
    from sklearn.linear_model import LogisticRegression

    truth, values = check_both_classes(y01, check_probabilities(p))
    z = logit(np.clip(values, SURE, 1 - SURE))
    positive, negative = z[truth], z[~truth]
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        raise ValueError("p parts the classes without error, or is constant: there is no finite calibration slope")
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=200).fit(z[:, None], truth)
    in_the_large = brentq(lambda shift: float(expit(z + shift).mean() - truth.mean()), -50, 50)
    return {"intercept": float(fitted.intercept_[0]), "slope": float(fitted.coef_[0, 0]), "in_the_large": float(in_the_large)}


def recalibrations(y01: ArrayLike, p: ArrayLike, weights: Array) -> dict[str, FloatArray]:
    """`recalibration` under weights (R, n), the first line of which holds all rows: (R,) each, NaN where it does not exist.

    Newton's method begins at the first line's solution, of which a line without one patient is not far.
    """
    truth, known, values = check_label(y01, check_probabilities(p))
    first = recalibration(y01, p)
    z, y = logit(np.clip(values, SURE, 1 - SURE)), truth.astype(np.float64)
    counts = check_weights(weights, len(truth)) * known
    found = {name: np.empty(len(counts)) for name in first}
    for start in range(0, len(counts), LINES):
        w = counts[start : start + LINES].astype(np.float64)
        a, b = np.full(len(w), first["intercept"]), np.full(len(w), first["slope"])
        shift = np.full(len(w), first["in_the_large"])
        for _ in range(NEWTON):
            fitted = expit(a[:, None] + b[:, None] * z)
            error, spread = w * (y - fitted), w * fitted * (1 - fitted)
            g0, g1 = error.sum(1), error @ z
            h00, h01, h11 = spread.sum(1), spread @ z, spread @ z**2
            determinant = h00 * h11 - h01**2
            a, b = a + divide(h11 * g0 - h01 * g1, determinant), b + divide(h00 * g1 - h01 * g0, determinant)
            fitted = expit(z + shift[:, None])
            shift = shift + divide((w * (y - fitted)).sum(1), (w * fitted * (1 - fitted)).sum(1))
        one_class = ((w @ y) == 0) | ((w @ y) == w.sum(1))
        for name, of_lines in (("intercept", a), ("slope", b), ("in_the_large", shift)):
            found[name][start : start + LINES] = np.where(one_class, np.nan, of_lines)
    return {name: np.concatenate([[first[name]], v[1:]]) for name, v in found.items()}


def recalibrate(p: ArrayLike, intercept: float, slope: float) -> FloatArray:
    """Probabilities of one label (or of each, any shape), corrected by what `recalibration` found: intercept + slope * logit(p)."""
    return np.asarray(expit(intercept + slope * logit(np.clip(check_probabilities(p), SURE, 1 - SURE))))


def cross_recalibrate(y01: ArrayLike, p: ArrayLike, groups: Groups, folds: int = 5, seed: int = 0) -> FloatArray:
    """Probabilities of one label, each recalibrated by what other patients' rows say: local recalibration without its optimism.

    Patients (``groups``) with a positive row and patients without are assigned to the folds in turn; the rows of a fold get
    intercept and slope from those of the others. The slope may be negative where the order is worse than chance.

    Args:
        y01: one label.
        p: (n,) its probability.
        groups: (n,) of anything hashable.
        folds: how many.
        seed: of the deal.

    Returns:
        (n,) probabilities; those of rows whose label is unknown too.

    Raises:
        ValueError: as `recalibration`, on the rows outside any fold.
    """
    truth, known, values = check_label(y01, check_probabilities(p))
    names, codes = number_groups(groups)
    found = np.bincount(codes, truth & known, len(names)) > 0
    order = np.random.default_rng(seed).permutation(len(names))
    fold = np.empty(len(names), np.int64)
    fold[order[np.argsort(~found[order], kind="stable")]] = np.arange(len(names)) % folds
    result, labels = np.empty(len(values)), np.where(known, truth, np.nan)
    for k in range(folds):
        inside = fold[codes] == k
        fitted = recalibration(labels[~inside], values[~inside])
        result[inside] = recalibrate(values[inside], fitted["intercept"], fitted["slope"])
    return result


def log_loss(y01: ArrayLike, p: ArrayLike, weights: Array | None = None) -> float | FloatArray:
    """Mean negative logarithm of the probability given to what was true, of one label; lower is better: a float, or (R,)."""
    truth, known, values = check_label(y01, check_probabilities(p))
    clipped = np.clip(values, SURE, 1 - SURE)
    losses = np.where(known, -np.log(np.where(truth, clipped, 1 - clipped)), 0.0)
    sums = check_weights(weights, len(truth)) @ np.stack([losses, known], axis=1).astype(np.float64)
    found = divide(sums[:, 0], sums[:, 1])
    return float(found[0]) if weights is None else found


def bins_of(p: ArrayLike, bins: int = ECE_BINS) -> Array:
    """The equal-width bin of each probability, 0 to bins - 1."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], np.asarray(p, dtype=np.float64), side="right")


def reliability(y: ArrayLike, p: ArrayLike, bins: int = ECE_BINS, weights: Array | None = None) -> dict[str, Array]:
    """The points of a reliability diagram, in the equal-width bins by which ``metrics.score("ece")`` counts.

    Args:
        y: (n,) class ids with p (n, C), of which the top probability and whether it is right count; or one label with p (n,).
        p: probabilities.
        bins: how many.
        weights: of resamples.

    Returns:
        ``confidence`` (mean probability), ``frequency`` (share that is right, or positive) and ``count``, each (bins,), or
        (R, bins) with ``weights``; the first two are NaN where a bin is empty.
    """
    values, truth = check_probabilities(p), np.asarray(y)
    if truth.ndim != 1 or values.ndim > 2:
        raise ValueError("give class ids with p (n, C), or one label with p (n,): several labels one after the other")
    if values.ndim == 2:
        outcome: Array = check_cases(truth, values).truth[np.arange(len(values)), values.argmax(1)]
        confidence, known = values.max(1), np.ones(len(values), bool)
    else:
        outcome, known, confidence = check_label(truth, values)
    member = (bins_of(confidence, bins)[:, None] == np.arange(bins)) & known[:, None]
    parts = np.concatenate([member, member * confidence[:, None], member * outcome[:, None]], axis=1)
    count, total, right = np.split(check_weights(weights, len(known)) @ parts.astype(np.float64), 3, axis=1)
    found = {"confidence": divide(total, count), "frequency": divide(right, count), "count": count}
    return {name: v[0] if weights is None else v for name, v in found.items()}
