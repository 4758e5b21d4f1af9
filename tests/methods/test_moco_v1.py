from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.learning import assert_learned, bars, inputs_of, train
from torch import Tensor, nn

from scotoma.methods import moco_v1
from scotoma.methods.moco_v1 import MoCoV1
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import info_nce
from scotoma.rng import KeyedRNG
from scotoma.training.trainer import make_views


class Pooled(nn.Module):
    """A network of two layers: fast, and with batch norm."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


def method_of(images: int = 0, **arguments: object) -> MoCoV1:
    torch.manual_seed(0)
    return MoCoV1(Pooled(), Inputs(16, 1, (0.3,), (0.2,), images=images), **arguments).train()


def batch_of(positions: list[int], images: Tensor, epoch: int = 0) -> dict[str, Tensor]:
    rows = torch.tensor(positions)
    return {"images": images[rows], "rows": rows, "positions": rows, "epochs": torch.full_like(rows, epoch)}


def epochs_of(count: int, size: int, epochs: int) -> Iterator[tuple[int, list[int]]]:
    """Batches as training makes them: each epoch a shuffle of its own, its last batch filled from the next."""
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
    for start in range(0, len(order) - size + 1, size):
        yield start // count, order[start : start + size].tolist()


@pytest.mark.parametrize("queue_size", [5, 4096])
def test_negatives_are_the_last_keys_before_this_step_of_other_images(queue_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over three epochs, against a plain list of all keys there have been."""
    images, _ = bars(14)
    method = method_of(images=14, queue_size=queue_size)
    size = min(queue_size, 7)  # half the images
    assert method.queue.keys.shape == (size, 128)
    history: list[tuple[int, Tensor]] = []
    seen: dict[str, Tensor] = {}

    def spy(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float, excluded: Tensor) -> Tensor:
        seen.update(keys=keys, queue=queue.clone(), excluded=excluded.clone())
        assert temperature == 0.07
        return info_nce(queries, keys, queue, temperature, excluded)

    monkeypatch.setattr(moco_v1, "info_nce", spy)
    left_out = 0
    for epoch, positions in epochs_of(14, 4, 3):
        batch = batch_of(positions, images, epoch)
        method.loss(make_views(method, batch, 0), batch)
        for i, position in enumerate(positions):
            held = history[-size:]
            expected = sorted(tuple(key.tolist()) for owner, key in held if owner != position)
            assert sorted(tuple(key.tolist()) for key in seen["queue"][~seen["excluded"][i]]) == expected
            left_out += len(held) - len(expected)
            assert tuple(seen["keys"][i].tolist()) not in expected  # never its own negative
        assert seen["keys"].norm(dim=1).allclose(torch.ones(4))
        history += [(p, k) for p, k in zip(positions, seen["keys"], strict=True)]
    assert left_out > 0  # an image did meet its own key of the step before


def test_queue_size() -> None:
    assert len(method_of(queue_size=50).queue.keys) == 50  # nothing is known of the images
    assert len(method_of(images=1000).queue.keys) == 500
    assert len(method_of(images=10**6, queue_size=65536).queue.keys) == 65536
    assert len(method_of(images=1).queue.keys) == 1


def test_evaluation_leaves_the_queue_alone() -> None:
    images, _ = bars(6)
    method, batch = method_of(6).eval(), batch_of([0, 1, 2, 3], images)
    method.loss(make_views(method, batch, 0), batch)
    assert (method.queue.owners == -1).all()


def test_keys_do_not_share_batch_statistics_with_their_queries() -> None:
    images, _ = bars(32)
    method, batch = method_of(), batch_of(list(range(32)), images)
    views = make_views(method, batch, 0)
    views["query"] = views["key"] = torch.arange(32.0).view(-1, 1, 1, 1) + 0.1 * views["key"]  # an image is told by its mean
    groups: dict[str, list[set[int]]] = {"query": [], "key": []}
    for name, network in (("query", method.encoder), ("key", method.key_encoder)):
        network.register_forward_pre_hook(
            lambda module, given, name=name: groups[name].extend(
                {int(v) for v in part.mean((1, 2, 3)).round()} for part in given[0].tensor_split(4)
            )
        )
    method.loss(views, batch)
    for found in groups.values():
        assert [len(g) for g in found] == [8] * 4 and set.union(*found) == set(range(32))
    shared = [len(q & k) for q in groups["query"] for k in groups["key"]]
    assert max(shared) < 6  # of 8: statistics of a key's group are not those of any query's
    again = method.views(images, KeyedRNG(0, 1, torch.arange(32)))["shuffle"]
    assert not torch.equal(again.argsort(), views["shuffle"].argsort())  # anew in each epoch


