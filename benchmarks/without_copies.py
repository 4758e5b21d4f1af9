"""A study's comparison again on the test images of which no altered copy was trained or chosen on.

python benchmarks/without_copies.py NAME RUN      adds benchmarks/results/NAME_without_copies.jsonl

Brain Tumor MRI holds mirrored, flipped and brightened copies of its own images, which its published split does not keep together
(docs/results/audit.md). The classifiers are those of the study; only the test images differ.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from cells import write

from scotoma.data.datamodule import gather
from scotoma.data.splits import altered_copies
from scotoma.data.splits.label_draws import Draw
from scotoma.data.splits.units import link
from scotoma.metrics import intervals
from scotoma.run_folder import Run, read_config, read_rows
from scotoma.studies.arms import Arm


def main() -> None:
    """Read the study's predictions, leave copies out, compare."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    config = read_config(folder)
    run = Run(folder, config)
    data_module = gather(data=config["data"], target=config["target"], classes=config["classes"], size=config["size"], quiet=True)
    assert data_module.target is not None
    groups = link(data_module.split.units, altered_copies.find_copies(data_module.store, data_module.rows))
    test = data_module.split.rows("test")
    test = test[data_module.target.known[test]]
    free = ~np.isin(groups[test], groups[np.isin(data_module.split.of, ("train", "val"))])
    y, units = data_module.target.y[test][free], groups[test][free]
    print(f"{free.sum()} of {len(test)} test images have no copy in training or validation")
    rows = [row for row in read_rows(folder) if row["metric"] in ("auroc", "auroc_difference") and row["split"] == "test"]
    rows = [row for row in rows if row.get("seed") is None and row.get("class") is None]
    found: list[dict[str, Any]] = []
    for row in (row for row in rows if row.get("reference", "random") == "random"):
        mine = predictions(run, row, config["seeds"], free)
        if row["metric"] == "auroc":
            new = intervals.mean_over_draws("auroc", y, mine, units)
        else:
            control = next(other for other in rows if is_control(other, row))
            new = intervals.paired_difference("auroc", y, mine, predictions(run, control, config["seeds"], free), units)
        found.append({k: v for k, v in row.items() if k != "p_holm"} | new | {"n": int(free.sum())})
    write(f"{name}_without_copies", found)


def is_control(other: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row is that of the untrained network with which another's method is compared, of the same use and labels."""
    alike = all(other.get(key) == row.get(key) for key in ("evaluator", "fraction"))
    return alike and row["method"] in other.get("control_of", "").split(",")


def predictions(run: Run, row: dict[str, Any], seeds: int, free: np.ndarray) -> list[np.ndarray]:
    """Probabilities of the test images that are left, by the classifier of each label draw behind a row."""
    of = tuple(row["control_of"].split(",")) if "control_of" in row else ()
    arm, none = Arm(row["evaluator"], row["method"], row["encoder"] or "", of), np.zeros(0, np.int64)
    files = [arm.file(run, Draw(row["fraction"], seed, none, none)) for seed in range(seeds)]
    return [np.load(file).astype(float)[free] for file in files]


if __name__ == "__main__":
    main()
