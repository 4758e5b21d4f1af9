"""What corruptions share: what scanners, archives and handling do to images, at five severities, a batch at a time on its device.

A corruption takes images in [0, 1] and gives images in [0, 1]. Its random numbers are keyed by image and shared by all
severities, so that a severer one is the same accident, only worse. Levels follow ImageNet-C (Hendrycks & Dietterich 2019,
"Benchmarking neural network robustness to common corruptions and perturbations", section 3 and its code) where it has the
corruption, lengths scaled from 224 pixels to the image's side; bias field and ghosting follow TorchIO (Perez-Garcia et al. 2021).

A module of this package is one: its docstring begins with its title and a colon, ``corrupt(images, severity, rng)`` is what it
does to (B, C, H, W), ``MODALITIES`` the modalities it is limited to, where there are such, and ``ORDER`` its place in tables.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scotoma import plugins
from scotoma.rng import KeyedRNG

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, int, KeyedRNG], Tensor]


def find_corruptions(modality: str) -> dict[str, Corruption]:
    """Name -> corruption of the images of a modality, in the order of the tables."""
    modules = plugins.modules("corruptions")
    return {name: m.corrupt for name, m in modules.items() if modality in getattr(m, "MODALITIES", (modality,))}


def order_of_patches(count: int, rng: KeyedRNG) -> Tensor:
    """(B, count) int64: patches of each image in the order in which they are hidden; a larger share holds a smaller one."""
    return rng.uniform("patches", count).argsort(1)


def hide_patches(x: Tensor, hidden: Tensor, cells: int, fill: Tensor) -> Tensor:
    """Fill patches with a colour.

    Args:
        x: (B, C, H, W).
        hidden: (B, M) int64, numbers of the patches, row by row.
        cells: patches along a side.
        fill: (C,).

    Returns:
        (B, C, H, W).
    """
    seen = torch.ones(len(x), cells**2, device=x.device).scatter_(1, hidden, 0.0).view(-1, 1, cells, cells)
    seen = F.interpolate(seen, x.shape[2:], mode="nearest")
    return x * seen + fill.view(1, -1, 1, 1) * (1 - seen)


def random_sign(rng: KeyedRNG, name: str) -> Tensor:
    """(B, 1, 1, 1): -1 or 1."""
    return torch.where(rng.uniform(f"sign of {name}") < 0.5, -1.0, 1.0).view(-1, 1, 1, 1)


def warp(x: Tensor, theta: Tensor, padding: str = "zeros") -> Tensor:
    """Images seen through affine maps ``theta`` (B, 2, 3) of the square from -1 to 1."""
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=False)
