"""Trained classifier: every metric on the test rows, with intervals over patients."""

from __future__ import annotations

import numpy as np
import torch

from scotoma.data.encoder_header import EncoderInfo
from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, Row, decisions_of, own_head, probabilities_of
from scotoma.metrics import classification, intervals
from scotoma.metrics.classification import METRICS
from scotoma.metrics.summaries import ROC_GRID
from scotoma.metrics.support import Support

PROTOCOL = 2
DECIDED = ("sensitivity", "specificity", "f1", "accuracy", "balanced_accuracy", "mcc")  # metrics of decisions, not of probabilities
NEEDED = "--with metrics needs a classifier: name a finetune run, or use --with linear on an encoder"
TRAINS = False  # it needs no training rows: an outside test table will do


def require(info: EncoderInfo) -> None:
    """Refuse weights without a head, as their header states, before data are read."""
    if not info.targets:
        raise UsageError(NEEDED)


def probabilities(context: Context) -> np.ndarray:
    """(n, C) probabilities of every row by the model's head, at its temperature.

    Raises:
        UsageError: there is no head, or it predicts something else.
    """
    head = own_head(context)
    if head is None:
        raise UsageError(NEEDED)
    with torch.no_grad():
        return probabilities_of(context, head.cpu()(torch.from_numpy(context.features)))


def evaluate(context: Context) -> list[Row]:
    """One row per metric, overall and per class; micro averages of several classes or labels; ROC curves; the confusion matrix.

    Metrics of decisions have the key ``decision``: ``threshold``, the model's own thresholds, and where classes exclude one another
    ``argmax``, the most probable class. Of more than two classes a threshold decides one class against the rest, so that there are
    sensitivity and specificity at it, and the other metrics and the confusion matrix are of the most probable class alone.
    ``threshold`` is the probability from which on the row's class is called; of two classes as a whole, and of their confusion
    matrix, the second's. A mean over several classes has none.
    """
    test = context.test
    y, p, units = context.target.y[test], probabilities(context)[test], context.split.units[test]
    context.keep(p, test)
    classes, exclusive = context.target.classes, y.ndim == 1
    found = intervals.evaluate(y, p, units, [m for m in METRICS if m not in DECIDED])
    decisions = {} if exclusive and not context.info.thresholds else {"threshold": decisions_of(context, p)}
    if exclusive:
        decisions["argmax"] = p.argmax(1)[:, None] == np.arange(p.shape[1])
    for rule, decision in decisions.items():
        names = [m for m in DECIDED if exclusive or m != "mcc"]
        if rule == "threshold" and exclusive and len(classes) > 2:
            names = ["sensitivity", "specificity"]
        ruled = [row | {"decision": rule} for row in intervals.evaluate(y, p, units, names, decision)]
        if exclusive and (rule == "argmax" or len(classes) == 2):
            ruled += _confusion(classification.confusion(y, p, decision), rule)
        found += _state_thresholds(ruled, context) if rule == "threshold" else ruled
    for row in found:
        row |= {key: classes[row[key]] for key in ("class", "predicted") if key in row}
    if p.shape[1] > (1 if context.target.multilabel else 2):
        weights, support = intervals.leave_out(units, len(y)), Support.of(units)
        for name in classification.MICRO:
            values = intervals.estimate(np.asarray(classification.micro(name, y, p, weights)), name, support)
            found.append({"metric": f"{name}_micro", "n": len(y), **values})
    for k, label in enumerate(classes):
        truth = (y == k).astype(float) if y.ndim == 1 else y[:, k]
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) < 2:
            continue
        curve = classification.roc_curve(truth[known], p[known, k], ROC_GRID)
        found += [
            {"metric": "roc", "class": label, "fpr": float(x), "value": float(v)} for x, v in zip(ROC_GRID, curve, strict=True)
        ]
    return found


def _confusion(matrix: np.ndarray, rule: str) -> list[Row]:
    """One row for each pair of a true and a predicted class, by their numbers."""
    return [
        {"metric": "confusion", "class": i, "predicted": j, "value": int(count), "decision": rule}
        for (i, j), count in np.ndenumerate(matrix)
    ]


def _state_thresholds(rows: list[Row], context: Context) -> list[Row]:
    """The rows with the threshold at which each was decided, where that is one."""
    target, of_class = context.target, np.array(context.info.thresholds or (0.5,) * len(context.target.classes))
    whole = None
    if not target.multilabel and len(of_class) == 2:  # the second's decides, and the first is called below it
        of_class[0], whole = 1 - of_class[1], of_class[1]
    elif len(of_class) == 1:
        whole = of_class[0]
    found = []
    for row in rows:
        threshold = of_class[row["class"]] if "class" in row and row["metric"] != "confusion" else whole
        found.append(row if threshold is None else row | {"threshold": float(threshold)})
    return found


def is_headline(row: Row) -> bool:
    """Whether a row stands in the short table: ranking, and the decisions, over all classes."""
    return row["metric"] in ("auroc", "average_precision", "sensitivity", "specificity") and "class" not in row
