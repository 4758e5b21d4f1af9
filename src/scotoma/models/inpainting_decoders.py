"""Filling in what was hidden of an image: decoders behind a CNN encoder, and the network that chooses what to hide."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.models.encoders import feature_map, map_shape, width


class InpaintingDecoder(nn.Module):
    """Low-resolution maps -> an image: double the side and convolve until the size is reached, ever narrower, no skip connections.

    Five doublings behind a resnet18 at 96 pixels cost about a tenth of the encoder; the last is a rearrangement of channels.

    Args:
        dim: channels that come in; halved with every doubling, down to 16.
        side: of the maps that come in.
        channels: of the image.
        size: side of the image; where it is no power of two times ``side``, the result is resized to it.
    """

    def __init__(self, dim: int, side: int, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        doublings = max(1, math.ceil(math.log2(size / side)))
        widths = [dim] + [min(dim, max(16, dim >> k)) for k in range(1, doublings)]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)]
            layers += [nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 4 * channels, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, side, side) -> (B, channels, size, size)."""
        x = self.layers(x)
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        return x


class CodeDecoder(nn.Module):
    """An image from an encoder's features alone, the very numbers that are exported: nothing passes but through them.

    Args:
        encoder: a network with feature maps.
        channels: of the image.
        size: side of the image.
        dim: channels of the decoder's first maps.
    """

    def __init__(self, encoder: nn.Module, channels: int, size: int, dim: int) -> None:
        super().__init__()
        self.side = map_shape(encoder, channels, size)[1]
        self.spread = nn.Linear(width(encoder), dim * self.side**2)
        self.decoder = InpaintingDecoder(dim, self.side, channels, size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, width) -> (B, channels, size, size)."""
        return self.decoder(F.relu(self.spread(features)).unflatten(1, (-1, self.side, self.side)))


class ChannelwiseFull(nn.Module):
    """Each channel's map through a fully-connected layer of its own (Pathak et al. 2016, section 3.1, "channel-wise").

    "a channel-wise fully-connected layer" carries information across the whole map with m n^4 weights, where a full one had
    m^2 n^4; a convolution behind it carries it across channels.

    Args:
        dim: channels, m.
        side: of the maps, n.
    """

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        count = side * side
        self.weight = nn.Parameter(torch.empty(dim, count, count))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.kaiming_uniform_(self.weight.data.view(-1, count), a=math.sqrt(5))  # as nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """(B, m, n, n) -> the same shape."""
        mixed = torch.einsum("bmi,moi->bmo", x.flatten(2), self.weight.to(x.dtype))
        return (mixed + self.bias.to(x.dtype)[:, None]).view_as(x)


class MapDecoder(nn.Module):
    """An image from an encoder's last feature map and, at every place, the features that the encoder makes of that map.

    Args:
        encoder: a network with feature maps.
        channels: of the image.
        size: side of the image.
        dim: channels to which the map is brought first.
    """

    def __init__(self, encoder: nn.Module, channels: int, size: int, dim: int) -> None:
        super().__init__()
        found, side = map_shape(encoder, channels, size)
        self.narrow = nn.Conv2d(found, dim, 1)
        self.across = ChannelwiseFull(dim, side)
        self.whole = nn.Linear(width(encoder), dim)
        self.decoder = InpaintingDecoder(dim, side, channels, size)

    def forward(self, maps: Tensor, features: Tensor) -> Tensor:
        """(B, D, h, w) and (B, width) -> (B, channels, size, size)."""
        x = self.across(F.relu(self.narrow(maps))) + self.whole(features)[:, :, None, None]
        return self.decoder(F.relu(x))


def fill_in(encoder: nn.Module, decoder: MapDecoder, images: Tensor) -> Tensor:
    """What encoder and decoder make of images with holes, (B, C, size, size)."""
    maps = feature_map(encoder, images)
    features: Tensor = encoder.forward_head(maps)  # type: ignore[operator]
    return decoder(maps, features)


def to_pixels(cells: Tensor, size: int) -> Tensor:
    """A mask of a square grid of cells as one of pixels: (B, N) -> (B, 1, size, size) float32, each pixel as its nearest cell."""
    side = math.isqrt(cells.shape[1])
    return F.interpolate(cells.view(-1, 1, side, side).float(), (size, size), mode="nearest")


class QNetwork(nn.Module):
    """Values each location of an image with holes: a map of Q-values for episodes of many hides (Bahrami et al. 2022).

    Four stages, on a quarter to a thirty-second of the side, and a short decoder that brings their maps to the grid, adds them and
    convolves: fine enough for the cells, and each value has seen the whole image. Group norms, not batch norms: what is hidden
    in an image must not hang on the others of its batch, and acting and learning must see the same values.

    Args:
        channels: of the image.
        cells: locations along a side.
    """

    WIDTHS = (16, 32, 64, 128)

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.cells, widths = cells, self.WIDTHS
        first = nn.Sequential(nn.Conv2d(channels + 1, widths[0], 7, 4, 3), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList([first, *(group_normed(a, b, 2) for a, b in pairwise(widths))])
        self.lateral = nn.ModuleList(nn.Conv2d(w, 64, 1) for w in widths)
        self.join = group_normed(64, 64)
        self.value = nn.Conv2d(64, 1, 1)

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        """(B, C, H, W) with holes and (B, 1, H, W), 1 in the holes -> (B, cells, cells) float32."""
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 would make ties of locations that differ
            x, brought = torch.cat([image, hidden], 1), []
            for stage, lateral in zip(self.stages, self.lateral, strict=True):
                x = stage(x)
                brought.append(lateral(F.adaptive_avg_pool2d(x, self.cells)))
            return self.value(self.join(torch.stack(brought).sum(0))).squeeze(1)


def group_normed(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Group norm, not batch norm: what is hidden in an image must not hang on the others of the batch."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU(inplace=True))
