from __future__ import annotations

import math

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, inputs_of, train

from scotoma.methods.vicreg import VICReg, vicreg_terms
from scotoma.rng import KeyedRNG


def embeddings(n: int = 12, dim: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    first, noise = torch.randn(2, n, dim, generator=torch.Generator().manual_seed(0))
    return first * torch.linspace(0.2, 2, dim) + 3, first + 0.5 * noise


def method_of(images: torch.Tensor, **arguments: float) -> VICReg:
    torch.manual_seed(0)
    return VICReg(timm.create_model("test_resnet", num_classes=0, in_chans=1), inputs_of(images), **arguments)


def test_terms_equal_a_loop_over_coordinates() -> None:
    first, second = embeddings()
    n, dim = first.shape
    variance = covariance = 0.0
    for z in (first.double(), second.double()):
        means = [sum(z[i, j].item() for i in range(n)) / n for j in range(dim)]
        for j in range(dim):
            for k in range(dim):
                products = sum((z[i, j].item() - means[j]) * (z[i, k].item() - means[k]) for i in range(n)) / (n - 1)
                if j == k:
                    variance += max(0.0, 1 - math.sqrt(products + 1e-4)) / dim / 2
                else:
                    covariance += products**2 / dim
    distance = sum((a - b) ** 2 for a, b in zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)) / (n * dim)
    found = vicreg_terms(first, second)
    assert found["invariance"].item() == pytest.approx(distance, rel=1e-5)
    assert found["variance"].item() == pytest.approx(variance, rel=1e-5) and variance > 0.05
    assert found["covariance"].item() == pytest.approx(covariance, rel=1e-5)


def test_loss_and_gradient_equal_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    images, _ = bars(8)
    method = method_of(images).eval()  # without batch statistics, views may pass the network one by one
    views = method.views(images, KeyedRNG(0, 0, torch.arange(8)))
    first, second = (method.expander(method.encoder(v)) for v in views.values())
    assert first.shape == (8, 256)
    expected = lightly.VICRegLoss()(first, second)
    found = method.loss(views, {})["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weight = method.expander[0].weight
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
    weights = {"invariance": 3.0, "variance": 5.0, "covariance": 7.0}
    other = method_of(images, **weights).eval()
    expected = lightly.VICRegLoss(*weights.values())(*(other.expander(other.encoder(v)) for v in views.values()))
    torch.testing.assert_close(other.loss(views, {})["loss"], expected, rtol=1e-5, atol=1e-5)


def test_closed_forms() -> None:
    hadamard = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    z = hadamard[:, 1:] * math.sqrt(3 / 4)  # columns of variance 1, mean 0, uncorrelated
    assert all(term.item() == pytest.approx(0, abs=1e-6) for term in vicreg_terms(z, z).values())
    still = vicreg_terms(torch.ones(5, 3), torch.ones(5, 3))  # all images look alike
    assert still["variance"].item() == pytest.approx(1 - 1e-2) and still["covariance"] == 0 and still["invariance"] == 0
    twins = z[:, :1].repeat(1, 3)  # three times the same coordinate: six covariances of 1 in each view
    assert vicreg_terms(twins, twins)["covariance"].item() == pytest.approx(2 * 6 / 3)


def test_autocast_does_not_round_the_loss() -> None:
    first, second = embeddings()
    with torch.autocast("cpu", torch.bfloat16):
        under = vicreg_terms(first, second)
    for name, term in vicreg_terms(first, second).items():
        assert torch.equal(under[name], term)


def test_the_second_view_is_of_the_partner() -> None:
    images, _ = bars(6)
    assert VICReg.requirements({"positives": "patient"}).pairs == "patient" and not VICReg.requirements(VICReg.settings({})).pairs
    method, rng = method_of(images, positives="patient"), KeyedRNG(0, 0, torch.arange(6))
    own, paired = method.views(images, rng), method.views(images, rng, images.flip(0))
    swapped = method.views(images.flip(0), rng)
    assert torch.equal(paired["first view"], own["first view"])
    assert torch.equal(paired["second view"], swapped["second view"])
    assert (own["first view"] - own["second view"]).abs().mean((1, 2, 3)).min() > 0.05


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    method = method_of(images, hidden_dim=64, expander_dim=32)
    losses = train(method, images, targets, steps=40, learning_rate=3e-3)
    assert_learned(method, images, losses, fall=0.85)
