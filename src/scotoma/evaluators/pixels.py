"""Pixels alone (32 px, PCA, logistic regression): a control on the same labels, with 60 principal components."""

from __future__ import annotations

import numpy as np
import torch

from scotoma.data.splits.label_draws import Draw
from scotoma.evaluators.base import Context, Row, evaluate_draws
from scotoma.tasks.base import Task
from scotoma.transforms.augmentation import plain

PROTOCOL = 1
CONTROL = True
SIDE, COMPONENTS = 32, 60


def inputs(context: Context) -> np.ndarray:
    """(n, 60) principal components of the 32-px images; fitted, like a pretraining, on all training rows without their labels."""
    from sklearn.decomposition import PCA

    rows = context.dataset.table["row"].to_numpy()
    blank = (0.0,) * context.store.channels, (1.0,) * context.store.channels
    small = [
        plain(torch.from_numpy(context.store.batch(rows[i : i + 1024])), SIDE, *blank).flatten(1).numpy()
        for i in range(0, len(rows), 1024)
    ]
    x = np.concatenate(small)
    train = context.split.rows("train")
    components = min(COMPONENTS, len(train) - 1, x.shape[1])  # one more would be noise: the rows are centred
    return PCA(components, random_state=0, svd_solver="randomized").fit(x[train]).transform(x)


def predict(x: np.ndarray, task: Task, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """Logistic or ridge regression, as in the linear probe."""
    return task.predict_linear(x, drawn, rows)


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    return evaluate_draws(context, inputs(context), predict)
