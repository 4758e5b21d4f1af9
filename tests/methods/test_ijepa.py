from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import timm
import torch
from helpers.learning import SIZE, assert_learned, bars, features, inputs_of, train
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.ijepa import IJEPA, block_shape, context_block, context_patches, target_blocks
from scotoma.methods.parts.inputs import Inputs
from scotoma.models import encoders
from scotoma.models.heads import sincos_positions
from scotoma.rng import KeyedRNG

SMALL = {"predictor_dim": 16, "predictor_depth": 1, "predictor_heads": 2}


def vit(size: int = SIZE, patch: int = 4, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    small = {"img_size": size, "patch_size": patch, "depth": 1, "embed_dim": 32, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, **small, **kwargs)


def ijepa(size: int = SIZE, patch: int = 4, network: dict[str, Any] | None = None, **arguments: Any) -> IJEPA:
    return IJEPA(vit(size, patch, **network or {}), Inputs(size, 1, (0.4,), (0.2,)), **SMALL | arguments)


def apart(method: IJEPA) -> IJEPA:
    """Online and target network made different, as after some steps."""
    with torch.no_grad():
        nn.init.normal_(method.encoder.norm.weight)
        nn.init.normal_(method.encoder.norm.bias)
        for p in method.online.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.05)
    return method


