"""Contrast: flatter, about the image's mean."""

from __future__ import annotations

from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 8
LEVELS = (0.4, 0.3, 0.2, 0.1, 0.05)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    middle = x.mean((1, 2, 3), keepdim=True)
    return middle + (x - middle) * LEVELS[severity - 1]
