"""What to hide: kinds of masks under one method, on one budget, several pretrainings each.

python benchmarks/hiding.py paces --paces FILE.json     steps in --minutes on one core, measured alone on the machine
python benchmarks/hiding.py [--paces FILE.json] [--minutes 3] [--size 64] [--seeds 3] [--sets a,b] [--side_by_side 2] [--runs R]
python benchmarks/hiding.py gather [--runs runs/hiding]

A study a data set and seed: MAE with a ViT-Ti/8 and four kinds of masks, and MSMAE's own (attention, without labels); linear probes
with five draws of the labels, beside random weights. The seed changes weights, order and views (and the draws). Each study has one
core (``--side_by_side`` of them at a time), so a minute is one of one core. Resumable. Without ``--paces`` run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cells import write

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SCOTOMA_DATA", ROOT.parent / "shared" / "data"))
SETS = {"brain_tumor_mri": "auto", "ham10000": "dermoscopy"}
KINDS = {f"mae?masking={kind}": kind for kind in ("random", "block", "agent", "entropy")}
KINDS["msmae?label_free=true&warmup_epochs=1&attention_interval=1"] = "attention, as MSMAE"
FRACTIONS = "0.01,0.1,1"


def command(name: str, seed: int, options: argparse.Namespace) -> list[str]:
    """One study."""
    folder = Path(options.runs) / f"{name}-{seed}"
    given = {
        "data": DATA / name / "table.csv", "target": "label", "methods": ",".join(KINDS), "encoder": "vit_tiny_patch8",
        "fractions": FRACTIONS, "seeds": 5, **budget(name, options), "size": options.size, "seed": seed, "modes": "linear",
        "controls": "random", "modality": SETS[name], "out": folder,
    }  # fmt: skip
    flags = [str(part) for key, value in given.items() for part in (f"--{key}", value)]
    return ["study", *flags, "--quiet", *(["--resume"] if folder.exists() else [])]


def budget(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The steps of each kind that were measured alone, else minutes."""
    if not options.paces:
        return {"minutes": options.minutes}
    paces = json.loads(options.paces.read_text())
    return {"steps": json.dumps({kind: paces[f"{name}/{kind}"] for kind in KINDS})}


def pace(options: argparse.Namespace) -> None:
    """Measure the steps of every kind on each set, on one core."""
    core = str(min(os.sched_getaffinity(0)))
    for name, modality in SETS.items():
        flags = ["--out", options.paces, "--methods", ",".join(KINDS), "--data", name, "--minutes", options.minutes]
        flags += ["--size", options.size, "--encoder", "vit_tiny_patch8", "--modality", modality, "--window", 0.3]
        program = [sys.executable, str(ROOT / "benchmarks" / "paces.py"), *map(str, flags)]
        subprocess.run(["taskset", "-c", core, *program], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def run(options: argparse.Namespace) -> None:
    """All studies that are not done, so many at a time, each on one core."""
    waiting = [
        command(name, seed, options)
        for seed in range(options.seeds)
        for name in options.sets.split(",")
        if not (Path(options.runs) / f"{name}-{seed}" / "report.html").exists()
    ]
    cores = sorted(os.sched_getaffinity(0))
    for start in range(0, len(waiting), options.side_by_side):
        running = [
            subprocess.Popen(
                ["taskset", "-c", str(cores[k % len(cores)]), str(Path(sys.executable).with_name("scotoma")), *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for k, arguments in enumerate(waiting[start : start + options.side_by_side])
        ]
        if any([process.wait() for process in running]):
            raise SystemExit("a study failed")
        gather(options)


def gather(options: argparse.Namespace) -> None:
    """One line a set, kind, fraction and seed: the mean AUROC over draws."""
    lines: list[dict[str, Any]] = []
    for path in sorted(Path(options.runs).glob("*/rows.jsonl")):
        name, _, seed = path.parent.name.rpartition("-")
        for row in map(json.loads, path.read_text().splitlines()):
            line = {"data": name, "seed": int(seed)}
            if row["evaluator"] == "linear" and row["metric"] == "auroc" and row.get("seed") is None and row.get("class") is None:
                line |= {"fraction": row["fraction"], "value": row["value"]}
                of = [KINDS[method] for method in row.get("control_of", "").split(",") if method]
                named = {"kind": f"random weights of {'; '.join(of)}", "control_of": row["control_of"]} if of else {}
                lines.append({**line, "kind": KINDS.get(row["method"]), **named})
            elif row["evaluator"] == "pretrain" and row["metric"] == "images_seen":
                lines.append({**line, "kind": KINDS[row["method"]], "images_seen": row["value"]})
    write("hiding", lines)


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", default="run", choices=("run", "gather", "paces"))
    parser.add_argument("--paces", type=Path)
    parser.add_argument("--minutes", type=float, default=3)
    for name, value in (("size", 64), ("seeds", 3), ("side_by_side", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--runs", default="runs/hiding")
    options = parser.parse_args()
    Path(options.runs).mkdir(parents=True, exist_ok=True)
    {"run": run, "gather": gather, "paces": pace}[options.action](options)


if __name__ == "__main__":
    main()
