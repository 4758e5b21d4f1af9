"""Cropping: a part of the image, enlarged to the whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG
from scotoma.transforms.corruptions.base import warp

ORDER = 13
LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    side = math.sqrt(LEVELS[severity - 1])
    u, v = (rng.uniform(f"crop {axis}", low=-1, high=1) * (1 - side) for axis in "xy")
    one, zero = torch.full_like(u, side), torch.zeros_like(u)
    return warp(x, torch.stack([one, zero, u, zero, one, v], 1).view(-1, 2, 3))
