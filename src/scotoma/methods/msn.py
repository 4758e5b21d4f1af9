"""MSN: masked and small views get the prototypes of a whole view (Assran et al. 2022, arXiv 2204.07141)."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views, decay_groups
from scotoma.methods.parts.inputs import Column, Inputs
from scotoma.models.encoders import forward_visible, is_vit, width
from scotoma.models.heads import follow, momentum_copy
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import paint, random_order

COLUMNS_DIM = 32  # width of the embedding of metadata, beside some hundred features
SINKHORN_ROUNDS = 3  # published code


class MSN(Method):
    """Masked siamese networks, with a vision transformer. Exports the target network, which is the EMA network.

    Args:
        focal_views: small views (section 3: "drop all the patches around"; appendix A.1: 10).
        focal_size: side of the small views, pixels (appendix A.1: 96 beside 224); 0 for half of the image's, in whole patches.
        patch_drop: share of the patches dropped from the random view (appendix A.1: 0.15 for ViT-S, 0.3 for ViT-B, 0.7 for ViT-L).
        prototypes: number of prototypes, K (appendix A.1: 1,024).
        output_dim: width of the projection and of the prototypes (appendix A.1: 256).
        hidden_dim: width of the head's hidden layers (published code: 2,048).
        momentum: EMA momentum of the target network at the start; rises evenly to 1 (appendix A.1: 0.996).
        temperature: temperature of the anchors' softmax over cosines (appendix A.1: 0.1).
        sharpening: temperature of the targets, as a multiple of the anchors' (appendix A.1: 0.025, a quarter).
        mean_entropy_weight: weight of the mean entropy, lambda of equation 1 (appendix A.1: 1).
        sinkhorn: make the targets use all prototypes alike, in 3 rounds (appendix C.1: so that lambda need not be tuned; without
            it a lambda of 1 loses 5.6 %, and 5 gains 0.8 %).
        positives: the target view is of another image with the same value in this column: patient, study, sex, or a band such as
            age:10.
        columns: columns of the table that both networks see: they join the features before the head.
        min_scale: smallest large view and largest small view, as a fraction of the image area (published code: 0.3).
        focal_scale: smallest small view, as a fraction of the image area (published code: 0.05).
        jitter: strength of brightness, contrast and gamma changes (published code: 0.4).
        blur: probability of blurring a view (published code: half).

    Both networks know the columns, so images may be sorted by these alone: ask the probe whether the encoder learned anything
    else. They are those of the anchors' image, also where the target view is of another. They join the features of both: known
    to one network alone, they could not help it to give what the other gives.

    Small data. The target network's memory, 1 / (1 - momentum) steps, must be short beside a run of some hundred steps: 0.99 makes
    it 100. 256 prototypes, for a few thousand images; the number matters little unless it is far too small (table 12). Sinkhorn
    as in the paper's default: on synthetic bars, without it and lambda 1, all images were in two prototypes after 60 steps.
    Changes of brightness are weaker, because what grey images that look alike have in common is else too faint to grow; there
    are 4 small views, which cost as much as one large. Left out in both presets: the rise of weight decay from 0.04 to 0.4, and
    gradient clipping at 3.
    """

    default_encoder = "vit_tiny_patch{patch}"
    needs_vit = True
    batch_size = 64
    learning_rate = 5e-4
    weight_decay = 0.04
    warmup = 0.1
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "vit_small_patch16",
        "size": 224,
        "batch_size": 1024,
        "learning_rate": 1e-3,
        "scaling": "sqrt",
        "warmup": 0.019,  # 15 epochs of 800
        "final_learning_rate": 1e-6,
        "weight_decay": 0.04,  # rises to 0.4 in the paper
        "epochs": 800,
        "method_args": {"focal_views": 10, "focal_size": 96, "patch_drop": 0.15, "prototypes": 1024, "output_dim": 256,
                        "hidden_dim": 2048, "momentum": 0.996, "focal_scale": 0.05, "jitter": 0.4},
    }  # fmt: skip

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, focal_views: int = 4, focal_size: int = 0, patch_drop: float = 0.15,
                 prototypes: int = 256, output_dim: int = 128, hidden_dim: int = 512, momentum: float = 0.99,
                 temperature: float = 0.1, sharpening: float = 0.25, mean_entropy_weight: float = 1.0, sinkhorn: bool = True,
                 positives: str = "", columns: tuple[str, ...] = (), min_scale: float = 0.3, focal_scale: float = 0.1,
                 jitter: float = 0.1, blur: float = 0.5) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        if not is_vit(encoder):
            raise UsageError("msn needs a vision transformer: --encoder vit_tiny_patch8, for example")
        if not 0 <= patch_drop < 1:
            raise UsageError(f"--method.patch_drop {patch_drop}: must be at least 0 and below 1")
        vit: Any = encoder
        self.patch = int(vit.patch_embed.patch_size[0])
        self.grid = inputs.image_size // self.patch
        if focal_size % self.patch:
            raise UsageError(f"--method.focal_size {focal_size}: must be a multiple of the patch, {self.patch} pixels")
        self.focal_views, self.patch_drop, self.momentum = focal_views, patch_drop, momentum
        self.temperature, self.sharpening, self.mean_entropy_weight = temperature, sharpening, mean_entropy_weight
        self.rounds = SINKHORN_ROUNDS if sinkhorn else 0
        self.online = copy.deepcopy(encoder)
        self.online_head = _Head(width(encoder), inputs.columns, hidden_dim, output_dim)
        self.target_head = momentum_copy(self.online_head)
        encoder.requires_grad_(False)
        # published code: uniform, within 1 / sqrt(d); section 3: "learnable prototypes"
        self.prototypes = nn.Parameter(torch.empty(prototypes, output_dim).uniform_(-1, 1) / output_dim**0.5)
        self.large = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter, blur=blur)
        focal_size = focal_size or max(1, round(self.grid / 2)) * self.patch
        self.small = replace(self.large, size=focal_size, scale=(focal_scale, min_scale))

    def param_groups(self) -> list[dict[str, Any]]:
        """Prototypes, whose length means nothing, are not decayed (published code)."""
        networks = [*decay_groups(self.online), *decay_groups(self.online_head)]
        return [*networks, {"params": [self.prototypes], "weight_decay": 0.0}]

    def views(self, images: Tensor, rng: KeyedRNG, paired_images: Tensor | None = None) -> Views:
        """The target view, of the paired images where there are any; the random view and by what its patches drop; small views."""
        views = {
            "target view": self.large(images if paired_images is None else paired_images, rng.of("target")),
            "random view": self.large(images, rng.of("random")),
            "noise": rng.uniform("drop", self.grid**2),
        }
        return views | {f"focal view {i + 1}": self.small(images, rng.of(f"focal {i + 1}")) for i in range(self.focal_views)}

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 1 over all anchors; like published code, each size of view has its own batch statistics in the head."""
        table = encode_columns(batch["columns"], self.inputs.columns) if self.inputs.columns else None
        with torch.no_grad():
            targets = self.target_head(_features(self.encoder, views["target view"]), table)
        keep, _, _ = random_order(views["noise"], self.patch_drop)
        anchors = self.online_head(_features(self.online, views["random view"], keep), table)
        if self.focal_views:
            focal = torch.cat([view for name, view in views.items() if name.startswith("focal")])
            tables = None if table is None else table.repeat(self.focal_views, 1)
            anchors = torch.cat([anchors, self.online_head(_features(self.online, focal), tables)])
        anchors = anchors.unflatten(0, (-1, len(targets)))  # (M, B, d)
        settings = self.temperature, self.sharpening, self.mean_entropy_weight, self.rounds
        return {"loss": msn_loss(anchors, targets, self.prototypes, *settings)}

    def after_step(self, progress: float) -> None:
        """The target network follows (appendix A.1: "linearly increase this value to 1.0")."""
        momentum = self.momentum + (1 - self.momentum) * progress
        follow(self.encoder, self.online, momentum)
        follow(self.target_head, self.online_head, momentum)

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The target view, and of the random view what is left."""
        mask = random_order(views["noise"], self.patch_drop)[2]
        return {"target view": views["target view"], "random view": paint(views["random view"], mask, self.patch)}


class _Head(nn.Module):
    """Appendix A.1: "a 3-layer projection head" with batch norm at the hidden layers; metadata join the features before it."""

    def __init__(self, features: int, columns: tuple[Column, ...], hidden: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(columns_width(columns), COLUMNS_DIM) if columns else None
        layers: list[nn.Module] = []
        for inner in (features + (COLUMNS_DIM if columns else 0), hidden):
            layers += [nn.Linear(inner, hidden), nn.BatchNorm1d(hidden), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, outputs))

    def forward(self, features: Tensor, table: Tensor | None = None) -> Tensor:
        """(B, D) features and (B, W) encoded columns -> (B, d)."""
        if self.embed is not None:
            features = torch.cat([features, self.embed(table)], 1)
        return self.mlp(features)


def msn_loss(anchors: Tensor, targets: Tensor, prototypes: Tensor, temperature: float = 0.1, sharpening: float = 0.25,
             mean_entropy_weight: float = 1.0, rounds: int = 0) -> Tensor:  # fmt: skip
    """Equation 1: cross-entropy from targets to anchors over prototypes, less the entropy of the anchors' mean.

    Gradient reaches the prototypes through the anchors, "not the target predictions". To the entropy log K is added, as in
    published code, so that 0 is the least.

    Args:
        anchors: (M, B, d) projections of M views of each image, of any length.
        targets: (B, d).
        prototypes: (K, d).
        temperature: of the anchors' softmax.
        sharpening: the targets' temperature over the anchors'; p^(1 / sharpening), normalised, is the same.
        mean_entropy_weight: lambda.
        rounds: of Sinkhorn's iteration on the targets; 0 for none.
    """
    with torch.autocast(anchors.device.type, enabled=False):  # bfloat16 would round a cosine over 0.1 to steps of 0.06
        unit = F.normalize(prototypes.float(), dim=1)
        predictions = (F.normalize(anchors.float(), dim=2) @ unit.T / temperature).log_softmax(2)  # (M, B, K)
        with torch.no_grad():
            logits = F.normalize(targets.float(), dim=1) @ unit.T / (temperature * sharpening)
            wanted = logits.softmax(1)  # (B, K)
            if rounds:
                wanted = collectives.local_shard(sinkhorn(collectives.all_gather(logits), rounds))
        cross_entropy = -(wanted * predictions).sum(2).mean()
        entropy = torch.special.entr(collectives.all_reduce_mean(predictions.exp().mean((0, 1)))).sum()
        return cross_entropy + mean_entropy_weight * (math.log(len(prototypes)) - entropy)


def sinkhorn(logits: Tensor, rounds: int) -> Tensor:
    """Targets that use all prototypes alike (Caron et al. 2020, SwAV, section 3.1; Cuturi 2013), in logarithms.

    Args:
        logits: (B, K); their softmax is what is balanced.
        rounds: how often each prototype's share of the batch, then each image's sum, is made 1.

    Returns:
        (B, K), rows that sum to 1.
    """
    logits = logits.log_softmax(1)
    for _ in range(rounds):
        logits = (logits - logits.logsumexp(0)).log_softmax(1)
    return logits.exp()


def columns_width(columns: tuple[Column, ...]) -> int:
    """How many numbers ``encode_columns`` makes of a row."""
    return sum(len(column.classes) or 2 for column in columns)


def encode_columns(values: Tensor, columns: tuple[Column, ...]) -> Tensor:
    """Columns of the table as numbers for a linear layer.

    Args:
        values: (B, C) as in ``batch["columns"]``, NaN where missing.
        columns: what they are.

    Returns:
        (B, W): a number itself, 0 where missing, and whether it is missing; of classes, 1 at the class, nowhere where missing.
    """
    parts = []
    for value, column in zip(values.unbind(1), columns, strict=True):
        missing, known = value.isnan(), value.nan_to_num()
        if column.classes:
            parts.append(F.one_hot(known.long(), len(column.classes)) * ~missing[:, None])
        else:
            parts.append(torch.stack([known, missing], 1))
    return torch.cat(parts, 1).to(values.dtype)


def _features(encoder: Any, images: Tensor, keep: Tensor | None = None) -> Tensor:
    return encoder.forward_head(forward_visible(encoder, images, keep))
