"""Scotoma against other programs on one machine: images a second, the first step, memory; and what equal time is worth.

python benchmarks/peers.py [--methods a,b] [--window 0.5] [--rounds 1] [--again]       alone on the machine
python benchmarks/peers.py --quality [--minutes 5] [--methods simclr,moco_v2,mae,dino,msn] [--draws 10] [--runs runs/peers]

Speed, into results/peers_rates.json: every side trains in a process of its own, in turn, on the images of
$SCOTOMA_DATA/brain_tumor_mri with the same network and size, ``--window`` minutes; of several rounds the median counts. A method
may name arguments and a network, ``mae?decoder_dim=512@vit_tiny_patch8``. Scotoma is its own command, its store prepared beforehand
(the seconds that takes are told). lightly runs as its documentation's examples show (``lightly_side.py``: its transforms on PIL
images in worker processes, its heads and losses, three channels, float32), with Scotoma's batch size, AdamW and schedule
(``lightly``) and with its examples' own (``lightly_own``); ViTMAE of transformers and the published MSMAE step (``other_sides.py``)
likewise. ``lightly-train`` is its own command, where ``--lightly_train`` names its program. The first step counts from the command,
imports included. What the file holds is not measured again without ``--again``; ``--memory`` measures Scotoma's memory anew, beside
whatever else runs.

Quality: ``quality.py``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from watching import watched

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "peers_rates.json"
DATA = Path(os.environ.get("SCOTOMA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "brain_tumor_mri" / "table.csv"
PROGRAMS = Path(sys.executable).parent
SAME_DECODER = "mae?decoder_dim=512&decoder_depth=1&decoder_heads=16@vit_tiny_patch8"  # as lightly's example
METHODS = f"simclr,moco_v2,byol,dino,mae,msn,{SAME_DECODER},dino@vit_tiny_patch8,msn@vit_tiny_patch8,msmae"
LIGHTLY_TRAIN = {"simclr": "torchvision/resnet18", "dino": "torchvision/resnet18"}  # what it has of the methods, and its network
LIGHTLY_TRAIN_BATCH = 64
TRAINED_LIGHTLY = (4, 14)  # steps of the two runs of its command whose difference is its pace
HELPS = ("scotoma --help", "scotoma pretrain --help", "scotoma list methods", "lightly-ssl-train --help")
Found = dict[str, float]


def parts(case: str) -> tuple[str, str, str]:
    """``mae?a=1@vit`` -> method, its arguments, and the network ("": the method's own)."""
    described, _, network = case.partition("@")
    name, _, query = described.partition("?")
    return name, query, network


def sides(case: str, lightly_train: str | None) -> list[str]:
    """Who can do this; with a network named, the comparison is of like with like."""
    name, _, network = parts(case)
    if name == "msmae":
        return ["scotoma", "published"]
    found = ["scotoma", "lightly", *([] if network else ["lightly_own"]), *(["transformers"] if name == "mae" else [])]
    return found + (["lightly-train"] if lightly_train and name in LIGHTLY_TRAIN and not network else [])


def scotoma(case: str, options: argparse.Namespace, folder: Path) -> Found:
    """Its command: once for a few steps, of which the first is waited for, and once for minutes."""
    from scotoma import plugins
    from scotoma.run_folder import read_config, read_rows

    name, query, network = parts(case)
    command = [str(PROGRAMS / "scotoma"), "pretrain", "--data", str(DATA), "--method", name, "--size", str(options.size), "--quiet"]
    command += [f"--method.{pair}" for pair in query.split("&") if pair]
    command += ["--encoder", network] if network else []
    command += ["--target", "label"] if plugins.method(name).needs_labels else []
    log, out = folder / "first" / "metrics.csv", folder / "run"
    begun = watched(
        [*command, "--steps", "20", "--out", str(log.parent)], lambda _: log.exists() and log.read_text().count("\n") > 1
    )
    seen = watched([*command, "--minutes", str(options.window), "--out", str(out)])
    rows = {row["metric"]: row["value"] for row in read_rows(out)}
    rate = rows["steps"] / rows["seconds"] * float(read_config(out)["batch_size"])
    return seen | {"first_step": begun["first_step"], "images_per_second": rate}


def other(case: str, side: str, options: argparse.Namespace, folder: Path) -> Found:
    """A process of this file, which trains another side's example."""
    mark, out = folder / "steps.txt", folder / "found.json"
    command = [sys.executable, __file__, "--be", side, "--methods", case, "--size", str(options.size), "--mark", str(mark)]
    command += ["--window", str(options.window), "--out", str(out)]
    seen = watched(command, lambda _: mark.exists() and bool(mark.read_text()))
    return seen | json.loads(out.read_text())


def be(side: str, case: str, options: argparse.Namespace) -> None:
    """What that process does."""
    import lightly_side

    from scotoma import plugins
    from scotoma.data import encoder_header
    from scotoma.models import encoders

    name, query, network = parts(case)
    chosen, given = plugins.variant(f"{name}?{query}")
    timm_name, kwargs = encoders.resolve(network or chosen.encoder_at(options.size), options.size)
    kwargs |= {"dynamic_img_size": True} if timm_name.startswith("vit") and side.startswith("lightly") else {}
    encoder = encoders.build(encoder_header.EncoderInfo(timm_name, kwargs, 3, options.size, (0.4,) * 3, (0.2,) * 3))
    with DATA.open() as file:
        paths = [str(DATA.parent / row["image_path"]) for row in csv.DictReader(file) if row["split"] == "train"]

    def build() -> Any:
        if side.startswith("lightly"):
            return lightly_side.METHODS[name](encoder, options.size)
        import other_sides

        return other_sides.SIDES[side](encoder, options.size, chosen.settings(given))

    def told(done: int) -> None:
        with options.mark.open("a") as file:
            file.write(f"{done}\n")

    took = lightly_side.train(build, paths, 10**6, chosen, 60 * options.window, side == "lightly_own", told)
    options.out.write_text(json.dumps({k: took[k] for k in ("images_per_second", "seconds_starting")}))


def lightly_train(case: str, options: argparse.Namespace, folder: Path) -> Found:
    """Its command, once for few and once for more steps; its pace is by their difference."""
    size, name = options.size, parts(case)[0]
    command = [
        options.lightly_train,
        "pretrain",
        f"data={DATA.parent / 'images'}",
        f"method={name}",
        "num_workers=2",
        "batch_size=64",
    ]
    command += [f"model={LIGHTLY_TRAIN[name]}", f"transform_args.image_size=[{size},{size}]"]
    command += [f"transform_args.local_view.view_size=[{size // 2},{size // 2}]"] if name == "dino" else []
    few, more = (
        watched([*command, f"out={folder / str(steps)}", f"trainer_args.max_steps={steps}"], lambda said: "train_loss=" in said)
        for steps in TRAINED_LIGHTLY
    )
    steps = TRAINED_LIGHTLY[1] - TRAINED_LIGHTLY[0]
    return more | {"images_per_second": LIGHTLY_TRAIN_BATCH * steps / (more["seconds"] - few["seconds"])}


def seconds_preparing(size: int) -> float:
    """What decoding all images into a store takes Scotoma, which others do as they go."""
    command = [str(PROGRAMS / "scotoma"), "prepare", "--data", str(DATA), "--size", str(size), "--quiet", "--out"]
    with tempfile.TemporaryDirectory() as folder:
        nothing = watched([str(PROGRAMS / "scotoma"), "prepare", "--help"])["seconds"]
        return watched([*command, f"{folder}/store"])["seconds"] - nothing


def measured(case: str, options: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """All sides of a method in turn, as many rounds; medians."""
    from scotoma import plugins

    ways: dict[str, Callable[..., Found]] = {"scotoma": scotoma, "lightly-train": lightly_train}
    wanted = [
        side for side in sides(case, options.lightly_train) if options.again or "first_step" not in known.get(f"{side}_process", {})
    ]
    taken: dict[str, list[Found]] = {side: [] for side in wanted}
    for _ in range(options.rounds):
        for side in wanted:
            with tempfile.TemporaryDirectory() as folder:
                given = (case, options, Path(folder))
                taken[side].append(ways[side](*given) if side in ways else other(case, side, options, Path(folder)))
    found: dict[str, Any] = {"batch_size": plugins.method(parts(case)[0]).batch_size}
    for side, rounds in taken.items():
        middle = {key: median(one[key] for one in rounds) for key in rounds[0]}
        found |= {side: middle.pop("images_per_second"), f"{side}_process": middle}
        if "seconds_starting" in middle:
            found[f"{side}_starting"] = middle.pop("seconds_starting")
    return known | found


def speed(options: argparse.Namespace) -> None:
    """Measure method by method; the file is written after each."""
    from scotoma.run_folder import hardware, versions

    found = json.loads(FILE.read_text()) if FILE.exists() else {"rates": {}}
    found["size"] = options.size
    helps = {words: [str(PROGRAMS / words.split()[0]), *words.split()[1:]] for words in HELPS}
    helps |= {"lightly-train --help": [options.lightly_train, "--help"]} if options.lightly_train else {}
    known = {} if options.again else found.get("help", {})
    found["help"] = known | {  # the first is for the disk's sake
        words: [watched(command)["seconds"] for _ in range(2)][1] for words, command in helps.items() if words not in known
    }
    if options.again or "seconds_preparing" not in found:
        found["seconds_preparing"] = seconds_preparing(options.size)
    with tempfile.TemporaryDirectory() as folder:  # the store in the user's cache, and the disk's pages
        once = [str(PROGRAMS / "scotoma"), "pretrain", "--data", str(DATA), "--method", "simclr", "--steps", "1"]
        watched([*once, "--size", str(options.size), "--out", f"{folder}/run"])
    for case in options.methods.split(","):
        if options.memory:
            with tempfile.TemporaryDirectory() as folder:
                mine = scotoma(case, options, Path(folder))
            found["rates"][case]["scotoma_process"] |= {key: mine[key] for key in ("own_bytes", "file_bytes")}
        else:
            found["rates"][case] = measured(case, options, found["rates"].get(case, {}))
        print(case, json.dumps(found["rates"][case], indent=1), flush=True)
        FILE.write_text(json.dumps({**found, "hardware": hardware(), "versions": versions()}, indent=1) + "\n")


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--methods")
    for name, value in (("rounds", 1), ("size", 96), ("draws", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--window", type=float, default=0.5, help="minutes of each measurement of a rate")
    parser.add_argument("--again", action="store_true", help="measure what the results hold already, too")
    parser.add_argument("--memory", action="store_true", help="the memory of Scotoma's side alone, anew")
    parser.add_argument("--lightly_train", help="the program lightly-train, of an environment of its own")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--runs", default="runs/peers")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    parser.add_argument("--mark", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quality:
        import quality

        options.methods = options.methods or "simclr,moco_v2,mae,dino,msn"
        return quality.quality(options)
    options.methods = options.methods or METHODS
    return be(options.be, options.methods, options) if options.be else speed(options)


if __name__ == "__main__":
    main()
