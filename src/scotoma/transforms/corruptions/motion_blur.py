"""Motion: the patient moved along a straight line; the mean over its places, in a direction of each image's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG
from scotoma.transforms.corruptions.base import warp

ORDER = 6
LEVELS = (0.03, 0.05, 0.07, 0.1, 0.14)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    length = LEVELS[severity - 1] * 2  # in grid_sample's units, an image being 2 wide
    angle = rng.uniform("direction", high=math.pi)
    places = [_move(x, angle.cos() * t, angle.sin() * t) for t in torch.linspace(-length / 2, length / 2, 9).tolist()]
    return torch.stack(places).mean(0)


def _move(x: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    one, zero = torch.ones_like(dx), torch.zeros_like(dx)
    return warp(x, torch.stack([one, zero, dx, zero, one, dy], 1).view(-1, 2, 3), "border")
