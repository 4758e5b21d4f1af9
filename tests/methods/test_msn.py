from __future__ import annotations

import math

import pytest
import timm
import torch
from helpers.learning import bars, features, inputs_of, train
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.msn import MSN, encode_columns, msn_loss, sinkhorn
from scotoma.methods.parts.inputs import Column, Inputs
from scotoma.models.features import spread
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import random_order

SEX, AGE = Column("sex", ("f", "m", "x")), Column("age", (), 50.0, 20.0)


def vit(depth: int = 1) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {"img_size": 16, "patch_size": 4, "depth": depth, "embed_dim": 48, "num_heads": 3}
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, **kwargs)


def method_of(described: tuple[Column, ...] = (), **arguments: object) -> MSN:
    inputs = inputs_of(bars(4)[0])
    inputs = Inputs(inputs.image_size, 1, inputs.mean, inputs.std, columns=described)
    return MSN(vit(), inputs, **{"prototypes": 12, "output_dim": 16, "hidden_dim": 32, "focal_views": 2, **arguments}).train()


def views_of(method: MSN, n: int = 6, paired_images: Tensor | None = None) -> dict[str, Tensor]:
    return method.views(bars(n)[0], KeyedRNG(0, 0, torch.arange(n)), paired_images)


def shaken(method: MSN) -> MSN:
    """The online network is another than the target network."""
    with torch.no_grad():
        for p in (*method.online.parameters(), *method.online_head.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    return method


def outputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("rounds", "weight"), [(0, 1.0), (3, 1.0), (0, 5.0), (3, 0.0)])
def test_loss_and_gradients_equal_lightlys(rounds: int, weight: float) -> None:
    lightly = pytest.importorskip("lightly.loss").MSNLoss(0.1, rounds, weight)
    anchors, targets, prototypes = outputs(3, 5, 16), outputs(5, 16), outputs(12, 16)
    results = []
    for mine in (True, False):
        a, t, q = (x.clone().requires_grad_() for x in (anchors, targets, prototypes))
        loss = msn_loss(a, t, q, 0.1, 0.25, weight, rounds) if mine else lightly(a.flatten(0, 1), t, q, 0.25)
        loss.backward()
        assert t.grad is None  # section 3: "we only compute gradients with respect to the anchor predictions"
        results.append((loss.detach(), a.grad, q.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert found.abs().max() > 1e-3


def test_the_loss_at_its_corners() -> None:
    prototypes = torch.eye(8)
    away = torch.ones(2, 5, 8)  # as near to each prototype as to the next: uniform
    assert msn_loss(away, away[0], prototypes).item() == pytest.approx(math.log(8), abs=1e-5)
    alike = prototypes[0].expand(2, 5, 8)  # all in one prototype: sure, but the mean has no entropy
    assert msn_loss(alike, alike[0], prototypes, 0.01).item() == pytest.approx(math.log(8), abs=1e-5)
    assert msn_loss(alike, alike[0], prototypes, 0.01, mean_entropy_weight=0).item() == pytest.approx(0, abs=1e-5)
    sorted_ = prototypes.expand(2, 8, 8)
    assert msn_loss(sorted_, sorted_[0], prototypes, 0.01).item() == pytest.approx(0, abs=1e-5)
    x = outputs(2, 5, 8), outputs(5, 8), outputs(12, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = msn_loss(*x)
    torch.testing.assert_close(low, msn_loss(*(3 * v for v in x)))  # lengths mean nothing, and float32 holds under autocast


def test_sinkhorn_uses_all_prototypes_alike() -> None:
    faint = torch.tensor([[0.0, -300.0], [0.0, -290.0]])  # in float32 these shares are 0, and 0 / 0 would follow
    for logits in (5 * outputs(6, 4), faint):
        shares = [[math.exp(x) for x in row] for row in logits.tolist()]
        shares = [[x / sum(row) for x in row] for row in shares]
        for _ in range(3):
            columns = [sum(column) for column in zip(*shares, strict=True)]
            shares = [[x / c for x, c in zip(row, columns, strict=True)] for row in shares]
            shares = [[x / sum(row) for x in row] for row in shares]
        torch.testing.assert_close(sinkhorn(logits, 3), torch.tensor(shares), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sinkhorn(5 * outputs(6, 4), 200).sum(0), torch.full((4,), 1.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("balanced", [True, False])
def test_views_pass_the_networks_they_are_meant_for(balanced: bool) -> None:
    method = shaken(method_of(sinkhorn=balanced, mean_entropy_weight=2.0, temperature=0.2)).eval()  # each image by itself
    views = views_of(method)
    keep = random_order(views["noise"], 0.15)[0]
    assert keep.shape == (6, 13) and views["focal view 2"].shape == (6, 1, 8, 8)
    with torch.no_grad():
        found = method.loss(views, {})["loss"]
        target = method.target_head(method.encoder(views["target view"]))
        anchors = []
        for i in range(6):
            tokens = method.online.patch_embed(views["random view"][i : i + 1]) + method.online.pos_embed[:, 1:]
            first = method.online.cls_token + method.online.pos_embed[:, :1]
            x = method.online.blocks(torch.cat([first, tokens[:, keep[i]]], 1))
            anchors.append(method.online.norm(x)[:, 0])
        small = timm.layers.resample_abs_pos_embed(method.online.pos_embed, [2, 2], [4, 4], 1)
        focal = []
        for name in ("focal view 1", "focal view 2"):
            tokens = method.online.patch_embed.proj(views[name]).flatten(2).transpose(1, 2)
            x = torch.cat([method.online.cls_token.expand(6, -1, -1), tokens], 1) + small
            focal.append(method.online.norm(method.online.blocks(x))[:, 0])
        z = torch.stack([method.online_head(a) for a in (torch.cat(anchors), *focal)])
    torch.testing.assert_close(found, msn_loss(z, target, method.prototypes, 0.2, 0.25, 2.0, 3 if balanced else 0))
    assert method.small.scale == (0.1, 0.3) and method.large.scale == (0.3, 1.0)
    assert not torch.equal(views["focal view 1"], views["focal view 2"])
    assert not torch.equal(views["target view"], views["random view"])


def test_dropped_patches_are_not_seen() -> None:
    method = method_of(patch_drop=0.5)
    views = views_of(method)
    mask = random_order(views["noise"], 0.5)[2].view(6, 1, 4, 4)
    hidden = nn.functional.interpolate(mask, scale_factor=4)
    found = method.loss(views, {})["loss"]
    assert torch.equal(method.loss(views | {"random view": views["random view"] + 3 * hidden}, {})["loss"], found)
    assert method.loss(views | {"random view": views["random view"] + 3 * (1 - hidden)}, {})["loss"] != found
    shown = method.example_images(views, {})
    assert torch.equal(shown["random view"], views["random view"] * (1 - hidden))
    assert torch.equal(shown["target view"], views["target view"])


def test_the_target_network_is_exported_and_follows_evenly() -> None:
    encoder = vit()
    method = shaken(MSN(encoder, inputs_of(bars(4)[0]), momentum=0.9, prototypes=12, hidden_dim=32))
    assert method.encoder is encoder
    method.loss(views_of(method), {})["loss"].backward()
    targets = (*encoder.parameters(), *method.target_head.parameters())
    online = (*method.online.parameters(), *method.online_head.parameters())
    assert all(p.grad is None and not p.requires_grad for p in targets)
    assert all(p.grad is not None for p in online) and method.prototypes.grad.abs().max() > 0
    for progress, momentum in ((0.0, 0.9), (0.5, 0.95), (1.0, 1.0)):
        before = [p.clone() for p in targets]
        method.after_step(progress)
        for old, new, p in zip(before, targets, online, strict=True):
            torch.testing.assert_close(new, momentum * old + (1 - momentum) * p, atol=1e-6, rtol=0)


def test_prototypes_are_not_decayed() -> None:
    method = method_of()
    (group,) = (g for g in method.param_groups() if any(p is method.prototypes for p in g["params"]))
    assert group["weight_decay"] == 0 and method.prototypes.abs().max() <= 16**-0.5


def test_the_target_view_is_of_the_partner() -> None:
    method, images = method_of(positives="patient"), bars(6)[0]
    alone, paired = views_of(method), views_of(method, paired_images=images.flip(0))
    assert [k for k in alone if not torch.equal(alone[k], paired[k])] == ["target view"]
    rows = KeyedRNG(0, 0, torch.arange(6))
    assert torch.equal(paired["target view"], method.views(images.flip(0), rows)["target view"])
    assert MSN.requirements(MSN.settings({"positives": "age:10", "columns": ("sex",)})).pairs == "age:10"


def test_columns_become_numbers() -> None:
    values = torch.tensor([[0.0, 1.5], [2.0, math.nan], [math.nan, -0.5]])
    expected = [[1, 0, 0, 1.5, 0], [0, 0, 1, 0, 1], [0, 0, 0, -0.5, 0]]
    assert encode_columns(values, (SEX, AGE)).tolist() == expected


def test_both_networks_are_told_the_columns() -> None:
    method = method_of((SEX, AGE))
    views = views_of(method)
    known = torch.stack([torch.arange(6.0) % 3, outputs(6)], 1)
    told: dict[str, Tensor] = {}
    method.online_head.mlp.register_forward_pre_hook(lambda _m, x: told.update({f"online {len(x[0])}": x[0][:, 48:]}))
    method.target_head.mlp.register_forward_pre_hook(lambda _m, x: told.update(target=x[0][:, 48:]))
    loss = method.loss(views, {"columns": known})["loss"]
    expected = method.online_head.embed(encode_columns(known, (SEX, AGE)))
    assert expected.shape == (6, 32) and expected.std(0).min() > 0.01
    torch.testing.assert_close(told["target"], expected)
    torch.testing.assert_close(told["online 6"], expected)
    torch.testing.assert_close(told["online 12"], torch.cat([expected, expected]))  # one focal view after the other
    assert method.loss(views, {"columns": known.roll(1, 0)})["loss"] != loss
    assert torch.isfinite(method.loss(views, {"columns": torch.full((6, 2), math.nan)})["loss"])


def test_what_it_cannot_take_is_refused() -> None:
    inputs = Inputs(32, 1, (0.0,), (1.0,))
    with pytest.raises(UsageError, match="msn needs a vision transformer"):
        MSN(timm.create_model("resnet10t", num_classes=0, in_chans=1), inputs)
    for arguments, words in (({"focal_size": 10}, "a multiple of the patch, 4 pixels"), ({"patch_drop": 1.0}, "below 1")):
        with pytest.raises(UsageError, match=words):
            method_of(**arguments)


def test_it_learns_without_collapse() -> None:
    """Its loss is below what any answer that does not depend on the image could reach, and images still look different."""
    images, targets = bars(64)
    arguments = {"prototypes": 32, "focal_views": 1, "min_scale": 0.7, "focal_scale": 0.5, "jitter": 0.0, "blur": 0.0}
    method = MSN(vit(2), inputs_of(images), momentum=0.95, **arguments).train()

    def gain() -> float:
        views = method.views(images, KeyedRNG(1, 0, torch.arange(64)))
        with torch.no_grad():
            loss = method.loss(views, {})["loss"].item()
            z = nn.functional.normalize(method.target_head(method.encoder(views["target view"])), dim=1)
            shares = sinkhorn(z @ nn.functional.normalize(method.prototypes, dim=1).T / 0.025, 3)
        return torch.special.entr(shares.mean(0)).sum().item() - loss

    steps = 80
    before, start = gain(), spread(features(method.encoder.eval(), images, method.inputs))
    train(method, images, targets, steps, 3e-3)
    end = spread(features(method.encoder.eval(), images, method.inputs))
    assert before < 0 and gain() > 0.3
    assert end[0] > 1.5 * start[0] and end[1] > 3