def test_no_gradient_reaches_the_keys_and_they_follow_after_the_step() -> None:
    images, _ = bars(16)
    method = method_of(16, momentum=0.9)
    with torch.no_grad():
        for p in method.key_encoder.parameters():
            p.add_(0.1)
    for epoch in range(2):  # the first has no negatives yet
        batch = batch_of(list(range(8 * epoch, 8 * epoch + 8)), images)
        loss = method.loss(make_views(method, batch, 0), batch)["loss"]
    loss.backward()
    assert all(p.grad is None for net in (method.key_encoder, method.key_projector) for p in net.parameters())
    assert method.projector.weight.grad.abs().max() > 0 and method.encoder.conv.weight.grad.abs().max() > 0
    before = [p.clone() for p in method.key_encoder.parameters()]
    method.after_step(0.5)
    for mine, old, online in zip(method.key_encoder.parameters(), before, method.encoder.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.9 * old + 0.1 * online)
    assert torch.equal(method.key_projector.weight, method.projector.weight)


def test_the_loss_is_that_of_its_parts() -> None:
    images, _ = bars(12)
    method = method_of(12).train()
    batch = batch_of([0, 1, 2, 3, 4, 5], images)
    method.loss(make_views(method, batch, 0), batch)
    method.eval()
    with torch.no_grad():
        later = batch_of([4, 5, 6, 7], images, 1)
        views = make_views(method, later, 0)
        q, k = method.projector(method.encoder(views["query"])), method.key_projector(method.key_encoder(views["key"]))
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ method.queue.keys.T], 1)
        logits[0, 5] = logits[1, 6] = -torch.inf  # images 4 and 5 were in the batch before
        expected = F.cross_entropy(logits / 0.07, torch.zeros(4, dtype=torch.int64))
        torch.testing.assert_close(method.loss(views, later)["loss"], expected)


def test_a_resumed_run_is_the_same_to_the_bit() -> None:
    images, _ = bars(12)

    def go(method: MoCoV1, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
        losses = []
        for step in steps:
            batch = batch_of([(5 * step + i) % 12 for i in range(5)], images, step)
            loss = method.loss(make_views(method, batch, 0), batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after_step(step / 6)
            losses.append(loss.item())
        return losses

    whole, half = method_of(12), method_of(12)
    losses = go(whole, torch.optim.SGD(whole.parameters(), 0.1), range(6))
    first = go(half, torch.optim.SGD(half.parameters(), 0.1), range(3))
    torch.manual_seed(5)
    rest = MoCoV1(Pooled(), half.inputs).train()
    rest.load_state_dict(half.state_dict())
    assert first + go(rest, torch.optim.SGD(rest.parameters(), 0.1), range(3, 6)) == losses


def test_the_key_is_of_the_partner_and_the_head_is_linear() -> None:
    images, _ = bars(8)
    method, rng = method_of(positives="patient"), KeyedRNG(0, 0, torch.arange(4))
    views = method.views(images[:4], rng, paired_images=images[4:])
    own = method.views(images[:4], rng)
    assert torch.equal(views["query"], own["query"]) and torch.equal(views["shuffle"], own["shuffle"])
    assert torch.equal(views["key"], method.views(images[4:], rng)["key"]) and not torch.equal(views["key"], own["key"])
    assert MoCoV1.requirements(MoCoV1.settings({"positives": "age:10"})).pairs == "age:10"
    assert isinstance(method.projector, nn.Linear) and method.projector.out_features == 128
    assert method.augment.blur == 0 and MoCoV1.settings(MoCoV1.reference["method_args"])["queue_size"] == 65536


def test_it_learns_without_collapse() -> None:
    images, _ = bars(64)
    torch.manual_seed(0)
    inputs = inputs_of(images)
    method = MoCoV1(timm.create_model("test_resnet", num_classes=0, in_chans=1), inputs, queue_size=32, groups=2)
    losses = train(method, images, torch.arange(64), steps=40, learning_rate=1e-3)
    assert losses[0] == 0  # no negatives yet
    assert_learned(method, images, losses[1:], fall=0.85)
