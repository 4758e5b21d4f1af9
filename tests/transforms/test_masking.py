from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scotoma.transforms.masking import (
    block_scores,
    finer,
    paint,
    patch_entropy,
    patch_gradient,
    patchify,
    random_order,
    unpatchify,
    visible_count,
    weighted_scores,
)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("count", "ratio", "visible"), [(16, 0.75, 4), (16, 0.5, 8), (9, 0.6, 3), (4, 0.99, 1), (16, 0.0, 16)])
def test_random_order_keeps_the_smallest_numbers(count: int, ratio: float, visible: int) -> None:
    noise = torch.rand(50, count, generator=torch.Generator().manual_seed(0))
    keep, restore, mask = random_order(noise, ratio)
    assert keep.shape == (50, visible)
    assert torch.equal(mask.sum(1), torch.full((50,), float(count - visible)))
    assert mask.gather(1, keep).eq(0).all()
    order = noise.numpy().argsort(1)
    for i in range(50):
        assert set(keep[i].tolist()) == set(order[i, :visible].tolist())
        shuffled = torch.tensor(order[i])  # patch numbers in the order visible-then-hidden
        assert torch.equal(shuffled[restore[i]], torch.arange(count))


def test_every_patch_is_hidden_equally_often() -> None:
    noise = torch.rand(20_000, 16, generator=torch.Generator().manual_seed(1))
    mask = random_order(noise, 0.75)[2]
    assert (mask.mean(0) - 0.75).abs().max() < 5 * (0.75 * 0.25 / 20_000) ** 0.5


def test_weighted_drawing_hides_one_after_the_other_in_proportion() -> None:
    """The share of every ordered pair of the first two hidden is p_i p_j / (1 - p_i): chi-square with 11 degrees of freedom."""
    weights, rows = torch.tensor([1.0, 2.0, 3.0, 6.0]), 50_000
    drawn = (-weighted_scores(weights.expand(rows, 4), uniform(rows, 4))).argsort(1)
    counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16).view(4, 4)
    p = weights / weights.sum()
    expected = rows * p[:, None] * p[None] / (1 - p[:, None])
    off = ~torch.eye(4, dtype=torch.bool)
    assert counts.diag().sum() == 0
    assert ((counts - expected).square() / expected)[off].sum() < 31.3  # exceeded once in a thousand
    again = weighted_scores(weights.expand(rows, 4) * 1e-6, uniform(rows, 4))
    assert torch.equal((-again).argsort(1)[:, :2], drawn[:, :2])  # the sum of the weights states nothing


def test_patches_without_weight_are_hidden_last_and_at_random() -> None:
    weights = torch.tensor([0.0, 1e-38, 0.0, 1e30, 1.0, 0.0]).expand(6000, 6)
    noise = uniform(6000, 6)
    noise[0], noise[1] = 0.0, 1 - 2**-24  # the ends of what Draws gives
    scores = weighted_scores(weights, noise)
    assert torch.isfinite(scores).all()
    assert random_order(scores, 0.5)[2].eq(torch.tensor([0.0, 1, 0, 1, 1, 0])).all()
    fourth = random_order(scores, 4 / 6)[2].mean(0)
    assert (fourth[[0, 2, 5]] - 1 / 3).abs().max() < 4 * (2 / 9 / 6000) ** 0.5


def slow_blocks(blocks: np.ndarray, side: int, ratio: float) -> list[set[int]]:
    """The rectangles of BEiT's algorithm 1, as sets of patches."""
    count, found = side * side, []
    for area, shape, top, left in blocks.tolist():
        s = 16 / 196 * count + area * (ratio - 16 / 196) * count
        r = math.exp(math.log(0.3) + shape * (math.log(1 / 0.3) - math.log(0.3)))
        height, width = (min(max(round(math.sqrt(x)), 1), side) for x in (s / r, s * r))
        first_row, first_column = math.floor(top * (side - height + 1)), math.floor(left * (side - width + 1))
        rows, columns = range(first_row, first_row + height), range(first_column, first_column + width)
        found.append({y * side + x for y in rows for x in columns})
    return found


