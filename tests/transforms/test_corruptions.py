"""Corruptions: bounded, worse with severity, repeatable image by image, and each what it states."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from scotoma.data.phantom import phantom
from scotoma.rng import KeyedRNG
from scotoma.transforms.corruptions import base
from scotoma.transforms.corruptions.base import find_corruptions
from scotoma.transforms.corruptions.poisson import poisson_quantile

ALL = find_corruptions("mr")


def draw_images(channels: int = 1, count: int = 12, side: int = 64) -> torch.Tensor:
    drawn = np.stack([phantom.render("phantom:0", k, side) for k in range(count)])
    return torch.from_numpy(drawn).float().div_(255)[:, None].expand(-1, channels, -1, -1).contiguous()


def draws(count: int = 12, first: int = 0) -> KeyedRNG:
    return KeyedRNG(0, 0, torch.arange(first, first + count))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_stays_in_range_and_gets_worse(name: str, channels: int) -> None:
    x = draw_images(channels)
    before = x.clone()
    errors = []
    for severity in base.SEVERITIES:
        y = ALL[name](x, severity, draws())
        assert y.shape == x.shape and y.dtype == torch.float32
        assert y.min() >= 0 and y.max() <= 1
        errors.append(float((y - x).abs().mean()))
    assert torch.equal(x, before), "the clean image must stay as it is"
    assert errors[0] > 0 and all(b > a for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("side", [32, 64, 96, 224])
@pytest.mark.parametrize("name", ALL)
def test_no_severity_is_the_identity_at_any_size(name: str, side: int) -> None:
    """Every image changes by more than what a file's 256 levels can show, and a severer one by more."""
    x = draw_images(count=6, side=side)
    changed = [(ALL[name](x, severity, draws(6)) - x).abs() for severity in base.SEVERITIES]
    assert all(bool((c.amax((1, 2, 3)) > 1 / 255).all()) for c in changed), [c.amax((1, 2, 3)).tolist() for c in changed]
    means = [float(c.mean()) for c in changed]
    assert all(b > a for a, b in pairwise(means)), means


@pytest.mark.parametrize("name", ALL)
def test_is_the_same_in_any_batch(name: str) -> None:
    x = draw_images()
    whole = ALL[name](x, 3, draws())
    part = ALL[name](x[4:7], 3, draws(3, 4))
    assert torch.allclose(whole[4:7], part, atol=1e-5)
    if name not in ("gaussian_blur", "contrast", "down_sampling", "jpeg"):  # these have no chance in them
        assert not torch.allclose(ALL[name](x[:1], 3, draws(1, 50)), whole[:1])


def test_magnetic_corruptions_are_for_magnetic_resonance() -> None:
    assert set(find_corruptions("mr")) - set(find_corruptions("xray")) == {"bias_field", "ghosting"}


def test_poisson_quantile_equals_scipy() -> None:
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    rate = 60 * torch.rand(4000, generator=torch.Generator().manual_seed(1))
    expected = stats.poisson.ppf(u.double().numpy(), rate.double().numpy())
    found = poisson_quantile(u, rate).numpy()
    assert (found == expected).mean() > 0.999 and np.abs(found - expected).max() <= 1  # float32 at the edge of a step


def test_poisson_quantile_ends_at_the_ends() -> None:
    assert poisson_quantile(torch.tensor([0.9999999, 0.0, 0.5]), torch.tensor([60.0, 60.0, 0.0])).tolist()[1:] == [0.0, 0.0]


def test_noise_has_the_strength_it_says() -> None:
    grey = torch.full((4, 1, 128, 128), 0.5)
    rng = draws(4)
    assert float((ALL["gaussian"](grey, 1, rng) - grey).std()) == pytest.approx(0.08, rel=0.02)
    assert float((ALL["speckle"](grey, 1, rng) - grey).std()) == pytest.approx(0.5 * 0.15, rel=0.02)
    counted = ALL["poisson"](grey, 1, rng)
    assert float(counted.mean()) == pytest.approx(0.5, rel=0.01)
    assert float(counted.var()) == pytest.approx(0.5 / 60, rel=0.03)  # of counts the variance is the mean
    hit = ALL["impulse"](grey, 5, rng)
    assert float((hit == 0).float().mean()) == pytest.approx(0.135, rel=0.05)
    assert float((hit == 1).float().mean()) == pytest.approx(0.135, rel=0.05)


