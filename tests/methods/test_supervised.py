from __future__ import annotations

import math

import pytest
import timm
import torch
from learning import assert_learned, bars, features, inputs_of, train

from scotoma.methods.base import Inputs
from scotoma.methods.supervised import HEAD_SCALE, Supervised
from scotoma.views import Draws


def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=0, in_chans=1)


def test_before_the_first_step_every_class_is_as_likely() -> None:
    images, _ = bars(8)
    method = Supervised(encoder(), inputs_of(images, 4))
    views = method.views(images, Draws(0, 0, torch.arange(8)))
    loss = method.loss(views, {"targets": torch.tensor([0, 1, 2, 3, -1, 0, 1, 2])})["loss"]
    assert loss.item() == pytest.approx(math.log(4))
    several = method.loss(views, {"targets": torch.ones(8, 4)})["loss"]
    assert several.item() == pytest.approx(math.log(2))


def test_class_weights_count_in_the_loss() -> None:
    images, _ = bars(4)
    method = Supervised(encoder(), Inputs(16, 1, (0.3,), (0.2,), outputs=2, class_weights=(1.0, 3.0))).eval()
    torch.nn.init.normal_(method.head.weight)
    views = method.views(images, Draws(0, 0, torch.arange(4)))
    with torch.no_grad():
        found = method.loss(views, {"targets": torch.tensor([0, 1, 1, -1])})["loss"]
        log_p = method.head(method.encoder(views["view"])).log_softmax(1)
    assert found.item() == pytest.approx((-(log_p[0, 0] + 3 * log_p[1, 1] + 3 * log_p[2, 1]) / 7).item(), rel=1e-5)


def test_the_head_learns_faster_than_the_encoder() -> None:
    method = Supervised(encoder(), Inputs(16, 1, (0.3,), (0.2,), outputs=2))
    head = {id(p) for p in method.head.parameters()}
    for group in method.param_groups():
        inside = [id(p) in head for p in group["params"]]
        assert all(inside) if group.get("lr_scale", 1.0) == HEAD_SCALE else not any(inside)


def test_it_learns() -> None:
    images, targets = bars(64)
    method = Supervised(encoder(), inputs_of(images, 2))
    losses = train(method, images, targets, steps=30, learning_rate=5e-4)
    assert_learned(method, images, losses, fall=0.5)
    unseen, truth = bars(64, seed=1)
    method.eval()
    with torch.no_grad():
        accuracy = (method.head(features(method.encoder, unseen, method.inputs)).argmax(1) == truth).double().mean()
    assert accuracy > 0.9
