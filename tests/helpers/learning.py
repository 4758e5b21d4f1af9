"""A few steps on images made up in memory: what a method must show to have learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scotoma.methods.base import Method
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.features import spread
from scotoma.rng import KeyedRNG
from scotoma.transforms.augmentation import plain

SIDE = 20
SIZE = 16


def bars(n: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(n, 1, 20, 20) uint8 with a bright bar, lying (class 0) or standing (class 1), and the classes."""
    rng = np.random.default_rng(seed)
    images = rng.normal(70, 12, (n, 1, SIDE, SIDE))
    for i in range(n):
        start = rng.integers(5, SIDE - 9)
        images[i, 0].T[start : start + 4] += 100 if i % 2 else 0
        images[i, 0][start : start + 4] += 0 if i % 2 else 100
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)), torch.arange(n) % 2


def inputs_of(images: Tensor, outputs: int = 0) -> Inputs:
    x = images / 255
    return Inputs(SIZE, 1, (x.mean().item(),), (x.std().item(),), "grey", outputs)


def train(method: Method, images: Tensor, targets: Tensor, steps: int, learning_rate: float, size: int = 32) -> list[float]:
    """The loss of every step."""
    groups = method.param_groups()
    for group in groups:
        group["lr"] = learning_rate * group.pop("lr_scale", 1.0)
    optimizer = torch.optim.AdamW(groups, betas=method.betas)
    generator = torch.Generator().manual_seed(0)
    losses = []
    method.train()
    for epoch in range(steps):
        rows = torch.randperm(len(images), generator=generator)[:size]
        views = method.views(images[rows], KeyedRNG(0, epoch, rows))
        loss = method.loss(views, {"targets": targets[rows], "positions": rows})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step((epoch + 1) / steps)
        losses.append(loss.item())
    return losses


@torch.no_grad()
def features(encoder: Callable[[Tensor], Tensor], images: Tensor, inputs: Inputs) -> Tensor:
    return encoder(plain(images, inputs.image_size, inputs.mean, inputs.std))


def assert_learned(method: Method, images: Tensor, losses: list[float], fall: float) -> None:
    """The loss fell to less than ``fall`` of its start, and images still look different."""
    start, end = np.mean(losses[:5]), np.mean(losses[-5:])
    assert end < fall * start, f"{start:.3f} -> {end:.3f}"
    method.encoder.eval()
    deviation, rank = spread(features(method.encoder, images, method.inputs))
    assert deviation > 0.1 and rank > 3
