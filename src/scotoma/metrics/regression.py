"""Errors of numbers: mean absolute and squared error, bias, R squared, correlation."""

from __future__ import annotations

import numpy as np

from scotoma.metrics.classification import FloatArray
from scotoma.metrics.intervals import NUMBERS, estimate, image_means, leave_out, over_draws
from scotoma.metrics.support import FEW_NUMBERS, Support
from scotoma.run_folder import Row

METRICS = NUMBERS


def errors(truth: np.ndarray, found: np.ndarray, weights: np.ndarray) -> dict[str, FloatArray]:
    """Every one of ``METRICS`` under weights (R, n), (R,) each.

    Mean absolute and root mean squared error; bias, the mean of found less true; R squared; Pearson's correlation (NaN where either
    does not vary).
    """
    error, w = found - truth, weights.astype(np.float64)
    least, least_found = _rounding(truth), _rounding(found)
    truth, found = truth - truth.mean(), found - found.mean()  # of numbers far from 0 the difference of squares loses all digits
    squared, mean = image_means(error**2, w), image_means(truth, w)
    spread = image_means(truth**2, w) - mean**2
    of_found = image_means(found, w)
    spread_found = image_means(found**2, w) - of_found**2
    together = image_means(truth * found, w) - mean * of_found
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > least, 1 - squared / spread, np.nan)
        pearson = np.where((spread > least) & (spread_found > least_found), together / np.sqrt(spread * spread_found), np.nan)
    return {
        "mae": image_means(np.abs(error), w),
        "rmse": np.sqrt(squared),
        "bias": image_means(error, w),
        "r2": r2,
        "pearson": pearson,
    }


def _rounding(numbers: np.ndarray) -> float:
    """The variance that numbers without any may seem to have."""
    return 1e-12 * float(numbers.var()) + (1e-14 * float(np.abs(numbers).max())) ** 2


def rows_of(truth: np.ndarray, found: np.ndarray, units: np.ndarray) -> list[Row]:
    """One row per metric, with its interval over patients."""
    support, values = Support.of(units, FEW_NUMBERS), errors(truth, found, leave_out(units, len(truth)))
    return [{"metric": name, "n": len(truth), **estimate(value, name, support)} for name, value in values.items()]


def means_over_draws(truth: np.ndarray, draws: list[np.ndarray], units: np.ndarray) -> dict[str, Row]:
    """Of every metric what `intervals.mean_over_draws` gives, of models trained on different draws of the labels.

    Args:
        truth: (n,).
        draws: (n,) found by each draw's model.
        units: (n,) over which intervals are.
    """
    weights, support = leave_out(units, len(truth)), Support.of(units, FEW_NUMBERS)
    found = [errors(truth, numbers, weights) for numbers in draws]
    scores = {name: np.stack([errors_[name] for errors_ in found], 1) for name in METRICS}
    return {name: over_draws(values, name, support) | {"n": len(truth)} for name, values in scores.items()}
