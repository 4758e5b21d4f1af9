from __future__ import annotations

import pytest
import timm
import torch
from helpers.learning import SIZE, assert_learned, bars, inputs_of, train
from torch import Tensor

from scotoma.errors import UsageError
from scotoma.methods.base import Views
from scotoma.methods.context_encoder import ContextEncoder
from scotoma.rng import KeyedRNG

CELLS, CELL = 4, 4


def method_of(images: Tensor, **arguments: object) -> ContextEncoder:
    torch.manual_seed(0)
    encoder = timm.create_model("resnet10t", num_classes=0, in_chans=1, channels=(16, 32, 64, 128))
    return ContextEncoder(encoder, inputs_of(images), **{"decoder_dim": 32, "cells": CELLS, **arguments})


def views_of(method: ContextEncoder, images: Tensor) -> Views:
    return method.views(images, KeyedRNG(0, 0, torch.arange(len(images))))


def pixels(mask: Tensor) -> Tensor:
    """(B, N) -> (B, 1, H, W), by a loop over cells."""
    out = torch.zeros(len(mask), 1, SIZE, SIZE)
    for i in range(CELLS**2):
        row, column = divmod(i, CELLS)
        out[:, 0, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = mask[:, i, None, None]
    return out


def test_hidden_pixels_do_not_reach_the_network() -> None:
    images, _ = bars(5)
    method = method_of(images).eval()
    views = views_of(method, images)
    with torch.no_grad():
        prediction, mask = method.fill(views)
        hidden, noise = pixels(mask), torch.randn(views["view"].shape)
        assert torch.equal(method.fill(views | {"view": views["view"] + 3 * hidden * noise})[0], prediction)
        assert not torch.allclose(method.fill(views | {"view": views["view"] + 3 * (1 - hidden) * noise})[0], prediction, atol=1e-3)


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize("masking", ["block", "random", "entropy"])
def test_the_wanted_share_is_hidden(masking: str, ratio: float) -> None:
    images, _ = bars(8)
    method = method_of(images, masking=masking, mask_ratio=ratio)
    mask = method.fill(views_of(method, images))[1]
    assert (mask.sum(1) == ratio * CELLS**2).all()
    assert len({tuple(row.tolist()) for row in mask}) > 1  # every image in its own way


@pytest.mark.parametrize("whole", [False, True])
def test_the_loss_counts_hidden_pixels_alone_unless_asked(whole: bool) -> None:
    images, _ = bars(4)
    method = method_of(images, whole=whole).eval()
    views = views_of(method, images)
    with torch.no_grad():
        prediction, mask = method.fill(views)
        counted = torch.ones_like(prediction) if whole else pixels(mask)
        total, count = 0.0, 0
        for b in range(4):
            for row in range(SIZE):
                for column in range(SIZE):
                    if counted[b, 0, row, column]:
                        total += (prediction[b, 0, row, column] - views["view"][b, 0, row, column]).item() ** 2
                        count += 1
        assert count == 4 * SIZE**2 // (1 if whole else 4)
        assert method.loss(views, {})["loss"].item() == pytest.approx(total / count, rel=1e-5)


def test_an_agent_that_hides_learns_beside_it() -> None:
    images, _ = bars(6)
    method = method_of(images, masking="agent")
    views = views_of(method, images)
    method.loss(views, {})["loss"].backward()
    with_agent = {n: p.grad.clone() for n, p in method.named_parameters()}
    assert sum(g.abs().sum() for n, g in with_agent.items() if n.startswith("mask_strategy.")) > 0
    method.zero_grad()
    prediction, mask = method.fill(views)
    shown = pixels(mask)
    ((prediction - views["view"]).square() * shown).sum().div(shown.sum()).backward()
    for name, parameter in method.named_parameters():
        if not name.startswith("mask_strategy."):  # the agent's loss passes nothing on to the inpainter
            torch.testing.assert_close(with_agent[name], parameter.grad, rtol=1e-4, atol=1e-6)
    method.after_step(1.0)
    assert method.mask_strategy.agent.epsilon == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"masking": "attention"}, "class token"), ({"cells": 5}, "cells 5"), ({"mask_ratio": 1.0}, "mask_ratio")],
)
def test_what_it_cannot_do_is_refused(arguments: dict[str, object], message: str) -> None:
    images, _ = bars(2)
    with pytest.raises(UsageError, match=message):
        method_of(images, **arguments)


def test_a_vision_transformer_is_refused() -> None:
    images, _ = bars(2)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, img_size=16, depth=1)
    with pytest.raises(UsageError, match="convolutional"):
        ContextEncoder(vit, inputs_of(images))


def test_images_keep_what_is_visible() -> None:
    images, _ = bars(3)
    method = method_of(images).eval()
    views = views_of(method, images)
    with torch.no_grad():
        prediction, mask = method.fill(views)
        shown = method.example_images(views, {})
    hidden = pixels(mask).bool()
    assert torch.equal(shown["reconstruction"], torch.where(hidden, prediction, views["view"]))
    assert torch.equal(shown["visible"], torch.where(hidden, torch.zeros(()), views["view"]))


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    method = method_of(images)
    losses = train(method, images, targets, steps=40, learning_rate=3e-3)
    assert_learned(method, images, losses, fall=0.7)
