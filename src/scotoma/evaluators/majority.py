"""Majority class: a control, the shares of the classes among the labels, said of every image."""

from __future__ import annotations

import numpy as np

from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw
from scotoma.evaluators.base import Context, Row, evaluate_draws

PROTOCOL = 1
CONTROL = True


def inputs(context: Context) -> np.ndarray:
    """(n, 0): nothing is seen."""
    return np.zeros((len(context.dataset), 0))


def predict(x: np.ndarray, target: Target, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """The class shares of the draw's training labels, for every row."""
    y = target.y[drawn.train]
    shares = np.nanmean(y, 0) if target.multilabel else np.bincount(y, minlength=len(target.classes)) / len(y)
    return np.tile(shares, (len(rows), 1))


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    return evaluate_draws(context, inputs(context), predict)
