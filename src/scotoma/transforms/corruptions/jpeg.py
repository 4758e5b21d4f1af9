"""JPEG compression: low quality."""

from __future__ import annotations

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 11
LEVELS = (25, 18, 15, 10, 7)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    from torchvision.io import decode_jpeg, encode_jpeg

    levels = list((x * 255).round().to(torch.uint8).cpu())
    files = encode_jpeg(levels, quality=LEVELS[severity - 1])
    return torch.stack([decode_jpeg(file) for file in files]).to(x.device).float().div_(255)
