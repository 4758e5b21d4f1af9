from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from helpers.learning import assert_learned, bars, inputs_of, train
from torch import Tensor, nn

from scotoma.data.modalities import Modality
from scotoma.errors import UsageError
from scotoma.methods.mae import MAE
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.mask_strategies import KINDS
from scotoma.models import encoders
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import random_order

SIZE, PATCH, COUNT = 32, 8, 16


def vit(size: int = SIZE, patch: int = PATCH, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {
        "img_size": size,
        "patch_size": patch,
        "global_pool": "avg",
        "fc_norm": False,
        "depth": 2,
        "embed_dim": 48,
        "num_heads": 3,
    }
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=channels, **kwargs)


def mae(channels: int = 1, **arguments: object) -> MAE:
    inputs = Inputs(SIZE, channels, (0.0,) * channels, (1.0,) * channels)
    return MAE(vit(channels=channels), inputs, **{"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2, **arguments})


def views_of(channels: int = 1, n: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    view = torch.randn(n, channels, SIZE, SIZE, generator=generator)
    return {"view": view, "noise": torch.rand(n, COUNT, generator=generator)}


def patch_pixels(mask: Tensor) -> Tensor:
    """(B, N) -> (B, 1, H, W), by a loop over patches."""
    out = torch.zeros(len(mask), 1, SIZE, SIZE)
    for i in range(COUNT):
        row, column = divmod(i, SIZE // PATCH)
        out[:, 0, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = mask[:, i, None, None]
    return out


def copied_from_transformers(model: nn.Module, method: MAE) -> None:
    """The weights of Hugging Face's model, under our names."""
    theirs = model.state_dict()
    encoder: dict[str, Tensor] = {
        "cls_token": theirs["vit.embeddings.cls_token"],
        "pos_embed": theirs["vit.embeddings.position_embeddings"],
        "patch_embed.proj.weight": theirs["vit.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": theirs["vit.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": theirs["vit.layernorm.weight"],
        "norm.bias": theirs["vit.layernorm.bias"],
    }
    decoder = {
        "embed.weight": theirs["decoder.decoder_embed.weight"],
        "embed.bias": theirs["decoder.decoder_embed.bias"],
        "mask_token": theirs["decoder.mask_token"],
        "positions": theirs["decoder.decoder_pos_embed"],
        "norm.weight": theirs["decoder.decoder_norm.weight"],
        "norm.bias": theirs["decoder.decoder_norm.bias"],
        "predict.weight": theirs["decoder.decoder_pred.weight"],
        "predict.bias": theirs["decoder.decoder_pred.bias"],
    }
    for i in range(2):
        old, new = f"vit.layers.{i}.", f"blocks.{i}."
        names = {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "attn.proj": "attention.o_proj",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }
        for kind in ("weight", "bias"):
            encoder |= {f"{new}{a}.{kind}": theirs[f"{old}{b}.{kind}"] for a, b in names.items()}
            encoder[f"{new}attn.qkv.{kind}"] = torch.cat([theirs[f"{old}attention.{p}_proj.{kind}"] for p in "qkv"])
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for kind in ("weight", "bias"):
        decoder |= {f"blocks.0.{a}.{kind}": theirs[f"decoder.decoder_layers.0.{b}.{kind}"] for a, b in names.items()}
        decoder[f"blocks.0.attn.qkv.{kind}"] = torch.cat(
            [theirs[f"decoder.decoder_layers.0.attention.{p}_proj.{kind}"] for p in "qkv"]
        )
    method.encoder.load_state_dict(encoder, strict=True)
    method.decoder.load_state_dict(decoder, strict=True)


def test_positions_equal_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=192, image_size=SIZE, patch_size=PATCH,
        num_channels=1, decoder_num_attention_heads=2, decoder_hidden_size=32, decoder_num_hidden_layers=1,
        decoder_intermediate_size=128,
    )  # fmt: skip
    model, method = transformers.ViTMAEForPreTraining(config), mae()
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False  # else version 5 leaves positions at 0
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights(COUNT)
    theirs = model.state_dict()
    assert theirs["vit.embeddings.position_embeddings"].abs().sum() > 0
    torch.testing.assert_close(method.encoder.pos_embed.data, theirs["vit.embeddings.position_embeddings"])
    torch.testing.assert_close(method.decoder.positions, theirs["decoder.decoder_pos_embed"])


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_and_prediction_equal_transformers(channels: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192, image_size=SIZE, patch_size=PATCH,
        num_channels=channels, decoder_num_attention_heads=2, decoder_hidden_size=32, decoder_num_hidden_layers=1,
        decoder_intermediate_size=128, norm_pix_loss=True, mask_ratio=0.75, layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(3)
    model = transformers.ViTMAEForPreTraining(config).eval()
    nn.init.normal_(model.vit.embeddings.cls_token)
    nn.init.normal_(model.decoder.mask_token)
    method = mae(channels, norm_pixels=True, norm_floor=1e-6, mask_ratio=0.75).eval()
    copied_from_transformers(model, method)
    for module in (*method.modules(), *model.modules()):
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    views = views_of(channels)
    with torch.no_grad():
        expected = model(pixel_values=views["view"], noise=views["noise"])
        prediction, _, mask = method.reconstruct(views)
        loss = method.loss(views, {})["loss"]
    assert torch.equal(mask, expected.mask)
    torch.testing.assert_close(prediction, expected.logits, atol=1e-4, rtol=1e-4)
    assert abs(loss.item() - expected.loss.item()) < 1e-4


def test_hidden_pixels_do_not_reach_the_encoder() -> None:
    method = mae().eval()
    views = views_of()
    keep, _, mask = random_order(views["noise"], 0.75)
    hidden = patch_pixels(mask)
    elsewhere = views["view"] + 3 * hidden * torch.randn(views["view"].shape)
    tokens = encoders.forward_visible(method.encoder, views["view"], keep)
    assert torch.equal(encoders.forward_visible(method.encoder, elsewhere, keep), tokens)
    prediction = method.reconstruct(views)[0]
    assert torch.equal(method.reconstruct(views | {"view": elsewhere})[0], prediction)
    seen = views["view"] + 3 * (1 - hidden) * torch.randn(views["view"].shape)
    assert not torch.allclose(method.reconstruct(views | {"view": seen})[0], prediction, atol=1e-3)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_the_loss_counts_hidden_patches_only(norm_pixels: bool) -> None:
    method = mae(norm_pixels=norm_pixels, norm_floor=1e-2).eval()
    views = views_of()
    with torch.no_grad():
        prediction, target, mask = method.reconstruct(views)
        total, hidden = 0.0, 0
        for b in range(5):
            for i in range(COUNT):
                row, column = divmod(i, 4)
                block = views["view"][b, 0, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].flatten()
                assert torch.equal(block, target[b, i])
                if norm_pixels:
                    block = (block - block.mean()) / (block.var() + 1e-2).sqrt()
                if mask[b, i]:
                    total, hidden = total + (prediction[b, i] - block).square().mean().item(), hidden + 1
        assert hidden == 5 * 12
        assert method.loss(views, {})["loss"].item() == pytest.approx(total / hidden, rel=1e-5)


def test_another_network_is_refused() -> None:
    with pytest.raises(UsageError, match="mae needs a vision transformer"):
        MAE(timm.create_model("resnet10t", num_classes=0, in_chans=1), Inputs(32, 1, (0.0,), (1.0,)))


def test_positions_are_fixed_and_exported() -> None:
    method = mae()
    assert not method.encoder.pos_embed.requires_grad
    assert method.encoder.pos_embed[0, 0].abs().max() == 0  # the class token has none
    views = method.views(torch.zeros(4, 1, 40, 40, dtype=torch.uint8), KeyedRNG(0, 0, torch.arange(4)))
    assert torch.equal(views["noise"], KeyedRNG(0, 0, torch.arange(4)).uniform("mask", COUNT))
    assert len({tuple(row.tolist()) for row in views["noise"]}) == 4  # every image is hidden in its own way


def test_trained_weights_are_left_as_they_are() -> None:
    encoder = vit()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    MAE(encoder, Inputs(SIZE, 1, (0.0,), (1.0,), trained=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert encoder.pos_embed.requires_grad
    MAE(encoder, Inputs(SIZE, 1, (0.0,), (1.0,)))
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"pos_embed", "patch_embed.proj.weight"}


def gradients(method: MAE, part: str, views: dict[str, Tensor]) -> dict[str, Tensor | None]:
    method.zero_grad()
    method.loss(views, {})[part].backward()
    return {name: p.grad for name, p in method.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("masking", KINDS)
def test_every_kind_of_masking_hides_as_much_and_learns(masking: str) -> None:
    method = mae(masking=masking)
    views = method.views(torch.randint(0, 256, (5, 1, 40, 40), dtype=torch.uint8), KeyedRNG(0, 0, torch.arange(5)))
    assert method.reconstruct(views)[2].sum(1).eq(12).all()
    found = gradients(method, "loss", views)
    assert all(g is not None and torch.isfinite(g).all() for g in found.values())
    assert any(name.startswith("mask_strategy.") for name in found) == (masking == "agent")


def test_the_agent_and_the_reconstruction_do_not_teach_each_other() -> None:
    method = mae(masking="agent")
    views = method.views(torch.randint(0, 256, (5, 1, 40, 40), dtype=torch.uint8), KeyedRNG(0, 0, torch.arange(5)))
    for part, own in (("agent", True), ("reconstruction", False)):
        found = gradients(method, part, views)
        for name, gradient in found.items():
            assert (gradient is not None) == (name.startswith("mask_strategy.") == own), (part, name)
    method.eval()
    prediction, target, mask = method.reconstruct(views)
    losses = method.loss(views, {})
    errors = (prediction - target).square().mean(2)
    torch.testing.assert_close(losses["agent"], method.mask_strategy.loss(views["view"], errors, mask))
    torch.testing.assert_close(losses["reconstruction"], (errors * mask).sum() / mask.sum())
    torch.testing.assert_close(losses["loss"], losses["agent"] + losses["reconstruction"])


def test_the_agent_hides_what_the_decoder_cannot_guess() -> None:
    """One corner of the images is noise, the rest one grey level: the agent finds out from the reconstruction's own errors."""
    images = torch.full((64, 1, 16, 16), 100, dtype=torch.uint8)
    images[:, :, :8, :8] = torch.randint(0, 256, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    method = MAE(vit(16, 4), inputs_of(images), mask_ratio=0.25, masking="agent", min_scale=1.0, decoder_dim=32, decoder_depth=1)
    method.augment = replace(method.augment, ratio=(1.0, 1.0), kind=Modality(mirror=False, flip=False, rotation=0))
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    for step in range(60):
        rows = torch.arange(64).view(4, 16)[step % 4]
        optimizer.zero_grad()
        method.loss(method.views(images[rows], KeyedRNG(0, step, rows)), {})["loss"].backward()
        optimizer.step()
        method.after_step((step + 1) / 60)
    mask = method.reconstruct(method.views(images, KeyedRNG(0, 99, torch.arange(64))))[2]
    assert mask[:, [0, 1, 4, 5]].mean() > 0.9  # of 0.25 at random


def test_the_reference_preset_is_of_its_arguments() -> None:
    assert MAE.settings(MAE.reference["method_args"])["decoder_depth"] == 8


def test_images_show_the_true_visible_patches() -> None:
    method = mae().eval()
    images = torch.randint(0, 256, (3, 1, 40, 40), dtype=torch.uint8)
    with torch.no_grad():
        shown = method.example_images(method.views(images, KeyedRNG(0, 0, torch.arange(3))), {})
        mask = random_order(method.views(images, KeyedRNG(0, 0, torch.arange(3)))["noise"], 0.75)[2]
    visible = patch_pixels(1 - mask).bool()
    torch.testing.assert_close(shown["reconstruction"][visible], shown["view"][visible])
    assert torch.equal(shown["visible"][visible], shown["view"][visible])
    assert (shown["visible"][~visible] == 0).all()


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    inputs = inputs_of(images)
    method = MAE(vit(16, 4), inputs, mask_ratio=0.5, decoder_dim=32, decoder_depth=1, decoder_heads=2, norm_pixels=False)
    losses = train(method, images, targets, steps=120, learning_rate=3e-3)
    assert_learned(method, images, losses, fall=0.75)
