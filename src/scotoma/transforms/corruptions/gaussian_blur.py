"""Out of focus: a Gaussian blur, as of too thick a slice."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 5
LEVELS = (1.0, 2.0, 3.0, 4.0, 6.0)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    kernel = _kernel(LEVELS[severity - 1] * x.shape[-1] / 224, x.shape[-1] - 1).to(x)
    reach = len(kernel) // 2
    rows, columns = (kernel.view(1, 1, *shape).expand(x.shape[1], -1, -1, -1) for shape in ((-1, 1), (1, -1)))
    padded = F.pad(x, [reach] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, rows, groups=x.shape[1]), columns, groups=x.shape[1])


def _kernel(sigma: float, longest: int) -> Tensor:
    """The discrete Gaussian exp(-t) I_n(t), t being sigma squared (Lindeberg 1990): its variance is t for however small a t.

    A sampled Gaussian of a fraction of a pixel, which is what the lower severities are in small images, would be the identity.
    """
    from scipy.special import ive

    reach = min(math.ceil(4 * sigma) + 1, longest)
    kernel = ive(np.abs(np.arange(-reach, reach + 1)), sigma**2)
    return torch.from_numpy(kernel / kernel.sum()).float()
