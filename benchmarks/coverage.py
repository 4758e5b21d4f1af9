"""How often 95 % intervals hold the truth, on simulated patients whose true performance is known.

python benchmarks/coverage.py [--repeats 2000] [--part K/N]   measures cells that are not in results/coverage.jsonl yet

``tables.py`` makes the table of docs/results/coverage.md.

A cell is a kind of target, a number of patients, of images of each, a prevalence and a true AUROC; all were fixed before the
first was measured. ``held`` counts intervals that hold the truth, ``optimistic`` those that lie wholly on its better side,
``none`` samples without an interval. A cell has ``few`` patients where fewer than 10 of some class are expected, of numbers fewer
than 30.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from helpers import simulated_cohorts as cohorts  # noqa: E402

from scotoma.metrics import calibration, classification, intervals, operating_points, regression  # noqa: E402
from scotoma.metrics.support import FEW, Support  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "coverage.jsonl"
AUROCS, PREVALENCES, PATIENTS, IMAGES = (0.7, 0.9, 0.98), (0.1, 0.3, 0.5), (30, 60, 200), (1, 5)
KINDS: dict[str, Any] = {
    "binary": cohorts.binary,
    "four_classes": cohorts.four_classes,
    "three_labels": cohorts.three_labels,
    "numbers": cohorts.numbers,
}
LARGE = 400_000  # patients by whom the truth is computed
LOWER = ("brier", "mae", "rmse", "log_loss")
AT = 0.05  # prevalence of predictive values
Cell = dict[str, Any]


def cells() -> list[Cell]:
    """All of them."""
    found: list[Cell] = []
    for kind in KINDS:
        for patients in PATIENTS if kind in ("binary", "numbers") else PATIENTS[1:]:
            for images in IMAGES:
                for prevalence in PREVALENCES if kind == "binary" else (0.3,):
                    found += [
                        {"kind": kind, "patients": patients, "images": images, "prevalence": prevalence, "auroc": a} for a in AUROCS
                    ]
    for patients in PATIENTS:
        for draws in (3, 5):
            found += [{"kind": "null", "patients": patients, "draws": draws, "prevalence": 0.3, "auroc": a} for a in AUROCS]
    return found


def estimates(kind: str, y: np.ndarray, p: np.ndarray, patients: np.ndarray) -> dict[str, dict[str, Any]]:
    """Every metric of one sample with its interval."""
    if kind == "numbers":
        return {row["metric"]: row for row in regression.rows_of(y, p, patients)}
    found = {
        row["metric"]: row
        for row in intervals.evaluate(y, p, patients)
        if row.get("class") is None or (kind == "binary" and row["class"] == 1)
    }
    if kind != "binary":
        return found
    one, weights = p[:, 1], intervals.leave_out(patients, len(y))
    both = replace(Support.of(patients), fewest=min(len(np.unique(patients[y == k])) for k in (0, 1)))
    found["log_loss"] = intervals.estimate(np.asarray(calibration.log_loss(y, one, weights)), "log_loss", both)
    ends = operating_points.predictive_intervals(found["sensitivity"], found["specificity"], AT)
    found |= {f"{name} at {AT:.0%}": row for name, row in ends.items()}
    try:
        of_lines = calibration.recalibrations(y, one, weights)
    except ValueError:
        return found
    return found | {f"calibration {k}": intervals.estimate(v, "difference", both) for k, v in of_lines.items()}


def truths(cell: Cell) -> dict[str, float]:
    """The same metrics of a population."""
    y, p, _ = KINDS[cell["kind"]](np.random.default_rng(7), LARGE, 1, cell["prevalence"], cell["auroc"])
    if cell["kind"] == "numbers":
        return {name: float(v[0]) for name, v in regression.errors(y, p, np.ones((1, LARGE))).items()}
    names = [m for m in classification.METRICS if (m != "mcc" or y.ndim == 1) and m not in intervals.WITHOUT]
    found = {name: float(classification.score(name, y, p)) for name in names}
    if cell["kind"] != "binary":
        return found
    ppv, npv = operating_points.predictive_values(found["sensitivity"], found["specificity"], AT)
    found |= {f"ppv at {AT:.0%}": float(ppv), f"npv at {AT:.0%}": float(npv), "log_loss": float(calibration.log_loss(y, p[:, 1]))}
    return found | {"calibration intercept": 0.0, "calibration slope": 1.0, "calibration in_the_large": 0.0}


def has_few(cell: Cell) -> bool:
    """Whether fewer patients of some class are expected than intervals are made for."""
    rarest = {
        "numbers": cell["patients"] / 3,
        "four_classes": cell["patients"] * (1 - cell["prevalence"]) / 3,
        "three_labels": cell["patients"] * min(cell["prevalence"], 0.3),
    }.get(cell["kind"], cell["patients"] * min(cell["prevalence"], 1 - cell["prevalence"]))
    return rarest < FEW


def measure(cell: Cell, repeats: int) -> Iterator[dict[str, Any]]:
    """One row per metric of a cell."""
    rng = np.random.default_rng([int(1000 * v) for v in cell.values() if not isinstance(v, str)])
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"held": 0, "optimistic": 0, "pessimistic": 0, "none": 0})
    truth = {} if cell["kind"] == "null" else truths(cell)
    for _ in range(repeats):
        if cell["kind"] == "null":
            y, a, b = cohorts.null_draws(rng, cell["patients"], cell["draws"], cell["prevalence"], cell["auroc"])
            found = {"difference": intervals.paired_difference("auroc", y, a, b, np.arange(len(y)))}
            truth = {"difference": 0.0}
        else:
            y, p, patients = KINDS[cell["kind"]](rng, cell["patients"], cell["images"], cell["prevalence"], cell["auroc"])
            if y.ndim == 1 and cell["kind"] != "numbers" and len(np.unique(y)) < 2:
                continue
            found = estimates(cell["kind"], y, p, patients)
        for name, value in truth.items():
            row, count = found.get(name), counts[name]
            if row is None or np.isnan(row["low"]):
                count["none"] += 1
            elif row["low"] > value:
                count["pessimistic" if name in LOWER else "optimistic"] += 1
            elif row["high"] < value:
                count["optimistic" if name in LOWER else "pessimistic"] += 1
            else:
                count["held"] += 1
    for name, count in counts.items():
        yield {**cell, "few": has_few(cell), "metric": name, "repeats": repeats, **count}


def read() -> list[dict[str, Any]]:
    """The rows that are there."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run(repeats: int, part: str) -> None:
    """Measure what is missing, a cell after the other."""
    k, n = map(int, part.split("/"))
    keys = list(dict.fromkeys(key for cell in cells() for key in cell))
    there = {tuple(row.get(key) for key in keys) for row in read()}
    for cell in cells()[k - 1 :: n]:
        if tuple(cell.get(key) for key in keys) not in there:
            rows = list(measure(cell, repeats))
            with RESULTS.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
            print(cell, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--part", default="1/1", help="K/N: every Nth cell from the Kth on")
    options = parser.parse_args()
    run(options.repeats, options.part)
