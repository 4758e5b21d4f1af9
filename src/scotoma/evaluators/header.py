"""Image size and header facts alone: a control without a single pixel."""

from __future__ import annotations

import numpy as np

from scotoma.data.splits.label_draws import Draw
from scotoma.evaluators.base import Context, Row, evaluate_draws
from scotoma.quality import shortcuts
from scotoma.tasks.base import Task

PROTOCOL = 1
CONTROL = True


def inputs(context: Context) -> np.ndarray:
    """(n, D): sizes, their logarithms and the aspect; one column for each common value of a header's names."""
    columns = shortcuts.header(shortcuts.facts_of(context.dataset, context.store))
    return np.stack(list(columns.values()), 1)


def predict(x: np.ndarray, task: Task, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """Logistic or ridge regression, as in the linear probe."""
    return task.predict_linear(x, drawn, rows)


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    return evaluate_draws(context, inputs(context), predict)
