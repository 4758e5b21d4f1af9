"""How a training goes: its length, pace and precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Args:
        steps: optimiser steps; every schedule depends on step / steps.
        batch_size: pictures a step, over all devices.
        learning_rate: peak of the schedule (linear warm-up, then cosine to 0).
        weight_decay: of AdamW.
        precision: Lightning's name, ``bf16-mixed`` or ``32-true``.
        seed: of order, views and weights.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    precision: str
    seed: int


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear warm-up over a share of the steps, then cosine to 0 at the last."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def automatic_precision() -> str:
    """``bf16-mixed`` where the processor multiplies bfloat16 matrices itself, else ``32-true``."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if capable else "32-true"
