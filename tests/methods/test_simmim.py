from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.learning import assert_learned, bars, inputs_of, train
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.mask_strategies import KINDS
from scotoma.methods.simmim import SimMIM
from scotoma.rng import KeyedRNG
from scotoma.training.trainer import make_views
from scotoma.transforms.masking import finer

SIZE, PATCH, UNIT = 32, 8, 16


def vit(size: int = SIZE, patch: int = PATCH, channels: int = 1, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    shape = {"img_size": size, "patch_size": patch, "depth": 2, "embed_dim": 48, "num_heads": 3, **kwargs}
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=channels, **shape)


def simmim(channels: int = 1, encoder: nn.Module | None = None, **arguments: object) -> SimMIM:
    inputs = Inputs(SIZE, channels, (0.0,) * channels, (1.0,) * channels)
    return SimMIM(encoder or vit(channels=channels), inputs, **arguments)


def views_of(method: SimMIM, channels: int = 1, n: int = 5, epoch: int = 0, pair: bool = False) -> dict[str, Tensor]:
    images, paired_images = torch.randint(
        0, 256, (2, n, channels, 40, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    return method.views(images, KeyedRNG(0, epoch, torch.arange(n)), **({"paired_images": paired_images} if pair else {}))


def hidden_pixels(method: SimMIM, views: dict[str, Tensor], side: int = UNIT) -> Tensor:
    """(B, 1, H, W) of the view, by a loop over units."""
    units = method.mask_strategy.order(views["view"], views["noise"], method.encoder)[2]
    out, grid = torch.zeros(len(units), 1, SIZE, SIZE), SIZE // side
    for i in range(grid**2):
        row, column = divmod(i, grid)
        out[:, 0, row * side : (row + 1) * side, column * side : (column + 1) * side] = units[:, i, None, None]
    return out


def copied_from_transformers(model: nn.Module, method: SimMIM, channels: int) -> None:
    """The weights of Hugging Face's model, under our names; its decoder orders a patch's pixels by channel, then row and column."""
    theirs = model.state_dict()
    encoder = {
        "cls_token": theirs["vit.embeddings.cls_token"],
        "pos_embed": theirs["vit.embeddings.position_embeddings"],
        "patch_embed.proj.weight": theirs["vit.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": theirs["vit.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": theirs["vit.layernorm.weight"],
        "norm.bias": theirs["vit.layernorm.bias"],
    }
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1",
             "mlp.fc2": "mlp.fc2"}  # fmt: skip
    for i in range(2):
        old, new = f"vit.layers.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            encoder |= {f"{new}{a}.{kind}": theirs[f"{old}{b}.{kind}"] for a, b in names.items()}
            encoder[f"{new}attn.qkv.{kind}"] = torch.cat([theirs[f"{old}attention.{p}_proj.{kind}"] for p in "qkv"])
    method.encoder.load_state_dict(encoder, strict=True)
    for name in ("weight", "bias"):
        x = theirs[f"decoder.0.{name}"].flatten(1) if name == "weight" else theirs["decoder.0.bias"]
        x = x.unflatten(0, (channels, PATCH, PATCH)).movedim(0, 2).flatten(0, 2)
        getattr(method.predict, name).data.copy_(x)
    method.mask_token.data.copy_(theirs["vit.embeddings.mask_token"])


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_and_prediction_equal_transformers(channels: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192, image_size=SIZE, patch_size=PATCH,
        num_channels=channels, encoder_stride=PATCH, layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(3)
    model, method = transformers.ViTForMaskedImageModeling(config).eval(), simmim(channels).eval()
    for parameter in (model.vit.embeddings.cls_token, model.vit.embeddings.mask_token, model.vit.embeddings.position_embeddings):
        nn.init.normal_(parameter)
    copied_from_transformers(model, method, channels)
    views = views_of(method, channels)
    with torch.no_grad():
        _, prediction, units = method.reconstruct(views["view"], views["noise"])
        mask = finer(units, UNIT // PATCH)
        expected = model(pixel_values=views["view"], bool_masked_pos=mask.bool())
        patches = expected.reconstruction.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, C, rows, columns, P, P)
        torch.testing.assert_close(prediction, patches.permute(0, 2, 3, 4, 5, 1).reshape(prediction.shape), atol=1e-4, rtol=1e-4)
        assert abs(method.loss(views, {})["loss"].item() - expected.loss.item()) < 1e-4


@pytest.mark.parametrize("layout", [{}, {"reg_tokens": 2, "no_embed_class": True}, {"class_token": False, "global_pool": "avg"}])
def test_hidden_pixels_do_not_reach_the_prediction(layout: dict[str, object]) -> None:
    method = simmim(encoder=vit(**layout)).eval()
    views = views_of(method)
    hidden = hidden_pixels(method, views)
    with torch.no_grad():
        tokens, prediction, _ = method.reconstruct(views["view"], views["noise"])
        again, same, _ = method.reconstruct(views["view"] + hidden * torch.randn(hidden.shape), views["noise"])
        assert torch.equal(again, tokens) and torch.equal(same, prediction)
        other = method.reconstruct(views["view"] + (1 - hidden) * torch.randn(hidden.shape), views["noise"])[1]
        assert not torch.allclose(other, prediction, atol=1e-3)
        nothing = method.encode(views["view"], torch.zeros(5, 16))  # without hidden patches it is timm's own pass
        torch.testing.assert_close(nothing, method.encoder.forward_features(views["view"]))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_is_the_mean_error_of_hidden_pixels(channels: int) -> None:
    method = simmim(channels, mask_ratio=0.5)
    nn.init.zeros_(method.predict.weight)
    nn.init.constant_(method.predict.bias, 0.25)
    views = views_of(method, channels)
    hidden = hidden_pixels(method, views).expand_as(views["view"]).bool()
    assert hidden.float().mean() == 0.5
    assert method.loss(views, {})["loss"].item() == pytest.approx((views["view"][hidden] - 0.25).abs().mean().item(), rel=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="simmim needs a vision transformer"):
        simmim(encoder=timm.create_model("resnet10t", num_classes=0, in_chans=1))
    for unit in (4, 12, 24, 64, 0):
        with pytest.raises(UsageError, match=f"mask_unit {unit}: must be a multiple of the patch"):
            simmim(mask_unit=unit)


def test_what_is_exported_is_a_plain_network() -> None:
    method = simmim(next_task=True, masking="agent")
    vit().load_state_dict(method.encoder.state_dict(), strict=True)
    assert SimMIM.settings(SimMIM.reference["method_args"])["mask_unit"] == 32


@pytest.mark.parametrize("masking", KINDS)
def test_every_kind_of_masking_hides_whole_units_and_learns(masking: str) -> None:
    method = simmim(masking=masking, mask_unit=8, mask_ratio=0.6)
    views = views_of(method)
    assert hidden_pixels(method, views, 8).mean((1, 2, 3)).eq(10 / 16).all()  # 0.6 of 16 rounded up
    method.loss(views, {})["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())


def test_fixed_masks_stay_and_dynamic_ones_change() -> None:
    for masking, alike in (("fixed", True), ("random", False)):
        method = simmim(masking=masking, mask_unit=8)
        first, second = (views_of(method, epoch=epoch, pair=True) for epoch in (0, 1))
        for name in ("noise", "paired noise"):
            assert torch.equal(first[name], second[name]) == alike
        assert not torch.equal(first["noise"], first["paired noise"])
        assert not torch.equal(first["view"], second["view"])


def test_the_agent_learns_the_error_of_a_unit() -> None:
    method = simmim(masking="agent").eval()
    views = views_of(method)
    _, prediction, units = method.reconstruct(views["view"], views["noise"])
    patches = views["view"].unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).reshape(5, 16, 64)
    errors = (prediction - patches).abs().mean(2).view(5, 4, 4)
    errors = torch.stack([errors[:, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 2) for x in (0, 2)], 1)
    found = method.loss(views, {})
    torch.testing.assert_close(found["agent"], method.mask_strategy.loss(views["view"], errors, units))
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["agent"])
    assert method.mask_strategy.agent is not None and method.mask_strategy.agent.epsilon == 1
    method.after_step(0.75)
    assert method.mask_strategy.agent.epsilon == 0.25


def test_the_next_task_asks_for_pairs() -> None:
    with pytest.raises(UsageError, match=r"next_column visit: the next task is off; switch it on with --method.next_task"):
        SimMIM.requirements({"next_column": "visit"})
    assert SimMIM.requirements(SimMIM.settings({})).pairs == ""
    assert SimMIM.requirements(SimMIM.settings({"next_task": True})).pairs == "next:study"
    named = SimMIM.settings({"next_task": True, "next_column": "patient"})
    assert SimMIM.requirements(named).pairs == "next:patient"
    assert SimMIM.requirements({"next_task": True}).pairs == "next:study"  # in the header of an earlier version
    assert "paired view" not in views_of(simmim())


def test_the_next_task_is_added_to_the_reconstruction_of_both_images() -> None:
    method = simmim(next_task=True, next_weight=0.5).eval()
    views, follows = views_of(method, pair=True), torch.tensor([1.0, 0, 0, 1, 1])
    found = method.loss(views, {"follows": follows})
    alone = simmim().eval()
    alone.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("next")})
    both = [{"view": views["view"], "noise": views["noise"]}, {"view": views["paired view"], "noise": views["paired noise"]}]
    tokens = [alone.reconstruct(v["view"], v["noise"])[0][:, 0] for v in both]  # the class tokens
    logits = method.next(torch.cat(tokens, 1)).squeeze(1)
    slow = torch.where(follows.bool(), -F.logsigmoid(logits), -F.logsigmoid(-logits)).mean()
    torch.testing.assert_close(found["next"], 0.5 * slow)
    torch.testing.assert_close(found["reconstruction"], sum(alone.loss(v, {})["loss"] for v in both) / 2)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["next"])


