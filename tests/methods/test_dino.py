from __future__ import annotations

import copy
import itertools
import math

import pytest
import timm
import torch
from helpers.learning import bars, features, inputs_of, train
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.dino import DINO, _PrototypeHead, dino_loss
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.features import spread
from scotoma.rng import KeyedRNG


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=0, in_chans=1)


def vit(size: int = 16) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {"img_size": size, "patch_size": 4, "depth": 1, "embed_dim": 24, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, **kwargs)


def method_of(encoder: nn.Module, **arguments: object) -> DINO:
    return DINO(encoder, inputs_of(bars(4)[0]), **{"output_dim": 16, "hidden_dim": 32, **arguments}).train()


def views_of(method: DINO, epoch: int = 0, n: int = 6) -> dict[str, Tensor]:
    return method.views(bars(n)[0], KeyedRNG(0, epoch, torch.arange(n)))


def shaken(method: DINO) -> DINO:
    """The student is another network than the teacher."""
    with torch.no_grad():
        for p in (*method.student.parameters(), *method.student_head.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    return method


def outputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_the_loss_is_the_mean_over_pairs_of_different_views() -> None:
    student, teacher, centre = outputs(4, 5, 7), outputs(2, 5, 7), outputs(7)
    total = 0.0
    for g, v, b in itertools.product(range(2), range(4), range(5)):
        if g != v:
            target = [math.exp((t - c) / 0.05) for t, c in zip(teacher[g, b].tolist(), centre.tolist(), strict=True)]
            answer = [math.exp(s / 0.1) for s in student[v, b].tolist()]
            total -= sum(t / sum(target) * math.log(a / sum(answer)) for t, a in zip(target, answer, strict=True))
    assert dino_loss(student, teacher, centre, 0.1, 0.05).item() == pytest.approx(total / (5 * 6), rel=1e-5)
    # a student that knows nothing pays log K, and one that is sure and right nothing
    assert dino_loss(torch.zeros(4, 5, 7), teacher, centre, 0.1, 0.05).item() == pytest.approx(math.log(7), rel=1e-5)
    sure = 9 * nn.functional.one_hot(torch.arange(5), 7).float()
    assert dino_loss(sure.expand(4, 5, 7), sure.expand(2, 5, 7), torch.zeros(7), 0.1, 0.05).item() < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert dino_loss(student, teacher, centre, 0.1, 0.05).item() == pytest.approx(total / (5 * 6), rel=1e-5)


def test_loss_and_centre_equal_lightlys_over_some_steps() -> None:
    lightly = pytest.importorskip("lightly.loss").DINOLoss(16, student_temp=0.1, center_momentum=0.9)
    method = shaken(method_of(vit(), local_views=2))
    seen: dict[str, Tensor] = {}
    method.student_head.register_forward_hook(lambda _m, _i, out: seen.update(student=out.detach()))
    method.teacher_head.register_forward_hook(lambda _m, _i, out: seen.update(teacher=out.detach()))
    for epoch in range(3):
        method.after_step(epoch / 10)
        found = method.loss(views_of(method, epoch), {})["loss"]
        temperature = 0.03 + 0.01 * epoch / 3  # from 0.03 to 0.04 over 30 % of the steps
        teacher, student = seen["teacher"].chunk(2), seen["student"].chunk(4)
        expected = lightly(list(teacher), list(student), teacher_temp=temperature)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(method.centre, lightly.center.flatten(), atol=1e-6, rtol=0)
    assert method.centre.abs().max() > 1e-3


def test_each_crop_meets_its_own_outputs() -> None:
    """The same again without the method's order of crops: each view passes both networks by itself (no batch statistics)."""
    method = shaken(method_of(vit(), local_views=2, head_norm=False))
    views = views_of(method)
    with torch.no_grad():
        student = torch.stack([method.student_head(method._features(method.student, v)) for v in views.values()])
        teacher = torch.stack([method.teacher_head(method._features(method.encoder, v)) for v in list(views.values())[:2]])
        found = method.loss(views, {})["loss"]
    torch.testing.assert_close(found, dino_loss(student, teacher, torch.zeros(16), 0.1, 0.03))
    torch.testing.assert_close(method.centre, 0.1 * teacher.mean((0, 1)))


@pytest.mark.parametrize("norm", [True, False])
def test_the_head_equals_lightlys(norm: bool) -> None:
    theirs = pytest.importorskip("lightly.models.modules").DINOProjectionHead(12, 20, 256, 9, batch_norm=norm)
    mine = _PrototypeHead(12, 20, 9, norm)
    x = outputs(6, 12)
    linear = [m for m in theirs.layers if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for layer, other in zip([m for m in mine.mlp if isinstance(m, nn.Linear)], linear, strict=True):
            layer.weight.copy_(other.weight)
            if other.bias is None:
                layer.bias.zero_()
            else:
                layer.bias.copy_(other.bias)
        mine.directions.copy_(theirs.last_layer.weight_v)
    torch.testing.assert_close(mine(x), theirs(x), atol=1e-5, rtol=0)
    with torch.no_grad():
        mine.directions.mul_(torch.rand(9, 1) + 0.5)  # lengths mean nothing
    torch.testing.assert_close(mine(x), theirs(x), atol=1e-5, rtol=0)


def test_the_teacher_sees_no_local_view() -> None:
    method = shaken(method_of(vit(), local_views=2))
    other = copy.deepcopy(method)
    views = views_of(method)
    assert [v.shape[-1] for v in views.values()] == [16, 16, 8, 8]
    changed = {k: v if v.shape[-1] == 16 else -v for k, v in views.items()}
    assert method.loss(views, {})["loss"] != other.loss(changed, {})["loss"]
    assert torch.equal(method.centre, other.centre)
    assert all((a - b).abs().mean((1, 2, 3)).min() > 0.01 for a, b in itertools.combinations(list(views.values())[:2], 2))


def test_the_teacher_is_exported_and_follows_as_a_cosine() -> None:
    schedule = pytest.importorskip("lightly.utils.scheduler").cosine_schedule
    encoder = cnn()
    method = shaken(method_of(encoder, local_views=0, momentum=0.9))
    assert method.encoder is encoder
    method.loss(views_of(method), {})["loss"].backward()
    for teacher, student in ((encoder, method.student), (method.teacher_head, method.student_head)):
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
        assert all(p.requires_grad for p in student.parameters())
    statistics = [(a.clone(), b.clone()) for a, b in zip(encoder.buffers(), method.student.buffers(), strict=True)]
    assert any(not torch.equal(a, b) for a, b in statistics)
    for step in (0, 4, 10):
        m = schedule(step, 11, 0.9, 1.0)
        assert m == pytest.approx(1 - 0.1 * (math.cos(math.pi * step / 10) + 1) / 2, abs=1e-12)
        before = [p.clone() for p in (*encoder.parameters(), *method.teacher_head.parameters())]
        method.after_step(step / 10)
        after = (*encoder.parameters(), *method.teacher_head.parameters())
        for old, new, p in zip(before, after, (*method.student.parameters(), *method.student_head.parameters()), strict=True):
            torch.testing.assert_close(new, m * old + (1 - m) * p, atol=1e-6, rtol=0)
    assert all(torch.equal(a, now) for (a, _), now in zip(statistics, encoder.buffers(), strict=True))  # the teacher's own


def test_schedules_follow_progress() -> None:
    method = method_of(vit(), first_teacher_temperature=0.02, teacher_temperature=0.06, temperature_warmup=0.4, frozen_last=0.25)
    for progress, temperature, learns in ((0.0, 0.02, False), (0.2, 0.04, False), (0.25, 0.045, True), (0.4, 0.06, True),
                                          (1.0, 0.06, True)):  # fmt: skip
        method.after_step(progress)
        assert method.temperature().item() == pytest.approx(temperature, rel=1e-5)
        method.zero_grad()
        method.loss(views_of(method), {})["loss"].backward()
        assert method.student_head.directions.grad is not None
        assert bool(method.student_head.directions.grad.any()) == learns
        assert method.student_head.mlp[0].weight.grad.any()
    assert method_of(vit(), temperature_warmup=0.0, teacher_temperature=0.05).temperature().item() < 0.05  # of the first step alone


@pytest.mark.parametrize(("encoder", "size", "expected"), [(cnn(), 96, 48), (cnn(), 50, 32), (cnn(), 10, 10), (vit(12), 12, 8)])
def test_local_crops_are_of_half_the_side(encoder: nn.Module, size: int, expected: int) -> None:
    method = DINO(encoder, Inputs(size, 1, (0.0,), (1.0,)), output_dim=4, hidden_dim=4)
    assert method.narrow.size == expected and method.wide.size == size
    assert method.narrow.scale == (0.1, 0.4) and method.wide.scale == (0.4, 1.0)


def test_what_a_network_cannot_take_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of the patch, 4 pixels"):
        method_of(vit(), local_size=10)
    fixed = cnn()
    fixed.pretrained_cfg["fixed_input_size"] = True
    with pytest.raises(UsageError, match="takes images of one size"):
        method_of(fixed)
    assert len(views_of(method_of(fixed, local_views=0))) == 2


def test_it_learns_without_collapse() -> None:
    """Its loss is below what any answer that does not depend on the image could reach, and images still look different."""
    images, targets = bars(64)
    arguments = {"output_dim": 64, "local_views": 1, "local_size": 8, "min_scale": 0.7, "local_scale": 0.5, "momentum": 0.95}
    method = DINO(cnn(), inputs_of(images), **arguments).train()
    seen: list[Tensor] = []
    method.teacher_head.register_forward_hook(lambda _m, _i, out: seen.append(out))

    def gain() -> float:
        views = method.views(images, KeyedRNG(1, 0, torch.arange(64)))
        with torch.no_grad():
            centre, loss = method.centre.clone(), method.loss(views, {})["loss"].item()
        mean = ((seen[-1] - centre) / method.temperature()).softmax(1).mean(0)
        return torch.special.entr(mean).sum().item() - loss

    steps = 20
    before, start = gain(), spread(features(method.encoder.eval(), images, method.inputs))
    train(method, images, targets, steps, 2e-3)
    assert before < 0 and gain() > 0.15
    end = spread(features(method.encoder.eval(), images, method.inputs))
    assert end[0] > start[0] and end[1] > 10
