"""Majority class alone: the shares of the classes among the labels (of numbers their mean), predicted for every image."""

from __future__ import annotations

import numpy as np

from scotoma.data.splits.label_draws import Draw
from scotoma.evaluators.base import Context, Row, evaluate_draws
from scotoma.tasks.base import Task

PROTOCOL = 1
CONTROL = True


def inputs(context: Context) -> np.ndarray:
    """(n, 0): nothing is seen."""
    return np.zeros((len(context.dataset), 0))


def predict(x: np.ndarray, task: Task, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """The class shares, or the mean number, of the draw's training labels, for every row."""
    return task.predict_constant(drawn, rows)


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    return evaluate_draws(context, inputs(context), predict)
