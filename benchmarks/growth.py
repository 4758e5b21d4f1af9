"""How cost grows with images, their size, and processes; run it alone on the machine.

python benchmarks/growth.py [--window 0.25]     writes benchmarks/results/growth.json and docs/results/growth.png

Images: seconds of the processor for reading a table of so many rows with fourteen findings and splitting it, and for opening a
store of them (``scale.py``'s steps, less the imports). Size: images a second in training, $SCOTOMA_DATA/brain_tumor_mri, the
store prepared beforehand, each method with its default network. Processes: the same at 96 pixels with one process on each of so
many cores, beside one process on as many cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import paces
import scale

from scotoma.run_folder import hardware, read_config, read_rows, versions

RESULTS = Path(__file__).parent / "results"
ROWS = (10_000, 100_000, 1_000_000)
STEPS = ("load, read fourteen targets and draw a split", "open the store")
SIZES = (48, 64, 96, 128, 192, 224)
METHODS = ("simclr", "mae")
PACES = (25, 50, 100, 200, 400, 800)  # ticks


def example_images() -> list[dict[str, Any]]:
    """Processor seconds by rows."""
    found = []
    for rows in ROWS:
        with tempfile.TemporaryDirectory() as name:
            program = [sys.executable, str(Path(__file__).with_name("scale.py")), "--step", "make", "--folder", name]
            subprocess.run([*program, "--rows", str(rows)], check=True)
            nothing = scale.measure("nothing", Path(name))
            for step in STEPS:
                took = scale.measure(step, Path(name))
                seconds = round(took["processor_seconds"] - nothing["processor_seconds"], 1)  # type: ignore[operator]
                found.append({"rows": rows, "step": step, "processor_seconds": seconds})
    return found


def sizes(window: float) -> list[dict[str, Any]]:
    """Images a second by method and size."""
    found = []
    for method in METHODS:
        for size in SIZES:
            steps, batch_size = paces.rate("brain_tumor_mri", method, size, window)
            found.append({"method": method, "size": size, "images_per_second": steps * batch_size})
            print(found[-1], flush=True)
    return found


def processes(window: float) -> list[dict[str, Any]]:
    """Images a second of the whole by processes and cores."""
    found = []
    cores = sorted(os.sched_getaffinity(0))
    program = str(Path(sys.executable).with_name("scotoma"))
    for method in METHODS:
        for count, used in ((1, 1), (1, len(cores)), (len(cores), len(cores))):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "run"
                command = [program, "pretrain", "--data", str(paces.DATA / "brain_tumor_mri" / "table.csv"), "--method", method]
                command += ["--size", "96", "--minutes", str(window), "--devices", str(count), "--out", str(out), "--quiet"]
                environment = os.environ | {"OMP_NUM_THREADS": str(used // count)}
                subprocess.run(["taskset", "-c", ",".join(map(str, cores[:used])), *command], env=environment, check=True)
                rows = {row["metric"]: row["value"] for row in read_rows(out)}
                rate = rows["steps"] / rows["seconds"] * int(read_config(out)["batch_size"])
                found.append({"method": method, "processes": count, "cores": used, "images_per_second": rate})
                print(found[-1], flush=True)
    return found


def draw(found: dict[str, Any], file: Path) -> None:
    """Three figures side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for step, mark in zip(STEPS, "os", strict=True):
        of = [one for one in found["images"] if one["step"] == step]
        left.loglog([one["rows"] for one in of], [max(0.1, one["processor_seconds"]) for one in of], marker=mark, label=step)
    left.set(xlabel="rows of the table", ylabel="seconds of the processor (0.1: or less)")
    for method, mark in zip(METHODS, "os", strict=True):
        of = [one for one in found["sizes"] if one["method"] == method]
        middle.loglog([one["size"] for one in of], [one["images_per_second"] for one in of], marker=mark, label=method)
    middle.set(xlabel="side of an image, pixels", ylabel="images a second")
    middle.set(xticks=SIZES, xticklabels=map(str, SIZES), yticks=PACES, yticklabels=map(str, PACES))
    middle.minorticks_off()
    kinds = list(dict.fromkeys((one["processes"], one["cores"]) for one in found["processes"]))
    for k, method in enumerate(METHODS):
        of = [one["images_per_second"] for one in found["processes"] if one["method"] == method]
        places = [place + 0.4 * k for place in range(len(kinds))]
        right.bar(places, of, 0.38, label=method, hatch="//" if k else "", edgecolor="white")
        for place, value in zip(places, of, strict=True):
            right.annotate(f"{value:.0f}", (place, value), ha="center", va="bottom")
    words = [f"{a} process{'es' * (a > 1)},\n{b} core{'s' * (b > 1)}" for a, b in kinds]
    right.set(xticks=[place + 0.2 for place in range(len(kinds))], xticklabels=words, ylabel="images a second")
    for axes in (left, middle, right):
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=float, default=0.25, help="minutes of each training")
    options = parser.parse_args()
    found: dict[str, Any] = {"processes": processes(options.window), "sizes": sizes(options.window), "images": example_images()}
    found |= {"hardware": hardware(), "versions": versions()}
    (RESULTS / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, RESULTS.parents[1] / "docs" / "results" / "growth.png")


if __name__ == "__main__":
    main()
