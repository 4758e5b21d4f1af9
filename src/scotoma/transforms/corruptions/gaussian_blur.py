"""Out of focus: a Gaussian blur, as of too thick a slice."""

from __future__ import annotations

import math

from torch import Tensor

from scotoma.rng import KeyedRNG

ORDER = 5
LEVELS = (1.0, 2.0, 3.0, 4.0, 6.0)


def corrupt(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Images at this severity."""
    from torchvision.transforms.v2.functional import gaussian_blur as blur

    sigma = LEVELS[severity - 1] * x.shape[-1] / 224
    side = 2 * min(math.ceil(3 * sigma), x.shape[-1] - 1) + 1
    return blur(x, [side, side], [sigma, sigma])
