"""Photon (Poisson) noise: counts whose mean is the level where the image is white."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 1
LEVELS = (60.0, 25.0, 12.0, 5.0, 3.0)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    photons = LEVELS[severity - 1]
    return poisson_quantile(rng.uniform("poisson", *x.shape[1:]), x * photons).div_(photons).clamp_(max=1)


def poisson_quantile(u: Tensor, rate: Tensor) -> Tensor:
    """The Poisson quantile function, elementwise: the smallest k with P(K <= k) > u, for rates up to about 80."""
    chance = (-rate).exp()  # of k = 0
    cumulative, count, k = chance.clone(), torch.zeros_like(rate), 0
    last = float(rate.max()) + 12 * math.sqrt(float(rate.max()) + 1) + 12
    while k < last and bool((beyond := cumulative <= u).any()):
        k += 1
        count += beyond
        chance = chance * rate / k
        cumulative = cumulative + chance
    return count
