"""Where a training step's time goes, and what share of the machine's matrix products it reaches; run it alone on the machine.

python benchmarks/limits.py [--methods simclr,moco_v2,byol,dino,mae,msn] [--size 96] [--rounds 8]

Of each method, with its own network, batch size and precision on $SCOTOMA_DATA/brain_tumor_mri: medians over rounds of the seconds
for reading a batch from the store, making its views, the loss, its gradients, the optimiser and what follows a step. The bare step
is the last four on views that lie ready. Operations are torch's own count (a product and a sum are two), forward and backward, of
matrix products and convolutions; the machine's rate is that of a product of two 2,048 x 2,048 matrices in the same precision.
Writes benchmarks/results/limits.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scotoma import plugins
from scotoma.data.datamodule import gather
from scotoma.run_folder import hardware, versions
from scotoma.training import cpu_kernels
from scotoma.training.pretraining import assemble, make_schedule
from scotoma.training.trainer import Order, make_optimizer, make_views, tune_for_cpu

OUT = Path(__file__).parent / "results" / "limits.json"
DATA = Path(os.environ.get("SCOTOMA_DATA", "../shared/data")) / "brain_tumor_mri" / "table.csv"
PARTS = ("data", "views", "loss", "gradients", "optimiser", "after")
BARE = PARTS[2:]


def matmul_rate(dtype: torch.dtype, side: int = 2048, rounds: int = 12) -> float:
    """Operations a second of a matrix product, the best of some rounds."""
    a, b = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def limits(name: str, size: int, rounds: int) -> dict[str, Any]:
    """One method: seconds by part, operations, and the share of the machine's rate."""
    data_module = gather(data=str(DATA), size=size, quiet=True)
    automatic = ("encoder", "init", "batch_size", "learning_rate", "weight_decay", "precision", "epochs", "minutes")
    config: dict[str, Any] = dict.fromkeys(automatic) | {"method": name, "method_args": {}, "size": size, "seed": 0, "steps": 1000}
    parts = assemble(config, data_module)
    method, batches = parts.method.to(memory_format=torch.channels_last).train(), parts.batches
    schedule = make_schedule(config, method, batches)
    cpu_kernels.keep_memory()  # as the command does
    tune_for_cpu(method, schedule.precision)
    optimizer, bfloat16 = make_optimizer(method, schedule), schedule.precision == "bf16-mixed"
    took: dict[str, list[float]] = {part: [] for part in PARTS}
    operations = 0
    for k, key in zip(range(rounds + 3), Order(len(batches.rows), schedule), strict=False):
        marks = [time.perf_counter()]
        batch = batches[key]
        marks.append(time.perf_counter())
        views = make_views(method, batch, schedule.seed)
        marks.append(time.perf_counter())
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = method.loss(views, batch)["loss"]
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        method.after_step(0.1)
        marks.append(time.perf_counter())
        if k == 0:  # counted by itself: counting takes time
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                method.loss(views, batch)["loss"].backward()
            operations = counter.get_total_flops()
            optimizer.zero_grad()
        if k >= 3:
            for part, passed in zip(PARTS, np.diff(marks), strict=True):
                took[part].append(float(passed))
    seconds = {part: float(np.median(values)) for part, values in took.items()}
    bare, whole = sum(seconds[part] for part in BARE), sum(seconds.values())
    machine = matmul_rate(torch.bfloat16 if bfloat16 else torch.float32)
    return {
        "method": name, "encoder": parts.info.name, "batch_size": schedule.batch_size, "precision": schedule.precision,
        "seconds": seconds,
        "images_per_second": schedule.batch_size / whole, "bare_images_per_second": schedule.batch_size / bare,
        "bare_share": bare / whole,
        "gflops_a_image": operations / schedule.batch_size / 1e9, "matmul_gflops": machine / 1e9,
        "share_of_matmul": operations / bare / machine,
    }  # fmt: skip


def main() -> None:
    """Measure and write, a method at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="simclr,moco_v2,byol,dino,mae,msn")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    os.environ.setdefault("SCOTOMA_CACHE", tempfile.gettempdir() + "/scotoma-limits")
    found = json.loads(OUT.read_text())["methods"] if OUT.exists() else {}
    for name in options.methods.split(","):
        assert name in plugins.names("methods"), name
        found[name] = limits(name, options.size, options.rounds)
        print(json.dumps(found[name]), flush=True)
        content = {"methods": found, "size": options.size, "hardware": hardware(), "versions": versions()}
        OUT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
