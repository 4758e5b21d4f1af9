"""What leaving out three quarters of the patches saves in fine-tuning: floating-point operations and seconds of a step.

python benchmarks/msmae_cost.py [--flops_only]     writes benchmarks/results/msmae_cost.json

A step is the forward and backward of ``Supervised`` on a batch of views, with all patches and with ``drop_tokens`` 0.75 (MSMAE,
arXiv 2305.05871: 0.45 masked + 0.30 thrown; it reports 74.08 % fewer operations). Operations are torch's own count (a product and a
sum are two), checked against the closed form; views and optimiser are left out on both sides, and so is taking the attention maps,
once an image in a whole fine-tuning, which is told by itself. Seconds are medians of steps taken in turn, at the precision that
training would choose.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scotoma.data.encoder_header import EncoderInfo
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.supervised import Supervised
from scotoma.models import encoders
from scotoma.models.precision import automatic_precision
from scotoma.rng import KeyedRNG
from scotoma.run_folder import hardware
from scotoma.training import cpu_kernels

OUT = Path(__file__).parent / "results" / "msmae_cost.json"
DROPPED, CLASSES, ROUNDS = 0.75, 5, 9
PAPER = 0.2592  # of the operations are left
CASES = (  # network, side, channels, images a step
    ("vit_tiny_patch16", 96, 1, 32),
    ("vit_small_patch16", 224, 3, 8),
    ("vit_base_patch16", 224, 3, 4),  # the paper's
)


def method_of(encoder: torch.nn.Module, inputs: Inputs, drop_tokens: float) -> Supervised:
    """Both around the same network."""
    method = Supervised(encoder, inputs, drop_tokens=drop_tokens).train()
    torch.nn.init.normal_(method.head.weight)
    return method


def closed_form(encoder: Any, patches: int, visible: int, channels: int) -> int:
    """Operations of a step for one image: matrix products only.

    All patches are embedded (the backward has no gradient of the image to find); in each block 12 D^2 weights for each token and
    two products of size tokens x tokens x D, forward and twice that backward.
    """
    width, tokens = encoder.embed_dim, 1 + visible
    embedding = 2 * patches * encoder.patch_embed.patch_size[0] ** 2 * channels * width
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    return 2 * embedding + 3 * (len(encoder.blocks) * block + 2 * width * CLASSES)


def operations(work: Any) -> int:
    """What a piece of work costs by torch's count; attention as plain products, for the fused ones are not all known to it."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def step(method: Supervised, views: dict[str, Tensor], batch: dict[str, Tensor], bfloat16: bool = False) -> None:
    """Forward and backward."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = method.loss(views, batch)["loss"]
    loss.backward()
    method.zero_grad()


def seconds(work: dict[str, Any]) -> dict[str, float]:
    """Median seconds of each, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, one in work.items():
            began = time.perf_counter()
            one()
            taken[name].append(time.perf_counter() - began)
    return {name: median(times[2:]) for name, times in taken.items()}


def case(network: str, size: int, channels: int, images: int, timed: bool) -> dict[str, Any]:
    """Operations and seconds of one network."""
    torch.manual_seed(0)
    name, kwargs = encoders.resolve(network, size)
    encoder: Any = encoders.build(EncoderInfo(name, kwargs, channels, size, (0.4,) * channels, (0.2,) * channels))
    inputs = Inputs(size, channels, (0.4,) * channels, (0.2,) * channels, outputs=CLASSES, images=images)
    positions = torch.arange(images)
    batch = {
        "images": torch.randint(0, 256, (images, channels, size + size // 3, size + size // 3), dtype=torch.uint8),
        "positions": positions,
        "epochs": torch.zeros(images, dtype=torch.int64),
        "targets": positions % CLASSES,
    }
    methods = {"full": method_of(encoder, inputs, 0.0), "dropped": method_of(encoder, inputs, DROPPED)}
    views = {key: method.views(batch["images"], KeyedRNG(0, 0, positions)) for key, method in methods.items()}
    dropping = methods["dropped"]
    assert dropping.attention is not None
    maps = operations(lambda: dropping.attention.refresh(dropping.given, batch["images"], positions, batch["epochs"]))
    counted = {key: operations(lambda key=key: step(methods[key], views[key], batch)) / images for key in methods}
    grid = dropping.attention.grid**2
    for key, visible in (("full", grid), ("dropped", dropping.visible)):
        expected = closed_form(encoder, grid, visible, channels)
        assert abs(counted[key] / expected - 1) < 0.01, f"{network} {key}: counted {counted[key]:.3e}, expected {expected:.3e}"
    found = {
        "network": network, "size": size, "channels": channels, "patches": grid, "visible": dropping.visible,
        "gflops_a_image": {key: round(value / 1e9, 3) for key, value in counted.items()},
        "flops_ratio": round(counted["dropped"] / counted["full"], 4),
        "maps_once_in_full_steps": round(maps / images / counted["full"], 4),
    }  # fmt: skip
    if timed:
        bfloat16 = automatic_precision(size) == "bf16-mixed"
        cpu_kernels.keep_memory()  # as the command does
        for method in methods.values():
            cpu_kernels.tune(method.to(memory_format=torch.channels_last), torch.bfloat16 if bfloat16 else torch.float32, grid)
        took = seconds({key: lambda key=key: step(methods[key], views[key], batch, bfloat16) for key in methods})
        found |= {"batch_size": images, "precision": automatic_precision(size)}
        found |= {"seconds_a_step": {key: round(value, 4) for key, value in took.items()}}
        found |= {"seconds_ratio": round(took["dropped"] / took["full"], 4)}
    return found


def main() -> None:
    """Measure all networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flops_only", action="store_true")
    arguments = parser.parse_args()
    cases = [case(*one, timed=not arguments.flops_only) for one in CASES]
    found = {
        "drop_tokens": DROPPED,
        "paper_flops_ratio": 0.2592,
        "hardware": hardware(),
        "load": os.getloadavg()[0],
        "cases": cases,
    }
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
