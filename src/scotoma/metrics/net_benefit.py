"""Net benefit of treating by a classifier (decision curves). Conventions as in ``metrics.classification``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scotoma.metrics.classification import (
    Array,
    FloatArray,
    check_label,
    check_probabilities,
    check_weights,
    divide,
)


def net_benefit(y01: ArrayLike, p: ArrayLike, thresholds: ArrayLike, weights: Array | None = None) -> dict[str, FloatArray]:
    """Decision curve (Vickers and Elkin 2006): true positives less false ones, each false one weighed t / (1 - t), a patient.

    Args:
        y01: one label.
        p: (n,) its calibrated probability.
        thresholds: (T,) in (0, 1): at t, one is ready to treat (1 - t) / t patients in vain to treat one rightly.
        weights: of resamples.

    Returns:
        ``model`` (those with p >= t are treated), ``treat_all`` and ``treat_none`` (0), each (T,), or (R, T) with ``weights``.
    """
    truth, known, values = check_label(y01, check_probabilities(p))
    at = np.asarray(thresholds, dtype=np.float64)
    if at.ndim != 1 or not ((at > 0) & (at < 1)).all():
        raise ValueError("thresholds must be a list of probabilities above 0 and below 1")
    predicted = (values[:, None] >= at) & known[:, None]
    sums = check_weights(weights, len(truth)) @ np.column_stack([predicted & truth[:, None], predicted, truth, known]).astype(
        np.float64
    )
    hit, treated, positive, total = sums[:, : len(at)], sums[:, len(at) : -2], sums[:, -2, None], sums[:, -1, None]
    odds = at / (1 - at)
    model = divide(hit - (treated - hit) * odds, total)
    everyone = divide(positive - (total - positive) * odds, total)
    found = {"model": model, "treat_all": everyone, "treat_none": np.where(total > 0, np.zeros_like(model), np.nan)}
    return {name: v[0] if weights is None else v for name, v in found.items()}
