from __future__ import annotations

import copy

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, inputs_of, train
from torch import Tensor, nn

from scotoma.methods import moco_v2
from scotoma.methods.moco_v2 import MoCoV2
from scotoma.methods.parts.losses import info_nce
from scotoma.rng import KeyedRNG


def method_of(images: Tensor, network: str = "resnet10t", **arguments: object) -> MoCoV2:
    torch.manual_seed(0)
    return MoCoV2(timm.create_model(network, num_classes=0, in_chans=1), inputs_of(images), **arguments)


def test_the_head_has_a_hidden_layer_without_norm() -> None:
    method = method_of(bars(4)[0])
    assert [type(m) for m in method.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [m.weight.shape for m in method.projector[::2]] == [(512, 512), (128, 512)]
    assert method_of(bars(4)[0], hidden_dim=32).projector[0].out_features == 32
    assert MoCoV2.settings(MoCoV2.reference["method_args"])["momentum"] == 0.999


def test_half_of_the_views_are_blurred() -> None:
    images = torch.randint(0, 256, (64, 1, 20, 20), dtype=torch.uint8)
    rng = KeyedRNG(0, 0, torch.arange(64))
    blurred, sharp = (method_of(images, blur=blur).views(images, rng) for blur in (0.5, 0.0))
    for name in ("query", "key"):
        changed = (blurred[name] - sharp[name]).abs().mean((1, 2, 3)) > 1e-3
        assert 20 < changed.sum() < 44


def test_keys_join_the_queue_after_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = bars(12)
    method = method_of(images, queue_size=7, groups=2).train()
    steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def spy(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float, excluded: Tensor) -> Tensor:
        steps.append((keys, queue.clone(), excluded))
        assert temperature == 0.2
        return info_nce(queries, keys, queue, temperature, excluded)

    monkeypatch.setattr(moco_v2, "info_nce", spy)
    for epoch, rows in enumerate((torch.arange(4), torch.arange(4, 8), torch.tensor([8, 4, 9, 5]))):
        losses = method.loss(method.views(images[rows], KeyedRNG(0, epoch, rows)), {"positions": rows})
        losses["loss"].backward()
    first, second, third = steps
    assert first[2].all() and losses["loss"] > 0
    assert torch.equal(second[1][:4], first[0]) and second[2].tolist() == [[False] * 4 + [True] * 3] * 4
    # of eight keys the queue holds seven: the eighth took the place of the first
    assert torch.equal(third[1], torch.cat([second[0][3:], first[0][1:], second[0][:3]]))
    mine = [[], [4], [], [5]]  # slots of images 4 and 5
    assert [row.nonzero().flatten().tolist() for row in third[2]] == mine
    assert all(p.grad is None for net in (method.key_encoder, method.key_projector) for p in net.parameters())


def test_queries_and_shuffled_keys_have_other_groups() -> None:
    images, _ = bars(16)
    method = method_of(images, groups=4).train()
    sizes: list[int] = []
    for net in (method.encoder, method.key_encoder):
        net.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    rows = torch.arange(16)
    views = method.views(images, KeyedRNG(0, 0, rows))
    method.loss(views, {"positions": rows})
    assert sizes == [16, 16]
    alone = copy.deepcopy(method.key_encoder)
    for module in alone.modules():
        module.groups = 1
    together = method.key_projector(alone(views["key"]))
    found = method.queue.keys[:16]
    assert not torch.allclose(found, nn.functional.normalize(together, dim=1), atol=1e-2)  # not the statistics of the batch
    order = views["shuffle"].argsort()
    group = nn.functional.normalize(method.key_projector(alone(views["key"][order[4:8]])), dim=1)
    torch.testing.assert_close(found[order[4:8]], group, atol=1e-5, rtol=1e-5)


def test_the_key_is_of_the_partner() -> None:
    images, _ = bars(8)
    method, rng = method_of(images, positives="study"), KeyedRNG(0, 0, torch.arange(4))
    views, own = method.views(images[:4], rng, paired_images=images[4:]), method.views(images[:4], rng)
    assert torch.equal(views["query"], own["query"])
    assert torch.equal(views["key"], method.views(images[4:], rng)["key"]) and not torch.equal(views["key"], own["key"])


def test_it_learns_without_collapse() -> None:
    images, _ = bars(64)
    method = method_of(images, "test_resnet", queue_size=32, groups=2)
    losses = train(method, images, torch.arange(64), steps=40, learning_rate=1e-3)
    assert_learned(method, images, losses[2:], fall=0.95)
