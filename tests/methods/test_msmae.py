from __future__ import annotations

import math
from dataclasses import replace

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, features, inputs_of
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.mae import MAE
from scotoma.methods.msmae import MSMAE
from scotoma.methods.parts.inputs import Inputs
from scotoma.rng import KeyedRNG

SIZE, PATCH, COUNT = 32, 8, 16
MASKED, VISIBLE = 7, 4  # 0.45 and 0.25 of 16
SMALL = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}


def vit(size: int = SIZE, patch: int = PATCH, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {"img_size": size, "patch_size": patch, "depth": 2, "embed_dim": 48, "num_heads": 3, **arguments}
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, **kwargs)


def inputs(**changes: object) -> Inputs:
    return replace(Inputs(SIZE, 1, (0.4,), (0.2,), outputs=3, images=8), **changes)


def msmae(given: Inputs | None = None, **arguments: object) -> MSMAE:
    return MSMAE(vit(), given or inputs(), **{**SMALL, "warmup_epochs": 2, **arguments})


def batch_of(epoch: int, n: int = 8) -> dict[str, Tensor]:
    images = torch.randint(0, 256, (n, 1, 40, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    at = torch.arange(n)
    return {"images": images, "positions": at, "epochs": torch.full((n,), epoch), "targets": at % 3}


def views_of(method: MSMAE, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return method.views(batch["images"], KeyedRNG(0, batch["epochs"], batch["positions"]))


def losses_of(method: MSMAE, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return method.loss(views_of(method, batch), batch)


def set_maps(method: MSMAE, maps: Tensor, epoch: int) -> None:
    method.attention.maps.copy_(maps)
    method.attention.stamps.fill_(epoch)


def test_in_the_warm_up_it_is_mae_and_a_classifier() -> None:
    """The same masks, the same reconstruction, from the same weights; whatever is hidden is predicted."""
    method, batch = msmae(), batch_of(epoch=1)
    plain = MAE(vit(), inputs(), mask_ratio=0.75, **SMALL)
    plain.encoder.load_state_dict(method.encoder.state_dict())
    plain.decoder.load_state_dict(method.decoder.state_dict())
    views = views_of(method, batch)
    found = method.loss(views, batch)
    expected = plain.loss({"view": views["view"], "noise": views["noise"]}, batch)["loss"]
    torch.testing.assert_close(found["reconstruction"], expected)
    torch.testing.assert_close(found["loss"], expected + 0.1 * found["classification"])
    assert (method.attention.stamps == -1).all()
    batch["epochs"][3:] = 2  # a batch between two epochs goes with the earlier
    method.loss(views, batch)
    assert (method.attention.stamps == -1).all()
    method.loss(views, batch_of(epoch=2))
    assert (method.attention.stamps == 2).all()


def test_a_step_against_one_that_is_plain_to_see() -> None:
    """Decoded by image: the network on visible patches, the decoder on visible and masked ones, each at its place."""
    method, batch = msmae(norm_pixels=True, norm_floor=1e-3).eval(), batch_of(epoch=2)
    views = views_of(method, batch)
    with torch.no_grad():
        found = method.loss(views, batch)
        encoder, decoder = method.encoder, method.decoder
        keep, masked = method.draw(views, batch)
        errors, entropies = [], []
        for i in range(8):
            patches = [
                views["view"][i, :, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH] for r in range(4) for c in range(4)
            ]
            embedded = encoder.patch_embed(views["view"][i : i + 1])[0] + encoder.pos_embed[0, 1:]
            x = torch.stack([encoder.cls_token[0, 0] + encoder.pos_embed[0, 0], *(embedded[k] for k in keep[i])])[None]
            for block in encoder.blocks:
                x = block(x)
            x = encoder.norm(x)
            entropies.append(-method.classifier(x[0, 0]).log_softmax(0)[batch["targets"][i]])
            small = decoder.embed(x)[0]
            rows = [small[0] + decoder.positions[0, 0]]
            rows += [small[1 + j] + decoder.positions[0, 1 + k] for j, k in enumerate(keep[i])]
            rows += [decoder.mask_token[0, 0] + decoder.positions[0, 1 + k] for k in masked[i]]
            y = torch.stack(rows)[None]
            for block in decoder.blocks:
                y = block(y)
            for row, k in zip(decoder.predict(decoder.norm(y))[0, 1 + VISIBLE :], masked[i], strict=True):
                pixels = patches[k].flatten()
                errors.append((row - (pixels - pixels.mean()) / (pixels.var() + 1e-3).sqrt()).square().mean())
    assert len(errors) == 8 * MASKED
    torch.testing.assert_close(found["reconstruction"], torch.stack(errors).mean())
    torch.testing.assert_close(found["classification"], torch.stack(entropies).mean())
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 0.1 * found["classification"])


@pytest.mark.parametrize("throw_ratio", [0.0, 0.3])
def test_the_part_of_the_decoder_against_the_whole(throw_ratio: float) -> None:
    """With nothing thrown it is MAE's decoder; with something thrown it cannot be."""
    method, batch = msmae(mask_ratio=0.75 - throw_ratio, throw_ratio=throw_ratio).eval(), batch_of(epoch=2)
    views = views_of(method, batch)
    with torch.no_grad():
        keep, masked = method.draw(views, batch)
        found, tokens = method.reconstruct(views["view"], keep, masked)
        rest = torch.tensor([[k for k in range(COUNT) if k not in row] for row in keep.tolist()])
        whole = method.decoder(tokens, torch.cat([keep, rest], 1).argsort(1))
    expected = whole.gather(1, masked[:, :, None].expand(-1, -1, PATCH**2))
    assert torch.allclose(found, expected, atol=1e-5) == (throw_ratio == 0)


def test_what_the_class_token_looks_at_most_is_masked_the_next_thrown() -> None:
    method, batch = msmae(), batch_of(epoch=2)
    place = torch.stack([torch.randperm(COUNT) for _ in range(8)])
    weights = torch.tensor([30000.0] * MASKED + [1.0] * (COUNT - MASKED - VISIBLE) + [1e-6] * VISIBLE)
    set_maps(method, torch.zeros(8, COUNT).scatter(1, place, weights.expand(8, -1)), epoch=2)
    views = views_of(method, batch)
    views["theta"] = torch.eye(2, 3).expand(8, -1, -1)
    keep, masked = method.draw(views, batch)
    assert torch.equal(masked.sort(1).values, place[:, :MASKED].sort(1).values)
    assert torch.equal(keep.sort(1).values, place[:, -VISIBLE:].sort(1).values)
    views["theta"] = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(8, -1, -1)  # in the mirror, so are the masks
    row, column = place // 4, place % 4
    assert torch.equal(method.draw(views, batch)[1].sort(1).values, (row * 4 + 3 - column)[:, :MASKED].sort(1).values)


def test_the_published_preset() -> None:
    paper = MSMAE.settings(MSMAE.reference["method_args"])
    assert (paper["warmup_epochs"], paper["attention_interval"], paper["mask_ratio"], paper["throw_ratio"]) == (40, 40, 0.45, 0.3)


def test_masks_are_drawn_in_proportion_and_anew_each_epoch() -> None:
    """The first of a draw: as often as its share of the weights."""
    method = msmae(inputs(images=4000), mask_ratio=0.07, throw_ratio=0.5)
    assert method.masked == 1
    weights = torch.arange(1.0, COUNT + 1).expand(4000, -1)
    noise = KeyedRNG(0, 2, torch.arange(4000)).uniform("mask", COUNT)
    found = method.driven(weights, noise)[1].flatten().bincount(minlength=COUNT) / 4000
    torch.testing.assert_close(found, weights[0] / weights[0].sum(), atol=0.015, rtol=0)
    again = method.driven(weights, KeyedRNG(0, 3, torch.arange(4000)).uniform("mask", COUNT))[1]
    assert (again != method.driven(weights, noise)[1]).double().mean() > 0.8


def test_thrown_patches_are_neither_seen_nor_predicted() -> None:
    method, batch = msmae(), batch_of(epoch=2)
    views = views_of(method, batch)
    loss = method.loss(views, batch)["loss"]
    keep, masked = method.draw(views, batch)
    thrown = torch.ones(8, COUNT).scatter(1, keep, 0.0).scatter(1, masked, 0.0)
    assert thrown.sum() == 8 * (COUNT - MASKED - VISIBLE)
    also_masked, also_seen = thrown.scatter(1, masked[:, :1], 1.0), thrown.scatter(1, keep[:, :1], 1.0)
    for places, matters in ((thrown, False), (also_masked, True), (also_seen, True)):
        pixels = places.view(8, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
        other = method.loss({**views, "view": views["view"] + 3 * pixels}, batch)["loss"]
        assert torch.equal(other, loss) != matters


def test_the_cross_entropy_is_of_logits_over_known_labels() -> None:
    given = inputs(class_weights=(1.0, 2.0, 4.0))
    method, batch = msmae(given), batch_of(epoch=2)
    nn.init.zeros_(method.classifier.weight)
    method.classifier.bias.data = torch.tensor([0.0, 1.0, 3.0])
    batch["targets"] = torch.tensor([-1, -1, -1, -1, -1, -1, 1, 2])
    log_p = torch.tensor([0.0, 1.0, 3.0]).log_softmax(0)
    found = losses_of(method, batch)
    assert found["classification"].item() == pytest.approx(-(2 * log_p[1] + 4 * log_p[2]).item() / 6, rel=1e-5)
    assert found["loss"].item() == pytest.approx((found["reconstruction"] + 0.1 * found["classification"]).item())
    method.classifier.bias.data = torch.tensor([0.0, 60.0, 0.0])
    batch["targets"][:] = 1
    assert losses_of(method, batch)["classification"].item() == 0  # of probabilities it would be 0.55
    batch["targets"][:] = -1
    assert losses_of(method, batch)["loss"].item() == pytest.approx(found["reconstruction"].item())


def test_several_labels_and_shares_of_annotators() -> None:
    method, batch = msmae(), batch_of(epoch=2)
    nn.init.zeros_(method.classifier.weight)
    nn.init.zeros_(method.classifier.bias)
    batch["targets"] = torch.tensor([[1.0, 0.0, torch.nan]]).expand(8, -1)
    assert losses_of(method, batch)["classification"].item() == pytest.approx(math.log(2))
    soft = msmae(inputs(soft=True))
    nn.init.zeros_(soft.classifier.weight)
    soft.classifier.bias.data = torch.tensor([2.0, 0.0, 0.0])
    batch["targets"] = torch.tensor([[0.5, 0.5, 0.0]]).expand(8, -1)
    log_p = torch.tensor([2.0, 0.0, 0.0]).log_softmax(0)
    assert losses_of(soft, batch)["classification"].item() == pytest.approx(-(log_p[0] + log_p[1]).item() / 2, rel=1e-5)


def test_without_labels_the_decoder_teaches_the_class_token() -> None:
    assert MSMAE.requirements(MSMAE.settings({})).labels
    assert not MSMAE.requirements(MSMAE.settings({"label_free": True})).labels
    method, batch = msmae(inputs(outputs=0), label_free=True), batch_of(epoch=2)
    del batch["targets"]
    assert method.classifier is None
    losses_of(method, batch)["loss"].backward()
    assert method.encoder.cls_token.grad.abs().max() > 0


def test_a_resumed_run_draws_from_the_maps_that_it_had() -> None:
    method, batch = msmae(attention_interval=3), batch_of(epoch=2)
    losses_of(method, batch)
    old = method.attention.maps.clone()
    for p in method.encoder.parameters():
        p.data.add_(0.1 * torch.randn_like(p))  # the network has moved on; its maps have not
    again = msmae(attention_interval=3)
    again.load_state_dict(method.state_dict(), strict=True)
    batch = batch_of(epoch=4)
    assert torch.equal(losses_of(again, batch)["loss"], losses_of(method, batch)["loss"])
    assert torch.equal(again.attention.maps, old)
    losses_of(again, batch_of(epoch=5))
    assert not torch.equal(again.attention.maps, old)


def test_trained_weights_are_left_as_they_are() -> None:
    encoder = vit()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    MSMAE(encoder, inputs(trained=True), **SMALL)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    MSMAE(encoder, inputs(), **SMALL)
    assert not torch.equal(encoder.pos_embed, before["pos_embed"]) and not encoder.pos_embed.requires_grad


def test_images_show_masks_by_the_attention_of_now() -> None:
    method, batch = msmae().eval(), batch_of(epoch=0)
    views = views_of(method, batch)
    with torch.no_grad():
        shown = method.example_images(views, batch)
        weights = method.attention.warp(method.attention.take(method.encoder, batch["images"]), views["theta"])
    assert list(shown) == ["view", "attention", "visible", "reconstruction"]
    assert (method.attention.stamps == -1).all()
    light = nn.functional.avg_pool2d(shown["attention"] * 0.2 + 0.4, PATCH).flatten(1)
    torch.testing.assert_close(light, weights / weights.amax(1, keepdim=True), atol=1e-5, rtol=1e-5)
    keep, masked = method.driven(weights, views["noise"])
    for i in range(8):
        for k in range(COUNT):
            at = (i, 0, slice(k // 4 * PATCH, (k // 4 + 1) * PATCH), slice(k % 4 * PATCH, (k % 4 + 1) * PATCH))
            seen, predicted = k in keep[i], k in masked[i]
            assert torch.equal(shown["visible"][at], shown["view"][at] if seen else torch.zeros(PATCH, PATCH))
            assert torch.equal(shown["reconstruction"][at], shown["view"][at]) == seen
            assert (shown["reconstruction"][at] == 0).all() == (not seen and not predicted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 0.7, "throw_ratio": 0.3}, "together below 1"),
        ({"mask_ratio": 0.0}, "above 0"),
        ({"attention_interval": 0}, "attention_interval 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        msmae(**arguments)


def test_it_needs_labels_patches_and_a_class_token() -> None:
    with pytest.raises(UsageError, match="name a --target, or use"):
        msmae(inputs(outputs=0))
    with pytest.raises(UsageError, match="one patch"):
        MSMAE(vit(16, 16), inputs(image_size=16), **SMALL)
    for network in (timm.create_model("resnet10t", num_classes=0, in_chans=1), vit(class_token=False, global_pool="avg")):
        with pytest.raises(UsageError, match="class token"):
            MSMAE(network, inputs(), **SMALL)


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    given = replace(inputs_of(images, 2), images=64)
    method = MSMAE(vit(16, 4), given, warmup_epochs=10, attention_interval=10, classification_weight=0.3, **SMALL).train()
    optimizer = torch.optim.AdamW(method.param_groups(), lr=3e-3, betas=method.betas)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(100):
        rows = torch.randperm(64, generator=generator)[:32]
        batch = {"images": images[rows], "positions": rows, "epochs": torch.full((32,), step // 2), "targets": targets[rows]}
        loss = method.loss(method.views(batch["images"], KeyedRNG(0, step, rows)), batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert_learned(method, images, losses, fall=0.75)
    unseen, truth = bars(64, seed=1)
    with torch.no_grad():
        accuracy = (method.classifier(features(method.encoder, unseen, given)).argmax(1) == truth).double().mean()
    assert accuracy > 0.9
