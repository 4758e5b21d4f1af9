"""A million rows: how long a table takes to be read and split, how long a store takes to open, and the memory of each.

python benchmarks/scale.py [--rows 1000000]     writes benchmarks/results/scale.json

The table names files that do not exist (nothing is decoded): 300,000 patients, fourteen 0/1/missing findings. The store's pixels
are a sparse file: 64 x 64 pixels a row that take no room. Each step runs in a process of its own; seconds are of the wall clock
and of the processor, imports of pandas and Scotoma included, which the empty step shows by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from scotoma.data import dataset as dataset_
from scotoma.data import sources
from scotoma.data.io.read import Display
from scotoma.data.store import store
from scotoma.run_folder import hardware

OUT = Path(__file__).parent / "results" / "scale.json"
FINDINGS = tuple(f"finding_{k}" for k in range(14))
RATES = np.array([0.5, 0.3, 0.2, 0.1, 0.1, 0.05, 0.05, 0.02, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005])
SIDE = 64
STEPS = (
    "nothing",
    "load the table",
    "load, read fourteen targets and draw a split",
    "scotoma split",
    "open the store",
    "split the store",
)


def make(folder: Path, rows: int) -> None:
    """A CSV and a sparse store of so many rows."""
    rng = np.random.default_rng(0)
    patient = rng.integers(0, max(1, rows * 3 // 10), rows)
    labels = np.where(rng.random((rows, 14)) < 0.2, -1, rng.random((rows, 14)) < RATES)
    frame = pd.DataFrame(
        {"image_path": [f"files/p{p // 1000}/p{p}/{k}.jpg" for k, p in enumerate(patient.tolist())], "patient": patient}
    )
    for k, name in enumerate(FINDINGS):
        frame[name] = pd.Series(labels[:, k], dtype="Int8").where(labels[:, k] >= 0)
    frame.to_csv(folder / "table.csv", index=False)
    prepared = folder / "store"
    prepared.mkdir()
    settings = {
        "protocol": store.PROTOCOL,
        "name": "scale",
        "side": SIDE,
        "channels": 1,
        "display": Display().settings(),
        "fingerprint": "",
    }
    (prepared / "store.json").write_text(json.dumps(settings))
    np.lib.format.open_memmap(prepared / "pixels.npy", "w+", np.uint8, (rows, SIDE, SIDE, 1)).flush()
    np.save(prepared / "hashes.npy", rng.integers(0, 256, (rows, 32), dtype=np.uint8))
    pd.DataFrame({"content": [f"{k:032x}" for k in range(rows)], "error": pd.Series(None, range(rows), object)}).to_parquet(
        prepared / "facts.parquet"
    )
    hashed = frame.drop(columns="image_path").assign(patient=[f"{p:032x}" for p in patient.tolist()], row=np.arange(rows))
    hashed.to_parquet(prepared / dataset_.TABLE)


def step(name: str, folder: Path) -> None:
    """Do one step."""
    from scotoma.commands.split import split
    from scotoma.data.labels import targets
    from scotoma.data.splits import splits, units

    if name.startswith("load"):
        dataset = sources.load(folder / "table.csv")
        if "split" in name:
            y = targets.read(dataset, FINDINGS).y
            of = splits.draw(units.codes_of(dataset, "patient"), y, 0, splits.SHARES)
            print(json.dumps({"rows": len(dataset), "worst": worst(y, of)}))
    elif name == "scotoma split":
        split(folder / "table.csv", folder / "split.parquet", target=list(FINDINGS), quiet=True)
    elif name.endswith("store"):
        dataset, opened = store.prepare(sources.load(folder / "store"), 48, quiet=True)
        opened.batch(np.random.default_rng(0).integers(0, len(dataset), 256))
        if name.startswith("split"):
            splits.make(dataset, opened, targets.read(dataset, FINDINGS).y, 0)


def worst(y: np.ndarray, of: np.ndarray) -> float:
    """The largest difference, in rows, between any finding's count on any side and its share."""
    positives = (y == 1).sum(0)
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    return float(max(np.abs((y[of == name] == 1).sum(0) - share * positives).max() for name, share in shares.items()))


def measure(name: str, folder: Path) -> dict[str, object]:
    """Run one step in a process of its own (whose peak memory starts at this one's, so this one must stay small)."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--step", name, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stdout.splitlines()
    peak = json.loads(lines[-1])["peak_memory_bytes"]
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"step": name, "seconds": round(seconds, 1), "processor_seconds": round(processor, 1), "peak_memory_bytes": peak}
    return found | (json.loads(lines[0]) if len(lines) > 1 else {})


def main() -> None:
    """Measure all steps, or do one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--step")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step == "make":
        make(arguments.folder, arguments.rows)
        return
    if arguments.step:
        step(arguments.step, arguments.folder)
        print(json.dumps({"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
        return
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, __file__, "--step", "make", "--folder", name, "--rows", str(arguments.rows)]
        subprocess.run(command, check=True)
        steps = [measure(one, Path(name)) for one in STEPS]
    found = {"rows": arguments.rows, "hardware": hardware(), "load": os.getloadavg()[0], "steps": steps}
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
