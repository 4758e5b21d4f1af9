"""Display curve (gamma): another one, up or down."""

from __future__ import annotations

from torch import Tensor

from scotoma.rng import KeyedRNG
from scotoma.transforms.corruptions.base import random_sign

ORDER = 9
LEVELS = (1.25, 1.5, 2.0, 2.5, 3.0)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    power = LEVELS[severity - 1]
    return x ** (power ** random_sign(rng, "gamma"))
