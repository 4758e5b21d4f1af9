from __future__ import annotations

import math

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, inputs_of, train
from torch import Tensor

from scotoma.errors import UsageError
from scotoma.methods.lejepa import LeJEPA, epps_pulley, prediction_loss, sketched_normality
from scotoma.rng import KeyedRNG
from scotoma.training.trainer import make_views


def method_of(images: Tensor, network: str = "test_resnet", **arguments: float) -> LeJEPA:
    torch.manual_seed(0)
    kwargs = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 48, "num_heads": 3} if network.startswith("vit") else {}
    return LeJEPA(timm.create_model(network, num_classes=0, in_chans=1, **kwargs), inputs_of(images), **arguments)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x: Tensor) -> float:
    """The integral of ``epps_pulley`` over all t, pair by pair: each term is the Fourier transform of a Gaussian."""
    x, n = x.double(), len(x)
    pairs = math.sqrt(2 * math.pi) * torch.exp(-((x[:, None] - x) ** 2) / 2).sum() / n**2
    mixed = 2 * math.sqrt(math.pi) * torch.exp(-(x**2) / 4).sum() / n
    return n * (pairs - mixed + math.sqrt(2 * math.pi / 3)).item()


def test_the_statistic_is_the_integral() -> None:
    for x in (normal(9), normal(30) * 2 + 1, torch.zeros(4)):
        assert epps_pulley(x, knots=400, t_max=8.0).item() == pytest.approx(exact(x), abs=2e-4)
    at_zero = math.sqrt(2 * math.pi) - 2 * math.sqrt(math.pi) + math.sqrt(2 * math.pi / 3)
    assert exact(torch.zeros(4)) == pytest.approx(4 * at_zero)


def test_the_statistic_equals_slow_sums_with_complex_numbers() -> None:
    x, slow = normal(11) - 0.3, 0.0
    knots = [3.0 * k / 16 for k in range(-16, 17)]  # both halves
    for k, t in enumerate(knots):
        mean = sum(complex(math.cos(t * v), math.sin(t * v)) for v in x.tolist()) / 11
        value = abs(mean - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2)
        slow += value * 3 / 16 * (0.5 if k in (0, 32) else 1)
    assert epps_pulley(x).item() == pytest.approx(11 * slow, rel=1e-4)
    both = torch.stack([x, 2 * x])
    torch.testing.assert_close(epps_pulley(both), torch.stack([epps_pulley(x), epps_pulley(2 * x)]))


def test_normal_samples_stay_near_one_and_others_grow() -> None:
    many = normal(400, 2000)
    # the mean under N(0, 1) is the integral of (1 - exp(-t^2)) exp(-t^2 / 2), whatever N (theorem 6)
    expected = math.sqrt(2 * math.pi) * math.erf(3 / math.sqrt(2)) - math.sqrt(2 * math.pi / 3) * math.erf(3 * math.sqrt(1.5))
    assert epps_pulley(many).mean().item() == pytest.approx(expected, rel=0.1)
    assert epps_pulley(many[:, :20]).mean().item() == pytest.approx(expected, rel=0.1)
    two_humps = torch.sign(normal(50, 2000, seed=1)) * math.sqrt(0.9) + normal(50, 2000, seed=2) * math.sqrt(0.1)
    for other in (many[:50] + 0.3, many[:50] * 1.4, many[:50] * 0.6, two_humps):  # the last has mean 0 and variance 1
        large, small = epps_pulley(other).mean(), epps_pulley(other[:, :200]).mean()
        assert large > 10 * expected and 6 < large / small < 11


def test_a_direction_shows_what_coordinates_hide() -> None:
    """The "X" of figure 5: each coordinate is normal and the covariance is 1, but the diagonals are not normal."""
    a, s = normal(3000), torch.sign(normal(3000, seed=1))
    z = torch.stack([a, s * a], 1)
    axes, diagonals = torch.eye(2), torch.tensor([[1.0, 1], [1, -1]]) / math.sqrt(2)
    assert sketched_normality(z, axes) < 3 and sketched_normality(z, diagonals) > 30


