"""Linear classifier on the frozen encoder: logistic regression to the optimum, its strength chosen on validation labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from scotoma.data.splits.label_draws import Draw, draw
from scotoma.evaluators.base import Context, Row, evaluate_draws, own_head, probabilities_of
from scotoma.models.linear_probe import fit, layer
from scotoma.tasks.base import Task

PROTOCOL = 1


def head(context: Context) -> nn.Linear:
    """The head of a classifier; for an encoder alone a linear probe on all training labels."""
    return own_head(context) or layer(*fit(context.features, context.target, draw(context.target, context.split, 1.0, 0)))


def probabilities(context: Context) -> np.ndarray:
    """(n, C) of every row, by `head`."""
    with torch.no_grad():
        return probabilities_of(context, head(context).cpu()(torch.from_numpy(context.features)))


def predict(x: np.ndarray, task: Task, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """Logistic regression; of numbers ridge regression."""
    return task.predict_linear(x, drawn, rows)


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    return evaluate_draws(context, context.features, predict)
