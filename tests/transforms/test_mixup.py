"""Mixup, CutMix, erasing and smoothing against their definitions, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scotoma.rng import KeyedRNG
from scotoma.transforms import mixup


def test_beta_numbers_have_their_distribution() -> None:
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    for alpha in (0.2, 1.0, 3.0):
        assert stats.kstest(mixup.beta(u, alpha).double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert torch.allclose(mixup.beta(u, 1.0), u, atol=1e-6)


def test_mixup_is_the_weighted_mean_of_neighbours_and_unknown_stays_unknown() -> None:
    x, weight = torch.rand(4, 1, 5, 5), torch.tensor([1.0, 0.25, 0.5, 0.0])
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [float("nan")] * 2, [0.3, 0.7]])
    got, shares = mixup.mix(x, y, weight)
    for i, w in enumerate(weight.tolist()):
        assert torch.allclose(got[i], w * x[i] + (1 - w) * x[i - 1])
    assert torch.allclose(shares[:2], torch.tensor([[1.0, 0.0], [0.75, 0.25]]))
    assert shares[2:].isnan().all()


def test_cutmix_pastes_a_rectangle_and_labels_follow_what_is_seen() -> None:
    x = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 20, 10)
    y = torch.eye(3)
    weight, centre = torch.tensor([0.75, 0.75, 1.0]), torch.tensor([[0.5, 0.45], [0.0, 0.45], [0.5, 0.45]])
    got, shares = mixup.cut(x, y, weight, centre)
    expected = torch.zeros(20, 10)
    expected[5:15, 2:7] = 2  # half of each side: a quarter of the area
    assert torch.equal(got[0, 0], expected)
    assert torch.equal(got[1, 0], torch.where(torch.arange(20)[:, None] < 5, (expected[10] != 2).float(), torch.ones(1)))
    assert torch.equal(got[2], x[2])
    for k in range(3):
        own = float((got[k] == k).float().mean())
        assert shares[k, k] == pytest.approx(own) and shares[k, k - 1] == pytest.approx(1 - own)
    assert torch.allclose(shares.sum(1), torch.ones(3))


def test_rectangles_equal_a_slow_version() -> None:
    sides, centre = torch.rand(6, 2), torch.rand(6, 2)
    got = mixup.rectangle(7, 9, sides, centre)
    for k in range(6):
        for row in range(7):
            for column in range(9):
                down, across = abs((row + 0.5) / 7 - centre[k, 0]), abs((column + 0.5) / 9 - centre[k, 1])
                assert bool(got[k, row, column]) == bool(down < sides[k, 0] / 2 and across < sides[k, 1] / 2)


def test_erasing_takes_whole_rectangles_of_some_images() -> None:
    x = torch.ones(400, 1, 40, 40)
    gone = mixup.erase(x, KeyedRNG(0, 0, torch.arange(400)), 0.5) == 0
    share = gone.float().mean((1, 2, 3))
    hit = share > 0
    assert 0.42 < float(hit.float().mean()) < 0.58
    assert float(share[hit].min()) > 0.01 and float(share.max()) < 0.4
    assert np.quantile(share[hit].numpy(), 0.5) == pytest.approx(0.175, abs=0.03)  # uniform from 0.02 to 0.33
    for image in gone[hit][:20, 0]:
        rows, columns = image.any(1), image.any(0)
        assert torch.equal(image, rows[:, None] & columns), "a rectangle"
    part = mixup.erase(x[:10], KeyedRNG(0, 0, torch.arange(10, 20)), 0.5) == 0
    assert torch.equal(part, gone[10:20]), "whatever the batch"


def test_smoothing_equals_torchs() -> None:
    logits, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 2])
    shares = mixup.smooth(torch.nn.functional.one_hot(y, 4).float(), 0.1, 4)
    got = -(shares * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(got, torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1))
