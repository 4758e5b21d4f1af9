"""Regularisers of supervised training that change images or labels: mixup, CutMix, random erasing, label smoothing.

Each image has its own random numbers (of :class:`scotoma.rng.KeyedRNG`); it is mixed with the next one of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scotoma.rng import KeyedRNG


def beta(u: Tensor, alpha: float) -> Tensor:
    """Numbers uniform in [0, 1) -> numbers of the Beta(alpha, alpha) distribution, by its quantile function."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, u.double().cpu().numpy())).to(u)


def mix(x: Tensor, shares: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2017, arXiv 1710.09412, section 2: one weight for images and labels).

    Args:
        x: (B, C, H, W).
        shares: (B, K), NaN for unknown, which stays unknown in whatever it is mixed into.
        weight: (B,) of the image itself; the rest is the other image's.
    """
    w = weight.to(x.dtype).view(-1, 1, 1, 1)
    return x * w + x.roll(1, 0) * (1 - w), _mixed_labels(shares, weight)


def cut(x: Tensor, shares: Tensor, weight: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al. 2019, arXiv 1905.04899, equations 1 and 2): a rectangle of the other image, labels by the visible area.

    Args:
        x: (B, C, H, W).
        shares: (B, K), NaN for unknown.
        weight: (B,), share of the image that stays; the rectangle has the image's proportions, and may lie outside in part.
        centre: (B, 2) of the rectangle, row and column, in [0, 1).
    """
    inside = rectangle(x.shape[2], x.shape[3], (1 - weight).sqrt()[:, None].expand(-1, 2), centre)
    own = 1 - inside.flatten(1).float().mean(1)
    return torch.where(inside[:, None], x.roll(1, 0), x), _mixed_labels(shares, own)


def erase(x: Tensor, rng: KeyedRNG, chance: float) -> Tensor:
    """Random erasing (Zhong et al. 2017, arXiv 1708.04896, section 3): a rectangle of 2 to 33 % of an image becomes the mean.

    Args:
        x: (B, C, H, W), normalised: 0 is the mean.
        rng: of the images.
        chance: share of the images that are erased.
    """
    area = rng.uniform("erased area", low=0.02, high=0.33)
    ratio = torch.exp(rng.uniform("erased ratio", low=-1.2, high=1.2))
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)
    # the centre so that the whole rectangle lies in the image
    centre = sides / 2 + rng.uniform("erased place", 2) * (1 - sides)
    inside = rectangle(x.shape[2], x.shape[3], sides, centre) & (rng.uniform("erased") < chance)[:, None, None]
    return x.masked_fill(inside[:, None], 0.0)


def smooth(shares: Tensor, amount: float, classes: int) -> Tensor:
    """Label smoothing (Szegedy et al. 2015, arXiv 1512.00567, section 7): a part of each label is spread over all classes alike.

    Args:
        shares: (B, K), NaN for unknown.
        amount: that is spread.
        classes: over which: K of one categorical target, 2 of 0/1 targets.
    """
    return shares * (1 - amount) + amount / classes


def rectangle(height: int, width: int, sides: Tensor, centre: Tensor) -> Tensor:
    """(B, H, W) bool: whether a pixel's middle lies in a rectangle; ``sides`` and ``centre`` (B, 2), down and across, of 1."""
    found = []
    for axis, count in enumerate((height, width)):
        place = (torch.arange(count, device=sides.device) + 0.5) / count
        found.append((place - centre[:, axis, None]).abs() < sides[:, axis, None] / 2)
    return found[0][:, :, None] & found[1][:, None, :]


def _mixed_labels(shares: Tensor, weight: Tensor) -> Tensor:
    w = weight.view(-1, 1)
    return shares * w + shares.roll(1, 0) * (1 - w)
