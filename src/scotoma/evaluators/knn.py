"""Nearest neighbours in the frozen encoder's features: cosine-weighted votes of the labelled training images, nothing trained."""

from __future__ import annotations

import numpy as np

from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw
from scotoma.evaluators.base import Context, Row, evaluate_draws

PROTOCOL = 1
NEIGHBOURS = 20
TEMPERATURE = 0.07  # weights exp(cosine / 0.07): Wu et al. 2018, section 3.4, as DINO uses it


def predict(features: np.ndarray, target: Target, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """Votes of the nearest labelled images as probabilities: (len(rows), C), for several 0/1 targets (len(rows), K)."""
    # of a target without a known label among the draw's, every image is as likely as not
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    if not target.multilabel:
        return _votes(unit[rows], unit[drawn.train], np.eye(len(target.classes))[target.y[drawn.train]])
    columns = []
    for k in range(len(target.classes)):
        known = drawn.train[~np.isnan(target.y[drawn.train, k])]
        votes = _votes(unit[rows], unit[known], target.y[known, k][:, None])[:, 0] if len(known) else np.full(len(rows), 0.5)
        columns.append(votes)
    return np.stack(columns, 1)


def _votes(wanted: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    k = min(NEIGHBOURS, len(known))
    found = []
    for i in range(0, len(wanted), 1024):  # a block of rows at a time: wanted x known may be large
        cosine = wanted[i : i + 1024] @ known.T
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        weights = np.exp((np.take_along_axis(cosine, nearest, 1) - 1) / TEMPERATURE)
        weights /= weights.sum(1, keepdims=True)
        found.append(np.einsum("nk,nkc->nc", weights, values[nearest]))
    return np.concatenate(found)


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    context.task.require_classes()
    return evaluate_draws(context, context.features, lambda x, task, drawn, rows: predict(x, task.target, drawn, rows))
