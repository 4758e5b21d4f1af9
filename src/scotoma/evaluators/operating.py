"""Operating points of a classifier: decisions at its thresholds, predictive values at a prevalence, calibration, net benefit.

Temperature and thresholds are those that ``finetune`` chose on its validation rows and wrote into the model (without any: none, and
0.5); the test rows choose nothing. Probabilities of several classes are taken one class against the rest. What recalibrating them
on the spot would bring is told by cross-fitting over the test patients, each corrected by what the others show.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scotoma.errors import notice
from scotoma.evaluators.base import Context, Row
from scotoma.evaluators.metrics import probabilities
from scotoma.evaluators.metrics import require as require
from scotoma.metrics import calibration, intervals, net_benefit, operating_points
from scotoma.metrics.classification import score
from scotoma.metrics.intervals import estimate
from scotoma.metrics.summaries import HEADLINE
from scotoma.metrics.support import Support

PROTOCOL = 2
TRAINS = False
PREVALENCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
TREATED = tuple(np.round(np.arange(0.05, 1, 0.05), 2).tolist())  # probabilities at which a treatment may begin
UNITS = ("study", "patient")
OF_BOTH = ("accuracy", "balanced_accuracy")  # metrics of two classes together
FOLDS = 5  # of the local recalibration


def evaluate(context: Context) -> list[Row]:
    """Rows of every class, and of every unit that has several images; a class all of whose test rows are alike has one rate.

    Keys beside the usual: ``threshold`` and ``tp, fp, fn, tn``, how many images were decided how; ``prevalence`` (of ppv and
    npv); ``confidence`` and ``count`` of the points of a reliability diagram (metric ``reliability``); ``recalibrated`` of brier,
    ece and log_loss (their ``..._change`` is after less before); ``unit`` (image, study, patient) of one answer and its
    ``aggregation``.
    """
    test, target = context.test, context.target
    y, units = target.y[test], context.split.units[test]
    p = probabilities(context)[test]
    weights = intervals.leave_out(units, len(y))
    thresholds = context.info.thresholds or (0.5,) * len(target.classes)
    rows: list[Row] = []
    of_both = {}  # of two classes, whose accuracies `metrics` has too, with the same intervals
    if not target.multilabel and len(target.classes) == 2:
        called = p[:, 1] >= thresholds[1]
        of_both = {row["metric"]: row for row in intervals.evaluate(y, p, units, OF_BOTH, np.stack([~called, called], 1))}
    for k, label in enumerate(target.classes):
        truth = y[:, k] if target.multilabel else (y == k).astype(float)
        known = ~np.isnan(truth)
        if not target.multilabel and len(target.classes) == 2 and k == 0:
            continue
        common = {"class": label, "n": int(known.sum())}
        if len(np.unique(truth[known])) < 2:
            rows += [{**common, **row} for row in _rate_one_side(truth, p[:, k], thresholds[k], units, weights)]
            continue
        found = _rate_decisions(truth, p[:, k], thresholds[k], weights, units) + _measure_calibration(
            truth, p[:, k], units, weights
        )
        found += _measure_recalibration(truth, p[:, k], units, weights) + _worth(truth, p[:, k], units, weights)
        rows += [{**common, **(_take_interval(row, of_both[m]) if (m := row["metric"]) in of_both else row)} for row in found]
    together = [r for u in UNITS if u in context.dataset.table.columns for r in _by_unit(context, u, y, p)]
    if together:
        one = intervals.evaluate(y, p, units, [HEADLINE])[0]
        rows.append({**one, "unit": "image", "aggregation": "none"})
    return rows + together


def _rate_decisions(truth: np.ndarray, p: np.ndarray, threshold: float, weights: np.ndarray, units: np.ndarray) -> list[Row]:
    """Rates at the threshold, with the counts behind them, and predictive values at prevalences."""
    rates = {name: np.asarray(values) for name, values in operating_points.rates(truth, p, threshold, weights).items()}
    positive, negative, called = truth == 1, truth == 0, p >= threshold
    known, of_all = positive | negative, _support(truth, units)
    rests_on = {"sensitivity": positive, "specificity": negative, "ppv": called & known, "npv": ~called & known}
    support = {name: Support.of(units[rests_on[name]]) if name in rests_on else of_all for name in rates}
    for name in ("ppv", "npv"):  # which rest on how many of those called are right: on positive and negative images alike
        support[name] = replace(support[name], few=support[name].few or of_all.few)
    counts = {"tp": positive & called, "fp": negative & called, "fn": positive & ~called, "tn": negative & ~called}
    common: Row = {"threshold": threshold, **{name: int(chosen.sum()) for name, chosen in counts.items()}}
    found = {name: estimate(values, name, support[name]) for name, values in rates.items() if not np.isnan(values[0])}
    rows: list[Row] = [{"metric": name, **common, **row} for name, row in found.items()]
    few = {"few": True} if of_all.few else {}
    for prevalence in PREVALENCES:
        ends = operating_points.predictive_intervals(found["sensitivity"], found["specificity"], prevalence)
        rows += [
            {"metric": name, "threshold": threshold, "prevalence": prevalence, **values, **few}
            for name, values in ends.items()
            if not np.isnan(values["value"])
        ]
    return rows


def _take_interval(row: Row, other: Row) -> Row:
    """The row with the interval of another of the same value, and its mark where that rests on few."""
    own = {key: value for key, value in row.items() if key != "few"}
    return own | {key: other[key] for key in ("low", "high", "few") if key in other}


def _rate_one_side(truth: np.ndarray, p: np.ndarray, threshold: float, units: np.ndarray, weights: np.ndarray) -> list[Row]:
    """Sensitivity and specificity where all rows are positive, or all negative: one of them has no value."""
    known = ~np.isnan(truth)
    rates = operating_points.rates(truth, p, threshold, weights) if known.any() else {}
    rows: list[Row] = []
    for name, side in (("sensitivity", 1), ("specificity", 0)):
        found = {"value": np.nan, "low": np.nan, "high": np.nan, "few": True}
        if (truth == side).any():
            found = estimate(rates[name], name, Support.of(units[known]))
        rows.append({"metric": name, "threshold": threshold, **found})
    return rows


def _support(truth: np.ndarray, units: np.ndarray) -> Support:
    """Of what rests on positive and negative images alike."""
    sides = [Support.of(units[truth == side]) for side in (0, 1)]
    return replace(Support.of(units[~np.isnan(truth)]), fewest=min(s.fewest for s in sides), few=any(s.few for s in sides))


def _measure_calibration(truth: np.ndarray, p: np.ndarray, units: np.ndarray, weights: np.ndarray) -> list[Row]:
    """Points of the reliability diagram, and the calibration's intercept and slope where they exist."""
    points = calibration.reliability(truth, p, weights=weights)
    known = ~np.isnan(truth)
    bins = calibration.bins_of(p)
    rows: list[Row] = [
        {
            **{"metric": "reliability", "confidence": float(points["confidence"][0, i]), "count": int(n)},
            **estimate(frequency, "frequency", Support.of(units[known & (bins == i)])),
        }
        for i, (n, frequency) in enumerate(zip(points["count"][0], points["frequency"].T, strict=True))
        if n
    ]
    try:
        found = calibration.recalibrations(truth, p, weights)
    except ValueError:  # the classes are parted without error: no slope is finite
        return rows
    support = _support(truth, units)
    return rows + [{"metric": f"calibration_{name}", **estimate(v, "difference", support)} for name, v in found.items()]


