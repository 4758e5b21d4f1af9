"""A study's comparison again on the test images of which no altered copy was trained or chosen on.

python benchmarks/without_copies.py NAME RUN      adds benchmarks/results/NAME_without_copies.jsonl

Brain Tumor MRI holds mirrored, flipped and brightened copies of its own images, which its published split does not keep together
(docs/results/audit.md). The classifiers are those of the study; only the test images differ.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from scotoma.data.datamodule import gather
from scotoma.data.splits import altered_copies
from scotoma.data.splits.units import link
from scotoma.metrics import intervals
from scotoma.run_folder import read_config, read_rows

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Read the study's predictions, leave copies out, compare."""
    name, run = sys.argv[1], Path(sys.argv[2])
    config = read_config(run)
    data_module = gather(data=config["data"], target=config["target"], classes=config["classes"], size=config["size"], quiet=True)
    assert data_module.target is not None
    groups = link(data_module.split.units, altered_copies.find_copies(data_module.store, data_module.rows))
    test = data_module.split.rows("test")
    test = test[data_module.target.known[test]]
    free = ~np.isin(groups[test], groups[np.isin(data_module.split.of, ("train", "val"))])
    y, units = data_module.target.y[test][free], groups[test][free]
    print(f"{free.sum()} of {len(test)} test images have no copy in training or validation")
    found: list[dict[str, Any]] = []
    for row in read_rows(run):
        if row["metric"] not in ("auroc", "auroc_difference") or row.get("seed") is not None or row.get("class"):
            continue
        mine = predictions(run, row["evaluator"], row["method"], row.get("encoder"), row["fraction"], config["seeds"], free)
        if row["metric"] == "auroc":
            new = intervals.mean_over_draws("auroc", y, mine, units)
        else:
            base = predictions(run, row["evaluator"], "random", row["encoder"], row["fraction"], config["seeds"], free)
            new = intervals.paired_difference("auroc", y, mine, base, units)
        found.append({k: v for k, v in row.items() if k != "p_holm"} | new | {"n": int(free.sum())})
    (RESULTS / f"{name}_without_copies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def predictions(run: Path, evaluator: str, method: str, encoder: str | None, fraction: float, seeds: int, free: np.ndarray) -> Any:
    """Probabilities of the test images that are left, by each draw's classifier."""
    stem = "-".join(part for part in (evaluator, method, encoder, f"f{fraction:g}") if part)
    return [np.load(run / "predictions" / f"{stem}-s{seed}.npy").astype(float)[free] for seed in range(seeds)]


if __name__ == "__main__":
    main()