def test_blurs_keep_the_mean_and_spread_a_point_as_far_as_they_say() -> None:
    x = torch.zeros(1, 1, 225, 225)
    x[..., 112, 112] = 1
    place = torch.arange(225.0) - 112
    blurred = ALL["gaussian_blur"](x, 3, draws(1))
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-4)
    assert float((blurred.sum((0, 1, 2)) * place**2).sum() ** 0.5) == pytest.approx(3 * 225 / 224, rel=0.03)
    moved = ALL["motion_blur"](x, 5, draws(1))
    assert float(moved.sum()) == pytest.approx(1, abs=1e-3)
    variance = float((moved.sum((0, 1, 2)) * place**2).sum() + (moved.sum((0, 1, 3)) * place**2).sum())
    length = 0.14 * 225
    steps = np.linspace(-length / 2, length / 2, 9)
    assert variance == pytest.approx(float((steps**2).mean()), rel=0.05)


def test_exposure_in_closed_form() -> None:
    x = draw_images()
    for k, (before, after) in enumerate(zip(x, ALL["brightness"](x, 2, draws()), strict=True)):
        assert torch.allclose(after, (before + 0.2).clamp(0, 1)) or torch.allclose(after, (before - 0.2).clamp(0, 1)), k
    signs = {bool(after.mean() > before.mean()) for before, after in zip(x, ALL["brightness"](x, 2, draws()), strict=True)}
    assert signs == {True, False}
    colours = torch.stack([x[:, 0], x[:, 0].square(), 1 - x[:, 0]], 1)
    flat = ALL["contrast"](colours, 3, draws())
    mean = colours.mean((2, 3), keepdim=True)  # of each channel, as ImageNet-C has it
    assert not torch.allclose(mean[:, 0], mean[:, 2], atol=0.1)
    assert torch.allclose(flat, mean + 0.2 * (colours - mean), atol=1e-6)
    for before, after in zip(x, ALL["gamma"](x, 4, draws()), strict=True):
        assert torch.allclose(after, before**2.5, atol=1e-5) or torch.allclose(after, before**0.4, atol=1e-5)


def test_rotation_moves_a_point_by_its_angle() -> None:
    x = torch.zeros(1, 1, 101, 101)
    x[..., 50, 90] = 1
    turned = ALL["rotation"](x, 5, draws(1))
    row, column = divmod(int(turned.argmax()), 101)
    assert abs(np.degrees(np.arctan2(row - 50, column - 50))) == pytest.approx(30, abs=1)


def test_cropping_shows_a_part_of_that_area() -> None:
    ramp = torch.linspace(0, 1, 200).expand(1, 1, 200, 200)
    part = ALL["cropping"](ramp, 5, draws(1))
    assert float(part.max() - part.min()) == pytest.approx(0.5**0.5, abs=0.01)


def test_bias_field_is_smooth_and_multiplies() -> None:
    x = 0.2 + 0.3 * torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ratio = (ALL["bias_field"](x, 1, draws(2)) / x).log()
    assert torch.allclose(ratio, (ALL["bias_field"](x / 2, 1, draws(2)) / (x / 2)).log(), atol=1e-5)
    assert float(ratio.diff(dim=2).abs().max()) < 0.1


def test_ghosts_stand_at_even_distances() -> None:
    x = torch.zeros(1, 1, 120, 8)
    x[:, :, 60] = 0.5
    ghosted = ALL["ghosting"](x, 5, draws(1))
    every = 4 + int(draws(1).uniform("ghosts") * 6)
    lines = torch.arange(120)
    weak = (torch.fft.fftfreq(120, 1 / 120).round().abs().long() % every == 0) & (torch.fft.fftfreq(120, 1 / 120).abs() > 1.2)
    slow = (
        sum((0.0 if weak[k] else 1.0) * 0.5 * torch.exp(2j * torch.pi * k * (lines - 60) / 120) for k in range(120)) / 120
    )  # the inverse transform, written out
    assert torch.allclose(ghosted[0, 0, :, 0], slow.abs().clamp(max=1).float(), atol=1e-4)


def test_hidden_patches_are_nested_and_filled() -> None:
    x = draw_images(3, 4)
    order = base.order_of_patches(16, draws(4))
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(4, -1))
    few, many = (base.hide_patches(x, order[:, :n], 4, torch.tensor([0.1, 0.2, 0.3])) for n in (4, 12))
    gone_few, gone_many = (((y - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)).abs() < 1e-6).all(1) for y in (few, many))
    assert (gone_many | ~gone_few).all()
    block = few.view(4, 3, 4, 16, 4, 16).permute(0, 2, 4, 1, 3, 5).reshape(4, 16, 3, 256)
    for k in range(4):
        for cell in range(16):
            hidden = cell in order[k, :4]
            original = x[k].view(3, 4, 16, 4, 16).permute(1, 3, 0, 2, 4).reshape(16, 3, 256)[cell]
            expected = torch.tensor([0.1, 0.2, 0.3])[:, None].expand(-1, 256) if hidden else original
            assert torch.allclose(block[k, cell], expected)
