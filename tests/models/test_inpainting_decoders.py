from __future__ import annotations

import itertools

import pytest
import timm
import torch
from helpers.historical_inpainter import HistoricalInpainter, channelwise_conv
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.models import encoders
from scotoma.models.inpainting_decoders import (
    ChannelwiseFull,
    CodeDecoder,
    InpaintingDecoder,
    MapDecoder,
    QNetwork,
    fill_in,
    to_pixels,
)

NETWORKS = ("resnet10t", "mobilenetv3_small_050", "convnext_atto")


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def network(name: str, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, in_chans=channels)


@pytest.mark.parametrize(("side", "size"), [(3, 96), (1, 32), (2, 50), (7, 224), (10, 300)])
def test_the_decoder_reaches_any_size(side: int, size: int) -> None:
    decoder, maps = InpaintingDecoder(32, side, 3, size), torch.zeros(2, 32, side, side)
    assert decoder(maps).shape == (2, 3, size, size)
    assert size <= decoder.layers(maps).shape[-1] < 2 * size  # as few doublings as will do


def test_the_decoder_puts_things_where_they_were() -> None:
    """A change at one place of the map changes the image there, and not at the other end."""
    torch.manual_seed(0)
    decoder = InpaintingDecoder(32, 8, 1, 64).eval()
    maps = torch.zeros(1, 32, 8, 8)
    changed = maps.clone()
    changed[..., 1, 6] = 5
    moved = (decoder(changed) - decoder(maps)).abs()[0, 0]
    assert moved[8:16, 48:56].mean() > 20 * moved[32:, :32].mean()


@pytest.mark.parametrize("name", NETWORKS)
def test_whatever_the_network_exports_takes_part(name: str) -> None:
    encoder = network(name, 3)
    decoders = MapDecoder(encoder, 3, 48, 16), CodeDecoder(encoder, 3, 48, 16)
    images = torch.randn(4, 3, 48, 48)
    for filled in (fill_in(encoder, decoders[0], images), decoders[1](encoder(images))):
        assert filled.shape == images.shape
        encoder.zero_grad()
        filled.square().sum().backward()
        assert all(p.grad is not None for p in encoder.parameters())


def test_the_map_shape_is_found_without_a_trace() -> None:
    encoder = network("resnet10t").train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    assert encoders.map_shape(encoder, 1, 96) == (512, 3)
    assert encoders.map_shape(encoder, 1, 100) == (512, 4)
    assert encoder.training
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    images = torch.randn(2, 1, 64, 64)
    encoder.eval()
    assert torch.equal(encoder.forward_head(encoders.feature_map(encoder, images)), encoder(images))


def test_networks_without_maps_are_refused() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, img_size=32, depth=1)
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, in_chans=1, img_size=56, depths=(1, 1, 1, 1))
    for encoder, size in ((vit, 32), (swin, 56)):  # tokens; maps with channels last
        with pytest.raises(UsageError, match="convolutional"):
            encoders.map_shape(encoder, 1, size)


def test_the_channelwise_layer_is_a_full_layer_for_each_channel() -> None:
    torch.manual_seed(0)
    layer, maps = ChannelwiseFull(5, 3), torch.randn(2, 5, 3, 3)
    assert parameters(layer) == 5 * 3**4 + 5  # section 3.1: m n^4
    nn.init.normal_(layer.bias)
    expected = torch.stack(
        [nn.functional.linear(maps[:, m].flatten(1), layer.weight[m]) + layer.bias[m] for m in range(5)], 1
    ).view_as(maps)
    torch.testing.assert_close(layer(maps), expected)


def test_the_channelwise_convolution_has_the_published_kernel() -> None:
    layer = channelwise_conv(128, 300, 6)
    assert layer.kernel_size == (5, 5)  # 2 (1 + floor(300 / 128)) - 1
    assert channelwise_conv(16, 96, 6).kernel_size == (1, 1)
    assert layer.weight.shape == (128, 1, 5, 5)
    assert layer(torch.zeros(1, 128, 9, 9)).shape == (1, 128, 9, 9)


