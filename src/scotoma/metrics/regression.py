"""Errors of numbers: mean absolute and squared error, bias, R squared, correlation."""

from __future__ import annotations

import numpy as np

from scotoma.metrics.bootstrap import bootstrap_weights, estimate, image_means, two_level, with_original
from scotoma.metrics.classification import FloatArray
from scotoma.run_folder import Row

METRICS = ("mae", "rmse", "bias", "r2", "pearson")


def errors(truth: np.ndarray, found: np.ndarray, weights: np.ndarray) -> dict[str, FloatArray]:
    """Every one of ``METRICS`` under weights (R, n), (R,) each.

    Mean absolute and root mean squared error; bias, the mean of found less true; R squared; Pearson's correlation (NaN where either
    does not vary).
    """
    error, w = found - truth, weights.astype(np.float64)
    truth, found = truth - truth.mean(), found - found.mean()  # of numbers far from 0 the difference of squares loses all digits
    squared, mean = image_means(error**2, w), image_means(truth, w)
    spread = image_means(truth**2, w) - mean**2
    of_found = image_means(found, w)
    spread_found = image_means(found**2, w) - of_found**2
    together = image_means(truth * found, w) - mean * of_found
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 1e-12, 1 - squared / spread, np.nan)
        pearson = np.where((spread > 1e-12) & (spread_found > 1e-12), together / np.sqrt(spread * spread_found), np.nan)
    return {
        "mae": image_means(np.abs(error), w),
        "rmse": np.sqrt(squared),
        "bias": image_means(error, w),
        "r2": r2,
        "pearson": pearson,
    }


def rows_of(truth: np.ndarray, found: np.ndarray, units: np.ndarray) -> list[Row]:
    """One row per metric, with its interval over patients."""
    weights = np.pad(bootstrap_weights(units), ((1, 0), (0, 0)), constant_values=1)
    return [{"metric": name, "n": len(truth), **estimate(values)} for name, values in errors(truth, found, weights).items()]


def means_over_draws(truth: np.ndarray, draws: list[np.ndarray], units: np.ndarray) -> dict[str, dict[str, float]]:
    """Of every metric what `bootstrap.mean_over_draws` gives, of models trained on different draws of the labels.

    Args:
        truth: (n,).
        draws: (n,) found by each draw's model.
        units: (n,) over which intervals are bootstrapped.
    """
    weights = with_original(units, len(truth), 1000, 0)
    found = [errors(truth, numbers, weights) for numbers in draws]
    return {name: two_level([np.stack([e[name] for e in found], 1)], len(truth), 0)[0] for name in METRICS}
