"""Scotoma against lightly in one run: end-to-end images a second, files to weights updated, alternating on the same machine.

python benchmarks/peers.py [--rounds 2] [--steps 12] [--batch_size 128] [--size 96]
python benchmarks/peers.py --rates [--window 0.6] [--methods simclr,moco_v2,mae,dino,msn]
python benchmarks/peers.py --quality [--minutes 5] [--methods simclr,moco_v2,mae,dino,msn] [--draws 10] [--runs runs/peers]

Speed: both train SimCLR with a ResNet-18 on $SCOTOMA_DATA/brain_tumor_mri with the same batch size and optimiser. lightly runs
as its own examples show: its SimCLR transform on PIL pictures in worker processes, its projection head and loss, three channels,
float32. Scotoma runs through its own training loop, its store prepared beforehand (the time that takes is printed, too).

Quality: ``--rates``, alone on the machine, measures the images a second of both sides for every method, in turn; ``--quality``
then trains each side for the steps that this allows in equal wall-clock time, whatever else the machine does meanwhile. The same
network and training pictures, lightly once with Scotoma's batch size, optimiser and schedule, and once with its examples'; linear
probes on the same test rows with the same label draws; differences bootstrapped over near-duplicate groups and draws. Resumable:
what the results hold is not measured again, and a network that lies under ``--runs`` is not trained again.
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

RESULTS = Path(__file__).parent / "results"
FRACTIONS = (0.01, 0.05, 0.1, 1.0)
SIDES = {"lightly": False, "lightly_own": True}  # with Scotoma's optimiser, batch size and schedule; with its examples' own
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


def network(name: str, size: int) -> tuple[Any, ...]:
    """What both sides train: the network with random weights, its header, the material, and Scotoma's method class."""
    import torch

    from scotoma import encoders, plugins
    from scotoma.material import gather
    from scotoma.pretraining import describe

    chosen = plugins.method(name)
    material = gather(data=str(DATA), size=size, channels=3, quiet=True)
    info = describe({"size": size, "seed": 0}, material, chosen.default_encoder)
    info.timm_kwargs |= {"dynamic_img_size": True} if info.name.startswith("vit") else {}
    torch.manual_seed(0)
    return encoders.build(info), info, material, chosen


def seconds_preparing(size: int) -> float:
    """What decoding all pictures into a store takes Scotoma, which lightly does as it goes."""
    from scotoma.data import store, table

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        store.prepare(table.load(str(DATA)), size, out=Path(folder) / "store", quiet=True)
        return time.perf_counter() - began


def lightly_trained(name: str, size: int, steps: int, window: float = 0.0,
                    theirs: bool = False) -> tuple[Any, Any, dict[str, float]]:  # fmt: skip
    """Train lightly's example of one method: the network, its header, and what it took."""
    import lightly_side

    encoder, info, material, chosen = network(name, size)
    paths = material.dataset.table["image_path"].iloc[material.pretraining].tolist()
    took = lightly_side.train(
        name, encoder, paths, size, steps, chosen.batch_size, chosen.learning_rate, chosen.weight_decay, chosen.warmup, window,
        theirs,
    )  # fmt: skip
    return encoder, info, took


def rates(options: argparse.Namespace) -> None:
    """Images a second of both sides, method by method in turn, into results/peers_rates.json: run this alone on the machine."""
    import paces

    from scotoma import plugins
    from scotoma.run import hardware, versions

    file = RESULTS / "peers_rates.json"
    preparing = seconds_preparing(options.size)
    found = json.loads(file.read_text())["rates"] if file.exists() else {}
    for name in options.methods.split(","):
        here = found.setdefault(name, {"batch_size": plugins.method(name).batch_size})
        if "scotoma" not in here:
            here["scotoma"] = paces.rate("brain_tumor_mri", name, options.size, options.window)[0] * here["batch_size"]
        for side, own in SIDES.items():
            if side not in here:
                _, _, took = lightly_trained(name, options.size, 10**6, 60 * options.window, own)
                here |= {side: took["images_per_second"], f"{side}_starting": took["seconds_starting"]}
        print(name, found[name], f"ratio {found[name]['scotoma'] / found[name]['lightly']:.2f}", flush=True)
        content = {
            "rates": found,
            "seconds_preparing": preparing,
            "size": options.size,
            "hardware": hardware(),
            "versions": versions(),
        }
        file.write_text(json.dumps(content, indent=1) + "\n")


def train_all(name: str, runs: Path, minutes: float, size: int) -> None:
    """Scotoma's network in ``runs/NAME``, lightly's in ``runs/NAME-SIDE.safetensors``, each of the steps that the minutes allow."""
    from scotoma import encoders
    from scotoma.pretrain import pretrain
    from scotoma.run import read_rows, status

    measured = json.loads((RESULTS / "peers_rates.json").read_text())
    pace = measured["rates"][name]
    if status(runs / name) != "finished":
        steps = round((60 * minutes - measured["seconds_preparing"]) * pace["scotoma"] / pace["batch_size"])
        pretrain(str(DATA), name, runs / name, steps=steps, size=size, overwrite=True, quiet=True)
    rows = {row["metric"]: row["value"] for row in read_rows(runs / name)}
    print(name, "scotoma", {k: rows[k] for k in ("images_per_second", "images_seen", "seconds")}, flush=True)
    import lightly_side

    for side, own in SIDES.items():
        theirs = runs / f"{name}-{side}.safetensors"
        if theirs.exists():
            continue
        batch_size = lightly_side.METHODS[name].batch_size if own else pace["batch_size"]
        steps = round((60 * minutes - pace[f"{side}_starting"]) * pace[side] / batch_size)
        encoder, info, took = lightly_trained(name, size, steps, theirs=own)
        print(name, side, took, flush=True)
        info.mean, info.std = (tuple(lightly_side.NORMALIZE[k]) for k in ("mean", "std"))
        info.method = {"name": f"lightly's {name}", **took}
        encoders.save(theirs, encoder, info)