def historical_parameters(skips: bool) -> int:
    """Counted layer by layer: weights and biases of convolutions, two numbers a channel of a batch norm."""

    def conv(a: int, b: int, k: int) -> int:
        return a * b * k * k + b

    widths = (1, 16, 32, 64, 64, 128, 128)
    total = sum(conv(a, b, 3) + 2 * b + conv(b, b, 3) for a, b in itertools.pairwise(widths))
    total += 128 * 25 + 128 + conv(16, 1, 1)
    for a, b in ((128, 128), (128, 64), (64, 64), (64, 32), (32, 16)):
        total += conv(a, b, 2) + 2 * b + conv(b, b, 3) + (conv(2 * b, b, 3) if skips else 0)
    return total


@pytest.mark.parametrize("skips", [False, True])
def test_the_historical_network_is_the_published_one(skips: bool) -> None:
    torch.manual_seed(0)
    net = HistoricalInpainter(1, 300, skips).eval()
    assert parameters(net) == historical_parameters(skips)
    seen: list[Tensor] = []
    net.across.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        image = torch.randn(1, 1, 300, 300)
        filled = net(image)
        # 9 x 9 cells of 32 pixels, brought back to 288 (AE) and resized: neighbouring pixels repeat, at 300 / 288
        assert seen[0].shape == (1, 128, 9, 9) and filled.shape == image.shape
        assert (filled.diff(dim=3).abs().amax((0, 1, 2)) == 0).sum() == 12


def test_only_a_unet_hands_detail_across() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 1, 64, 64)
    for skips in (False, True):
        net = HistoricalInpainter(1, 64, skips).eval()
        for stage in net.across, *(net.enlarge if skips else ()):
            nn.init.zeros_(stage.weight)
        with torch.no_grad():
            assert torch.equal(net(image), net(image + 1)) is not skips


def test_a_unet_takes_the_middle_of_larger_maps() -> None:
    center_crop = pytest.importorskip("torchvision").transforms.functional.center_crop
    net = HistoricalInpainter(1, 300, True).eval()
    given: list[Tensor] = []
    made: list[Tensor] = []
    for stage in net.up:
        stage.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    for stage in net.down:
        stage.register_forward_hook(lambda _, inputs, output: made.append(output))
    with torch.no_grad():
        net(torch.randn(1, 1, 300, 300))
    for joined, beside in zip(given, made[-2::-1], strict=True):
        assert torch.equal(joined[:, joined.shape[1] // 2 :], center_crop(beside, list(joined.shape[2:])))


@pytest.mark.parametrize(("cells", "size"), [(4, 16), (3, 10), (9, 300)])
def test_cells_become_pixels(cells: int, size: int) -> None:
    mask = torch.rand(2, cells * cells) < 0.5
    pixels = to_pixels(mask, size)
    assert pixels.shape == (2, 1, size, size)
    for row in range(0, size, 3):
        for column in range(0, size, 2):
            cell = (row * cells // size) * cells + column * cells // size
            assert torch.equal(pixels[:, 0, row, column], mask[:, cell].float())


@pytest.mark.parametrize(("channels", "cells", "size"), [(1, 8, 96), (3, 9, 300), (1, 12, 32)])
def test_the_agent_values_every_location(channels: int, cells: int, size: int) -> None:
    torch.manual_seed(0)
    agent = QNetwork(channels, cells)
    images, hidden = torch.randn(3, channels, size, size), torch.zeros(3, 1, size, size)
    values = agent(images, hidden)
    assert values.shape == (3, cells, cells) and values.dtype == torch.float32
    torch.testing.assert_close(agent(images[1:2], hidden[1:2])[0], values[1])  # the others of the batch do not matter
    hidden[0, :, :10] = 1
    moved = (agent(images, hidden) - values).abs().amax((1, 2))
    assert moved[0] > 1e-3 and moved[1:].max() == 0  # it is told what is hidden, and of each image for itself


def test_the_agent_can_learn_where_something_is() -> None:
    """A bright spot moves about: the value of its cell is 1, all others 0."""
    torch.manual_seed(0)
    agent = QNetwork(1, 8)
    optimizer = torch.optim.AdamW(agent.parameters(), 3e-3)
    right = []
    for place in torch.randint(64, (40, 16)):
        wanted = nn.functional.one_hot(place, 64).float()
        images = to_pixels(wanted, 32) * 3 + 0.3 * torch.randn(16, 1, 32, 32)
        values = agent(images, torch.zeros_like(images)).flatten(1)
        optimizer.zero_grad()
        (values - wanted).square().sum(1).mean().backward()
        optimizer.step()
        right.append((values.argmax(1) == place).float().mean().item())
    assert sum(right[-5:]) / 5 > 0.8