@pytest.mark.parametrize(("side", "ratio"), [(4, 0.75), (6, 0.5), (14, 0.4), (12, 0.75)])
def test_blocks_are_hidden_whole_one_after_the_other(side: int, ratio: float) -> None:
    noise, blocks = uniform(40, side * side), uniform(40, 16, 4, seed=1)
    mask = random_order(block_scores(noise, blocks, ratio), ratio)[2]
    hidden = side * side - visible_count(side * side, ratio)
    assert torch.equal(mask.sum(1), torch.full((40,), float(hidden)))
    for i in range(40):
        whole: set[int] = set()
        for block in slow_blocks(blocks[i].numpy(), side, ratio):
            if len(whole | block) > hidden:
                break
            whole |= block
        found = set(mask[i].nonzero().ravel().tolist())
        assert whole <= found <= whole | block
        rest = found - whole  # of the last block those with the largest numbers
        assert rest == set(sorted(block - whole, key=lambda k: -noise[i, k].item())[: len(rest)])


def test_blocks_have_no_side() -> None:
    """Corners are covered less often than the middle, but all four alike, and blocks lie as often as they stand."""
    mask = random_order(block_scores(uniform(4000, 36), uniform(4000, 16, 4, seed=1), 0.5), 0.5)[2]
    often = mask.mean(0).view(6, 6)
    assert often.min() > 0.15 and often.max() < 0.8
    for other in (often.flip(0), often.flip(1), often.T):
        assert (often - other).abs().max() < 5 * (2 * 0.25 / 4000) ** 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_entropy_against_a_slow_histogram(channels: int) -> None:
    images = uniform(3, channels, 12, 12) ** 2
    images[0, :, :4, :4] = 0.3  # one level: entropy 0
    images[1, 0, 0, 0], images[1, :, 5, 5] = 1.2, -0.4  # interpolation may leave [0, 1]
    found = patch_entropy(images, 4, levels=8)
    for b in range(3):
        for i in range(9):
            row, column = divmod(i, 3)
            pixels = images[b, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].mean(0).flatten().clamp(0, 1)
            shares = np.histogram(pixels.numpy(), 8, (0, 1))[0] / 16
            slow = -sum(p * math.log(p) for p in shares if p)
            assert found[b, i].item() == pytest.approx(slow, abs=1e-5)
    assert found[0, 0] == 0
    levels = (torch.arange(16) / 16).view(1, 1, 4, 4)
    assert patch_entropy(levels, 4, levels=16).item() == pytest.approx(math.log(16))


def test_gradient_energy_against_a_slow_loop() -> None:
    images = uniform(2, 3, 8, 8)
    found = patch_gradient(images, 4)
    for b in range(2):
        for i in range(4):
            row, column = divmod(i, 2)
            total = 0.0
            for c in range(3):
                for y in range(row * 4, row * 4 + 4):
                    for x in range(column * 4, column * 4 + 4):
                        here = images[b, c, y, x].item()
                        total += (images[b, c, y, x + 1].item() - here) ** 2 if x < 7 else 0
                        total += (images[b, c, y + 1, x].item() - here) ** 2 if y < 7 else 0
            assert found[b, i].item() == pytest.approx(total / 48, rel=1e-5)


def test_a_finer_mask_repeats_each_cell() -> None:
    expected = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]).flatten()
    assert torch.equal(finer(torch.tensor([[0, 1, 1, 0]]), 2)[0], expected)


def test_patchify_against_a_slow_loop() -> None:
    images = torch.rand(2, 3, 8, 8)
    patches = patchify(images, 4)
    assert patches.shape == (2, 4, 48)
    for b in range(2):
        for number in range(4):
            row, column = divmod(number, 2)
            block = images[b, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            slow = [block[c, y, x] for y in range(4) for x in range(4) for c in range(3)]
            assert torch.equal(patches[b, number], torch.stack(slow))


@pytest.mark.parametrize("channels", [1, 3])
def test_unpatchify_undoes_patchify(channels: int) -> None:
    images = torch.rand(2, channels, 12, 12)
    assert torch.equal(unpatchify(patchify(images, 4), 4, channels), images)


def test_paint_covers_the_hidden_patches_only() -> None:
    images = torch.ones(1, 1, 8, 8)
    mask = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    expected = np.ones((8, 8))
    expected[:4, 4:] = -3
    assert np.array_equal(paint(images, mask, 4, -3.0)[0, 0].numpy(), expected)
