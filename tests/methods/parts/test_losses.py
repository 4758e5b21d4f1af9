from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional as F

from scotoma.methods.parts.losses import (
    classification,
    info_nce,
    masked_patch_loss,
    negative_cosine,
    nt_xent,
    one_hot,
    segmentation,
    soft_classification,
)


def slow_nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Equation 1 of the paper, one pair at a time."""
    z = [v / v.norm() for v in torch.cat([first, second]).double()]
    n = len(first)
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(float(z[i] @ z[j]) / temperature) / others)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_a_double_loop_and_lightly(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(9, 5, generator=generator), torch.randn(9, 5, generator=generator)
    found = nt_xent(first, second, temperature)
    assert abs(found.item() - slow_nt_xent(first, second, temperature)) < 1e-5
    assert abs(nt_xent(second, first * 7, temperature).item() - found.item()) < 1e-5  # symmetric; length does not matter
    lightly = pytest.importorskip("lightly.loss")
    assert abs(lightly.NTXentLoss(temperature)(first, second).item() - found.item()) < 1e-5


def test_nt_xent_closed_forms() -> None:
    same = torch.ones(6, 4)
    assert abs(nt_xent(same, same, 0.2).item() - math.log(11)) < 1e-5
    orthogonal = torch.eye(4)
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 6))
    assert abs(nt_xent(orthogonal, orthogonal, 0.5).item() - expected) < 1e-5
    assert nt_xent(torch.ones(1, 3), torch.ones(1, 3), 0.1).item() == 0  # one image has no negatives


def test_nt_xent_is_as_exact_under_autocast() -> None:
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(8, 16, generator=generator)
    second = first + 0.05 * torch.randn(8, 16, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = nt_xent(first, second, 0.1)
    assert found.dtype == torch.float32
    assert abs(found.item() - slow_nt_xent(first, second, 0.1)) < 1e-5


def slow_info_nce(
    queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, temperature: float, excluded: torch.Tensor
) -> float:
    """Equation 1 of the paper, one query and one negative at a time."""
    total = 0.0
    for i, (q, k) in enumerate(zip(queries.double(), keys.double(), strict=True)):
        right = math.exp(float(q @ k / (q.norm() * k.norm())) / temperature)
        wrong = sum(
            math.exp(float(q @ n / q.norm()) / temperature) for n, out in zip(queue.double(), excluded[i], strict=True) if not out
        )
        total -= math.log(right / (right + wrong))
    return total / len(queries)


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_info_nce_equals_a_double_loop_and_lightly(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 6, 5, generator=generator)
    queue = F.normalize(torch.randn(9, 5, generator=generator), dim=1)
    excluded = torch.rand(6, 9, generator=generator) < 0.4
    none = torch.zeros_like(excluded)
    assert (
        abs(
            info_nce(queries, keys, queue, temperature, excluded).item()
            - slow_info_nce(queries, keys, queue, temperature, excluded)
        )
        < 1e-5
    )
    found = info_nce(queries, keys, queue, temperature)
    assert abs(found.item() - slow_info_nce(queries, keys, queue, temperature, none)) < 1e-5
    lightly = pytest.importorskip("lightly.loss")
    theirs = lightly.NTXentLoss(temperature, memory_bank_size=(9, 5))
    theirs.memory_bank.bank = queue.clone()
    assert abs(theirs(queries, keys).item() - found.item()) < 1e-5


def test_info_nce_closed_forms_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 4, 8, generator=generator, requires_grad=True)
    queue = torch.eye(8).requires_grad_()
    nothing = info_nce(queries, keys, queue, 0.1, torch.ones(4, 8, dtype=torch.bool))  # no negatives yet
    (gradient,) = torch.autograd.grad(nothing, queries)
    assert nothing.item() == 0 and (gradient == 0).all()
    same = info_nce(torch.ones(3, 4), torch.ones(3, 4), torch.full((7, 4), 0.5), 0.1)
    assert same.item() == pytest.approx(math.log(8), abs=1e-5)
    loss = info_nce(queries, keys, queue, 0.1)
    assert torch.autograd.grad(loss, queue, allow_unused=True, retain_graph=True) == (None,)
    with torch.autocast("cpu", torch.bfloat16):
        assert abs(info_nce(queries, keys, queue, 0.1).item() - loss.item()) < 1e-6


def test_negative_cosine_equals_lightly_and_leaves_the_target_alone() -> None:
    lightly = pytest.importorskip("lightly.loss")
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(7, 5, generator=generator).requires_grad_() for _ in range(2))
    found = negative_cosine(prediction, target)
    assert abs(found.item() - lightly.NegativeCosineSimilarity()(prediction, target).item()) < 1e-6
    slow = -sum(float(p @ t / (p.norm() * t.norm())) for p, t in zip(prediction.detach(), target.detach(), strict=True)) / 7
    assert found.item() == pytest.approx(slow, abs=1e-6)
    assert torch.autograd.grad(found, target, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(found, prediction)[0].abs().max() > 0
    assert negative_cosine(target, 3 * target).item() == pytest.approx(-1)


def test_masked_patch_loss_is_the_mean_over_hidden_patches() -> None:
    prediction = torch.zeros(2, 3, 4)
    target = torch.stack([torch.full((3, 4), 2.0), torch.full((3, 4), 3.0)])
    target[:, 0] = 100.0  # visible: must not count
    mask = torch.tensor([[0.0, 1, 1], [0, 1, 0]])
    assert masked_patch_loss(prediction, target, mask).item() == pytest.approx((4 + 4 + 9) / 3)
    error = (np.arange(24).reshape(2, 3, 4) ** 2).mean(2)
    slow = np.mean([error[b, n] for b in range(2) for n in range(3) if mask[b, n]])
    assert masked_patch_loss(torch.arange(24.0).view(2, 3, 4), torch.zeros(2, 3, 4), mask).item() == pytest.approx(slow)


def test_classification_leaves_unknown_classes_out() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(10, 3, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 1, -1, 2, -1, 0, 1, 2, 2, -1])
    weights = torch.tensor([0.2, 1.0, 3.0])
    for weight in (None, weights):
        found = classification(logits, targets, weight)
        expected = F.cross_entropy(logits[targets >= 0], targets[targets >= 0], weight=weight)
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(found, logits)
        assert (gradient[targets < 0] == 0).all() and (gradient[targets >= 0] != 0).all()


def test_classification_of_several_labels_against_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2, generator=generator, requires_grad=True)
    targets = torch.tensor([[1, math.nan], [0, 1], [math.nan, math.nan], [1, 0], [math.nan, 1], [0, 0]])
    weights = torch.tensor([2.0, 5.0])
    terms = []
    for i in range(6):
        for k in range(2):
            y, p = targets[i, k].item(), torch.sigmoid(logits[i, k]).item()
            if y == y:
                terms.append(-weights[k].item() * math.log(p) if y else -math.log(1 - p))
    found = classification(logits, targets, weights)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, logits)
    assert torch.equal(gradient == 0, targets.isnan())


@pytest.mark.parametrize("targets", [torch.full((4,), -1), torch.full((4, 2), math.nan)])
def test_classification_without_a_known_label_is_zero(targets: torch.Tensor) -> None:
    logits = torch.randn(4, 2, requires_grad=True)
    loss = classification(logits, targets)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(4, 2))


def test_soft_classification_is_the_plain_one_where_annotators_agree_and_a_slow_sum_where_they_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=generator, requires_grad=True)
    classes = torch.tensor([0, 1, -1, 2, 1, 0, -1])
    agreed = torch.full((7, 3), math.nan)
    agreed[classes >= 0] = F.one_hot(classes[classes >= 0], 3).float()
    weights = torch.tensor([0.2, 1.0, 3.0])
    for weight in (None, weights):
        torch.testing.assert_close(soft_classification(logits, agreed, weight), classification(logits, classes, weight))
    shares = torch.tensor([[0.5, 0.5, 0], [1 / 3, 0, 2 / 3], [math.nan] * 3, [0, 1, 0], [0.2, 0.2, 0.6], [0, 0, 1], [math.nan] * 3])
    log_p = torch.log_softmax(logits, 1)
    terms, norm = 0.0, 0.0
    for i in (0, 1, 3, 4, 5):
        for c in range(3):
            terms -= weights[c].item() * shares[i, c].item() * log_p[i, c].item()
            norm += weights[c].item() * shares[i, c].item()
    found = soft_classification(logits, shares, weights)
    assert found.item() == pytest.approx(terms / norm, rel=1e-5)
    (gradient,) = torch.autograd.grad(found, logits)
    assert torch.equal((gradient == 0).all(1), shares.isnan().all(1))
    assert soft_classification(logits, torch.full((7, 3), math.nan)).item() == 0


def test_the_focal_loss_against_a_slow_loop_and_torchvisions() -> None:
    from torchvision.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    logits, targets, weights = torch.randn(7, 3), torch.tensor([0, 1, 2, -1, 0, 2, 1]), torch.tensor([1.0, 2.0, 0.5])
    p, total, norm = logits.softmax(1), 0.0, 0.0
    for row, target in zip(p, targets.tolist(), strict=True):
        if target >= 0:
            total += float(-weights[target] * (1 - row[target]) ** 2 * row[target].log())
            norm += float(weights[target])
    assert float(classification(logits, targets, weights, gamma=2.0)) == pytest.approx(total / norm, rel=1e-5)
    y = torch.tensor([[1.0, 0.0, float("nan")]]).repeat(7, 1)
    expected = sigmoid_focal_loss(logits[:, :2], y[:, :2], alpha=-1, gamma=2.0, reduction="mean")
    assert float(classification(logits, y, gamma=2.0)) == pytest.approx(float(expected), rel=1e-5)


def test_the_focal_loss_of_a_certain_and_right_answer_has_a_gradient() -> None:
    logits = torch.tensor([[80.0, -80.0]], requires_grad=True)
    classification(logits, torch.tensor([0]), gamma=0.5).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_one_hot_leaves_unknown_unknown() -> None:
    shares = one_hot(torch.tensor([1, -1]), 3)
    assert shares[0].tolist() == [0, 1, 0] and shares[1].isnan().all()


def test_the_loss_of_regions_equals_monais_and_leaves_unknown_pixels_out() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 9, 7), torch.randint(0, 4, (3, 9, 7))
    reference = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, lambda_ce=0)
    expected = reference(logits, labels[:, None]) + F.cross_entropy(logits, labels)
    torch.testing.assert_close(segmentation(logits, labels), expected)
    unknown = labels.clone()
    unknown[:, :, 3:] = -1
    torch.testing.assert_close(segmentation(logits, unknown), segmentation(logits[..., :3], labels[..., :3]))
    perfect = 100.0 * F.one_hot(labels, 4).movedim(-1, 1)
    assert segmentation(perfect, labels) < 1e-6
    assert segmentation(logits, torch.full_like(labels, -1)).isfinite()
