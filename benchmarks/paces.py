"""How many optimiser steps a method makes in so many minutes, measured alone on the machine, so that training itself need not be.

python benchmarks/paces.py --out FILE.json --methods a,b [--data brain_tumor_mri] [--minutes 5] [--size 96] [--window 0.5]

Trains each method for ``--window`` minutes and writes {"DATA/METHOD": steps in --minutes} into FILE, beside what it holds already.
Run this alone; studies of so many steps may then run beside other work.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

DATA = Path(os.environ.get("SCOTOMA_DATA", Path(__file__).parents[2] / "shared" / "data"))


def rate(data: str, method: str, size: int, window: float, encoder: str | None = None, modality: str = "auto") -> tuple[float, int]:
    """Steps a second of Scotoma's training loop (its store prepared beforehand), over a window of minutes; and the batch size."""
    from scotoma import plugins
    from scotoma.commands.pretrain import pretrain
    from scotoma.run_folder import read_config, read_rows

    name = method.partition("?")[0]
    target = ["label"] if plugins.variant(method)[0].needs_labels else None
    with tempfile.TemporaryDirectory() as folder:
        run = pretrain(
            str(DATA / data / "table.csv"), name, Path(folder) / "run", encoder=encoder, size=size, minutes=window, target=target,
            modality=modality, method_args=plugins.variant(method)[1], quiet=True,
        )  # fmt: skip
        rows = {row["metric"]: row["value"] for row in read_rows(run) if row["evaluator"] == "pretrain"}
        return rows["steps"] / rows["seconds"], int(read_config(run)["batch_size"])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--methods", required=True)
    parser.add_argument("--data", default="brain_tumor_mri")
    for name, value in (("minutes", 5.0), ("window", 0.5)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--encoder")
    parser.add_argument("--modality", default="auto")
    given = parser.parse_args()
    for method in given.methods.split(","):
        paces = json.loads(given.out.read_text()) if given.out.exists() else {}
        steps, _ = rate(given.data, method, given.size, given.window, given.encoder, given.modality)
        paces[f"{given.data}/{method}"] = max(1, round(60 * given.minutes * steps))
        print(method, paces[f"{given.data}/{method}"], flush=True)
        given.out.write_text(json.dumps(paces, indent=1) + "\n")


if __name__ == "__main__":
    main()