def _measure_recalibration(truth: np.ndarray, p: np.ndarray, units: np.ndarray, weights: np.ndarray) -> list[Row]:
    """Errors of the probabilities as they are, and as recalibrated here; none where no recalibration exists."""
    try:
        corrected = calibration.cross_recalibrate(truth, p, units, FOLDS)
    except ValueError:
        return []
    rows: list[Row] = []
    support = _support(truth, units)
    for name in ("brier", "ece", "log_loss"):
        before, after = (_error(name, truth, q, weights) for q in (p, corrected))
        bounded = replace(support, most=1.0) if name == "brier" else support
        rows += [
            {"metric": name, "recalibrated": again, **estimate(v, name, bounded)} for again, v in ((False, before), (True, after))
        ]
        scale = name if name in intervals.WITHOUT else "difference"
        rows.append({"metric": f"{name}_change", **estimate(after - before, scale, support)})
    return rows


def _error(name: str, truth: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(1 + B,) of one label."""
    found = calibration.log_loss(truth, p, weights) if name == "log_loss" else score(name, truth[:, None], p[:, None], weights)
    return np.asarray(found)


def _worth(truth: np.ndarray, p: np.ndarray, units: np.ndarray, weights: np.ndarray) -> list[Row]:
    """The decision curve, beside treating all (treating none is 0)."""
    found = net_benefit.net_benefit(truth, p, TREATED, weights)
    names, support = {"model": "net_benefit", "treat_all": "net_benefit_all"}, _support(truth, units)
    return [
        {"metric": metric, "threshold": t, **estimate(found[name][:, i], metric, support)}
        for name, metric in names.items()
        for i, t in enumerate(TREATED)
    ]


def _by_unit(context: Context, unit: str, y: np.ndarray, p: np.ndarray) -> list[Row]:
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
        row = intervals.evaluate(labels[known], answers[known], groups, [HEADLINE])[0]
        if not np.isnan(row["value"]):
            rows.append({**row, "unit": unit, "aggregation": how})
    return rows


def is_headline(row: Row) -> bool:
    """Whether a row stands in the short table: the decisions at a class's threshold, and one answer per patient."""
    return (row["metric"] in ("sensitivity", "specificity") and "prevalence" not in row) or "unit" in row
