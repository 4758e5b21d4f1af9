"""Lower resolution: a smaller image, enlarged again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 10
LEVELS = (0.6, 0.5, 0.4, 0.3, 0.25)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    small = [max(1, round(n * LEVELS[severity - 1])) for n in x.shape[2:]]
    low = F.interpolate(x, small, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(low, x.shape[2:], mode="bilinear", align_corners=False)
