"""Gradient SHAP: expected gradients over random baselines (Lundberg & Lee 2017, arXiv 1705.07874; as in captum); signed.

Baselines are images of one grey level, drawn from the normal distribution with the data's mean and deviation: an image of
noise is like none that the classifier saw, and one colour alone is blind to structures of that colour. The levels and the
points on the way are drawn from ``seed`` and alike for all images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from captum.attr import GradientShap
from torch import Tensor, nn

ORDER = 3
SAMPLES = 16  # baselines that gradient SHAP draws for each image


def attribute(classifier: nn.Module, images: Tensor, target: Tensor, seed: int = 0) -> Tensor:
    """(B, H, W) maps of ``target`` (B,)."""
    levels = np.random.default_rng(seed).standard_normal(SAMPLES)
    baselines = torch.tensor(levels, dtype=images.dtype, device=images.device).view(-1, 1, 1, 1).expand(-1, *images.shape[1:])
    method, found = GradientShap(classifier), []
    for image, k in zip(images.detach().split(1), target.tolist(), strict=True):
        with _draw_from(seed, images.device):
            found.append(method.attribute(image, baselines, n_samples=SAMPLES, target=k).sum(1))
    return torch.cat(found)


@contextmanager
def _draw_from(seed: int, device: torch.device) -> Iterator[None]:
    """What captum draws from the global generators is drawn from ``seed``; these are left as they were."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(state)
