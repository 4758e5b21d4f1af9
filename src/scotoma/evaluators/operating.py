"""Operating points of a classifier: decisions at its thresholds, predictive values at a prevalence, calibration, net benefit.

Temperature and thresholds are those that ``finetune`` chose on its validation rows and wrote into the model (without any: none, and
0.5); the test rows choose nothing. Probabilities of several classes are taken one class against the rest. What recalibrating them
on the spot would bring is told by cross-fitting over the test patients, each corrected by what the others show.
"""

from __future__ import annotations

import numpy as np

from scotoma.errors import notice
from scotoma.evaluators.base import Context, Row
from scotoma.evaluators.metrics import probabilities
from scotoma.evaluators.metrics import require as require
from scotoma.metrics import calibration, net_benefit, operating_points
from scotoma.metrics.bootstrap import bootstrap_weights, estimate
from scotoma.metrics.classification import score
from scotoma.metrics.summaries import HEADLINE

PROTOCOL = 1
TRAINS = False
PREVALENCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
TREATED = tuple(np.round(np.arange(0.05, 1, 0.05), 2).tolist())  # probabilities at which a treatment may begin
UNITS = ("study", "patient")
FOLDS = 5  # of the local recalibration


def evaluate(context: Context, resamples: int = 1000) -> list[Row]:
    """Rows of every class that has positive and negative test rows, and of every unit that has several images.

    Keys beside the usual: ``threshold``; ``prevalence`` (of ppv and npv); ``confidence`` and ``count`` of the points of a
    reliability diagram (metric ``reliability``); ``recalibrated`` of brier, ece and log_loss (their ``..._change`` is after less
    before); ``unit`` (image, study, patient) of one answer and its ``aggregation``.
    """
    test, target = context.test, context.target
    y, units = target.y[test], context.split.units[test]
    p = probabilities(context)[test]
    weights = np.pad(bootstrap_weights(units, resamples), ((1, 0), (0, 0)), constant_values=1)
    thresholds = context.info.thresholds or (0.5,) * len(target.classes)
    rows: list[Row] = []
    for k, label in enumerate(target.classes):
        truth = y[:, k] if target.multilabel else (y == k).astype(float)
        known = ~np.isnan(truth)
        if (not target.multilabel and len(target.classes) == 2 and k == 0) or len(np.unique(truth[known])) < 2:
            continue
        common = {"class": label, "n": int(known.sum())}
        found = _rate_decisions(truth, p[:, k], thresholds[k], weights, units) + _measure_calibration(truth, p[:, k], weights)
        found += _measure_recalibration(truth, p[:, k], units, weights) + _worth(truth, p[:, k], weights)
        rows += [{**common, **row} for row in found]
    together = [r for u in UNITS if u in context.dataset.table.columns for r in _by_unit(context, u, y, p, resamples)]
    if together:
        one = {"metric": HEADLINE, "unit": "image", "aggregation": "none", "n": len(y)}
        rows.append({**one, **estimate(score(HEADLINE, y, p, weights))})
    return rows + together


def _rate_decisions(truth: np.ndarray, p: np.ndarray, threshold: float, weights: np.ndarray, units: np.ndarray) -> list[Row]:
    """Rates at the threshold, and predictive values at prevalences."""
    rates = {name: np.asarray(values) for name, values in operating_points.rates(truth, p, threshold, weights).items()}
    of = {"sensitivity": units[truth == 1], "specificity": units[truth == 0]}
    common = {"threshold": threshold}
    rows = [{"metric": name, **common, **estimate(v, of.get(name))} for name, v in rates.items() if not np.isnan(v[0])]
    for prevalence in PREVALENCES:
        values = operating_points.predictive_values(rates["sensitivity"], rates["specificity"], prevalence)
        for name, of_name in zip(("ppv", "npv"), values, strict=True):
            if not np.isnan(of_name[0]):
                rows.append({"metric": name, "threshold": threshold, "prevalence": prevalence, **estimate(of_name)})
    return rows


