from __future__ import annotations

import timm
import torch
from learning import assert_learned, bars, inputs_of, train

from scotoma.losses import nt_xent
from scotoma.methods.simclr import SimCLR
from scotoma.views import Draws


def method_of(images: torch.Tensor, **arguments: float) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(timm.create_model("resnet10t", num_classes=0, in_chans=1), inputs_of(images), **arguments)


def test_two_views_of_a_picture_differ() -> None:
    images, _ = bars(8)
    views = method_of(images).views(images, Draws(0, 0, torch.arange(8)))
    first, second = views.values()
    assert (first - second).abs().mean((1, 2, 3)).min() > 0.05


def test_the_loss_is_that_of_projections_of_both_views() -> None:
    images, _ = bars(8)
    method = method_of(images, temperature=0.3).eval()  # without batch statistics, views may pass the network one by one
    views = method.views(images, Draws(0, 0, torch.arange(8)))
    with torch.no_grad():
        found = method.loss(views, {})["loss"]
        first, second = (method.projector(method.encoder(v)) for v in views.values())
    assert first.shape == (8, 128)
    torch.testing.assert_close(found, nt_xent(first, second, 0.3))


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    method = method_of(images)
    losses = train(method, images, targets, steps=40, learning_rate=1e-3)
    assert_learned(method, images, losses, fall=0.85)
