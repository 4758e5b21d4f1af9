"""Brightness: brighter or darker by a constant."""

from __future__ import annotations

from torch import Tensor

from scotoma.rng import KeyedRNG
from scotoma.transforms.corruptions.base import random_sign

ORDER = 7
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    return (x + random_sign(rng, "brightness") * LEVELS[severity - 1]).clamp_(0, 1)
