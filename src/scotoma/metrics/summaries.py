"""Rows of a classifier: the summary metrics of a label draw, and those of all draws of a fraction."""

from __future__ import annotations

import numpy as np

from scotoma.data.splits.label_draws import Draw
from scotoma.metrics import classification, intervals
from scotoma.run_folder import Row

HEADLINE = "auroc"
SUMMARY = ("auroc", "average_precision", "balanced_accuracy", "brier")
ROC_GRID = np.round(np.linspace(0, 1, 51), 2)


def draw_rows(y: np.ndarray, p: np.ndarray, drawn: Draw) -> list[Row]:
    """The summary metrics of one classifier on the test rows, one row each."""
    common = {"fraction": drawn.fraction, "seed": drawn.seed, "labels": len(drawn.train), "n": len(y)}
    return [{**common, "metric": name, "value": float(classification.score(name, y, p))} for name in SUMMARY]


def fraction_rows(y: np.ndarray, predictions: list[np.ndarray], groups: np.ndarray, classes: tuple[str, ...],
                  fraction: float, labels: int) -> list[Row]:  # fmt: skip
    """What the classifiers of all draws of one fraction show together.

    Args:
        y: (n,) or (n, K), labels of the test rows.
        predictions: (n, C) probabilities of each draw's classifier.
        groups: (n,) unit of each test row, over which intervals are.
        classes: names of the classes or 0/1 targets.
        fraction: of the labels.
        labels: how many that were.

    Returns:
        Means over draws with intervals, overall and per class; the ROC curve of each class; the confusion matrix.
    """
    common = {"fraction": fraction, "labels": labels}
    found = [{**common, "metric": name, **intervals.mean_over_draws(name, y, predictions, groups)} for name in SUMMARY]
    two = y.ndim == 1 and len(classes) == 2
    for k, label in enumerate(classes):
        if two and k == 0:
            continue  # the curve of the other class is its mirror image
        truth = (y == k).astype(float) if y.ndim == 1 else y[:, k]
        known = ~np.isnan(truth)
        # one 0/1 label at a time, so that the interval of a class is made as the interval of the whole is
        scores = [p[known, k][:, None] for p in predictions]
        if len(np.unique(truth[known])) < 2:  # no value: the class is there all the same, with its count
            nothing = {"value": np.nan, "low": np.nan, "high": np.nan}
            counted = {"n": int(known.sum()), "draws": len(predictions), "few": True}
            found.append({**common, "metric": HEADLINE, "class": label, **nothing, **counted})
            continue
        one = intervals.mean_over_draws(HEADLINE, truth[known][:, None], scores, groups[known])
        found.append({**common, "metric": HEADLINE, "class": label, **one})
        curves = np.stack([classification.roc_curve(truth[known], s[:, 0], ROC_GRID) for s in scores])
        found += [
            {**common, "metric": "roc", "class": label, "fpr": float(x), "value": float(v)}
            for x, v in zip(ROC_GRID, curves.mean(0), strict=True)
        ]
    if y.ndim == 1:
        matrix = np.mean([classification.confusion(y, p) for p in predictions], 0)
        found += [
            {**common, "metric": "confusion", "class": classes[i], "predicted": classes[j], "value": float(matrix[i, j])}
            for i in range(len(classes))
            for j in range(len(classes))
        ]
    return found
