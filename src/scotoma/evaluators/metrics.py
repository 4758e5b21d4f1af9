"""Trained classifier: every metric on the test rows, with intervals bootstrapped over patients."""

from __future__ import annotations

import numpy as np
import torch

from scotoma.data.encoder_header import EncoderInfo
from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, Row, own_head, probabilities_of
from scotoma.metrics import bootstrap, classification
from scotoma.metrics.summaries import ROC_GRID

PROTOCOL = 1
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
    """One row per metric, overall and per class; micro averages of several classes or labels; ROC curves; the confusion matrix."""
    test = context.test
    y, p, units = context.target.y[test], probabilities(context)[test], context.split.units[test]
    context.keep(p, test)
    classes = context.target.classes
    found = bootstrap.evaluate(y, p, units)
    for row in found:
        if row.get("class") is not None:
            row["class"] = classes[int(row["class"])]
    if p.shape[1] > (1 if context.target.multilabel else 2):
        weights = np.pad(bootstrap.bootstrap_weights(units), ((1, 0), (0, 0)), constant_values=1)
        for name in classification.MICRO:
            values = bootstrap.estimate(classification.micro(name, y, p, weights))
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
    if y.ndim == 1:
        matrix = classification.confusion(y, p)
        found += [
            {"metric": "confusion", "class": a, "predicted": b, "value": int(matrix[i, j])}
            for i, a in enumerate(classes)
            for j, b in enumerate(classes)
        ]
    return found
