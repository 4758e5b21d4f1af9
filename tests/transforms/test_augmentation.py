from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor
from torch.nn import functional as F

from scotoma.data.modalities import MODALITIES, modality
from scotoma.errors import UsageError
from scotoma.rng import KeyedRNG
from scotoma.transforms import augmentation
from scotoma.transforms.augmentation import Augmentation, places, plain

KIND = modality("grey")
ROWS = torch.arange(1000)


def identity(n: int, channels: int = 1) -> dict[str, Tensor]:
    """Parameters that change nothing."""
    return {
        "theta": torch.eye(2, 3).expand(n, 2, 3).clone(),
        "brightness": torch.zeros(n),
        "contrast": torch.ones(n),
        "gamma": torch.ones(n),
        "hue": torch.ones(n, 3),
        "sigma": torch.zeros(n),
    }


def draw_images(n: int = 3, channels: int = 1, side: int = 24, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8))


def raw(size: int = 24, channels: int = 1, **changes: object) -> Augmentation:
    """An augmentation without normalisation."""
    return Augmentation(size, (0.0,) * channels, (1.0,) * channels, **{"kind": KIND, **changes})


def test_draws_do_not_depend_on_batch_or_order() -> None:
    whole = KeyedRNG(3, 5, ROWS)
    order = torch.from_numpy(np.random.default_rng(0).permutation(1000))
    for draw in (lambda d: d.uniform("a", 4), lambda d: d.normal("a"), lambda d: d.of("view").uniform("a")):
        expected = draw(whole)
        assert torch.equal(draw(KeyedRNG(3, 5, ROWS[order])), expected[order])
        assert torch.equal(torch.cat([draw(KeyedRNG(3, 5, part)) for part in ROWS.split(7)]), expected)
    assert torch.equal(whole.uniform("a"), whole.uniform("a"))


def test_draws_of_a_tensor_of_epochs_equal_those_of_each_epoch() -> None:
    epochs = torch.tensor([0, 1, 7]).repeat(10)
    rows = torch.arange(30)
    mixed = KeyedRNG(1, epochs, rows).uniform("a", 3)
    for epoch in (0, 1, 7):
        chosen = epochs == epoch
        assert torch.equal(mixed[chosen], KeyedRNG(1, epoch, rows[chosen]).uniform("a", 3))


def test_draws_differ_by_seed_epoch_row_name_and_view() -> None:
    base = KeyedRNG(0, 0, ROWS).uniform("a")
    others = [
        KeyedRNG(1, 0, ROWS).uniform("a"),
        KeyedRNG(-1, 0, ROWS).uniform("a"),
        KeyedRNG(2**63, 0, ROWS).uniform("a"),
        KeyedRNG(0, 1, ROWS).uniform("a"),
        KeyedRNG(0, 0, ROWS + 1).uniform("a"),
        KeyedRNG(0, 0, ROWS).uniform("b"),
        KeyedRNG(0, 0, ROWS).of("first").uniform("a"),
        KeyedRNG(0, 0, ROWS).of("second").uniform("a"),
    ]
    numbers = torch.stack([base, *others])
    numbers[5, :] = KeyedRNG(0, 0, ROWS + 5000).uniform("a")  # rows of their own, so that all nine should be unrelated
    correlation = np.corrcoef(numbers.numpy()) - np.eye(len(numbers))
    assert abs(correlation).max() < 5 / math.sqrt(1000)


def test_exchanging_seed_epoch_and_row_gives_other_numbers() -> None:
    triples = [(s, e, r) for s in range(6) for e in range(6) for r in range(6)]
    found = {KeyedRNG(s, e, torch.tensor([r])).uniform("a").item() for s, e, r in triples}
    assert len(found) > 0.99 * len(triples)  # 216 of 2**24 numbers: a collision is rare