def probes(source: Path, draws: int) -> tuple[list[list[np.ndarray]], np.ndarray, np.ndarray]:
    """Predictions of linear probes by fraction and draw, the test rows' labels, and their groups."""
    from scotoma import encoders
    from scotoma.evaluators import linear
    from scotoma.evaluators.base import Context
    from scotoma.material import gather

    encoder, info, _ = encoders.load(source)
    material = gather(data=str(DATA), target=["label"], size=info.image_size, channels=info.in_chans, quiet=True)
    assert material.target is not None
    context = Context(encoder, info, None, material.dataset, material.store, material.split, material.target, FRACTIONS, draws)
    found: dict[float, list[np.ndarray]] = {f: [] for f in FRACTIONS}
    for drawn in context.draws():
        found[drawn.fraction].append(linear.predict(context.features, context.target, drawn, context.test))
    return list(found.values()), context.target.y[context.test], context.split.units[context.test]


def compare(names: list[str], runs: Path, draws: int) -> list[dict[str, Any]]:
    """Rows of differences (Scotoma less lightly) a method, side and fraction, and of their mean over methods (joint resamples)."""
    from scotoma.comparisons import bootstrap_weights, interval
    from scotoma.metrics import score

    rows: list[dict[str, Any]] = []
    samples: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    for name in names:
        ours, y, groups = probes(runs / name, draws)
        weights = np.pad(bootstrap_weights(groups), ((1, 0), (0, 0)), constant_values=1)
        for side in SIDES:
            theirs, same, _ = probes(runs / f"{name}-{side}.safetensors", draws)
            assert np.array_equal(y, same)
            of_name = []  # below, scores are (2, 1 + R, draws)
            for fraction, a, b in zip(FRACTIONS, ours, theirs, strict=True):
                scores = np.stack([np.stack([score("auroc", y, p, weights) for p in one], 1) for one in (a, b)])
                picks = np.random.default_rng([0, 1]).integers(len(a), size=(len(weights) - 1, len(a)))
                difference = scores[0] - scores[1]
                of_name.append(np.append(difference[0].mean(), np.take_along_axis(difference[1:], picks, 1).mean(1)))
                rows.append(
                    {"method": name, "side": side, "fraction": fraction, "scotoma": float(scores[0, 0].mean()),
                     "lightly": float(scores[1, 0].mean()), "draws": len(a), **told(of_name[-1], interval)}
                )  # fmt: skip
            samples[side].append(np.stack(of_name))
    for side, of_side in samples.items():
        for fraction, sample in zip(FRACTIONS, np.mean(of_side, 0), strict=True):
            rows.append({"method": "mean", "side": side, "fraction": fraction, "draws": draws, **told(sample, interval)})
    return rows


def told(sample: np.ndarray, interval: Any) -> dict[str, float]:
    """A difference, the first of a sample, and its interval by the rest."""
    low, high = interval(sample[1:])
    return {"difference": float(sample[0]), "low": low, "high": high}


def quality(options: argparse.Namespace) -> None:
    """Train what is not trained yet, probe, print and save."""
    from scotoma.run import hardware, read_rows, versions

    runs, names = Path(options.runs), options.methods.split(",")
    runs.mkdir(parents=True, exist_ok=True)
    for name in names:
        train_all(name, runs, options.minutes, options.size)
    rows = compare(names, runs, options.draws)
    for row in rows:
        print(row)
    from scotoma.encoders import read_info

    speed = {}
    for name in names:
        ours = {row["metric"]: row["value"] for row in read_rows(runs / name)}
        theirs = {side: read_info(runs / f"{name}-{side}.safetensors").method["images_seen"] for side in SIDES}
        speed[name] = {"scotoma": ours["images_seen"], **theirs}
    result = {"rows": rows, "images_seen": speed, "minutes": options.minutes, "hardware": hardware(), "versions": versions()}
    (RESULTS / "peers_quality.json").write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Alternate, take medians, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 2), ("steps", 12), ("batch_size", 128), ("size", 96)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--rates", action="store_true")
    parser.add_argument("--window", type=float, default=0.6, help="minutes of each measurement of a rate")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--methods", default="simclr,moco_v2,mae,dino,msn")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--runs", default="runs/peers")
    options = parser.parse_args()
    if options.rates or options.quality:
        return (rates if options.rates else quality)(options)
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
    (RESULTS / "peers.json").write_text(json.dumps({**result, "hardware": hardware(), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
