"""Steps taken and taken back: how fast a method goes, at which learning rate it learns, how large a batch fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from scotoma.distributed import collectives
from scotoma.errors import UsageError
from scotoma.methods.base import Method
from scotoma.training import cpu_kernels
from scotoma.training.schedule import Schedule
from scotoma.training.trainer import Batches, Order, make_optimizer, step_loss, tune_for_cpu


def find_learning_rate(
    method: Method, schedule: Schedule, batches: Batches, steps: int = 60, low: float = 1e-6, high: float = 0.3
) -> tuple[np.ndarray, np.ndarray, float]:
    """Learning-rate finder (Smith 2017, arXiv 1506.01186, section 3.3) on throw-away steps; all is as before afterwards.

    The rate rises geometrically from ``low`` to ``high``; the test ends where the loss is no number or four times its lowest.

    Returns:
        (k,) rates, (k,) losses smoothed exponentially (0.9, bias taken out), and a tenth of the rate at which they are lowest:
        there they still fall, and that point is steadier than the steepest, which noise puts anywhere.
    """
    rates, losses, mean = np.geomspace(low, high, steps), [], 0.0
    with torch.random.fork_rng(), _throw_away(method, schedule) as (device, optimizer):
        scales = [group["lr"] / schedule.learning_rate for group in optimizer.param_groups]
        for k, key in zip(range(steps), Order(len(batches.rows), replace(schedule, steps=steps)), strict=False):
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] = rates[k] * scale
            mean = 0.9 * mean + 0.1 * _throw_away_step(method, schedule, batches, key, device, optimizer)
            losses.append(mean / (1 - 0.9 ** (k + 1)))
            if not math.isfinite(mean) or losses[-1] > 4 * min(losses):
                break
    found = np.array([loss for loss in losses if math.isfinite(loss)])
    return rates[: len(found)], found, float(max(rates[int(found.argmin())] / 10, low))


def measure_rate(method: Method, schedule: Schedule, batches: Batches, warm: int = 2, timed: int = 4) -> float:
    """Seconds a step, from a few throw-away steps; weights, buffers and torch's random numbers are as before afterwards.

    On the device that training will use, under the same precision.
    """
    seconds, schedule = [], replace(schedule, learning_rate=0.0)
    with torch.random.fork_rng(), _throw_away(method, schedule) as (device, optimizer):
        order = Order(len(batches.rows), schedule, 0, collectives.rank(), collectives.world())
        for _, key in zip(range(warm + timed), order, strict=False):
            began = time.perf_counter()
            _throw_away_step(method, schedule, batches, key, device, optimizer)
            seconds.append(time.perf_counter() - began)
    return schedule.accumulate * float(np.median(seconds[warm:]))


def fits(method: Method, schedule: Schedule, batches: Batches) -> bool:
    """Whether a step fits into the device's memory: three throw-away steps, of which the later have moments, too."""
    schedule = replace(schedule, learning_rate=0.0)
    try:
        with torch.random.fork_rng(), _throw_away(method, schedule) as (device, optimizer):
            for _, key in zip(
                range(3), Order(len(batches.rows), schedule, 0, collectives.rank(), collectives.world()), strict=False
            ):
                _throw_away_step(method, schedule, batches, key, device, optimizer)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def largest(fitting: Callable[[int], bool], start: int, most: int) -> int:
    """The largest of ``start``, twice that, and so on up to ``most`` for which ``fitting`` holds.

    Raises:
        UsageError: not even ``start`` does.
    """
    if not fitting(start):
        raise UsageError(
            f"a batch of {start} does not fit into the device's memory: a smaller --size or --encoder, or --accumulate of pretrain"
        )
    while 2 * start <= most and fitting(2 * start):
        start *= 2
    return start


@contextmanager
def _throw_away(method: Method, schedule: Schedule) -> Iterator[tuple[torch.device, torch.optim.Optimizer]]:
    """The device and an optimiser for steps after which weights and buffers are put back.

    At a learning rate of 0 the weights stay as they are; then no copy of them takes the memory that training will not have either.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tune_for_cpu(method, schedule.precision)
    still = set() if schedule.learning_rate else {name for name, _ in method.named_parameters(remove_duplicate=False)}
    saved = {k: v.detach().clone() for k, v in method.state_dict().items() if k not in still}
    method.to(device).to(memory_format=torch.channels_last).train()
    try:
        yield device, make_optimizer(method, schedule)
    finally:
        method.zero_grad()
        method.load_state_dict(saved, strict=False)
        cpu_kernels.restore(method)


def _throw_away_step(
    method: Method, schedule: Schedule, batches: Batches, key: Any, device: torch.device, optimizer: torch.optim.Optimizer
) -> float:
    """One step of the method; its loss."""
    batch = {k: v.to(device) for k, v in batches[key].items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=schedule.precision == "bf16-mixed"):
        loss = step_loss(method, batch, schedule.seed)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