@pytest.mark.parametrize("shape", [(), (100,)])
def test_uniform_is_uniform_and_neighbours_are_unrelated(shape: tuple[int, ...]) -> None:
    count = 100_000 if not shape else 1000
    u = KeyedRNG(11, 2, torch.arange(count)).uniform("x", *shape).double().numpy()
    flat = u.ravel()
    assert flat.min() >= 0 and flat.max() < 1
    assert stats.kstest(flat, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount((flat * 256).astype(int), minlength=256)).pvalue > 1e-3
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 5 / math.sqrt(flat.size)
    rows = u.reshape(count, -1)
    assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 5 / math.sqrt(flat.size)
    next_epoch = KeyedRNG(11, 3, torch.arange(count)).uniform("x", *shape).double().numpy().ravel()
    assert abs(np.corrcoef(flat, next_epoch)[0, 1]) < 5 / math.sqrt(flat.size)


def test_uniform_keeps_its_bounds() -> None:
    u = KeyedRNG(0, 0, ROWS).uniform("x", 50, low=-2.0, high=3.0)
    assert u.dtype == torch.float32 and u.shape == (1000, 50)
    assert stats.kstest(u.numpy().ravel(), stats.uniform(-2, 5).cdf).pvalue > 1e-3


def test_normal_is_normal() -> None:
    z = KeyedRNG(4, 0, torch.arange(100_000)).normal("z").double().numpy()
    assert np.isfinite(z).all()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / math.sqrt(len(z))


@pytest.mark.parametrize("channels", [1, 3])
def test_identity_parameters_give_the_image_back(channels: int) -> None:
    images = draw_images(channels=channels)
    view = raw(channels=channels, blur=0.5).apply(images, identity(3))
    assert view.dtype == torch.float32 and view.shape == (3, channels, 24, 24)
    torch.testing.assert_close(view, images / 255, atol=2e-5, rtol=0)


def test_normalisation_is_last() -> None:
    images = draw_images(channels=3)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    view = Augmentation(24, mean, std, KIND).apply(images, identity(3))
    expected = (images.numpy() / 255 - np.array(mean).reshape(3, 1, 1)) / np.array(std).reshape(3, 1, 1)
    np.testing.assert_allclose(view.numpy(), expected, atol=2e-4)


def test_mirror_flip_and_quarter_turns_equal_torchs() -> None:
    images = draw_images()
    exact = images / 255
    augment = raw(jitter=0.0)

    def warped(matrix: list[list[float]]) -> Tensor:
        theta = torch.cat([torch.tensor(matrix), torch.zeros(2, 1)], 1).expand(3, 2, 3)
        return augment.apply(images, identity(3) | {"theta": theta})

    torch.testing.assert_close(warped([[-1, 0], [0, 1]]), exact.flip(3), atol=2e-5, rtol=0)
    torch.testing.assert_close(warped([[1, 0], [0, -1]]), exact.flip(2), atol=2e-5, rtol=0)
    torch.testing.assert_close(warped([[0, -1], [1, 0]]), exact.rot90(1, (2, 3)), atol=2e-5, rtol=0)
    twice = augment.apply((warped([[-1, 0], [0, 1]]) * 255).round().to(torch.uint8), identity(3))
    assert torch.equal((twice * 255).round().to(torch.uint8).flip(3), images)


def test_a_sampled_quarter_turn_is_a_rotation_of_the_image() -> None:
    still = replace(KIND, rotation=0.0)
    images = draw_images(8)
    theta = raw(kind=replace(KIND, rotation=90.0), scale=(1, 1), ratio=(1, 1)).sample(KeyedRNG(0, 0, torch.arange(8)))["theta"]
    angle = torch.atan2(theta[:, 1, 0], theta[:, 0, 0])
    assert angle.abs().max() <= math.pi / 2 and angle.abs().min() > 0
    torch.testing.assert_close(theta[:, :, :2] @ theta[:, :, :2].mT, torch.eye(2).expand(8, 2, 2), atol=1e-6, rtol=0)
    params = raw(kind=still, scale=(1, 1), ratio=(1, 1), jitter=0.0).sample(KeyedRNG(0, 0, torch.arange(8)))
    torch.testing.assert_close(raw(kind=still, jitter=0.0).apply(images, params), images / 255, atol=2e-5, rtol=0)


