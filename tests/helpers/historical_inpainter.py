"""The inpainter of intelligent masking's published code (arXiv 2203.13865), with which ours is compared."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def channelwise_conv(dim: int, size: int, stages: int) -> nn.Conv2d:
    """Intelligent masking's bottleneck: each channel's map convolved alone, with kernel 2(1 + floor(size / 2^(stages + 1))) - 1.

    Args:
        dim: channels.
        size: side of the image, pixels.
        stages: of the encoder, between which the side is halved: the map's side is size / 2^(stages - 1).
    """
    return nn.Conv2d(dim, dim, 2 * (1 + size // 2 ** (stages + 1)) - 1, padding="same", groups=dim)


class HistoricalInpainter(nn.Module):
    """The inpainter of intelligent masking's published code: six stages, plain or U-Net; a reference, not an encoder to export.

    Its agent is the same network without the decoder: the map that the head makes of the bottleneck (9 x 9 at 300 pixels).

    Args:
        channels: of the image.
        size: side of the image; the result is resized to it by nearest neighbours.
        skips: whether the decoder sees the encoder's maps of its own resolution (U-Net).
    """

    WIDTHS = (16, 32, 64, 64, 128, 128)

    def __init__(self, channels: int, size: int, skips: bool) -> None:
        super().__init__()
        self.size, self.skips, widths = size, skips, self.WIDTHS
        back = list(pairwise(widths[::-1]))
        self.down = nn.ModuleList(_two(nn.Conv2d(a, b, 3, padding=1), b) for a, b in pairwise((channels, *widths)))
        self.across = channelwise_conv(widths[-1], size, len(widths))
        if skips:
            self.enlarge = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in back)
            self.up = nn.ModuleList(_two(nn.Conv2d(2 * b, b, 3, padding=1), b) for _, b in back)
        else:
            self.up = nn.ModuleList(_two(nn.ConvTranspose2d(a, b, 2, 2), b) for a, b in back)
        self.head = nn.Conv2d(widths[0], channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, size, size) with holes -> the same shape."""
        maps: list[Tensor] = []
        for stage in self.down:
            x = stage(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        x = self.across(maps.pop())
        for k, stage in enumerate(self.up):
            if self.skips:
                x = self.enlarge[k](x)
                beside, side = maps.pop(), x.shape[-1]
                first = round((beside.shape[-1] - side) / 2)  # halving an odd side loses a row: the middle is taken
                x = torch.cat([x, beside[:, :, first : first + side, first : first + side]], 1)
            x = stage(x)
        return F.interpolate(self.head(x), (self.size, self.size))


def _two(first: nn.Module, dim: int) -> nn.Sequential:
    return nn.Sequential(first, nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1))
