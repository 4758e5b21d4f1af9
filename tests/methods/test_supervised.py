from __future__ import annotations

import math
from dataclasses import replace

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, features, inputs_of, train

from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.supervised import HEAD_SCALE, Supervised
from scotoma.models.encoders import forward_visible
from scotoma.rng import KeyedRNG


def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=0, in_chans=1)


def test_before_the_first_step_every_class_is_as_likely() -> None:
    images, _ = bars(8)
    method = Supervised(encoder(), inputs_of(images, 4))
    views = method.views(images, KeyedRNG(0, 0, torch.arange(8)))
    loss = method.loss(views, {"targets": torch.tensor([0, 1, 2, 3, -1, 0, 1, 2])})["loss"]
    assert loss.item() == pytest.approx(math.log(4))
    several = method.loss(views, {"targets": torch.ones(8, 4)})["loss"]
    assert several.item() == pytest.approx(math.log(2))


def test_class_weights_count_in_the_loss() -> None:
    images, _ = bars(4)
    method = Supervised(encoder(), Inputs(16, 1, (0.3,), (0.2,), outputs=2, class_weights=(1.0, 3.0))).eval()
    torch.nn.init.normal_(method.head.weight)
    views = method.views(images, KeyedRNG(0, 0, torch.arange(4)))
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


COUNT = 16


def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    kwargs = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", in_chans=1, **kwargs)


def dropping(drop_tokens: float = 0.75) -> tuple[Supervised, dict[str, torch.Tensor]]:
    """A method on eight images with a head that is not 0, and a batch of them."""
    images, targets = bars(8)
    given = replace(inputs_of(images, 2), images=8)
    method = Supervised(vit(), given, drop_tokens=drop_tokens)
    torch.nn.init.normal_(method.head.weight)
    return method, {"images": images, "positions": torch.arange(8), "epochs": torch.zeros(8, dtype=torch.int64), "targets": targets}


