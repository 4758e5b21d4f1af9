"""A study of methods that learn nothing, whose differences from their controls are therefore chance."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pandas as pd

from scotoma import plugins
from scotoma.commands.study import study
from scotoma.run_folder import read_rows

NETWORKS = {"mae": "vit_tiny_patch8", "msmae": "vit_tiny_patch8", "ijepa": "vit_tiny_patch8", "simclr": "resnet10t"}
SHARES, DRAWS = [0.05, 0.2, 1.0], 4
RATE = 1e-12  # the learning rate, which a preset may not hold as 0


def differences(method: str, data_root: Path, folder: Path) -> pd.DataFrame:
    """Rows of a method's differences from its untrained network on 1,500 images of brain MR, 30 steps at a rate of almost 0."""
    root = data_root / "brain_tumor_mri"
    frame = pd.read_csv(root / "table.csv").sample(1500, random_state=0).sort_index()
    folder.mkdir(parents=True, exist_ok=True)
    frame.assign(image_path=f"{root}/" + frame["image_path"]).to_csv(folder / "brain.csv", index=False)
    with mock.patch.object(plugins.method(method), "learning_rate", RATE):
        given = {"encoder": NETWORKS[method], "controls": ["random"], "steps": 30, "size": 48, "modes": ["linear"], "quiet": True}
        draws = {"fractions": SHARES, "seeds": DRAWS, "pretrainings": DRAWS}
        run = study(folder / "brain.csv", ["label"], [method], folder / method, **given, **draws)
    rows = pd.DataFrame(read_rows(run))
    return rows[rows["metric"] == "auroc_difference"]
