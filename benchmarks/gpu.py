"""What a GPU gives: share of its matrix products, utilisation, and images a second beside lightly.

python benchmarks/gpu.py [--minutes 1] [--images 4096] [--workers 16] [--batch_size 256]     writes benchmarks/results/gpu.json
python benchmarks/gpu.py --small --minutes 0.05 --images 64 --workers 1 --out FILE            the same small, to test the script

Made-up chest X-rays are written as JPEG files. Scotoma decodes them into its store (told by itself) and trains end to end, from the
store to updated weights: MAE with a ViT-B/16 at 224 px, whose operations torch counts for one step and compares with the device's
product of two 8,192 x 8,192 matrices in bfloat16; and MoCo v2 with a ResNet-50, beside lightly's example from the same files with
so many workers. Meanwhile the device's utilisation is sampled four times a second (``nvidia-smi``; absent on a CPU). A profile of
MAE's steps goes to benchmarks/results/gpu_profile.txt.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scotoma import plugins
from scotoma.commands.pretrain import pretrain
from scotoma.data import encoder_header
from scotoma.data.datamodule import gather
from scotoma.data.phantom import phantom
from scotoma.models import encoders
from scotoma.models.precision import automatic_precision
from scotoma.run_folder import hardware, read_rows, versions
from scotoma.training.pretraining import assemble, make_schedule
from scotoma.training.trainer import Order, make_optimizer, make_views

RESULTS = Path(__file__).parent / "results"


def write_images(folder: Path, count: int, side: int) -> list[str]:
    """Chest X-rays as JPEG files."""
    folder.mkdir(parents=True)
    paths = []
    for k in range(count):
        paths.append(str(folder / f"{k}.jpg"))
        Image.fromarray(phantom.draw(0, k, side).pixels).save(paths[-1], quality=90)
    return paths


class Utilisation(threading.Thread):
    """Samples of the device's utilisation while something runs, per cent."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[float] = []
        self.over = threading.Event()

    def run(self) -> None:
        """Sample."""
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while shutil.which("nvidia-smi") and not self.over.wait(0.25):
            said = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
            if said.isdigit():
                self.samples.append(float(said))

    def mean(self) -> float | None:
        """Of the middle nine tenths: starting and ending are left out."""
        self.over.set()
        cut = len(self.samples) // 20
        kept = self.samples[cut : len(self.samples) - cut]
        return float(np.mean(kept)) if kept else None


def matmul_rate(device: str, side: int, rounds: int = 10) -> float:
    """Operations a second of a product in bfloat16, the best of some rounds."""
    a, b = torch.randn(2, side, side, dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(rounds):
        waited(device)
        began = time.perf_counter()
        a @ b
        waited(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def waited(device: str) -> None:
    """Let the device come to the end of what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def one_step(name: str, data: str, given: dict[str, Any], device: str) -> tuple[float, str]:
    """Operations of a step for one image (forward and backward), and a profile of three steps."""
    data_module = gather(data=data, size=given["size"], quiet=True)
    automatic = ("encoder", "init", "batch_size", "learning_rate", "weight_decay", "precision", "epochs", "minutes")
    config = dict.fromkeys(automatic) | {"method": name, "method_args": {}, "seed": 0, "steps": 1000} | given
    parts = assemble(config, data_module)
    method = parts.method.to(device).to(memory_format=torch.channels_last).train()
    schedule = make_schedule(config, method, parts.batches)
    optimizer = make_optimizer(method, schedule)
    batch = {k: v.to(device) for k, v in parts.batches[next(iter(Order(len(parts.batches.rows), schedule)))].items()}

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = method.loss(make_views(method, batch, 0), batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    activities = [torch.profiler.ProfilerActivity.CPU] + ([torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else [])
    with torch.profiler.profile(activities=activities) as profiled:
        for _ in range(3):
            step()
    sorted_by = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    return counter.get_total_flops() / schedule.batch_size, profiled.key_averages().table(sort_by=sorted_by, row_limit=30)


def trained(name: str, data: str, given: dict[str, Any], minutes: float, folder: Path) -> dict[str, Any]:
    """Scotoma end to end for so many minutes."""
    watch = Utilisation()
    watch.start()
    run = pretrain(data, name, folder / name, minutes=minutes, quiet=True, **given)
    rows = {row["metric"]: row["value"] for row in read_rows(run)}
    kept = {k: rows[k] for k in ("images_seen", "steps", "seconds", "seconds_preparing", "peak_memory_bytes")}
    return {**kept, "images_per_second": rows["images_seen"] / rows["seconds"], "utilisation": watch.mean()}


def lightly_moco(paths: list[str], given: dict[str, Any], minutes: float, workers: int, device: str) -> dict[str, Any]:
    """MoCo v2 as the example of lightly has it, from the same files, in bfloat16 as Scotoma."""
    import lightly_side

    timm_name, kwargs = encoders.resolve(given["encoder"], given["size"])
    info = encoder_header.EncoderInfo(timm_name, kwargs, 3, given["size"], (0.4,) * 3, (0.2,) * 3)
    method = lightly_side.MoCo(encoders.build(info), given["size"]).to(device).train()
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    images = lightly_side.Images(paths, method.transform)
    loader = torch.utils.data.DataLoader(
        images, given["batch_size"], shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True, pin_memory=True
    )
    done, began, watch = 0, time.perf_counter(), Utilisation()
    while True:
        for views in loader:
            with torch.autocast(device, torch.bfloat16):
                loss = method([view.to(device, non_blocking=True) for view in views], 0.5)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done == 2:
                waited(device)
                began = time.perf_counter()
                watch.start()
            if done > 2 and time.perf_counter() - began > 60 * minutes:
                waited(device)
                rate = (done - 2) * given["batch_size"] / (time.perf_counter() - began)
                return {"images_per_second": rate, "workers": workers, "utilisation": watch.mean()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    for name, value in (("images", 4096), ("workers", 16), ("batch_size", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, side = (32, 512) if options.small else (224, 8192)
    mae = {"encoder": "vit_tiny_patch8" if options.small else "vit_base_patch16", "size": size, "batch_size": options.batch_size}
    moco = {"encoder": "resnet10t" if options.small else "resnet50", "size": size, "batch_size": options.batch_size}
    if options.small:
        mae["batch_size"] = moco["batch_size"] = 16
    assert {"mae", "moco_v2"} <= set(plugins.names("methods"))
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder) / "images", options.images, round(1.5 * size))
        data = str(Path(folder) / "images")
        operations, profile = one_step("mae", data, mae, device)
        options.out.with_name(options.out.stem + "_profile.txt").write_text(profile)
        machine = matmul_rate(device, side)
        both = (("mae", mae), ("moco_v2", moco))
        ours = {name: trained(name, data, given, options.minutes, Path(folder)) for name, given in both}
        ours["mae"] |= {"gflops_a_image": operations / 1e9, "matmul_gflops": machine / 1e9}
        ours["mae"]["share_of_matmul"] = operations * ours["mae"]["images_per_second"] / machine
        theirs = lightly_moco(paths, moco, options.minutes, options.workers, device)
    found = {
        "scotoma": ours, "lightly_moco_v2": theirs, "ratio": ours["moco_v2"]["images_per_second"] / theirs["images_per_second"],
        "settings": {"mae": mae, "moco_v2": moco, "images": options.images, "precision": automatic_precision(size)},
        "hardware": hardware(), "versions": versions(),
    }  # fmt: skip
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
