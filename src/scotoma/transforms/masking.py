"""Which patches to hide: pure functions of random numbers, and of what patches look like.

A score per patch states what goes first: ``random_order`` keeps the patches of the smallest scores and hides those of the largest.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = 16  # rectangles that ``block_scores`` lays over one another; what they leave is hidden patch by patch, if at all
SMALLEST_BLOCK = 16 / 196  # share of the patches (BEiT, algorithm 1: at least 16 of 14 x 14)
NARROWEST_BLOCK = 0.3  # width over height, or height over width (BEiT, algorithm 1)
NEVER = -1000.0  # below every logarithm of a positive float32, with any random number added


def visible_count(count: int, mask_ratio: float) -> int:
    """How many of ``count`` patches stay visible: floor(count (1 - mask_ratio)), at least 1."""
    return max(1, int(count * (1 - mask_ratio)))


def random_order(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Uniformly random masking without replacement (MAE, section 3; "shuffle and keep the first").

    Args:
        noise: (B, N) uniform random numbers, one per patch.
        mask_ratio: share of the patches to hide.

    Returns:
        ``keep`` (B, V) the visible patches; ``restore`` (B, N) the place of each patch in the order visible-then-hidden;
        ``mask`` (B, N) float, 1 where hidden. V = floor(N (1 - mask_ratio)), at least 1.
    """
    count = noise.shape[1]
    visible = visible_count(count, mask_ratio)
    order = noise.argsort(1)
    restore = order.argsort(1)
    return order[:, :visible], restore, (restore >= visible).float()


def weighted_scores(weights: Tensor, noise: Tensor) -> Tensor:
    """Scores by which patches are hidden one after the other, each in proportion to its weight among those that are left.

    The largest of log weight + Gumbel noise are such a draw without replacement (Kool et al. 2019, arXiv 1903.06059, section 2.3;
    the logarithms of Efraimidis and Spirakis' 2006 keys).

    Args:
        weights: (B, N), not negative, of any sum.
        noise: (B, N) uniform random numbers.

    Returns:
        (B, N). Patches of weight 0 are hidden after all others, in random order.
    """
    gumbel = -(-noise.clamp(min=2**-25).log()).log()
    return weights.float().log().clamp(min=NEVER) + gumbel


def block_scores(noise: Tensor, blocks: Tensor, mask_ratio: float) -> Tensor:
    """Scores by which whole rectangles are hidden, one after the other (BEiT, arXiv 2106.08254, section 2.3 and algorithm 1).

    As there, rectangles of random size, shape and place may overlap. There they stop at the first that reaches the wished share;
    here the share is exact: of the last rectangle only as many patches are hidden, at random, as are still wanted.

    Args:
        noise: (B, N) uniform random numbers, one per patch of a square grid.
        blocks: (B, J, 4) uniform random numbers: area, shape, row and column of each rectangle, the first to be hidden first.
        mask_ratio: share of the patches to hide, the largest area of a rectangle.

    Returns:
        (B, N).
    """
    count, rectangles = noise.shape[1], blocks.shape[1]
    side = math.isqrt(count)
    smallest, largest = SMALLEST_BLOCK * count, max(mask_ratio, SMALLEST_BLOCK) * count
    area, shape, top, left = blocks.unbind(2)  # (B, J) each
    area = smallest + area * (largest - smallest)
    shape = ((2 * shape - 1) * math.log(NARROWEST_BLOCK)).exp()  # as likely to lie as to stand
    height, width = ((area * f).sqrt().round().clamp(1, side) for f in (shape, 1 / shape))
    place = torch.arange(side, device=noise.device)

    def along(start: Tensor, length: Tensor) -> Tensor:
        first = (start * (side - length + 1)).floor()[:, :, None]
        return (place >= first) & (place < first + length[:, :, None])  # (B, J, side)

    inside = along(top, height)[:, :, :, None] & along(left, width)[:, :, None, :]  # (B, J, side, side)
    turn = torch.arange(rectangles, 0, -1, device=noise.device).view(1, -1, 1, 1)
    return (inside * turn).amax(1).flatten(1) + noise


def patch_entropy(images: Tensor, patch: int, levels: int = 16) -> Tensor:
    """Entropy of the grey levels within each patch: 0 where it is of one level, log(levels) where all are equally frequent.

    Args:
        images: (B, C, H, W) in [0, 1]; the mean over channels is the grey level.
        patch: side of a patch, pixels.
        levels: bins of the histogram. With 16, the empty quarter of brain MR images comes out at 0; with 64, half of that.

    Returns:
        (B, N), natural units.
    """
    grey = patchify(images.mean(1, keepdim=True), patch)  # (B, N, P)
    level = (grey * levels).long().clamp(0, levels - 1)
    counts = grey.new_zeros(*grey.shape[:2], levels).scatter_add_(2, level, torch.ones_like(grey))
    return torch.special.entr(counts / grey.shape[2]).sum(2)


def patch_gradient(images: Tensor, patch: int) -> Tensor:
    """Gradient energy: mean over each patch of the squared differences to the right and to the lower pixel.

    Args:
        images: (B, C, H, W).
        patch: side of a patch, pixels.

    Returns:
        (B, N), mean over channels.
    """
    right, down = F.pad(images.diff(dim=3), (0, 1)), F.pad(images.diff(dim=2), (0, 0, 0, 1))
    return patchify((right.square() + down.square()).mean(1, keepdim=True), patch).mean(2)


def finer(mask: Tensor, times: int) -> Tensor:
    """A mask of a square grid (B, N) on a grid ``times`` as fine: (B, N * times * times)."""
    side = math.isqrt(mask.shape[1])
    return mask.view(-1, side, side).repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(1)


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, patch * patch * C), row by row, a patch's values ordered (row, column, channel)."""
    batch, channels, height, width = images.shape
    x = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, channels: int) -> Tensor:
    """The inverse of ``patchify`` for square images: (B, N, patch * patch * C) -> (B, C, H, W)."""
    batch, count, _ = patches.shape
    side = round(count**0.5)
    x = patches.reshape(batch, side, side, patch, patch, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side * patch, side * patch)


def paint(images: Tensor, mask: Tensor, patch: int, value: float = 0.0) -> Tensor:
    """Images with the hidden patches painted over, for people to look at."""
    side = images.shape[-1] // patch
    hidden = mask.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return torch.where(hidden.bool(), torch.full_like(images, value), images)
