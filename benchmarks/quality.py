"""What equal time is worth: Scotoma's and lightly's encoders after as many minutes, by linear probes (``peers.py --quality``).

Each side trains for the steps that its pace (results/peers_rates.json, measured alone) allows in the same wall-clock time, whatever
else the machine does meanwhile. The same network and training images, lightly once with Scotoma's batch size, optimiser and
schedule, and once with its examples'; linear probes on the same test rows with the same label draws; differences with intervals
over near-duplicate groups and draws. Resumable: a network that lies under ``--runs`` is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import lightly_side
import numpy as np

RESULTS = Path(__file__).parent / "results"
FRACTIONS = (0.01, 0.05, 0.1, 1.0)
SIDES = {"lightly": False, "lightly_own": True}  # with Scotoma's optimiser, batch size and schedule; with its examples' own
DATA = Path(os.environ.get("SCOTOMA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "brain_tumor_mri" / "table.csv"


def network(name: str, size: int) -> tuple[Any, ...]:
    """What both sides train: the network with random weights, its header, the material, and Scotoma's method class."""
    import torch

    from scotoma import plugins
    from scotoma.data.datamodule import gather
    from scotoma.models import encoders
    from scotoma.training.pretraining import describe

    chosen = plugins.method(name)
    material = gather(data=str(DATA), size=size, channels=3, quiet=True)
    info = describe({"size": size, "seed": 0}, material, chosen.encoder_at(size))
    info.timm_kwargs |= {"dynamic_img_size": True} if info.name.startswith("vit") else {}
    torch.manual_seed(0)
    return encoders.build(info), info, material, chosen


def lightly_trained(name: str, size: int, steps: int, theirs: bool) -> tuple[Any, Any, dict[str, float]]:
    """Train lightly's example of one method: the network, its header, and what it took."""
    encoder, info, material, chosen = network(name, size)
    paths = material.dataset.table["image_path"].iloc[material.pretraining].tolist()
    took = lightly_side.train(lambda: lightly_side.METHODS[name](encoder, size), paths, steps, chosen, theirs=theirs)
    return encoder, info, took


def train_all(name: str, runs: Path, minutes: float, size: int) -> None:
    """Scotoma's network in ``runs/NAME``, lightly's in ``runs/NAME-SIDE.safetensors``, each of the steps that the minutes allow."""
    from scotoma.commands.pretrain import pretrain
    from scotoma.models import encoders
    from scotoma.run_folder import read_rows, status

    measured = json.loads((RESULTS / "peers_rates.json").read_text())
    pace = measured["rates"][name]
    if status(runs / name) != "finished":
        steps = round((60 * minutes - measured["seconds_preparing"]) * pace["scotoma"] / pace["batch_size"])
        pretrain(str(DATA), name, runs / name, steps=steps, size=size, overwrite=True, quiet=True)
    rows = {row["metric"]: row["value"] for row in read_rows(runs / name)}
    print(name, "scotoma", {k: rows[k] for k in ("images_per_second", "images_seen", "seconds")}, flush=True)
    for side, own in SIDES.items():
        theirs = runs / f"{name}-{side}.safetensors"
        if theirs.exists():
            continue
        batch_size = lightly_side.METHODS[name].batch_size if own else pace["batch_size"]
        steps = round((60 * minutes - pace[f"{side}_starting"]) * pace[side] / batch_size)
        encoder, info, took = lightly_trained(name, size, steps, own)
        print(name, side, took, flush=True)
        info.mean, info.std = (tuple(lightly_side.NORMALIZE[k]) for k in ("mean", "std"))
        info.method = {"name": f"lightly's {name}", **took}
        encoders.save(theirs, encoder, info)


def probes(source: Path, draws: int) -> tuple[list[list[np.ndarray]], np.ndarray, np.ndarray]:
    """Predictions of linear probes by fraction and draw, the test rows' labels, and their groups."""
    from scotoma.data.datamodule import gather
    from scotoma.evaluators.base import Context
    from scotoma.models import encoders, linear_probe

    encoder, info, _ = encoders.load(source)
    material = gather(data=str(DATA), target=["label"], size=info.image_size, channels=info.in_chans, quiet=True)
    assert material.target is not None
    context = Context(encoder, info, None, material.dataset, material.store, material.split, material.target, FRACTIONS, draws)
    found: dict[float, list[np.ndarray]] = {f: [] for f in FRACTIONS}
    for drawn in context.draws():
        found[drawn.fraction].append(linear_probe.predict(context.features, context.target, drawn, context.test))
    return list(found.values()), context.target.y[context.test], context.split.units[context.test]


def compare(names: list[str], runs: Path, draws: int) -> list[dict[str, Any]]:
    """Rows of differences (Scotoma less lightly) a method, side and fraction, and of their mean over methods."""
    from scotoma.metrics.classification import score
    from scotoma.metrics.intervals import leave_out, over_draws
    from scotoma.metrics.support import Support

    rows: list[dict[str, Any]] = []
    samples: dict[str, list[list[np.ndarray]]] = {side: [] for side in SIDES}

    def of(differences: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
        found = over_draws(differences, "difference", Support.of(groups))
        return {"difference": found["value"], "low": found["low"], "high": found["high"], "draws": found["draws"]}

    for name in names:
        ours, y, groups = probes(runs / name, draws)
        weights = leave_out(groups, len(y))
        for side in SIDES:
            theirs, same, _ = probes(runs / f"{name}-{side}.safetensors", draws)
            assert np.array_equal(y, same)
            of_name = []  # below, scores are (2, 1 + B, draws)
            for fraction, a, b in zip(FRACTIONS, ours, theirs, strict=True):
                scores = np.stack([np.stack([score("auroc", y, p, weights) for p in one], 1) for one in (a, b)])
                of_name.append(scores[0] - scores[1])
                values = {"scotoma": float(scores[0, 0].mean()), "lightly": float(scores[1, 0].mean())}
                rows.append({"method": name, "side": side, "fraction": fraction, **values, **of(of_name[-1], groups)})
            samples[side].append(of_name)
    for side, of_side in samples.items():
        for k, fraction in enumerate(FRACTIONS):
            mean = np.mean([of_name[k] for of_name in of_side], 0)
            rows.append({"method": "mean", "side": side, "fraction": fraction, **of(mean, groups)})
    return rows


def quality(options: argparse.Namespace) -> None:
    """Train what is not trained yet, probe, print and save."""
    from scotoma.run_folder import hardware, read_rows, versions

    runs, names = Path(options.runs), options.methods.split(",")
    runs.mkdir(parents=True, exist_ok=True)
    for name in names:
        train_all(name, runs, options.minutes, options.size)
    rows = compare(names, runs, options.draws)
    for row in rows:
        print(row)
    from scotoma.data.encoder_header import read_info

    speed = {}
    for name in names:
        ours = {row["metric"]: row["value"] for row in read_rows(runs / name)}
        theirs = {side: read_info(runs / f"{name}-{side}.safetensors").method["images_seen"] for side in SIDES}
        speed[name] = {"scotoma": ours["images_seen"], **theirs}
    result = {"rows": rows, "images_seen": speed, "minutes": options.minutes, "hardware": hardware(), "versions": versions()}
    (RESULTS / "peers_quality.json").write_text(json.dumps(result, indent=1) + "\n")