def test_the_next_task_is_learned_where_images_must_be_compared() -> None:
    """The partner follows where both are bright or both dark: neither alone states anything, nor does a sum over both."""
    bright = torch.tensor([0, 0, 1, 1]).repeat(8)
    other = torch.tensor([0, 1, 0, 1]).repeat(8)
    noise = torch.randint(0, 60, (2, 32, 1, 20, 20), generator=torch.Generator().manual_seed(0))
    images, paired_images = ((noise[i] + 150 * b.view(-1, 1, 1, 1)).to(torch.uint8) for i, b in enumerate((bright, other)))
    batch = {"images": images, "paired_images": paired_images, "rows": torch.arange(32), "follows": (bright == other).float()}
    method = SimMIM(vit(16, 4), inputs_of(images), mask_unit=8, next_task=True)
    optimizer = torch.optim.Adam(method.parameters(), 2e-3)
    for epoch in range(50):
        optimizer.zero_grad()
        found = method.loss(make_views(method, batch | {"epochs": torch.full((32,), epoch)}, 0), batch)
        found["loss"].backward()
        optimizer.step()
    assert found["next"] < 0.2  # of 0.69


def test_a_resumed_run_is_the_same() -> None:
    arguments = {"next_task": True, "masking": "agent", "mask_unit": 8}
    method, batch = simmim(**arguments), {"follows": torch.tensor([1.0, 0, 0, 1, 1])}
    optimizer = torch.optim.SGD(method.parameters(), 0.01)
    for step in range(2):
        method.loss(views_of(method, epoch=step, pair=True), batch)["loss"].backward()
        optimizer.step()
        method.after_step((step + 1) / 4)
    again = simmim(**arguments)
    again.load_state_dict(method.state_dict(), strict=True)
    views = views_of(method, epoch=2, pair=True)
    assert torch.equal(again.loss(views, batch)["loss"], method.loss(views, batch)["loss"])


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    method = SimMIM(vit(16, 4), inputs_of(images), mask_unit=4, mask_ratio=0.5)
    losses = train(method, images, targets, steps=80, learning_rate=2e-3)
    assert_learned(method, images, losses, fall=0.75)
