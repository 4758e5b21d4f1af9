"""A number that a model predicts of the test images (an age, an ejection fraction): its errors, beside predicting the mean always.

Of an encoder alone a ridge regression on its features is tested, fitted on all training rows.
"""

from __future__ import annotations

import numpy as np

from scotoma.data.splits.label_draws import draw
from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, Row
from scotoma.metrics.regression import rows_of
from scotoma.models.linear_probe import predict_numbers
from scotoma.run_folder import Run
from scotoma.tasks.regression import Regression
from scotoma.visualization.plots import agreement

PROTOCOL = 1
TRAINS = False  # of a model nothing is trained; an encoder's training rows are checked where it is tested


def evaluate(context: Context) -> list[Row]:
    """Rows of every metric, and the mean absolute error of predicting the training rows' mean of every image (``mae_of_mean``)."""
    task, truth, found = _numbers(context)
    context.keep(found, context.test)
    units = context.split.units[context.test]
    rows, train = rows_of(truth, found, units), task.examples("train")
    if len(train):
        middle = np.full(len(truth), float(task.numbers[train].mean()))
        rows += [{**row, "metric": "mae_of_mean"} for row in rows_of(truth, middle, units) if row["metric"] == "mae"]
    return rows


def figures(context: Context, run: Run) -> None:
    """Predicted against true numbers."""
    _, truth, found = _numbers(context)
    name = context.target.columns[0]
    caption = (
        f"Each point is one of {len(truth)} test images. On the line the model is right, above it the prediction is too high. "
        "Models that know little predict the mean of all: their points lie in a flat band."
    )
    run.figure("regression", agreement(truth, found, name), f"Predicted {name} against true", caption, "results")


def _numbers(context: Context) -> tuple[Regression, np.ndarray, np.ndarray]:
    """The task, and true and predicted numbers of the test rows."""
    info, task, test = context.info, context.task, context.test
    if not isinstance(task, Regression) or info.decoder or (context.head is not None and not info.numeric):
        raise UsageError("--with regression needs a model that predicts a number (finetune --regression), or an encoder")
    if context.head is not None and info.targets != task.target.columns:
        raise UsageError(f"the model predicts {info.targets[0]}, not {task.target.columns[0]}: leave --target out")
    if context.head is None:
        return task, task.truth(test), task.predict_linear(context.features, draw(task.target, context.split, 1.0, 0), test)
    return task, task.truth(test), predict_numbers(context.head, context.features[test])
