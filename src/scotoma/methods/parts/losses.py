"""Losses: pure functions of tensors, each with its source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scotoma.distributed import collectives

DICE_SMOOTH = 1e-5  # a class that is neither there nor seen costs nothing


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, SimCLR, equation 1, mean over both directions).

    Args:
        first: (B, D) projections of one view of each image.
        second: (B, D) projections of the other.
        temperature: of the softmax.

    Returns:
        The loss. The 2 (B - 1) other projections are an image's negatives; itself is left out.
    """
    z = F.normalize(torch.cat([first, second]).float(), dim=1)  # (2B, D)
    with torch.autocast(z.device.type, enabled=False):  # bfloat16 would round a cosine of 0.99 over 0.1 to steps of 0.06
        logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    positives = torch.arange(len(z), device=z.device).roll(len(first))
    return F.cross_entropy(logits, positives)


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float, excluded: Tensor | None = None) -> Tensor:
    """InfoNCE against a queue of negatives (He et al. 2019, MoCo, equation 1: a (K+1)-way softmax whose right answer is the key).

    Args:
        queries: (B, D), of any length.
        keys: (B, D), each query's positive, of any length.
        queue: (K, D) negatives, of length 1; they get no gradient.
        temperature: of the softmax.
        excluded: (B, K), where a slot is no negative of a query; None for nowhere. A query without negatives has a loss of 0.
    """
    q, k = F.normalize(queries.float(), dim=1), F.normalize(keys.float(), dim=1)
    with torch.autocast(q.device.type, enabled=False):
        positive, negative = (q * k).sum(1, keepdim=True), q @ queue.detach().T  # (B, 1), (B, K)
    if excluded is not None:
        negative.masked_fill_(excluded, float("-inf"))
    logits = torch.cat([positive, negative], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean negative cosine similarity (Chen & He 2020, SimSiam, equation 1); no gradient reaches the target (equation 3).

    Args:
        prediction: (B, D).
        target: (B, D).
    """
    return -F.cosine_similarity(prediction.float(), target.detach().float(), dim=1).mean()


def masked_patch_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the masked patches only (He et al. 2021, MAE, section 3).

    Args:
        prediction: (B, N, P) predicted pixels of every patch.
        target: (B, N, P).
        mask: (B, N), 1 where a patch was hidden.
    """
    error = (prediction.float() - target).square().mean(2)
    return (error * mask).sum() / mask.sum()


def soft_classification(logits: Tensor, shares: Tensor, weights: Tensor | None = None, gamma: float = 0.0) -> Tensor:
    """Cross-entropy of one categorical target that is given as shares: of annotators, of mixed images, or smoothed.

    Args:
        logits: (B, C).
        shares: (B, C) that sum to 1; NaN for unknown, which is left out.
        weights: (C,) weight of each class.
        gamma: of the focal loss (Lin et al. 2017, arXiv 1708.02002, equation 4: each class's term times (1 - p) ** gamma).

    Returns:
        The mean over what is known, by weight; equal to :func:`classification` where one share is 1.
    """
    shares, log_p = shares.float() * ~shares.isnan().any(1, keepdim=True), logits.float().log_softmax(1)
    weighted = shares.nan_to_num() * (1.0 if weights is None else weights)
    return collectives.share(-(weighted * log_p * _focus(log_p, gamma)).sum(), weighted.sum(), least=1e-12)


def classification(logits: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0) -> Tensor:
    """Cross-entropy of one categorical target, or of several 0/1/unknown ones (which may be shares of annotators).

    Args:
        logits: (B, C) for C classes, or (B, K) for K labels.
        targets: (B,) int64 class ids, -1 for unknown; or (B, K) float, NaN for unknown. Unknown never means 0: it is left out.
        weights: (C,) weight of each class, or (K,) weight of the positive rows of each label.
        gamma: of the focal loss, as in :func:`soft_classification`; of 0/1 targets each side is a class.

    Returns:
        The mean over what is known; 0 (with a gradient of 0) where nothing is.
    """
    logits = logits.float()
    if targets.ndim == 1:
        return soft_classification(logits, one_hot(targets, logits.shape[1]), weights, gamma)
    known = ~targets.isnan()
    y, one = targets.nan_to_num(), 1.0 if weights is None else weights
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)  # log p, log (1 - p)
    each = -(one * y * yes * _focus(yes, gamma) + (1 - y) * no * _focus(no, gamma))
    return collectives.share((each * known).sum(), known.sum())


def regression(found: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over what is known; 0 (with a gradient of 0) where nothing is.

    Args:
        found: (B, 1).
        targets: (B,), NaN for unknown.
    """
    known = ~targets.isnan()
    return collectives.share(((found[:, 0].float() - targets.nan_to_num()).square() * known).sum(), known.sum())


def segmentation(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice loss, in equal parts (Isensee et al. 2020, nnU-Net, "Network training").

    The Dice loss (Milletari et al. 2016, arXiv 1606.04797, section 3) is that of the whole batch, so that an image without a
    mask does no harm, and the mean over classes but the background.

    Args:
        logits: (B, C, H, W), the background's first.
        labels: (B, H, W) int64 classes, -1 for unknown pixels, which are left out.
    """
    logits, known = logits.float(), labels >= 0
    log_p = logits.log_softmax(1)
    entropy = F.nll_loss(log_p, labels, ignore_index=-1) if known.any() else logits.sum() * 0
    truth = F.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1)[:, 1:]  # (B, C - 1, H, W), 0 where unknown
    p = log_p.exp()[:, 1:] * known[:, None]
    both, either = (p * truth).sum((0, 2, 3)), (p + truth).sum((0, 2, 3))
    return entropy + (1 - (2 * both + DICE_SMOOTH) / (either + DICE_SMOOTH)).mean()


def _focus(log_p: Tensor, gamma: float) -> Tensor | float:
    """(1 - p) ** gamma."""
    return (1 - log_p.exp()).clamp(min=1e-6) ** gamma if gamma else 1.0


def one_hot(targets: Tensor, classes: int) -> Tensor:
    """(B,) class ids, -1 for unknown -> (B, C) float32 shares, NaN for unknown."""
    shares = (targets[:, None] == torch.arange(classes, device=targets.device)).float()  # torch's own reads the largest id
    return shares.masked_fill(targets[:, None] < 0, float("nan"))
