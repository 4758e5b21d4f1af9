from __future__ import annotations

import numpy as np
import pytest
import torch

from scotoma.masks import paint, patchify, random_order, unpatchify


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
