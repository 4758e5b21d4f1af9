"""Gaussian noise: additive normal noise."""

from __future__ import annotations

from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 2
LEVELS = (0.08, 0.12, 0.18, 0.26, 0.38)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    return (x + LEVELS[severity - 1] * rng.normal("gaussian", *x.shape[1:])).clamp_(0, 1)