def test_loss_and_gradient_equal_lightly(monkeypatch: pytest.MonkeyPatch) -> None:
    lightly = pytest.importorskip("lightly.loss.lejepa_loss")
    images, _ = bars(6)
    method = method_of(images, local_views=3, sigreg_weight=0.1, slices=50, projection_dim=8).eval()
    monkeypatch.setattr(lightly.SIGReg, "_generate_unit_vectors", lambda *_: method.directions().T)
    views = method.views(images, KeyedRNG(0, 0, torch.arange(6)))
    z = [method.projector(method.encoder(view)) for view in views.values()]  # without batch statistics: one by one
    expected = lightly.LeJEPALoss(0.1)(global_proj=torch.stack(z[:2]), local_proj=torch.stack(z[2:]))
    result = method.loss(views, {})
    torch.testing.assert_close(result["loss"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result["loss"], 0.9 * result["prediction"] + 0.1 * result["sigreg"])
    weight = method.projector[0].weight
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (result["loss"], expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_the_gradient_of_the_prediction_goes_to_both_sides() -> None:
    """Two global views a and b: the loss is (a - b)^2 / 4, its gradient (a - b) / 2 and the opposite; nothing is detached."""
    z = torch.tensor([[[3.0]], [[1.0]]], requires_grad=True)
    prediction_loss(z, 2).backward()
    assert torch.equal(z.grad.flatten(), torch.tensor([1.0, -1.0]))
    z = torch.tensor([[[3.0]], [[1.0]], [[0.0]]])
    assert prediction_loss(z, 2).item() == pytest.approx((1 + 1 + 4) / 3)  # all to the mean of the first two, 2
    assert prediction_loss(z, 1).item() == pytest.approx((0 + 4 + 9) / 3)


def test_directions_are_the_steps_own_and_spread_evenly() -> None:
    images, _ = bars(4)
    method, other = (method_of(images, slices=4000, projection_dim=6) for _ in range(2))
    first = method.directions()
    assert first.shape == (4000, 6)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(4000))
    torch.testing.assert_close(first.T @ first / 4000, torch.eye(6) / 6, atol=0.01, rtol=0)
    assert first.mean(0).abs().max() < 0.02
    before = torch.get_rng_state()
    assert torch.equal(method.directions(), first) and torch.equal(other.directions(), first)
    assert torch.equal(torch.get_rng_state(), before)
    method.after_step(0.5)
    second = method.directions()
    assert (second * first).sum(1).abs().max() < 0.99 and abs((second * first).sum(1).mean()) < 0.03
    other.load_state_dict(method.state_dict())  # resumed
    assert torch.equal(other.directions(), second)


@pytest.mark.parametrize("network", ["test_resnet", "vit_tiny_patch16_224"])
def test_local_views_are_small_and_show_less(network: str) -> None:
    ramp = torch.arange(0, 240, 6, dtype=torch.uint8).repeat(1, 40, 1)[None].repeat(8, 1, 1, 1)  # (8, 1, 40, 40)
    method = method_of(ramp, network, jitter=0.0, blur=0.0, local_size=8)
    views = make_views(method, {"images": ramp, "rows": torch.arange(8), "epochs": torch.zeros(8, dtype=torch.int64)}, 0)
    assert [v.shape[-1] for v in views.values()] == [16, 16, 8, 8, 8, 8]
    # how much of the ramp a view runs through: its slope times its width
    shares = [v.diff(dim=3).flatten(1).median(1).values * v.shape[3] * method.inputs.std[0] * 255 / 240 for v in views.values()]
    wide, narrow = torch.stack(shares[:2]), torch.stack(shares[2:])
    tilt = math.cos(math.radians(15))
    assert wide.min() > tilt * math.sqrt(0.3 * 3 / 4) - 0.01 and 0.8 < wide.max() < 1.01
    assert narrow.min() > tilt * math.sqrt(0.1 * 3 / 4) - 0.01 and 0.45 < narrow.max() < math.sqrt(0.3 * 4 / 3) + 0.01
    assert method.embed(views["local view 1"]).shape == method.embed(views["global view 1"]).shape


def test_wrong_requests_are_refused() -> None:
    images, _ = bars(4)
    with pytest.raises(UsageError, match="multiple of the patch, 4"):
        method_of(images, "vit_tiny_patch16_224", local_size=10)
    with pytest.raises(UsageError, match="sigreg_weight"):
        method_of(images, sigreg_weight=1.5)
    with pytest.raises(UsageError, match="at least 1, and 2"):
        method_of(images, global_views=1, local_views=0)


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    method = method_of(images, local_views=2, slices=64, hidden_dim=64, projection_dim=16)
    losses = train(method, images, targets, steps=30, learning_rate=3e-3)
    assert_learned(method, images, losses, fall=0.8)


def test_without_sigreg_it_collapses() -> None:
    images, targets = bars(64)
    kept, lost = (
        method_of(images, "vit_tiny_patch16_224", local_views=0, slices=32, hidden_dim=32, projection_dim=8, sigreg_weight=weight)
        for weight in (0.1, 0.0)
    )
    spreads = []
    for method in (kept, lost):
        train(method, images, targets, steps=30, learning_rate=3e-3)
        views = method.views(images, KeyedRNG(0, 0, torch.arange(64)))
        with torch.no_grad():
            spreads.append(method.projector(method.embed(views["global view 1"])).std(0).mean().item())
    assert spreads[0] > 0.5 and spreads[1] < 0.2
