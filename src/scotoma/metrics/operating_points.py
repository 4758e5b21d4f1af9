"""From probabilities to decisions: thresholds, calibration, net benefit, and one answer a patient.

The conventions of ``metrics.classification`` hold: ``y`` ``(n,)`` class ids or ``(n, K)`` 1 / 0 / NaN = unknown, ``p`` ``(n, C)``
or ``(n, K)``, bootstrap counts ``weights`` ``(R, n)``; ``y01`` ``(n,)`` is one label, 1 / 0 / NaN, whose unknown rows are left
out; a value that does not exist is NaN; wrong input raises ``ValueError``. A row is called positive where its score is at or
above the threshold. Thresholds and temperatures are chosen on validation rows and used on test rows; what a local recalibration
would bring is told by `cross_recalibrated`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit, logsumexp, softmax

from scotoma.metrics.bootstrap import Groups, numbered
from scotoma.metrics.classification import ECE_BINS, Array, Cases, FloatArray, check_cases, check_name, check_weights, overall

Rule = Literal["youden"] | float
How = Literal["mean", "max", "noisy_or"]
MICRO = ("auroc", "average_precision")
MICRO_BLOCK = 64  # resamples that are spread over all classes at a time
TEMPERATURES = (0.01, 100.0)  # between which the best one is looked for
SURE = 1e-7  # probabilities nearer to 0 or 1 count as this near: what a float32 softmax can tell from 1


def _label(y01: ArrayLike, score: ArrayLike) -> tuple[Array, Array, FloatArray]:
    """One label, checked: truth (n,) bool, known (n,) bool, score (n,)."""
    cases = check_cases(np.asarray(y01, dtype=np.float64)[:, None], np.asarray(score)[:, None])
    return cases.truth[:, 0], cases.known[:, 0], cases.probability[:, 0]


def _both_classes(y01: ArrayLike, score: ArrayLike) -> tuple[Array, FloatArray]:
    """Truth and score of the known rows; ValueError unless both classes are there."""
    truth, known, values = _label(y01, score)
    truth, values = truth[known], values[known]
    if truth.all() or not truth.any():
        raise ValueError(f"positive and negative rows are needed, not {int(truth.sum())} positive of {len(truth)} known rows")
    return truth, values


def _probabilities(p: ArrayLike, missing: bool = False) -> FloatArray:
    """P as it is; ValueError unless all of it lies between 0 and 1, or is NaN where some may be ``missing``."""
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1) | (missing & np.isnan(values))).all():
        raise ValueError("p must be probabilities between 0 and 1: apply softmax or sigmoid to the logits")
    return values


def _divide(top: Array, bottom: Array) -> FloatArray:
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom != 0)


def threshold(y01: ArrayLike, score: ArrayLike, rule: Rule) -> float:
    """The score at and above which rows are called positive: one of the scores, the highest that satisfies the rule.

    ``rule`` is ``"youden"``, the greatest sensitivity + specificity - 1 (Youden 1950), or the sensitivity to be reached, in (0, 1].
    Raises ``ValueError`` for another rule and where a class is absent.
    """
    truth, values = _both_classes(y01, score)
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
    truth, known, values = _label(y01, score)
    called = (values >= threshold) & known
    counts = check_weights(weights, len(truth)) @ np.stack([truth & called, truth, called, known], axis=1).astype(np.float64)
    hit, positive, called_positive, total = counts.T
    negative, called_negative = total - positive, total - called_positive
    rejected = negative - called_positive + hit
    sensitivity, specificity = _divide(hit, positive), _divide(rejected, negative)
    found = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": _divide(hit, called_positive),
        "npv": _divide(rejected, called_negative),
        "f1": _divide(2 * hit, positive + called_positive),
        "accuracy": _divide(hit + rejected, total),
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }
    return {name: float(v[0]) if weights is None else v for name, v in found.items()}


def predictive_values(sensitivity: ArrayLike, specificity: ArrayLike, prevalence: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """PPV and NPV where a share ``prevalence`` of the patients is positive, by Bayes's rule; arguments are broadcast.

    A test set with as many cases as controls says nothing about them by itself. NaN where no row is called positive (negative),
    and where a rate is NaN, as that of a resample without a positive (negative) row is.
    """
    rates_ = (_probabilities(v, missing=True) for v in (sensitivity, specificity))
    sens, spec, share = np.broadcast_arrays(*rates_, _probabilities(prevalence))
    hit, rejected = sens * share, spec * (1 - share)
    return _divide(hit, hit + (1 - spec) * (1 - share)), _divide(rejected, rejected + (1 - sens) * share)


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


def tempered(p: ArrayLike, temperature: float, multilabel: bool) -> FloatArray:
    """Probabilities at another temperature, without their logits: p^(1/T) normalised over classes; logit(p) / T of labels."""
    values = _probabilities(p)
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

    truth, values = _both_classes(y01, _probabilities(p))
    z = logit(np.clip(values, SURE, 1 - SURE))
    positive, negative = z[truth], z[~truth]
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        raise ValueError("p parts the classes without error, or is constant: there is no finite calibration slope")
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=200).fit(z[:, None], truth)
    in_the_large = brentq(lambda shift: float(expit(z + shift).mean() - truth.mean()), -50, 50)
    return {"intercept": float(fitted.intercept_[0]), "slope": float(fitted.coef_[0, 0]), "in_the_large": float(in_the_large)}


def recalibrated(p: ArrayLike, intercept: float, slope: float) -> FloatArray:
    """Probabilities of one label (or of each, any shape), corrected by what `recalibration` found: intercept + slope * logit(p)."""
    return np.asarray(expit(intercept + slope * logit(np.clip(_probabilities(p), SURE, 1 - SURE))))


def cross_recalibrated(y01: ArrayLike, p: ArrayLike, groups: Groups, folds: int = 5, seed: int = 0) -> FloatArray:
    """Probabilities of one label, each recalibrated by what other patients' rows say: local recalibration without its optimism.

    Patients (``groups``) with a positive row and patients without are dealt to the folds in turn; the rows of a fold get intercept
    and slope from those of the others. The slope may be negative where the order is worse than chance.

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
    truth, known, values = _label(y01, _probabilities(p))
    names, codes = numbered(groups)
    found = np.bincount(codes, truth & known, len(names)) > 0
    order = np.random.default_rng(seed).permutation(len(names))
    fold = np.empty(len(names), np.int64)
    fold[order[np.argsort(~found[order], kind="stable")]] = np.arange(len(names)) % folds
    result, labels = np.empty(len(values)), np.where(known, truth, np.nan)
    for k in range(folds):
        inside = fold[codes] == k
        fitted = recalibration(labels[~inside], values[~inside])
        result[inside] = recalibrated(values[inside], fitted["intercept"], fitted["slope"])
    return result


