"""Dead and bright pixels: over all channels."""

from __future__ import annotations

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 4
LEVELS = (0.03, 0.06, 0.09, 0.17, 0.27)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    u, half = rng.uniform("impulse", 1, *x.shape[2:]), LEVELS[severity - 1] / 2
    return torch.where(u < half, 0.0, torch.where(u >= 1 - half, 1.0, x))
