from __future__ import annotations

import math

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, inputs_of, train
from torch import Tensor, nn

from scotoma.methods.byol import BYOL
from scotoma.models.heads import momentum_at
from scotoma.rng import KeyedRNG


def method_of(images: Tensor, network: str = "resnet10t", **arguments: object) -> BYOL:
    torch.manual_seed(0)
    return BYOL(timm.create_model(network, num_classes=0, in_chans=1), inputs_of(images), **arguments)


def shaken(method: BYOL) -> BYOL:
    """The target is another network than the online one."""
    with torch.no_grad():
        for p in (*method.target_encoder.parameters(), *method.target_projector.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    return method


def test_heads_are_the_papers() -> None:
    method = method_of(bars(4)[0], projection_dim=16, hidden_dim=64)
    for net, first in ((method.projector, 512), (method.predictor, 16), (method.target_projector, 512)):
        assert [type(m) for m in net] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        assert net[0].weight.shape == (64, first) and net[3].weight.shape == (16, 64)
    assert BYOL.settings(BYOL.reference["method_args"])["momentum"] == 0.996


def test_the_loss_is_the_distance_of_predictions_and_targets_both_ways() -> None:
    images, _ = bars(8)
    method = shaken(method_of(images))
    first, second = method.views(images, KeyedRNG(0, 0, torch.arange(8))).values()
    found = method.loss({"first view": first, "second view": second}, {})["loss"]
    torch.testing.assert_close(found, method.loss({"first view": second, "second view": first}, {})["loss"])
    total = 0.0
    for online, target in ((first, second), (second, first)):
        q = method.predictor(method.projector(method.encoder(online)))
        z = method.target_projector(method.target_encoder(target))
        total += sum(float((a / a.norm() - b / b.norm()).square().sum()) for a, b in zip(q.detach(), z, strict=True)) / 8
    assert found.item() == pytest.approx(total, abs=1e-4)


def test_no_gradient_reaches_the_target() -> None:
    images, _ = bars(8)
    method = method_of(images)
    method.loss(method.views(images, KeyedRNG(0, 0, torch.arange(8))), {})["loss"].backward()
    targets = [*method.target_encoder.parameters(), *method.target_projector.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in targets)
    online = [*method.encoder.parameters(), *method.projector.parameters(), *method.predictor.parameters()]
    assert all(p.grad is not None for p in online)
    assert len(targets) + len(list(method.predictor.parameters())) == len(online)


def test_the_target_follows_at_the_papers_pace() -> None:
    """tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2, section 3.2."""
    schedule = pytest.importorskip("lightly.utils.scheduler").cosine_schedule
    images, _ = bars(4)
    for step in (0, 3, 5, 10):
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * step / 10) + 1) / 2
        assert momentum_at(0.9, step / 10) == pytest.approx(tau, abs=1e-12)
        assert tau == pytest.approx(schedule(step, 11, 0.9, 1.0), abs=1e-12)
        method = shaken(method_of(images, momentum=0.9))
        before = [p.clone() for p in (*method.target_encoder.parameters(), *method.target_projector.parameters())]
        method.after_step(step / 10)
        after = (*method.target_encoder.parameters(), *method.target_projector.parameters())
        online = (*method.encoder.parameters(), *method.projector.parameters())
        for old, new, theirs in zip(before, after, online, strict=True):
            torch.testing.assert_close(new, tau * old + (1 - tau) * theirs)


def test_the_second_view_is_of_the_partner() -> None:
    images, _ = bars(8)
    method, rng = method_of(images, positives="patient"), KeyedRNG(0, 0, torch.arange(4))
    views, own = method.views(images[:4], rng, paired_images=images[4:]), method.views(images[:4], rng)
    assert torch.equal(views["first view"], own["first view"])
    assert torch.equal(views["second view"], method.views(images[4:], rng)["second view"])
    assert not torch.equal(views["second view"], own["second view"])


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    method = method_of(images, "test_resnet")
    losses = train(method, images, targets, steps=40, learning_rate=1e-3)
    assert_learned(method, images, losses, fall=0.7)