def _measure_calibration(truth: np.ndarray, p: np.ndarray, weights: np.ndarray) -> list[Row]:
    """Points of the reliability diagram, and the calibration's intercept and slope where they exist."""
    points = calibration.reliability(truth, p, weights=weights)
    rows: list[Row] = [
        {"metric": "reliability", "confidence": float(points["confidence"][0, i]), "count": int(n), **estimate(frequency)}
        for i, (n, frequency) in enumerate(zip(points["count"][0], points["frequency"].T, strict=True))
        if n
    ]
    try:
        found = calibration.recalibration(truth, p)
    except ValueError:  # the classes are parted without error: no slope is finite
        return rows
    return rows + [{"metric": f"calibration_{name}", "value": value} for name, value in found.items()]


def _measure_recalibration(truth: np.ndarray, p: np.ndarray, units: np.ndarray, weights: np.ndarray) -> list[Row]:
    """Errors of the probabilities as they are, and as recalibrated here; none where no recalibration exists."""
    try:
        corrected = calibration.cross_recalibrate(truth, p, units, FOLDS)
    except ValueError:
        return []
    rows: list[Row] = []
    for name in ("brier", "ece", "log_loss"):
        before, after = (_error(name, truth, q, weights) for q in (p, corrected))
        rows += [{"metric": name, "recalibrated": again, **estimate(v)} for again, v in ((False, before), (True, after))]
        rows.append({"metric": f"{name}_change", **estimate(after - before)})
    return rows


def _error(name: str, truth: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(1 + R,) of one label."""
    found = calibration.log_loss(truth, p, weights) if name == "log_loss" else score(name, truth[:, None], p[:, None], weights)
    return np.asarray(found)


def _worth(truth: np.ndarray, p: np.ndarray, weights: np.ndarray) -> list[Row]:
    """The decision curve, beside treating all (treating none is 0)."""
    found = net_benefit.net_benefit(truth, p, TREATED, weights)
    names = {"model": "net_benefit", "treat_all": "net_benefit_all"}
    return [
        {"metric": metric, "threshold": t, **estimate(found[name][:, i])}
        for name, metric in names.items()
        for i, t in enumerate(TREATED)
    ]


def _by_unit(context: Context, unit: str, y: np.ndarray, p: np.ndarray, resamples: int) -> list[Row]:
    """AUROC of one answer per study or patient; none where each has one image. An image without that unit is one of its own."""
    column = context.dataset.table[unit].to_numpy()[context.test]
    ids = [f"image {i}" if value is None or value != value else f"unit {value}" for i, value in enumerate(column)]
    if len(set(ids)) == len(ids):
        return []
    labels = operating_points.group_labels(y, ids)
    known = np.asarray(~np.isnan(labels).all(1) if context.target.multilabel else labels >= 0)
    if left := int((~known).sum()):
        rest = "" if known.any() else ", which leaves none"
        notice(context.dataset.name, f"answers by {unit} leave out {left} of {len(known)} with images of several classes{rest}")
    if not known.any():
        return []
    rows: list[Row] = []
    for how in ("mean", "max", "noisy_or") if context.target.multilabel else ("mean",):
        _, answers = operating_points.aggregate(p, ids, how, context.target.multilabel)
        first = np.unique(ids, return_index=True)
        of_unit = dict(zip(first[0].tolist(), context.split.units[context.test][first[1]], strict=True))
        groups = np.array([of_unit[name] for name in dict.fromkeys(ids)])[known]
        weights = np.pad(bootstrap_weights(groups, resamples), ((1, 0), (0, 0)), constant_values=1)
        values = np.asarray(score(HEADLINE, labels[known], answers[known], weights))
        if not np.isnan(values[0]):
            rows.append({"metric": HEADLINE, "unit": unit, "aggregation": how, "n": int(known.sum()), **estimate(values)})
    return rows


def is_headline(row: Row) -> bool:
    """Whether a row stands in the short table: the decisions at a class's threshold, and one answer per patient."""
    return (row["metric"] in ("sensitivity", "specificity") and "prevalence" not in row) or "unit" in row
