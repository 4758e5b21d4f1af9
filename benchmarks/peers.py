"""Scotoma against lightly in one run: end-to-end images a second, files to weights updated, alternating on the same machine.

python benchmarks/peers.py [--rounds 2] [--steps 12] [--batch_size 128] [--size 96]

Both train SimCLR with a ResNet-18 on $SCOTOMA_DATA/brain_tumor_mri with the same batch size and optimiser. lightly runs as its
own examples show: its SimCLR transform on PIL pictures in worker processes, its projection head and loss, three channels,
float32. Scotoma runs through its own training loop, its store prepared beforehand (the time that takes is printed, too).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("SCOTOMA_DATA", "../shared/data")) / "brain_tumor_mri" / "table.csv"


def scotoma_rate(steps: int, batch_size: int, size: int) -> dict[str, float]:
    """Images a second of Scotoma's training loop, and the seconds its store took."""
    from scotoma.pretrain import pretrain
    from scotoma.run import read_rows

    with tempfile.TemporaryDirectory() as folder:
        run = pretrain(str(DATA), "simclr", Path(folder) / "run", steps=steps, batch_size=batch_size, size=size, quiet=True)
        rows = {row["metric"]: row["value"] for row in read_rows(run) if row["evaluator"] == "pretrain"}
    return {"images_per_second": rows["images_seen"] / rows["seconds"], "seconds_preparing": rows["seconds_preparing"]}


def lightly_rate(steps: int, batch_size: int, size: int) -> dict[str, float]:
    """Images a second of lightly's SimCLR example."""
    import torch
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from torch import nn
    from torchvision.models import resnet18

    backbone = nn.Sequential(*list(resnet18().children())[:-1])
    head, criterion = SimCLRProjectionHead(512, 512, 128), NTXentLoss()
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-3)
    dataset = LightlyDataset(str(DATA.parent / "images"), transform=SimCLRTransform(input_size=size))
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=2)
    began, seen = 0.0, 0
    for step, batch in enumerate(loader):
        if step == 2:  # the first steps fill the workers' queues
            began = time.perf_counter()
        first, second = batch[0]
        loss = criterion(head(backbone(first).flatten(1)), head(backbone(second).flatten(1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(first) if step >= 2 else 0
        if step == steps + 1:
            break
    return {"images_per_second": seen / (time.perf_counter() - began)}


def main() -> None:
    """Alternate, take medians, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 2), ("steps", 12), ("batch_size", 128), ("size", 96)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    sizes = (options.steps, options.batch_size, options.size)
    found: dict[str, list[float]] = {"scotoma": [], "lightly": []}
    for _ in range(options.rounds):
        ours = scotoma_rate(*sizes)
        print("scotoma", ours, flush=True)
        theirs = lightly_rate(*sizes)
        print("lightly", theirs, flush=True)
        found["scotoma"].append(ours["images_per_second"])
        found["lightly"].append(theirs["images_per_second"])
    from scotoma.run import hardware, versions

    medians = {name: float(np.median(values)) for name, values in found.items()}
    result = {"images_per_second": medians, "ratio": medians["scotoma"] / medians["lightly"], "options": vars(options)}
    print(f"ratio {result['ratio']:.2f}")
    target = Path(__file__).parent / "results" / "peers.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({**result, "hardware": hardware(), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
