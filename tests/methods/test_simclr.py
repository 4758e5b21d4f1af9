from __future__ import annotations

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, inputs_of, train

from scotoma.methods.parts.losses import nt_xent
from scotoma.methods.simclr import SimCLR
from scotoma.rng import KeyedRNG


def method_of(images: torch.Tensor, network: str = "resnet10t", **arguments: object) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(timm.create_model(network, num_classes=0, in_chans=1), inputs_of(images), **arguments)


def test_two_views_of_a_image_differ() -> None:
    images, _ = bars(8)
    views = method_of(images).views(images, KeyedRNG(0, 0, torch.arange(8)))
    first, second = views.values()
    assert (first - second).abs().mean((1, 2, 3)).min() > 0.05


def test_the_loss_is_that_of_projections_of_both_views() -> None:
    images, _ = bars(8)
    method = method_of(images, temperature=0.3).eval()  # without batch statistics, views may pass the network one by one
    views = method.views(images, KeyedRNG(0, 0, torch.arange(8)))
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


def test_the_second_view_is_of_the_partner() -> None:
    images, _ = bars(8)
    method, rng = method_of(images, positives="patient"), KeyedRNG(0, 0, torch.arange(4))
    views, own = method.views(images[:4], rng, paired_images=images[4:]), method.views(images[:4], rng)
    assert torch.equal(views["first view"], own["first view"])
    assert torch.equal(views["second view"], method.views(images[4:], rng)["second view"])
    assert not torch.equal(views["second view"], own["second view"])
    assert SimCLR.requirements(SimCLR.settings({"positives": "age:10"})).pairs == "age:10"


@pytest.mark.parametrize(("network", "features"), [("resnet50", 2048), ("efficientnet_b0", 1280)])
def test_a_step_with_the_networks_of_the_papers(network: str, features: int) -> None:
    images, _ = bars(4)
    torch.manual_seed(0)
    encoder = timm.create_model(network, num_classes=0, in_chans=1)
    method = SimCLR(encoder, inputs_of(images), **SimCLR.reference["method_args"]).train()
    assert [m.weight.shape for m in method.projector[::3]] == [(features, features), (128, features)]
    loss = method.loss(method.views(images, KeyedRNG(0, 0, torch.arange(4))), {})["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())
    assert encoder.conv1.weight.grad.abs().max() > 0 if network == "resnet50" else encoder.conv_stem.weight.grad.abs().max() > 0