def log_loss(y01: ArrayLike, p: ArrayLike, weights: Array | None = None) -> float | FloatArray:
    """Mean negative logarithm of the probability given to what was true, of one label; lower is better: a float, or (R,)."""
    truth, known, values = _label(y01, _probabilities(p))
    clipped = np.clip(values, SURE, 1 - SURE)
    losses = np.where(known, -np.log(np.where(truth, clipped, 1 - clipped)), 0.0)
    sums = check_weights(weights, len(truth)) @ np.stack([losses, known], axis=1).astype(np.float64)
    found = _divide(sums[:, 0], sums[:, 1])
    return float(found[0]) if weights is None else found


def reliability(y: ArrayLike, p: ArrayLike, bins: int = ECE_BINS, weights: Array | None = None) -> dict[str, Array]:
    """The points of a reliability diagram, in the equal-width bins by which ``metrics.score("ece")`` counts.

    Args:
        y: (n,) class ids with p (n, C), of which the top probability and whether it is right count; or one label with p (n,).
        p: probabilities.
        bins: how many.
        weights: bootstrap.

    Returns:
        ``confidence`` (mean probability), ``frequency`` (share that is right, or positive) and ``count``, each (bins,), or
        (R, bins) with ``weights``; the first two are NaN where a bin is empty.
    """
    values, truth = _probabilities(p), np.asarray(y)
    if truth.ndim != 1 or values.ndim > 2:
        raise ValueError("give class ids with p (n, C), or one label with p (n,): several labels one after the other")
    if values.ndim == 2:
        outcome: Array = check_cases(truth, values).truth[np.arange(len(values)), values.argmax(1)]
        confidence, known = values.max(1), np.ones(len(values), bool)
    else:
        outcome, known, confidence = _label(truth, values)
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="right")
    member = (place[:, None] == np.arange(bins)) & known[:, None]
    parts = np.concatenate([member, member * confidence[:, None], member * outcome[:, None]], axis=1)
    count, total, right = np.split(check_weights(weights, len(known)) @ parts.astype(np.float64), 3, axis=1)
    found = {"confidence": _divide(total, count), "frequency": _divide(right, count), "count": count}
    return {name: v[0] if weights is None else v for name, v in found.items()}


def net_benefit(y01: ArrayLike, p: ArrayLike, thresholds: ArrayLike, weights: Array | None = None) -> dict[str, FloatArray]:
    """Decision curve (Vickers and Elkin 2006): true positives less false ones, each false one weighed t / (1 - t), a patient.

    Args:
        y01: one label.
        p: (n,) its calibrated probability.
        thresholds: (T,) in (0, 1): at t, one is ready to treat (1 - t) / t patients in vain to treat one rightly.
        weights: bootstrap.

    Returns:
        ``model`` (those with p >= t are treated), ``treat_all`` and ``treat_none`` (0), each (T,), or (R, T) with ``weights``.
    """
    truth, known, values = _label(y01, _probabilities(p))
    at = np.asarray(thresholds, dtype=np.float64)
    if at.ndim != 1 or not ((at > 0) & (at < 1)).all():
        raise ValueError("thresholds must be a list of probabilities above 0 and below 1")
    called = (values[:, None] >= at) & known[:, None]
    sums = check_weights(weights, len(truth)) @ np.column_stack([called & truth[:, None], called, truth, known]).astype(np.float64)
    hit, treated, positive, total = sums[:, : len(at)], sums[:, len(at) : -2], sums[:, -2, None], sums[:, -1, None]
    odds = at / (1 - at)
    model = _divide(hit - (treated - hit) * odds, total)
    everyone = _divide(positive - (total - positive) * odds, total)
    found = {"model": model, "treat_all": everyone, "treat_none": np.where(total > 0, np.zeros_like(model), np.nan)}
    return {name: v[0] if weights is None else v for name, v in found.items()}


def aggregate(p: ArrayLike, groups: Groups, how: How, multilabel: bool = False) -> tuple[list[Any], FloatArray]:
    """One prediction a patient (study, group) from those of its images.

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
    values = _probabilities(p)
    names, codes = numbered(groups)
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
    names, codes = numbered(groups)
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