def test_it_drops_where_the_class_token_looks() -> None:
    """Of patches that are looked at much, little and hardly at all, the last remain; what is dropped leaves no trace."""
    method, batch = dropping(0.75)
    views = method.views(batch["images"], KeyedRNG(0, 0, batch["positions"]))
    views["theta"] = torch.eye(2, 3).expand(8, -1, -1)
    place = torch.stack([torch.randperm(COUNT) for _ in range(8)])
    weights = torch.tensor([1000.0] * 6 + [1.0] * 6 + [1e-5] * 4)
    method.attention.maps.copy_(torch.zeros(8, COUNT).scatter(1, place, weights.expand(8, -1)))
    method.attention.stamps.fill_(0)
    found = method.features(views, batch)
    expected = forward_visible(method.encoder, views["view"], place[:, -4:])[:, 0]  # the class token's order does not matter
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    kept = torch.zeros(8, COUNT).scatter(1, place[:, -4:], 1.0)
    for places, matters in ((1 - kept, False), (kept, True)):
        pixels = places.view(8, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
        assert torch.equal(method.features({**views, "view": views["view"] + 3 * pixels}, batch), found) != matters


def test_maps_are_those_of_the_network_as_it_was_given() -> None:
    method, batch = dropping()
    trained = {id(p) for group in method.param_groups() for p in group["params"]}
    assert trained == {id(p) for p in [*method.encoder.parameters(), *method.head.parameters()]}
    expected = method.attention.take(method.encoder, batch["images"])
    first = {k: v[:4] for k, v in batch.items()}
    method.loss(method.views(first["images"], KeyedRNG(0, 0, first["positions"])), first)["loss"].backward()
    assert all(p.grad is None for p in method.given.parameters())
    for p in method.encoder.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    batch["epochs"] += 50
    method.loss(method.views(batch["images"], KeyedRNG(0, 50, batch["positions"])), batch)
    assert method.attention.stamps.tolist() == [0] * 4 + [50] * 4
    torch.testing.assert_close(method.attention.maps.float(), expected, atol=1e-3, rtol=1e-3)
    assert (method.attention.take(method.encoder, batch["images"]) - expected).abs().max() > 0.01


def test_random_dropping_takes_patches_alike_and_keeps_no_maps() -> None:
    """The patches with the highest of the image's own numbers go, whatever the network attends to."""
    images, _ = bars(8)
    method = Supervised(vit(), replace(inputs_of(images, 2), images=8), drop_tokens=0.75, drop_by="random", mixup=0.2)
    assert method.attention is None and {name.split(".")[0] for name in method.state_dict()} == {"encoder", "head"}
    views = method.views(images, KeyedRNG(0, 0, torch.arange(8)))
    visible = views["noise"].argsort(1)[:, :4]
    expected = forward_visible(method.encoder, views["view"], visible)[:, 0]
    torch.testing.assert_close(method.features(views, {}), expected, atol=1e-5, rtol=1e-5)
    many = method.views(images[:1].expand(2000, -1, -1, -1), KeyedRNG(0, 0, torch.arange(2000)))["noise"].argsort(1)[:, :4]
    counts = torch.bincount(many.flatten(), minlength=16)
    assert (counts - 500).abs().max() < 5 * (2000 * 0.25 * 0.75) ** 0.5  # each patch is seen in a quarter of the draws


def test_without_dropping_nothing_is_added() -> None:
    method, batch = dropping(0.0)
    views = method.views(batch["images"], KeyedRNG(0, 0, batch["positions"]))
    again = method.augment(batch["images"], KeyedRNG(0, 0, batch["positions"]))
    assert list(views) == ["view"] and torch.equal(views["view"], again)
    assert {name.split(".")[0] for name in method.state_dict()} == {"encoder", "head"}
    other, _ = dropping(0.5)
    assert torch.equal(other.views(batch["images"], KeyedRNG(0, 0, batch["positions"]))["view"], views["view"])


def test_only_tokens_can_be_dropped() -> None:
    with pytest.raises(UsageError, match="drop_tokens needs a vision transformer"):
        Supervised(encoder(), Inputs(16, 1, (0.3,), (0.2,), outputs=2), drop_tokens=0.75)
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        Supervised(vit(), Inputs(16, 1, (0.3,), (0.2,), outputs=2), drop_tokens=1.0)
    with pytest.raises(UsageError, match="drop_by saliency: attention or random"):
        Supervised(vit(), Inputs(16, 1, (0.3,), (0.2,), outputs=2), drop_tokens=0.5, drop_by="saliency")
    with pytest.raises(UsageError, match=r"drop_by random: no patches are dropped; give their share with --method.drop_tokens"):
        Supervised(vit(), Inputs(16, 1, (0.3,), (0.2,), outputs=2), drop_by="random")


def test_it_learns_from_a_quarter_of_the_patches_and_uses_all() -> None:
    images, targets = bars(64)
    method = Supervised(vit(), replace(inputs_of(images, 2), images=64), drop_tokens=0.75).train()
    groups = method.param_groups()
    for group in groups:
        group["lr"] = 1e-3 * group.pop("lr_scale", 1.0)
    optimizer = torch.optim.AdamW(groups)
    for epoch in range(60):
        at = torch.arange(64)
        batch = {"images": images, "positions": at, "epochs": torch.full((64,), epoch), "targets": targets}
        loss = method.loss(method.views(images, KeyedRNG(0, epoch, at)), batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen, truth = bars(64, seed=1)
    method.eval()
    with torch.no_grad():
        accuracy = (method.head(features(method.encoder, unseen, method.inputs)).argmax(1) == truth).double().mean()
    assert accuracy > 0.9


def test_mixed_labels_are_those_of_the_mixed_images() -> None:
    images, targets = bars(32)
    method = Supervised(encoder(), inputs_of(images, 2), mixup=0.8, cutmix=1.0, min_scale=1.0, jitter=0.0)
    plain = Supervised(encoder(), inputs_of(images, 2), min_scale=1.0, jitter=0.0)
    draws = KeyedRNG(0, 0, torch.arange(32))
    views, before = method.views(images, draws), plain.views(images, draws)["view"]
    mixed, shares = method.mix(views, torch.nn.functional.one_hot(targets, 2).float())
    assert torch.allclose(shares.sum(1), torch.ones(32))
    ways = set()
    for k in range(32):
        own, other = before[k], before[k - 1]
        same = targets[k] == targets[k - 1]
        w = None if same else float(shares[k, targets[k]])
        pasted = ((mixed["view"][k] == own) | (mixed["view"][k] == other)).all()
        ways.add(bool(pasted))
        if w is not None and not pasted:
            assert torch.allclose(mixed["view"][k], w * own + (1 - w) * other, atol=1e-5)
    assert ways == {True, False}, "both ways are taken"
    cuts = Supervised(encoder(), inputs_of(images, 2), cutmix=1.0, min_scale=1.0, jitter=0.0)
    view = cuts.mix(cuts.views(images, draws), shares)[0]["view"]
    assert all(((view[k] == before[k]) | (view[k] == before[k - 1])).all() for k in range(32))


def test_smoothing_and_focus_reach_the_loss() -> None:
    images, _ = bars(6)
    y = torch.tensor([0, 1, 1, 0, 1, -1])
    several = torch.tensor([[0.0, 1.0]]).repeat(6, 1)
    draws = KeyedRNG(0, 0, torch.arange(6))

    def loss(targets: torch.Tensor, **settings: float) -> tuple[float, torch.Tensor]:
        method = Supervised(encoder(), inputs_of(images, 2), **settings).eval()
        torch.manual_seed(1)
        torch.nn.init.normal_(method.head.weight)
        views = method.views(images, draws)
        with torch.no_grad():
            return method.loss(views, {"targets": targets})["loss"].item(), method.head(method.encoder(views["view"]))

    value, logits = loss(y, smoothing=0.2)
    assert value == pytest.approx(torch.nn.functional.cross_entropy(logits[:5], y[:5], label_smoothing=0.2).item(), rel=1e-4)
    value, logits = loss(several, smoothing=0.2)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, several * 0.8 + 0.1)
    assert value == pytest.approx(expected.item(), rel=1e-4)
    assert loss(y, focal=2.0)[0] < loss(y)[0]


def test_frozen_stages_stay_as_they_are_with_their_statistics() -> None:
    images, targets = bars(32)
    network = encoder()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    method = Supervised(network, inputs_of(images, 2), trained_stages=1)
    train(method, images, targets, steps=3, learning_rate=1e-3)
    moved = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith("layer4.") for k in moved)


def test_layers_decay() -> None:
    method = Supervised(encoder(), Inputs(16, 1, (0.3,), (0.2,), outputs=2), layer_decay=0.5)
    groups = method.param_groups()
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in method.parameters()}
    scales = {round(g["lr_scale"], 6) for g in groups}
    assert HEAD_SCALE in scales and min(scales) < 0.1
