"""Features of images, and how far they are from collapse."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.store.store import Store
from scotoma.models.encoders import width
from scotoma.models.precision import full_precision
from scotoma.transforms.augmentation import plain


def features(
    encoder: nn.Module, images: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...], precision: str
) -> Tensor:
    """(B, D) float32 features of (B, C, H, W) uint8 images, seen plainly."""
    x = plain(images, size, mean, std).contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        return encoder(x).float()


def spread(f: Tensor) -> tuple[float, float]:
    """How far features are from collapse.

    Returns:
        Feature spread: the mean standard deviation of the L2-normalised features' coordinates times sqrt(D), 0 when all images
        look alike and near 1 when they fill the sphere (SimSiam, section 4.1). Effective rank: exp of the entropy of the
        normalised singular values of the centred features (Roy & Vetterli 2007), between 1 and D. Both are NaN where a feature is
        no number.
    """
    f = f.float()
    if not f.isfinite().all():
        return math.nan, math.nan
    unit = nn.functional.normalize(f, dim=1)
    singular = torch.linalg.svdvals(f - f.mean(0))
    p = singular / singular.sum().clamp(min=1e-12)
    entropy = -(p * p.clamp(min=1e-12).log()).sum()
    return float(unit.std(0, unbiased=False).mean() * math.sqrt(f.shape[1])), float(entropy.exp())


@torch.no_grad()
@full_precision()
def extract(encoder: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """(n, D) features of these rows, seen plainly, in the encoder's evaluation mode, computed in float32."""
    if not len(rows):
        return np.zeros((0, width(encoder)), np.float32)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).to(memory_format=torch.channels_last).eval()
    found = [
        features(
            encoder,
            torch.from_numpy(store.batch(rows[i : i + batch_size])).to(device),
            info.image_size,
            info.mean,
            info.std,
            "32-true",
        ).cpu()
        for i in range(0, len(rows), batch_size)
    ]
    return torch.cat(found).numpy()