def test_crops_stay_inside_and_have_the_area_and_aspect_asked_for() -> None:
    augment = raw(kind=replace(KIND, rotation=0.0), scale=(0.2, 0.6))
    theta = augment.sample(KeyedRNG(0, 0, torch.arange(20_000)))["theta"]
    corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    assert (theta @ corners.T).abs().max() <= 1 + 1e-6
    width, height = theta[:, 0, 0], theta[:, 1, 1]
    area = (width * height).numpy()  # theta's scale is half-width over half-width: their product is the share of the area
    assert area.min() >= 0.2 - 1e-6 and area.max() <= 0.6 + 1e-6
    assert stats.kstest(area, stats.uniform(0.2, 0.4).cdf).pvalue > 1e-3
    ratio = (width / height).log().numpy()
    assert stats.kstest(ratio, stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", sorted(MODALITIES))
def test_modalities_forbid_what_they_forbid(name: str) -> None:
    kind = modality(name)
    theta = raw(kind=replace(kind, rotation=min(kind.rotation, 45.0))).sample(KeyedRNG(0, 0, torch.arange(4000)))["theta"]
    mirrored, flipped = theta[:, 0, 0] < 0, theta[:, 1, 1] < 0
    for allowed, found in ((kind.mirror, mirrored), (kind.flip, flipped)):
        share = found.double().mean().item()
        assert abs(share - 0.5) < 0.04 if allowed else share == 0
    determinant = torch.linalg.det(raw(kind=kind).sample(KeyedRNG(0, 0, torch.arange(4000)))["theta"][:, :, :2])
    assert ((determinant < 0).any() == (kind.mirror or kind.flip)).item()
    angle = raw(kind=replace(kind, mirror=False, flip=False), ratio=(1, 1)).sample(KeyedRNG(0, 0, torch.arange(4000)))["theta"]
    degrees = torch.rad2deg(torch.atan2(angle[:, 1, 0], angle[:, 0, 0]))
    assert kind.rotation * 0.99 < degrees.abs().max() <= kind.rotation + 1e-3


def test_an_unknown_modality_and_impossible_strengths_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown modality 'xay'; one of grey, xray"):
        modality("xay")
    with pytest.raises(UsageError, match="jitter 1"):
        raw(jitter=1.0)
    with pytest.raises(UsageError, match="min_scale 0"):
        raw(scale=(0.0, 1.0))


def test_intensity_changes_have_their_closed_forms() -> None:
    images = draw_images()
    x = images / 255
    same = identity(3)
    gamma = torch.tensor([0.5, 1.0, 2.0])
    view = raw().apply(images, same | {"gamma": gamma})
    torch.testing.assert_close(view, x ** gamma.view(-1, 1, 1, 1), atol=1e-3, rtol=0)
    brightness = torch.tensor([-0.2, 0.0, 0.3])
    view = raw().apply(images, same | {"brightness": brightness})
    torch.testing.assert_close(view, (x + brightness.view(-1, 1, 1, 1)).clamp(0, 1), atol=2e-5, rtol=0)
    contrast = torch.tensor([0.5, 1.0, 1.4])
    view = raw().apply(images, same | {"contrast": contrast})
    middle = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(view, (middle + (x - middle) * contrast.view(-1, 1, 1, 1)).clamp(0, 1), atol=2e-5, rtol=0)
    hue = torch.tensor([[0.5, 1.0, 1.5]] * 3)
    colour = draw_images(channels=3)
    view = raw(channels=3, kind=replace(KIND, hue=0.5)).apply(colour, same | {"hue": hue})
    torch.testing.assert_close(view, (colour / 255 * hue.view(3, 3, 1, 1)).clamp(max=1), atol=2e-5, rtol=0)


def test_the_strength_of_jitter_bounds_what_is_sampled() -> None:
    params = raw(jitter=0.3, blur=0.25, blur_sigma=(0.5, 1.0)).sample(KeyedRNG(0, 0, torch.arange(20_000)))
    assert stats.kstest(params["brightness"].numpy(), stats.uniform(-0.15, 0.3).cdf).pvalue > 1e-3
    assert stats.kstest(params["contrast"].numpy(), stats.uniform(0.7, 0.6).cdf).pvalue > 1e-3
    assert params["gamma"].min() >= 0.7 - 1e-6 and params["gamma"].max() <= 1 / 0.7 + 1e-5
    assert abs(params["gamma"].log().mean()) < 0.01  # as often darker as lighter
    strong = raw(jitter=0.8).sample(KeyedRNG(0, 0, torch.arange(20_000)))  # gamma follows up to 0.4
    assert 0.6 <= strong["gamma"].min() < 0.601 and 1.66 < strong["gamma"].max() <= 1 / 0.6 + 1e-5
    assert strong["contrast"].min() < 0.21 and strong["contrast"].max() > 1.79
    blurred = params["sigma"] > 0
    assert abs(blurred.double().mean() - 0.25) < 0.015
    assert params["sigma"][blurred].min() >= 0.5 and params["sigma"].max() <= 1.0


@pytest.mark.parametrize("channels", [1, 3])
def test_blur_equals_scipys(channels: int) -> None:
    images = draw_images(channels=channels)
    sigma = torch.tensor([0.0, 0.6, 1.5])
    view = raw(channels=channels, blur=1.0, jitter=0.0).apply(images, identity(3) | {"sigma": sigma}).numpy()
    exact = images.numpy() / 255
    np.testing.assert_allclose(view[0], exact[0], atol=2e-5)
    for i in (1, 2):
        for c in range(channels):
            expected = ndimage.gaussian_filter(exact[i, c], sigma[i].item(), mode="nearest", radius=3)
            np.testing.assert_allclose(view[i, c], expected, atol=1e-4)


def test_blurring_all_images_as_a_gpu_does_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = identity(3) | {"sigma": torch.tensor([0.0, 0.6, 1.5])}
    some = raw(blur=1.0, jitter=0.0).apply(draw_images(), given)
    monkeypatch.setattr(augmentation, "_to_blur", lambda sigma: slice(None))
    torch.testing.assert_close(raw(blur=1.0, jitter=0.0).apply(draw_images(), given), some, atol=0, rtol=0)


def test_a_view_does_not_depend_on_its_neighbours() -> None:
    images = draw_images(6, channels=3)
    augment = raw(channels=3, kind=modality("dermoscopy"), blur=0.5)
    rows = torch.arange(6)
    together = augment(images, KeyedRNG(0, 0, rows))
    for i in range(6):
        torch.testing.assert_close(augment(images[i : i + 1], KeyedRNG(0, 0, rows[i : i + 1]))[0], together[i], atol=1e-6, rtol=0)
    back = augment(images.flip(0), KeyedRNG(0, 0, rows.flip(0)))
    torch.testing.assert_close(back.flip(0), together, atol=1e-6, rtol=0)
    assert not torch.allclose(augment(images, KeyedRNG(0, 1, rows)), together, atol=0.05)


def test_layout_of_the_batch_does_not_matter() -> None:
    images = draw_images(4, channels=3)
    augment = raw(channels=3, blur=0.5)
    last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(augment(last, KeyedRNG(0, 0, torch.arange(4))), augment(images, KeyedRNG(0, 0, torch.arange(4))))


def test_plain_is_the_identity_at_equal_size() -> None:
    images = draw_images(channels=3)
    before = images.clone()
    view = plain(images, 24, (0.5,) * 3, (0.25,) * 3)
    torch.testing.assert_close(view, (images / 255 - 0.5) / 0.25)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_resizes_with_antialiasing(channels: int) -> None:
    images = draw_images(channels=channels, side=32)
    mean, std = (0.3,) * channels, (0.2,) * channels
    expected = F.interpolate(images / 255, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(plain(images, 16, mean, std), (expected - 0.3) / 0.2)
    lines = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    lines[..., ::2] = 255  # lines finer than the target's pixels become an even grey
    assert plain(lines, 8, (0.0,), (1.0,))[..., 1:-1].sub(0.5).abs().max() < 0.07


@pytest.mark.parametrize("size", [1, 5, 96])
def test_places_equal_torchs_affine_grid(size: int) -> None:
    theta = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        places(theta, size), F.affine_grid(theta, [4, 1, size, size], align_corners=False), atol=1e-6, rtol=0
    )
