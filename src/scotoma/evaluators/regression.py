"""A number that a model predicts of the test images (an age, an ejection fraction): its errors, beside saying the mean always.

Of an encoder alone a ridge regression on its features is tested, fitted on all training rows.
"""

from __future__ import annotations

import numpy as np

from scotoma.data.splits.label_draws import draw
from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, Row
from scotoma.metrics.regression import rows_of
from scotoma.models.linear_probe import fit_ridge, predict_numbers
from scotoma.run_folder import Run
from scotoma.visualization.plots import agreement

PROTOCOL = 1
TRAINS = False  # of a model nothing is trained; an encoder's training rows are checked where it is tested


def evaluate(context: Context) -> list[Row]:
    """Rows of every metric, and the mean absolute error of saying the training rows' mean of every image (``mae_of_mean``)."""
    truth, found = _numbers(context)
    target, test = context.target, context.test
    units = context.split.units[test]
    rows = rows_of(truth, found, units)
    train = context.split.rows("train")
    train = train[target.known[train]]
    if len(train) and target.numbers is not None:
        middle = np.full(len(test), float(target.numbers[train].mean()))
        rows += [{**row, "metric": "mae_of_mean"} for row in rows_of(truth, middle, units) if row["metric"] == "mae"]
    return rows


def figures(context: Context, run: Run) -> None:
    """Predicted against true numbers."""
    truth, found = _numbers(context)
    name = context.target.columns[0]
    caption = (
        f"Each point is one of {len(truth)} test images. On the line the model is right, above it the model says too much. "
        "Models that know little say the mean of all: their points lie in a flat band."
    )
    run.figure("regression", agreement(truth, found, name), f"Predicted {name} against true", caption, "results")


def _numbers(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted numbers of the test rows."""
    target, info = context.target, context.info
    if target.numbers is None or info.decoder or (context.head is not None and not info.numeric):
        raise UsageError("--with regression needs a model that predicts a number (finetune --regression), or an encoder")
    if context.head is not None and info.targets != target.columns:
        raise UsageError(f"the model predicts {info.targets[0]}, not {target.columns[0]}: leave --target out")
    test = context.test
    head = context.head or fit_ridge(context.features, target.numbers, draw(target, context.split, 1.0, 0))
    return target.numbers[test].astype(np.float64), predict_numbers(head, context.features[test])
