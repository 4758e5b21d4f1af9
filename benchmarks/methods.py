"""Every method on one budget: linear probes beside random weights, one study a method, all kept in one table.

python benchmarks/methods.py run [--methods a,b] [--minutes 5] [--long 15] [--size 96] [--seeds 5] [--runs runs/methods]
python benchmarks/methods.py costs          times a step of each method, writes src/scotoma/methods/costs.json

``run`` is resumable: each method is a study in a folder of its own; what is done, or stands in benchmarks/results/methods.jsonl
(written after each; rows of an earlier version are dropped), is not done again. A budget of minutes counts what the machine gave:
run it alone, or measure the steps alone beforehand (benchmarks/paces.py) and name the file with ``--paces``. Methods that follow a
moving average (dino, msn, ijepa) get ``--long`` minutes. Methods that read labels are trained anew for each fraction and draw, so
they get three draws, the fewest from which a difference has an interval.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from cells import read_new, write

from scotoma import plugins
from scotoma.commands.study import study

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SCOTOMA_DATA", ROOT.parent / "shared" / "data"))
SLOW = ("dino", "msn", "ijepa")
FRACTIONS = [0.01, 0.1, 1.0]
KEPT = ("auroc", "auroc_difference", "images_per_second", "images_seen", "steps", "seconds", "effective_rank")
LABEL_DRAWS = 3
NOT_HERE = ("proxy",)  # brain_tumor_mri has no metadata; see docs/results/index.md for where it stands


def run(options: argparse.Namespace) -> None:
    """Study each method, then gather the rows."""
    wanted = options.methods.split(",") if options.methods else [m for m in plugins.names("methods") if m not in NOT_HERE]
    for name in wanted:
        folder = Path(options.runs) / name.replace("?", "_")
        if (folder / "report.html").exists() or (not options.again and any(row["method"] == name for row in read_new("methods"))):
            continue
        chosen, given = plugins.variant(name)
        reads_labels = chosen.requirements(chosen.settings(given)).labels
        study(
            DATA / options.data / "table.csv", [options.target], [name], folder, fractions=FRACTIONS,
            seeds=LABEL_DRAWS if reads_labels else options.seeds, size=options.size, modes=["linear"], controls=["random"],
            resume=folder.exists(), **budget(name, options),
        )  # fmt: skip
        gather(Path(options.runs))


def budget(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The steps that were measured alone for this method, else its minutes."""
    paces = json.loads(options.paces.read_text()) if options.paces else {}
    steps = paces.get(f"{options.data}/{name}")
    return {"steps": steps} if steps else {"minutes": options.long if name.partition("?")[0] in SLOW else options.minutes}


def gather(runs: Path) -> None:
    """Summary rows of all studies under ``runs``, each with its own control, beside the kept ones of other methods."""
    found = [json.loads(line) for path in sorted(runs.glob("*/rows.jsonl")) for line in path.read_text().splitlines()]
    rows = [r for r in found if r["metric"] in KEPT and r.get("seed") is None and r.get("class") is None]

    def method_of(row: dict[str, Any]) -> str:
        return str(row.get("control_of", row["method"]))

    new = set(map(method_of, rows))
    rows += [row for row in read_new("methods") if method_of(row) not in new]
    write("methods", sorted(rows, key=lambda r: (method_of(r), r["method"], r["evaluator"], r["metric"], r.get("fraction") or 0)))


def costs(options: argparse.Namespace) -> None:
    """Seconds a step and image of every method beside ``supervised`` with the same network, alternating, medians over rounds."""
    import torch

    from scotoma.data import encoder_header
    from scotoma.methods.parts.inputs import Column, Inputs
    from scotoma.models import encoders
    from scotoma.training import cpu_kernels
    from scotoma.training.trainer import step_loss, tune_for_cpu

    def step_of(name: str, network: str) -> Any:
        chosen = plugins.method(name)
        timm_name, kwargs = encoders.resolve(network, options.size)
        info = encoder_header.EncoderInfo(timm_name, kwargs, 1, options.size, (0.4,), (0.2,))
        requirements = chosen.requirements(chosen.settings({}))
        columns = tuple(Column(c) for c in requirements.columns)
        inputs = Inputs(options.size, 1, (0.4,), (0.2,), outputs=4, images=1000, columns=columns)
        method = chosen(encoders.build(info), inputs).to(memory_format=torch.channels_last).train()
        cpu_kernels.keep_memory()  # as the command does
        tune_for_cpu(method, "bf16-mixed")
        n = chosen.batch_size
        images = torch.randint(0, 256, (n, 1, 128, 128), dtype=torch.uint8)
        batch = {"images": images, "rows": torch.arange(n), "epochs": torch.full((n,), 9), "positions": torch.arange(n)}
        batch |= {"targets": torch.arange(n) % 4} if requirements.labels else {}
        batch |= {"columns": torch.randn(n, len(columns))} if columns else {}
        optimizer = torch.optim.AdamW(method.param_groups(), lr=1e-4, fused=True)

        def step() -> float:
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = step_loss(method, batch, 0)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(0.5)
            return (time.perf_counter() - began) / n

        return step

    found = {}
    for name in plugins.names("methods"):
        network = plugins.method(name).encoder_at(options.size)
        both = step_of(name, network), step_of("supervised", network)
        seconds = np.array([[step() for step in both] for _ in range(options.rounds + 2)])[2:]
        mine, reference = np.median(seconds, 0)
        found[name] = {"encoder": network, "cost": round(float(mine / reference), 2)}
        print(name, found[name], flush=True)
    (ROOT / "src" / "scotoma" / "methods" / "costs.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "gather", "costs"))
    parser.add_argument("--methods", default="")
    parser.add_argument("--data", default="brain_tumor_mri")
    parser.add_argument("--target", default="label")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--long", type=float, default=15)
    for name, value in (("size", 96), ("seeds", 5), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--runs", default="runs/methods")
    parser.add_argument("--paces", type=Path)
    parser.add_argument("--again", action="store_true", help="do what the results hold already, too")
    options = parser.parse_args()
    if options.action == "run":
        run(options)
    elif options.action == "costs":
        costs(options)
    else:
        gather(Path(options.runs))


if __name__ == "__main__":
    main()
