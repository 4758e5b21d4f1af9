"""Filling in what was hidden of an image: decoders behind a CNN encoder, and the network that chooses what to hide."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.models.encoders import feature_map, map_shape, width


class Decoder(nn.Module):
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
        self.decoder = Decoder(dim, self.side, channels, size)

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


def channelwise_conv(dim: int, size: int, stages: int) -> nn.Conv2d:
    """Intelligent masking's bottleneck: each channel's map convolved alone, with kernel 2(1 + floor(size / 2^(stages + 1))) - 1.

    Args:
        dim: channels.
        size: side of the image, pixels.
        stages: of the encoder, between which the side is halved: the map's side is size / 2^(stages - 1).
    """
    return nn.Conv2d(dim, dim, 2 * (1 + size // 2 ** (stages + 1)) - 1, padding="same", groups=dim)


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
        self.decoder = Decoder(dim, side, channels, size)

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


class Agent(nn.Module):
    """Looks at an image with holes and says what each location is worth: a map of Q-values (Bahrami et al. 2022).

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
        self.stages = nn.ModuleList([first, *(_normed(nn.Conv2d(a, b, 3, 2, 1, bias=False)) for a, b in pairwise(widths))])
        self.lateral = nn.ModuleList(nn.Conv2d(w, 64, 1) for w in widths)
        self.join = _normed(nn.Conv2d(64, 64, 3, 1, 1, bias=False))
        self.value = nn.Conv2d(64, 1, 1)

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        """(B, C, H, W) with holes and (B, 1, H, W), 1 in the holes -> (B, cells, cells) float32."""
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 would make ties of locations that differ
            x, brought = torch.cat([image, hidden], 1), []
            for stage, lateral in zip(self.stages, self.lateral, strict=True):
                x = stage(x)
                brought.append(lateral(F.adaptive_avg_pool2d(x, self.cells)))
            return self.value(self.join(torch.stack(brought).sum(0))).squeeze(1)


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GroupNorm(8, convolution.out_channels), nn.ReLU(inplace=True))


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
