"""MR ghosting: periodic motion while k-space is read; every n-th line is weaker, n from 4 to 9, the centre stays."""

from __future__ import annotations

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 15
LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
MODALITIES = ("mr",)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    strength = LEVELS[severity - 1]
    every = 4 + (rng.uniform("ghosts") * 6).long()
    lines = torch.fft.fftfreq(x.shape[2], 1 / x.shape[2], device=x.device).round().long().abs()
    weak = (lines % every[:, None] == 0) & (lines > 0.01 * x.shape[2])
    spectrum = torch.fft.fft(x, dim=2) * (1 - strength * weak[:, None, :, None].float())
    return torch.fft.ifft(spectrum, dim=2).abs().clamp_(max=1)
