"""Rotation: turned to the left or right; what comes in is black."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG
from scotoma.transforms.corruptions.base import random_sign, warp

ORDER = 12
LEVELS = (5, 10, 15, 20, 30)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    angle = math.radians(LEVELS[severity - 1]) * random_sign(rng, "rotation").flatten()
    zero = torch.zeros_like(angle)
    return warp(x, torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], 1).view(-1, 2, 3))
