"""A number that a model predicts of the test pictures (an age, an ejection fraction): its errors, beside saying the mean always.

Of an encoder alone a ridge regression on its features is tested, fitted on all training rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from scotoma.comparisons import bootstrap_weights, estimate, picture_means
from scotoma.drawing import agreement
from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, Draw, Row, draw
from scotoma.metrics import FloatArray
from scotoma.run import Run

PROTOCOL = 1
TRAINS = False  # of a model nothing is trained; an encoder's training rows are checked where it is tested
STRENGTHS = np.logspace(-2, 5, 15)  # scikit-learn's alpha: large is strongly regularised
METRICS = ("mae", "rmse", "bias", "r2", "pearson")


def fit(features: np.ndarray, numbers: np.ndarray, drawn: Draw) -> nn.Linear:
    """Ridge regression on standardised features as a layer on the features as they are.

    Its strength is the one of ``STRENGTHS`` with the smallest squared error on the draw's validation rows; without any, the one
    with the smallest in leave-one-out cross-validation of the training rows.

    Args:
        features: (n, D) of all rows.
        numbers: (n,) of all rows.
        drawn: which rows may be seen.
    """
    from sklearn.linear_model import Ridge, RidgeCV

    x, y = features[drawn.train].astype(np.float64), numbers[drawn.train].astype(np.float64)
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-8] = 1.0
    x = (x - mean) / scale
    if len(drawn.val):
        held, wanted = (features[drawn.val] - mean) / scale, numbers[drawn.val]
        models = [Ridge(alpha=strength).fit(x, y) for strength in STRENGTHS]
        model = min(models, key=lambda m: float(np.square(m.predict(held) - wanted).mean()))
    else:
        model = RidgeCV(STRENGTHS).fit(x, y)
    weight = model.coef_ / scale
    layer = nn.Linear(len(weight), 1)
    bias = np.atleast_1d(model.intercept_ - weight @ mean)
    layer.load_state_dict({"weight": torch.from_numpy(weight)[None].float(), "bias": torch.from_numpy(bias).float()})
    return layer


@torch.no_grad()
def predict(head: nn.Module, features: np.ndarray) -> np.ndarray:
    """(n,) numbers of (n, D) features."""
    return head.cpu()(torch.from_numpy(features))[:, 0].double().numpy()


def errors(truth: np.ndarray, found: np.ndarray, weights: np.ndarray) -> dict[str, FloatArray]:
    """Every one of ``METRICS`` under weights (R, n), (R,) each.

    Mean absolute and root mean squared error; bias, the mean of found less true; R squared; Pearson's correlation (NaN where either
    does not vary).
    """
    error, w = found - truth, weights.astype(np.float64)
    truth, found = truth - truth.mean(), found - found.mean()  # of numbers far from 0 the difference of squares loses all digits
    squared, mean = picture_means(error**2, w), picture_means(truth, w)
    spread = picture_means(truth**2, w) - mean**2
    of_found = picture_means(found, w)
    spread_found = picture_means(found**2, w) - of_found**2
    together = picture_means(truth * found, w) - mean * of_found
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 1e-12, 1 - squared / spread, np.nan)
        pearson = np.where((spread > 1e-12) & (spread_found > 1e-12), together / np.sqrt(spread * spread_found), np.nan)
    return {"mae": picture_means(np.abs(error), w), "rmse": np.sqrt(squared), "bias": picture_means(error, w), "r2": r2,
            "pearson": pearson}  # fmt: skip


def rows_of(truth: np.ndarray, found: np.ndarray, units: np.ndarray) -> list[Row]:
    """A row a metric, with its interval over patients."""
    weights = np.pad(bootstrap_weights(units), ((1, 0), (0, 0)), constant_values=1)
    return [{"metric": name, "n": len(truth), **estimate(values)} for name, values in errors(truth, found, weights).items()]


def evaluate(context: Context) -> list[Row]:
    """Rows of every metric, and the mean absolute error of saying the training rows' mean of every picture (``mae_of_mean``)."""
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
        f"Each point is one of {len(truth)} test pictures. On the line the model is right, above it the model says too much. "
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
    head = context.head or fit(context.features, target.numbers, draw(target, context.split, 1.0, 0))
    return target.numbers[test].astype(np.float64), predict(head, context.features[test])
