from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.mask_strategies import KINDS, MaskStrategy
from scotoma.models import encoders
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import patch_entropy, patch_gradient, random_order

SIZE, GRID, COUNT = 16, 4, 16
NOBODY = nn.Identity()  # most kinds do not ask the encoder


def inputs_of(channels: int = 1) -> Inputs:
    return Inputs(SIZE, channels, (0.4,) * channels, (0.2,) * channels)


def vit(channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    net = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, in_chans=channels, img_size=SIZE, patch_size=4, depth=2, embed_dim=48, num_heads=3
    )
    for block in net.blocks:
        block.attn.qkv.weight.data.mul_(15)  # as uneven as a trained network's
    return net


def strategy(kind: str, ratio: float = 0.75, grid: int = GRID, channels: int = 1) -> MaskStrategy:
    torch.manual_seed(0)
    return MaskStrategy(kind, ratio, grid, inputs_of(channels))


def view_of(n: int = 6, channels: int = 1) -> Tensor:
    return torch.randn(n, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def rng_of(n: int = 6, epoch: int = 0) -> KeyedRNG:
    return KeyedRNG(0, epoch, torch.arange(n))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ratio", "grid", "hidden"), [(0.75, 4, 12), (0.3, 4, 5), (0.6, 2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_hides_equally_many(kind: str, ratio: float, grid: int, hidden: int, channels: int) -> None:
    chooser = strategy(kind, ratio, grid, channels)
    keep, restore, mask = chooser.order(view_of(channels=channels), chooser.draw(rng_of()), vit(channels))
    assert mask.shape == (6, grid**2) and keep.shape == (6, grid**2 - hidden)
    assert mask.sum(1).eq(hidden).all() and mask.gather(1, keep).eq(0).all()
    assert torch.equal(restore.sort(1)[0][0], torch.arange(grid**2))


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_masks_are_alike_in_every_epoch_others_are_not(kind: str) -> None:
    chooser, view, encoder = strategy(kind, 0.5), view_of(), vit()
    first, second = (chooser.order(view, chooser.draw(rng_of(epoch=e)), encoder)[2] for e in (0, 1))
    assert torch.equal(first, second) == (kind == "fixed")
    assert len({tuple(row.tolist()) for row in first}) == 6  # every image is hidden in its own way
    other = strategy(kind, 0.5).draw(KeyedRNG(1, 0, torch.arange(6)))
    assert not torch.equal(other, chooser.draw(rng_of()))  # and in every run


@pytest.mark.parametrize("kind", KINDS)
def test_random_numbers_go_by_image(kind: str) -> None:
    chooser = strategy(kind)
    assert torch.equal(chooser.draw(KeyedRNG(0, 3, torch.tensor([4]))), chooser.draw(rng_of(epoch=3))[4:5])


def test_random_is_one_number_a_patch() -> None:
    noise = strategy("random").draw(rng_of())
    assert torch.equal(noise, rng_of().uniform("mask", COUNT))
    assert torch.equal(strategy("random").scores(view_of(), noise, NOBODY), noise)
    assert not list(strategy("random").state_dict())  # nothing to save


def test_what_cannot_be_hidden_is_refused() -> None:
    with pytest.raises(UsageError, match="masking blocks: one of random, block, fixed"):
        strategy("blocks")
    for ratio in (0.0, 1.0):
        with pytest.raises(UsageError, match="above 0 and below 1"):
            strategy("random", ratio)
    with pytest.raises(UsageError, match="16 pixels are one patch"):
        strategy("random", grid=1)
    cnn = timm.create_model("resnet10t", num_classes=0, in_chans=1)
    with pytest.raises(UsageError, match="attention needs a vision transformer with a class token"):
        MaskStrategy("attention", 0.5, GRID, inputs_of(), cnn)
    chooser = strategy("attention")
    with pytest.raises(UsageError, match="attention needs a vision transformer with a class token"):
        chooser.order(view_of(), chooser.draw(rng_of()), cnn)


def test_attention_hides_in_proportion() -> None:
    chooser, view, encoder = strategy("attention", 1 / COUNT), view_of(1), vit()
    attention = encoders.class_attention(encoder, view)[0]
    assert attention.max() > 3 * attention.mean()
    noise = chooser.draw(rng_of(20_000))
    first = chooser.order(view, noise, encoder)[2].mean(0)  # one view, many draws of the one patch that is hidden
    p = attention / attention.sum()
    assert ((first - p).square() / p).sum() * 20_000 < 37.7  # chi-square, 15 degrees of freedom: once in a thousand


def test_attention_is_pooled_to_a_coarser_grid() -> None:
    view, encoder = view_of(2), vit()
    fine = encoders.class_attention(encoder, view).view(2, 4, 4)
    slow = torch.stack([fine[:, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 2) for x in (0, 2)], 1)
    torch.testing.assert_close(strategy("attention", grid=2).weights(view, encoder), slow)


@pytest.mark.parametrize(("kind", "measure"), [("entropy", patch_entropy), ("saliency", patch_gradient)])
def test_empty_patches_stay_visible_where_grey_levels_decide(kind: str, measure: Callable[[Tensor, int], Tensor]) -> None:
    chooser, pixels = strategy(kind, 0.5, channels=3), torch.rand(200, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    pixels[:, :, : SIZE // 2] = 0.25  # for the gradient, the edge belongs to the empty row above it
    view = (pixels - 0.4) / 0.2
    torch.testing.assert_close(chooser.weights(view, NOBODY), measure(pixels, 4), atol=1e-4, rtol=1e-3)
    mask = chooser.order(view, chooser.draw(rng_of(200)), NOBODY)[2]
    assert mask[:, :4].sum() == 0
    assert mask[:, 8:].mean() > 0.75


def agent_with(ratio: float, epsilon: float) -> MaskStrategy:
    chooser = strategy("agent", ratio).eval()
    chooser.after_step(1 - epsilon)
    return chooser


def test_an_agent_that_knows_nothing_hides_at_random() -> None:
    chooser, view = agent_with(0.75, 1.0), view_of()
    same = random_order(rng_of().uniform("mask", COUNT), 0.75)[2]
    assert torch.equal(chooser.order(view, chooser.draw(rng_of()), NOBODY)[2], same)


def test_every_decision_is_greedy_or_random() -> None:
    """As many patches of the highest Q as there are decisions not below epsilon; the others go by their random number."""
    chooser, view = agent_with(0.5, 0.4), view_of(50)
    noise = chooser.draw(rng_of(50))
    mask = chooser.order(view, noise, NOBODY)[2]
    q = chooser.agent.q(view)
    kept = 0
    for i in range(50):
        greedy = sum(decision >= chooser.agent.epsilon.item() for decision in noise[i, COUNT:].tolist())
        kept += greedy
        best = sorted(range(COUNT), key=lambda k: -q[i, k].item())
        random = sorted(best[greedy:], key=lambda k: -noise[i, k].item())
        assert set(mask[i].nonzero().ravel().tolist()) == {*best[:greedy], *random[: 8 - greedy]}
    assert abs(kept / 400 - 0.6) < 4 * (0.24 / 400) ** 0.5


def test_rewards_are_standardised_by_what_was_seen() -> None:
    chooser, view = strategy("agent"), view_of()
    errors = torch.rand(6, COUNT, generator=torch.Generator().manual_seed(2))
    mask = random_order(rng_of().uniform("mask", COUNT), 0.75)[2]
    found = chooser.loss(view, errors, mask)
    hidden = errors[mask.bool()]
    reward = (hidden - hidden.mean()) / hidden.std(correction=0)  # of the first batch alone
    torch.testing.assert_close(found, (chooser.agent.q(view)[mask.bool()] - reward).square().mean())
    torch.testing.assert_close(strategy("agent").loss(view, 1000 * errors, mask), found)
    chooser.loss(view, errors + 1, mask)
    assert chooser.agent.mean.item() == pytest.approx(hidden.mean().item() + 0.5)  # the mean of two batches
    chooser.eval()
    before = {k: v.clone() for k, v in chooser.state_dict().items()}
    chooser.loss(view, errors, mask)
    assert all(torch.equal(v, before[k]) for k, v in chooser.state_dict().items())
    assert {"agent.epsilon", "agent.mean", "agent.variance", "agent.steps"} <= set(before)  # a resumed run goes on with them


def test_gradients_do_not_cross() -> None:
    chooser, scale = strategy("agent"), torch.ones((), requires_grad=True)
    view = view_of()
    mask = chooser.order(view, chooser.draw(rng_of()), NOBODY)[2]
    saliency = strategy("saliency")
    assert not saliency.scores(view * scale, saliency.draw(rng_of()), NOBODY).requires_grad  # choosing keeps no graph
    errors = scale * view.square().flatten(1)[:, :COUNT]
    chooser.loss(view, errors, mask).backward()
    assert scale.grad is None
    assert all(p.grad is not None for p in chooser.parameters())
    other = strategy("random").loss(view, errors, mask)
    assert other == 0 and not other.requires_grad


def test_the_agent_finds_the_corner_that_cannot_be_guessed() -> None:
    """One corner is noise, the rest is smooth: what a perfect inpainter leaves is each patch's variance."""
    chooser = strategy("agent", 0.25)
    corner = torch.zeros(COUNT).index_fill_(0, torch.tensor([0, 1, 4, 5]), 1.0)
    generator = torch.Generator().manual_seed(3)

    def draw_image(n: int) -> Tensor:
        view = torch.randn(n, 1, 2, 2, generator=generator)
        view = nn.functional.interpolate(view, (SIZE, SIZE), mode="bilinear")
        view[:, :, :8, :8] += torch.randn(n, 1, 8, 8, generator=generator)
        return view

    optimizer = torch.optim.Adam(chooser.parameters(), 3e-3)
    losses = []
    for step in range(60):
        view = draw_image(16)
        mask = chooser.order(view, chooser.draw(KeyedRNG(0, step, torch.arange(16))), NOBODY)[2]
        errors = corner + 0.05 * torch.rand(16, COUNT, generator=generator)
        loss = chooser.loss(view, errors, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        chooser.after_step((step + 1) / 60)
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])
    view = draw_image(32)
    mask = chooser.order(view, chooser.draw(rng_of(32)), NOBODY)[2]
    assert mask[:, corner.bool()].mean() > 0.95
