"""Speckle noise: multiplicative normal noise, as of ultrasound."""

from __future__ import annotations

from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 3
LEVELS = (0.15, 0.2, 0.35, 0.45, 0.6)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    return (x + x * LEVELS[severity - 1] * rng.normal("speckle", *x.shape[1:])).clamp_(0, 1)
