"""MR bias field: uneven sensitivity of a receiver coil, exp of a polynomial of third order of the place."""

from __future__ import annotations

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 14
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
MODALITIES = ("mr",)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    h, w = x.shape[2:]
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n, device=x.device) for n in (h, w)), indexing="ij")
    terms = torch.stack([rows**i * columns**j for i in range(4) for j in range(4 - i)])  # (10, H, W)
    weights = rng.uniform("bias", len(terms), low=-1, high=1) * LEVELS[severity - 1]
    return (x * torch.einsum("bt,thw->bhw", weights, terms).exp()[:, None]).clamp_(max=1)
