"""How long a command takes to its first step: Scotoma's beside lightly's example, in turn in one run.

python benchmarks/start.py [--rounds 5] [--size 96] [--batch 64]       alone on the machine

Both take the images of $SCOTOMA_DATA/brain_tumor_mri, ResNet-18, SimCLR, the same size and batch. Scotoma is its command, the store
in the cache as after a first run; lightly's side is a plain script (``lightly_start.py``) without Lightning. The seconds count from
the command until the first step is taken and, of Scotoma, logged. Then what ``evaluate``, ``embed`` and every ``--help`` take,
and where the seconds before Scotoma's first step go (``python -X importtime`` in a run of its own; its sum is larger than without).
Medians of the rounds go into results/start.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from watching import watched

FILE = Path(__file__).parent / "results" / "start.json"
DATA = Path(os.environ.get("SCOTOMA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "brain_tumor_mri"
COMMAND = [sys.executable, "-m", "scotoma"]
HELPS = ("", "pretrain", "finetune", "evaluate", "embed", "study", "prepare", "split", "audit", "report", "find", "purge", "demo")
SHOWN = 12  # packages
FEW = 200  # images of each part of the split


def scotoma(folder: Path, options: argparse.Namespace, data: str = str(DATA / "table.csv")) -> list[str]:
    """Its command, of a few steps."""
    return [
        *COMMAND, "pretrain", data, "--size", str(options.size), "--batch_size", str(options.batch),
        "--steps", "10", "--out", str(folder), "--quiet",
    ]  # fmt: skip


def one_round(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each side, in turn."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        log = run / "metrics.csv"
        ours = watched(scotoma(run, options), lambda _: log.exists() and log.read_text().count("\n") > 1)["first_step"]
        script = [sys.executable, str(Path(__file__).with_name("lightly_start.py")), str(DATA / "images")]
        theirs = watched([*script, str(options.size), str(options.batch)], lambda said: "first step" in said)["first_step"]
    print(f"Scotoma {ours:.1f} s, lightly {theirs:.1f} s", flush=True)
    return {"scotoma": ours, "lightly": theirs, "ratio": ours / theirs}


def other_verbs(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of ``embed`` and of ``evaluate`` (a linear probe) on FEW images, to their ends."""
    import pandas as pd

    table = pd.read_csv(DATA / "table.csv").groupby("split").sample(FEW, random_state=0)
    table["image_path"] = str(DATA) + "/" + table["image_path"]
    with tempfile.TemporaryDirectory() as name:
        run, few = f"{name}/run", f"{name}/few.csv"
        table.to_csv(few, index=False)
        watched(scotoma(Path(run), options, few))
        embed = watched([*COMMAND, "embed", run, few, "--out", f"{name}/e.parquet", "--quiet"])["seconds"]
        evaluate = watched([*COMMAND, "evaluate", run, few, "--target", "label", "--quiet"])["seconds"]
    return {"embed": round(embed, 2), "evaluate": round(evaluate, 2)}


def imports(options: argparse.Namespace) -> dict[str, float]:
    """Package -> seconds that its modules take, of all that is imported until Scotoma's first step, the longest first."""
    with tempfile.TemporaryDirectory() as name:
        command = scotoma(Path(name) / "run", options)
        done = subprocess.run([command[0], "-X", "importtime", *command[1:]], capture_output=True, text=True, check=True)
    found: dict[str, float] = {}
    for line in done.stderr.splitlines():
        if match := re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)\.?([\w.]*)", line):
            package = f"torch.{match[3].partition('.')[0]}" if match[2] == "torch" and match[3].startswith("_") else match[2]
            if package in ("matplotlib", "tensorboard", "pyparsing", "mpl_toolkits"):
                continue  # after the last step: figures and logs
            found[package] = found.get(package, 0.0) + int(match[1]) / 1e6
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    from scotoma.run_folder import hardware, versions

    one_round(options)  # for the store and the disk's pages
    rounds = [one_round(options) for _ in range(options.rounds)]
    found = {key: round(median(one[key] for one in rounds), 2) for key in rounds[0]}
    print(f"first step: Scotoma {found['scotoma']} s, lightly {found['lightly']} s, ratio {found['ratio']} (median of the rounds)")
    found |= other_verbs(options)
    print(f"embed {found['embed']} s, evaluate (a linear probe) {found['evaluate']} s, to their ends", flush=True)
    helps = {verb: round(median(watched([*COMMAND, *verb.split(), "--help"])["seconds"] for _ in range(3)), 2) for verb in HELPS}
    print("--help:", ", ".join(f"{verb or 'scotoma'} {seconds}" for verb, seconds in helps.items()))
    remains = imports(options)
    print("imports until the first step, seconds:")
    for package, seconds in list(remains.items())[:SHOWN]:
        print(f"  {package:<24}{seconds:6.2f}")
    rest = sum(list(remains.values())[SHOWN:])
    print(f"  {'others':<24}{rest:6.2f}\n  {'together':<24}{sum(remains.values()):6.2f}")
    content = {
        **vars(options), **found, "all": rounds, "help": helps,
        "imports": {k: round(v, 3) for k, v in list(remains.items())[:SHOWN]} | {"others": round(rest, 3)},
        "hardware": hardware(), "versions": versions(),
    }  # fmt: skip
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