def views_of(method: IJEPA, n: int = 5) -> dict[str, Tensor]:
    images = torch.randint(0, 256, (n, 1, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return method.views(images, KeyedRNG(0, 0, torch.arange(n)))


def places(block: Tensor, grid: int) -> set[tuple[int, int]]:
    return {divmod(i, grid) for i in block.tolist()}


SHAPES = {4: (1, 2), 5: (2, 2), 6: (2, 3), 7: (3, 3), 8: (3, 4), 10: (4, 5), 12: (4, 6), 14: (5, 7), 16: (6, 7)}


@pytest.mark.parametrize(("grid", "shape"), SHAPES.items())
def test_blocks_have_the_papers_size_where_the_grid_allows_it(grid: int, shape: tuple[int, int]) -> None:
    assert block_shape(grid, 0.175, 4) == shape
    area = shape[0] * shape[1]
    assert grid < 5 or (0.15 <= area / grid**2 <= 0.2 and shape[1] <= 1.5 * shape[0])
    assert grid**2 - 4 * area >= 0.2 * grid**2


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="4 target blocks do not fit into 2 x 2 patches"):
        ijepa(16, 8)
    with pytest.raises(UsageError, match="targets must be at least 1"):
        ijepa(targets=0)
    with pytest.raises(UsageError, match="predictor_dim 16: must be"):
        ijepa(predictor_heads=3)
    with pytest.raises(UsageError, match="ijepa needs a vision transformer"):
        IJEPA(timm.create_model("test_resnet", num_classes=0, in_chans=1), Inputs(32, 1, (0.0,), (1.0,)))


@pytest.mark.parametrize("grid", [4, 6, 12])
def test_target_blocks_are_whole_blocks_anywhere(grid: int) -> None:
    shape = block_shape(grid, 0.175, 4)
    blocks = target_blocks(KeyedRNG(0, 0, torch.arange(300)).uniform("targets", 4, 3), grid, shape)
    seen, shapes, corners = set(), set(), set()
    for block in blocks.flatten(0, 1):
        found = places(block, grid)
        rows, columns = ([place[axis] for place in found] for axis in (0, 1))
        sides = (max(rows) - min(rows) + 1, max(columns) - min(columns) + 1)
        full = set(itertools.product(range(min(rows), min(rows) + sides[0]), range(min(columns), min(columns) + sides[1])))
        assert found == full and len(block) == len(full) and max(rows) < grid and max(columns) < grid
        seen |= found
        shapes.add(sides)
        corners.add((*sides, min(rows), min(columns)))
    assert shapes == {shape, shape[::-1]}
    assert seen == set(itertools.product(range(grid), range(grid)))  # the last row and column too
    assert len(corners) == 2 * (grid - shape[0] + 1) * (grid - shape[1] + 1)  # every place there is, lying and standing


def test_the_context_block_is_a_square_of_its_size() -> None:
    chance = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [5 / 12, 0.5, 1.0], [1.0, 0.3, 0.9]])
    inside = context_block(chance, 4, 0.25).view(4, 4, 4)  # sides of 1/2, 1/2, sqrt(1/4 + 3/4 x 5/12) = 3/4, 1
    assert torch.equal(inside[0], torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert torch.equal(inside[1], inside[0].flip(0))
    assert inside[2].sum(1).eq(3).any() and torch.equal(inside[2][1], torch.tensor([0.0, 1, 1, 1]))
    assert inside[3].all()


def test_context_is_of_its_block_and_of_no_target() -> None:
    method = ijepa(96, 8)
    assert method.grid == 12 and method.visible == 12 * 12 - 4 * 24
    rng = KeyedRNG(0, 0, torch.arange(400))
    views = method.views(torch.zeros(400, 1, 8, 8, dtype=torch.uint8), rng)
    assert views["context"].shape == (400, 48) and views["targets"].shape == (400, 4, 24)
    counts = torch.zeros(144)
    for context, targets in zip(views["context"], views["targets"], strict=True):
        assert len(set(context.tolist())) == 48 and not set(context.tolist()) & set(targets.flatten().tolist())
        counts[context] += 1
    upper, left = counts.view(12, 12)[:6].sum() / counts.sum(), counts.view(12, 12)[:, :6].sum() / counts.sum()
    assert counts.min() > 0 and abs(upper - 0.5) < 0.02 and abs(left - 0.5) < 0.02  # no side is left out
    whole, narrow = (
        ijepa(96, 8, context_scale=scale).views(torch.zeros(400, 1, 8, 8, dtype=torch.uint8), rng)["context"] for scale in (1, 0.3)
    )
    corners = torch.tensor([0, 11, 132, 143])
    assert torch.isin(narrow, corners).sum() < 0.8 * torch.isin(whole, corners).sum()  # a smaller block seldom reaches them
    noise = torch.rand(1, 6, generator=torch.Generator().manual_seed(0))
    outside, hidden = torch.tensor([[0.0, 1, 0, 1, 1, 0]]), torch.tensor([[1.0, 0, 0, 0, 1, 0]])
    assert set(context_patches(noise, outside, hidden, 2)[0].tolist()) == {2, 5}
    assert set(context_patches(noise, outside, hidden, 4)[0].tolist()) == {1, 2, 3, 5}  # made up from outside the block


@pytest.mark.parametrize("network", [{}, {"global_pool": "avg", "fc_norm": False, "class_token": False}])
def test_the_loss_is_that_of_each_block_by_itself(network: dict[str, Any]) -> None:
    method = apart(ijepa(network=network)).eval()
    views = views_of(method)
    prefix, total, numbers = method.prefix, 0.0, 0
    assert prefix == (0 if network else 1)
    with torch.no_grad():
        for i in range(5):
            one = {k: v[i : i + 1] for k, v in views.items()}
            target = method.encoder.forward_features(one["view"])[0, prefix:]
            target = (target - target.mean(1, keepdim=True)) / (target.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            tokens = encoders.forward_visible(method.online, one["view"], one["context"])
            for block in views["targets"][i]:
                prediction = method.predictor(tokens, one["context"], block[None, None])[0, 0]
                for p, t in zip(prediction.flatten().tolist(), target[block].flatten().tolist(), strict=True):
                    total += abs(p - t) - 0.5 if abs(p - t) > 1 else (p - t) ** 2 / 2
                    numbers += 1
        assert method.loss(views, {})["loss"].item() == pytest.approx(total / numbers, rel=1e-4)


def test_the_predictor_equals_lightlys() -> None:
    modules = pytest.importorskip("lightly.models.modules.ijepa_timm")
    method = ijepa(24, network={"class_token": False, "global_pool": "avg", "fc_norm": False}).eval()
    views, mine = views_of(method), method.predictor
    theirs = modules.IJEPAPredictorTIMM(36, 1, 32, 16, 2, norm_layer=nn.LayerNorm).eval()
    weights = {"predictor_embed": "embed", "decoder.norm": "norm", "predictor_proj": "project"}
    parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    weights |= {f"decoder.blocks.0.{part}": f"blocks.0.{part}" for part in parts}
    own = mine.state_dict()
    state = {f"{a}.{kind}": own[f"{b}.{kind}"] for a, b in weights.items() for kind in ("weight", "bias")}
    theirs.load_state_dict(state | {"decoder.mask_token": own["mask_token"], "decoder.pos_embed": own["positions"]}, strict=True)
    # theirs by their own initialisation, so that the order of places is compared as well
    assert torch.allclose(modules.IJEPAPredictorTIMM(36, 1, 32, 16, 2).decoder.pos_embed, own["positions"], atol=1e-5)
    with torch.no_grad():
        tokens = encoders.forward_visible(method.online, views["view"], views["context"])
        expected = theirs(tokens, views["context"], list(views["targets"].unbind(1)))  # (4B, M, D), block by block
        found = mine(tokens, views["context"], views["targets"])
    torch.testing.assert_close(found, expected.unflatten(0, (4, 5)).transpose(0, 1), atol=1e-5, rtol=1e-5)


def test_only_the_targets_see_the_hidden_patches() -> None:
    method = apart(ijepa()).eval()
    views = views_of(method)

    def prediction(view: Tensor) -> Tensor:
        tokens = encoders.forward_visible(method.online, view, views["context"])
        return method.predictor(tokens, views["context"], views["targets"])

    seen = torch.zeros(5, 16).scatter(1, views["context"], 1.0).view(5, 1, 4, 4)
    seen = seen.repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.randn(views["view"].shape)
    elsewhere, there = views["view"] + 3 * noise * (1 - seen), views["view"] + 3 * noise * seen
    with torch.no_grad():
        assert torch.equal(prediction(elsewhere), prediction(views["view"]))
        assert not torch.allclose(prediction(there), prediction(views["view"]), atol=1e-3)
        changed = method.loss(views | {"view": elsewhere}, {})["loss"] - method.loss(views, {})["loss"]
        assert abs(changed) > 1e-4
        asked = method.predictor(encoders.forward_visible(method.online, views["view"], views["context"]), views["context"],
                                 views["targets"].flip(2))  # fmt: skip
        torch.testing.assert_close(asked.flip(2), prediction(views["view"]), atol=1e-5, rtol=1e-4)  # places, not their order


def test_the_exported_network_follows_and_gets_no_gradient() -> None:
    encoder = vit()
    method = IJEPA(encoder, Inputs(SIZE, 1, (0.4,), (0.2,)), momentum=0.9, **SMALL)
    assert method.encoder is encoder and method.online is not encoder
    assert all(torch.equal(v, encoder.state_dict()[k]) for k, v in method.online.state_dict().items())
    method.loss(views_of(method), {})["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    assert {id(p) for g in method.param_groups() for p in g["params"]}.isdisjoint(map(id, encoder.parameters()))
    online, before = apart(method).online.state_dict(), copy.deepcopy(encoder.state_dict())
    method.after_step(1.0)  # the end of the run: it stands still
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    method.after_step(0.5)  # half-way from 0.9 to 1, evenly
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, 0.95 * before[name] + 0.05 * online[name])


def test_positions_are_sine_and_cosine_unless_weights_are_given() -> None:
    fresh = ijepa()
    torch.testing.assert_close(fresh.encoder.pos_embed, sincos_positions(32, 4, 1))
    assert not fresh.online.pos_embed.requires_grad
    trained = vit()
    before = copy.deepcopy(trained.state_dict())
    method = IJEPA(trained, Inputs(SIZE, 1, (0.4,), (0.2,), trained=True), **SMALL)
    for network in (method.encoder, method.online):
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_images_show_context_and_targets() -> None:
    method = ijepa()
    views = views_of(method, 2)
    shown = method.example_images(views, {})
    for name, at in (("context", views["context"]), ("targets", views["targets"].flatten(1))):
        for i in range(2):
            for k in range(16):
                row, column = divmod(k, 4)
                tile = (i, 0, slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
                wanted = views["view"][tile] if k in at[i].tolist() else torch.zeros(4, 4)
                assert torch.equal(shown[name][tile], wanted)


def nearest_class(f: Tensor, targets: Tensor, labelled: int) -> float:
    """Accuracy of the nearest class mean of the first images on the others."""
    f = (f - f.mean(0)) / f.std(0)
    means = torch.stack([f[:labelled][targets[:labelled] == k].mean(0) for k in (0, 1)])
    return (torch.cdist(f[labelled:], means).argmin(1) == targets[labelled:]).float().mean().item()


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    inputs = inputs_of(images)
    torch.manual_seed(0)
    method = IJEPA(vit(global_pool="avg", fc_norm=False), inputs, momentum=0.97, **SMALL)
    others, classes = bars(400, seed=1)
    random = nearest_class(features(method.encoder, others, inputs), classes, 100)
    losses = train(method, images, targets, steps=300, learning_rate=2e-3)  # a faster rate or target network learns less
    assert_learned(method, images, losses, fall=0.75)
    assert nearest_class(features(method.encoder, others, inputs), classes, 100) > random + 0.15
