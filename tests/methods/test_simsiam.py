from __future__ import annotations

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, inputs_of, train
from torch import Tensor, nn

from scotoma.methods.simsiam import SimSiam
from scotoma.rng import KeyedRNG


def method_of(images: Tensor, network: str = "resnet10t", **arguments: object) -> SimSiam:
    torch.manual_seed(0)
    return SimSiam(timm.create_model(network, num_classes=0, in_chans=1), inputs_of(images), **arguments)


def widths(net: nn.Module) -> list[tuple[int, int] | str]:
    leaves = [m for m in net.modules() if not list(m.children())]
    return [(m.in_features, m.out_features) if isinstance(m, nn.Linear) else type(m).__name__ for m in leaves]


def test_heads_are_the_papers() -> None:
    method = method_of(bars(4)[0], projection_dim=64, bottleneck=16)
    norm = "BatchNorm1d"
    assert widths(method.projector) == [(512, 64), norm, "ReLU", (64, 64), norm, "ReLU", (64, 64), norm]
    assert widths(method.predictor) == [(64, 16), norm, "ReLU", (16, 64)]
    assert SimSiam.settings(SimSiam.reference["method_args"])["bottleneck"] == 512


def test_the_loss_is_symmetric_and_that_of_its_parts() -> None:
    images, _ = bars(8)
    method = method_of(images)
    views = method.views(images, KeyedRNG(0, 0, torch.arange(8)))
    first, second = views.values()
    swapped = {"first view": second, "second view": first}
    found, other = method.loss(views, {})["loss"], method.loss(swapped, {})["loss"]
    torch.testing.assert_close(found, other)
    z1, z2 = method.projector(method.encoder(first)), method.projector(method.encoder(second))  # each view by itself
    p1, p2 = method.predictor(z1), method.predictor(z2)
    expected = -sum(
        float(p @ z / (p.norm() * z.norm()))
        for ps, zs in ((p1, z2), (p2, z1))
        for p, z in zip(ps.detach(), zs.detach(), strict=True)
    )
    assert found.item() == pytest.approx(expected / 16, abs=1e-5)
    assert (z1.mean(0).abs() < 1e-4).all() and z1.std(0, unbiased=False).allclose(torch.ones(512), atol=0.05)


def test_the_gradient_is_that_of_constant_targets() -> None:
    images, _ = bars(8)
    method = method_of(images)
    first, second = method.views(images, KeyedRNG(0, 0, torch.arange(8))).values()
    weight = method.encoder.conv1[0].weight
    (found,) = torch.autograd.grad(method.loss({"first view": first, "second view": second}, {})["loss"], weight)

    def gradient(stopped: bool) -> Tensor:
        z1, z2 = method.projector(method.encoder(first)), method.projector(method.encoder(second))
        t1, t2 = (z1.clone().detach(), z2.clone().detach()) if stopped else (z1, z2)
        cosines = nn.functional.cosine_similarity
        loss = -(cosines(method.predictor(z1), t2).mean() + cosines(method.predictor(z2), t1).mean()) / 2
        return torch.autograd.grad(loss, weight)[0]

    torch.testing.assert_close(found, gradient(stopped=True), atol=1e-6, rtol=1e-4)
    assert not torch.allclose(found, gradient(stopped=False), atol=1e-6, rtol=1e-2)


def test_the_second_view_is_of_the_partner() -> None:
    images, _ = bars(8)
    method, rng = method_of(images, positives="patient"), KeyedRNG(0, 0, torch.arange(4))
    views, own = method.views(images[:4], rng, paired_images=images[4:]), method.views(images[:4], rng)
    assert torch.equal(views["first view"], own["first view"])
    assert torch.equal(views["second view"], method.views(images[4:], rng)["second view"])
    assert not torch.equal(views["second view"], own["second view"])
    assert SimSiam.requirements(SimSiam.settings({"positives": "patient"})).pairs == "patient"


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    method = method_of(images, "test_resnet")
    losses = train(method, images, targets, steps=40, learning_rate=1e-3)
    assert min(losses) > -1
    assert_learned(method, images, [1 + loss for loss in losses], fall=0.6)
