"""The schedule of a training: its length, learning rate and precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEDULES = ("cosine", "constant", "one_cycle", "plateau")
BALANCES = ("weights", "oversample", "undersample", "none")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Args:
        steps: optimiser steps; every schedule depends on step / steps.
        batch_size: images per step, over all devices.
        learning_rate: peak learning rate.
        weight_decay: of AdamW.
        precision: ``bf16-mixed`` or ``32-true``.
        seed: of order, views and weights.
        kind: shape of the learning rate over the steps, one of ``SCHEDULES``.
        accumulate: parts in which each device takes its share of a batch, one after the other.
        shard: whether weights, gradients and moments are sharded across devices (FSDP), of which each otherwise has all.
        warmup: share of the steps over which the learning rate rises; None for the method's.
        final_learning_rate: at the last step, of the kinds that fall as a cosine.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    precision: str
    seed: int
    kind: str = "cosine"
    accumulate: int = 1
    shard: bool = False
    warmup: float | None = None
    final_learning_rate: float = 0.0


def learning_rate_factor(step: int, steps: int, warmup: float, kind: str = "cosine", final: float = 0.0) -> float:
    """Factor on the learning rate.

    ``cosine``: linear warm-up over a share of the steps, then cosine to ``final`` at the last. ``constant``, and ``plateau`` as
    long as nobody lowers it: the warm-up, then 1. ``one_cycle`` (Smith & Topin 2017, arXiv 1708.07120): cosine from 1/25 to 1 over
    30 % of the steps, whatever the warm-up, then cosine to ``final``.
    """
    rise = max(1, round((0.3 if kind == "one_cycle" else warmup) * steps))
    if step < rise:
        return 1 - 0.96 * 0.5 * (1 + math.cos(math.pi * step / rise)) if kind == "one_cycle" else (step + 1) / rise
    if kind in ("constant", "plateau"):
        return 1.0
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
