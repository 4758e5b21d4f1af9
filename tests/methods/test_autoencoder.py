from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.learning import SIZE, assert_learned, bars, inputs_of, train
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.autoencoder import Autoencoder
from scotoma.methods.parts.inputs import Inputs, Requirements
from scotoma.methods.parts.losses import classification, soft_classification
from scotoma.rng import KeyedRNG


def method_of(images: Tensor, outputs: int = 0, **arguments: float) -> Autoencoder:
    torch.manual_seed(0)
    encoder = timm.create_model("resnet10t", num_classes=0, in_chans=1, channels=(16, 32, 64, 128))
    return Autoencoder(encoder, inputs_of(images, outputs), **{"decoder_dim": 32, **arguments})


def draws(n: int) -> KeyedRNG:
    return KeyedRNG(0, 0, torch.arange(n))


def regions_of(n: int) -> Tensor:
    """The first two images have none."""
    masks = torch.zeros(n, 1, 20, 20, dtype=torch.uint8)
    masks[2:, :, 4:12, 6:15] = 1
    return masks


def test_the_region_is_warped_with_the_image() -> None:
    """Where bilinear interpolation is full or empty, all four pixels about the place are, so the nearest is too."""
    blobs = F.avg_pool2d(torch.randn(30, 1, 46, 46, generator=torch.Generator().manual_seed(0)), 7, 1) > 0
    images = blobs.to(torch.uint8) * 255
    encoder = timm.create_model("resnet10t", num_classes=0, in_chans=1, channels=(16, 32, 64, 128))
    method = Autoencoder(encoder, Inputs(32, 1, (0.0,), (1.0,), "dermoscopy"), mask_weight=1.0, jitter=0.0, min_scale=0.3)
    views = method.views(images, draws(30), (blobs * 7).to(torch.uint8))
    view, mask = views["view"], views["mask"]
    assert mask.unique().tolist() == [0.0, 1.0]
    assert (mask[view == 1] == 1).all() and (mask[view == 0] == 0).all()
    assert 0.1 < (view == 1).float().mean() < 0.9 and 0.1 < (view == 0).float().mean() < 0.9
    torch.testing.assert_close(method.views(images, draws(30))["view"], view)  # the image's warp is that without masks


@pytest.mark.parametrize("weight", [0.5, 4.0])
def test_the_error_inside_the_region_weighs_more(weight: float) -> None:
    images, _ = bars(6)
    method = method_of(images, mask_weight=weight).eval()
    views = method.views(images, draws(6), regions_of(6))
    with torch.no_grad():
        error = (method.decoder(method.encoder(views["view"])) - views["view"]).square()
        expected = 0.0
        for b in range(6):
            total, weights = 0.0, 0.0
            for row in range(SIZE):
                for column in range(SIZE):
                    w = 1 + weight if views["mask"][b, 0, row, column] else 1
                    total, weights = total + w * error[b, 0, row, column].item(), weights + w
            expected += total / weights / 6
        found = method.loss(views, {})["loss"].item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert abs(found - error.mean().item()) > 1e-4
    none = method.views(images, draws(6), torch.zeros(6, 1, 20, 20, dtype=torch.uint8))
    torch.testing.assert_close(method.loss(none, {})["loss"], error.mean())


def test_nothing_passes_but_through_the_features() -> None:
    images, _ = bars(6)
    method = method_of(images).eval()
    views = method.views(images, draws(6))
    code = method.encoder(views["view"])[:1].detach()
    method.encoder = nn.Sequential(nn.Flatten(), nn.LazyLinear(128))
    with torch.no_grad():
        method.encoder(views["view"])
        nn.init.zeros_(method.encoder[1].weight)
        method.encoder[1].bias.copy_(code[0])
        shown = method.example_images(views, {})
    torch.testing.assert_close(shown["reconstruction"], method.decoder(code).expand_as(shown["view"]))


@pytest.mark.parametrize("soft", [False, True])
def test_the_classifier_adds_its_loss_where_the_label_is_known(soft: bool) -> None:
    images, _ = bars(6)
    encoder = timm.create_model("resnet10t", num_classes=0, in_chans=1, channels=(16, 32, 64, 128))
    inputs = Inputs(SIZE, 1, (0.3,), (0.2,), outputs=3, class_weights=(0.5, 1.0, 2.0), soft=soft)
    method = Autoencoder(encoder, inputs, classifier_weight=0.3).eval()
    views = method.views(images, draws(6))
    targets = torch.tensor([0, 1, 2, -1, 1, -1])
    known = targets >= 0
    weights = torch.tensor([0.5, 1.0, 2.0])
    if soft:
        targets = torch.where(known[:, None], F.one_hot(targets.clamp(min=0), 3) * 0.8 + 0.2 / 3, torch.nan)
    with torch.no_grad():
        features = method.encoder(views["view"])
        error = (method.decoder(features) - views["view"]).square().mean()
        logits = method.head(features)
        cross_entropy = (soft_classification if soft else classification)(logits[known], targets[known], weights)
        result = method.loss(views, {"targets": targets})
        torch.testing.assert_close(result["loss"], error + 0.3 * cross_entropy)
        nothing = torch.full_like(targets, torch.nan if soft else -1)
        torch.testing.assert_close(method.loss(views, {"targets": nothing})["loss"], error)
    torch.testing.assert_close(result["reconstruction"], error)
    torch.testing.assert_close(result["cross_entropy"], cross_entropy)


def test_it_wants_what_it_reads() -> None:
    requirements = [
        Autoencoder.requirements(Autoencoder.settings(given)) for given in ({}, {"classifier_weight": 0.1}, {"mask_weight": 2.0})
    ]
    assert requirements == [Requirements(unlabelled=True, **asked) for asked in ({}, {"labels": True}, {"masks": True})]


def test_what_it_cannot_do_is_refused() -> None:
    images, _ = bars(2)
    with pytest.raises(UsageError, match="mask_weight -1"):
        method_of(images, mask_weight=-1)
    with pytest.raises(UsageError, match="convolutional"):
        Autoencoder(timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, img_size=16, depth=1), inputs_of(images))


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    method = method_of(images)
    losses = train(method, images, targets, steps=40, learning_rate=3e-3)
    assert_learned(method, images, losses, fall=0.7)


def test_the_argument_of_earlier_versions_is_read() -> None:
    given = Autoencoder.settings({"mask_weight": 2.0})
    assert Autoencoder.settings({"region_weight": 2.0}) == given
    assert Autoencoder.settings(Autoencoder.parse({"region_weight": "2"})) == given
