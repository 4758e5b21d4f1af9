"""Which patches to hide: pure functions of random numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def random_order(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Uniformly random masking without replacement (MAE, section 3; "shuffle and keep the first").

    Args:
        noise: (B, N) uniform random numbers, one a patch.
        mask_ratio: share of the patches to hide.

    Returns:
        ``keep`` (B, V) the visible patches; ``restore`` (B, N) the place of each patch in the order visible-then-hidden;
        ``mask`` (B, N) float, 1 where hidden. V = floor(N (1 - mask_ratio)), at least 1.
    """
    count = noise.shape[1]
    visible = max(1, int(count * (1 - mask_ratio)))
    order = noise.argsort(1)
    restore = order.argsort(1)
    return order[:, :visible], restore, (restore >= visible).float()


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, patch * patch * C), row by row, a patch's values ordered (row, column, channel)."""
    batch, channels, height, width = images.shape
    x = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, channels: int) -> Tensor:
    """The inverse of ``patchify`` for square pictures: (B, N, patch * patch * C) -> (B, C, H, W)."""
    batch, count, _ = patches.shape
    side = round(count**0.5)
    x = patches.reshape(batch, side, side, patch, patch, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side * patch, side * patch)


def paint(images: Tensor, mask: Tensor, patch: int, value: float = 0.0) -> Tensor:
    """Pictures with the hidden patches painted over, for people to look at."""
    side = images.shape[-1] // patch
    hidden = mask.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return torch.where(hidden.bool(), torch.full_like(images, value), images)
