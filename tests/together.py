"""What ``test_across.py`` runs in one process and in two: every method for a few steps through ``pretrain``."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from scotoma import plugins
from scotoma.pretrain import pretrain

STEPS = 5
GIVEN: dict[str, dict[str, Any]] = {
    "msmae": {"warmup_epochs": 0, "attention_interval": 1},
    "intelligent_masking": {"replay": 16, "gamma": 0.5},
    "simmim": {"masking": "agent", "next_task": True},
    "msn": {"columns": ("age",), "positives": "patient"},
    "autoencoder": {"classifier_weight": 1.0},
    "simclr": {"positives": "patient"},
}


def trace(name: str, table: str, folder: Path) -> list[float]:
    """The loss of each step."""
    chosen = plugins.method(name)
    run = pretrain(
        table, name, folder / name, steps=STEPS, batch_size=8, size=32, precision="32-true", method_args=GIVEN.get(name),
        learning_rate=2e-4,  # at higher ones rounding grows from step to step
        encoder="vit_tiny_patch8" if chosen.needs_vit else "test_convnext", target=["label"], quiet=True,
    )  # fmt: skip
    with (run / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def main(table: str, folder: Path) -> None:
    """Write the traces of all methods, as far as this process has them to itself."""
    import torch

    torch.set_num_threads(1)
    found = {name: trace(name, table, folder) for name in plugins.names("methods")}
    (folder / "traces.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
