"""Do methods that learn nothing beat their own untrained networks? Studies at a learning rate of almost 0 on brain MR.

python benchmarks/null_study.py [METHOD ...]   measures the methods that are not in results/null_study.jsonl yet

``tables.py`` makes the table of docs/results/coverage.md.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from cells import RESULTS, read  # noqa: E402
from helpers import null_study  # noqa: E402

KEYS = ("method", "fraction", "labels", "value", "low", "high", "p_value", "p_holm", "over", "n")


def main() -> None:
    """Measure what is missing, a method after the other."""
    data = Path(os.environ.get("SCOTOMA_DATA", ROOT.parent / "shared" / "data"))
    there = {row["method"] for row in read("null_study")}
    for method in sys.argv[1:] or null_study.NETWORKS:
        if method in there:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = null_study.differences(method, data, Path(folder)).to_dict("records")
        with (RESULTS / "null_study.jsonl").open("a") as file:
            file.write("".join(json.dumps({k: row[k] for k in KEYS}) + "\n" for row in rows))
        print(method, flush=True)


if __name__ == "__main__":
    main()
