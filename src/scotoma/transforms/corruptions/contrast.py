"""Contrast: flatter, each channel about its mean over the image, as ImageNet-C has it."""

from __future__ import annotations

from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 8
LEVELS = (0.4, 0.3, 0.2, 0.1, 0.05)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    middle = x.mean((2, 3), keepdim=True)
    return (middle + (x - middle) * LEVELS[severity - 1]).clamp_(0, 1)
