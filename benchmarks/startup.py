"""Seconds until something happens, and peak memory, of Scotoma and lightly; run it alone on the machine.

python benchmarks/startup.py [--methods simclr,moco_v2,mae,dino,msn] [--size 96]     writes benchmarks/results/startup.json

Of each command a process of its own is started and watched. First step: from the start of the process to its first optimiser step
done, Scotoma's store prepared beforehand; lightly's from ``benchmarks/lightly_side.py`` with two workers. Memory: the greatest sum
over the process and its children of what is theirs alone (``RssAnon``; pages of mapped files, which the system takes back when it
needs them, are told apart) within ``--steps`` steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "results" / "startup.json"
DATA = Path(os.environ.get("SCOTOMA_DATA", ROOT.parent / "shared" / "data")) / "brain_tumor_mri" / "table.csv"
HELPS = {
    "scotoma --help": ["scotoma", "--help"],
    "scotoma pretrain --help": ["scotoma", "pretrain", "--help"],
    "scotoma list methods": ["scotoma", "list", "methods"],
    "lightly-ssl-train --help": ["lightly-ssl-train", "--help"],
    "lightly-train --help": ["lightly-train", "--help"],
}


def family(pid: int) -> list[int]:
    """A process and its children, grandchildren and so on."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in family(int(child)))]


def resident(pid: int) -> dict[str, int]:
    """Bytes of a process: its own, and of mapped files."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return {name: 1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile")}
    except (OSError, KeyError, ValueError):  # it has just ended
        return {"RssAnon": 0, "RssFile": 0}


def watched(command: list[str], mark: Path | None = None) -> dict[str, float]:
    """Run a command to its end: seconds, seconds until the file ``mark`` had a second line, and its peak memory."""
    began = time.perf_counter()
    found: dict[str, float] = {"own_bytes": 0, "file_bytes": 0}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            sizes = [resident(pid) for pid in family(process.pid)]
            found["own_bytes"] = max(found["own_bytes"], sum(s["RssAnon"] for s in sizes))
            found["file_bytes"] = max(found["file_bytes"], sum(s["RssFile"] for s in sizes))
            if mark and "first_step" not in found and mark.exists() and mark.read_text().count("\n") > 1:
                found["first_step"] = time.perf_counter() - began
            time.sleep(0.02)
        said.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: {said.read().decode()[-2000:]}")
    return found | {"seconds": time.perf_counter() - began}


def one_lightly(name: str, size: int, steps: int, mark: Path) -> None:
    """What the process of lightly's side does: imports and so many steps, each a line in ``mark``."""
    import csv

    import lightly_side

    from scotoma import encoders, plugins

    chosen = plugins.method(name)
    network, kwargs = encoders.resolve(chosen.default_encoder, size)
    kwargs |= {"dynamic_img_size": True} if network.startswith("vit") else {}
    encoder = encoders.build(encoders.EncoderInfo(network, kwargs, 3, size, (0.4,) * 3, (0.2,) * 3))
    with DATA.open() as file:
        paths = [str(DATA.parent / row["image_path"]) for row in csv.DictReader(file) if row["split"] == "train"]
    mark.write_text("step\n")

    def told(done: int) -> None:
        with mark.open("a") as file:
            file.write(f"{done}\n")

    lightly_side.train(
        name, encoder, paths, size, steps, chosen.batch_size, chosen.learning_rate, chosen.weight_decay, chosen.warmup, after=told
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="simclr,moco_v2,mae,dino,msn")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--lightly", help="be lightly's process for this method")
    parser.add_argument("--mark", type=Path)
    options = parser.parse_args()
    if options.lightly:
        return one_lightly(options.lightly, options.size, options.steps, options.mark)
    from scotoma.run import hardware, versions

    programs = Path(sys.executable).parent
    found: dict[str, Any] = {"help": {}, "methods": {}}
    for words, command in HELPS.items():
        if (programs / command[0]).exists():
            watched([str(programs / command[0]), *command[1:]])  # once for the disk's sake
            found["help"][words] = watched([str(programs / command[0]), *command[1:]])["seconds"]
            print(words, found["help"][words], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shared = ["--size", str(options.size), "--steps", str(options.steps)]
        for name in options.methods.split(","):
            out, mark = Path(folder) / name, Path(folder) / f"{name}.txt"
            ours = [str(programs / "scotoma"), "pretrain", "--data", str(DATA), "--method", name, "--out", str(out), *shared]
            if not found["methods"]:  # the store is made, once
                watched([*ours[:-1], "1", "--out", str(Path(folder) / "first")])
            theirs = [sys.executable, __file__, "--lightly", name, "--mark", str(mark), *shared]
            found["methods"][name] = {
                "scotoma": watched(ours, out / "metrics.csv"), "lightly": watched(theirs, mark),
            }  # fmt: skip
            print(name, found["methods"][name], flush=True)
    OUT.write_text(json.dumps({**found, "hardware": hardware(), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
