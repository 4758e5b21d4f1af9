"""How the small-data defaults were chosen: one setting changed at a time, scored on validation rows; test rows are never loaded.

python benchmarks/choose.py METHOD [SETTING ...]     adds a line for each setting (all of the method's by default)

The table is $SCOTOMA_DATA/brain_tumor_mri without its test rows: its validation rows stand in as test rows, and an eighth of its
training groups as validation rows. All settings of a method see as many images, so the result does not depend on what else
runs; ``patch16`` costs about a quarter as much an image and sees four times as many. Random weights are the method's network before
its first step. Prints and keeps the macro AUROC of the linear probe with 1, 5 and 10 % of the labels, five draws each; for vision
transformers with the class token and with the mean over patches.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cells import read_new, write

from scotoma.commands.pretrain import pretrain
from scotoma.data.datamodule import gather
from scotoma.evaluators import linear
from scotoma.evaluators.base import Context
from scotoma.models import encoders
from scotoma.models.encoders import is_vit
from scotoma.studies import controls

DATA = Path(os.environ.get("SCOTOMA_DATA", "../shared/data")) / "brain_tumor_mri" / "table.csv"
IMAGES = {"simclr": 12_800, "mae": 12_800, "ijepa": 16_000}  # what two cores see in three minutes, about
FRACTIONS = (0.01, 0.05, 0.1)
START: dict[str, Any] = {"learning_rate": 5e-4, "batch_size": 64}
# each setting changes one thing of START, or of another setting; None is the network before its first step
SETTINGS: dict[str, dict[str, dict[str, Any] | None]] = {
    "mae": {
        "random weights": None,
        "batch 64, rate 5e-4": {},
        "rate 1.5e-3": {"learning_rate": 1.5e-3},
        "rate 2.5e-4": {"learning_rate": 2.5e-4},
        "rate 1.25e-4": {"learning_rate": 1.25e-4},
        "batch 32": {"batch_size": 32},
        "patch16": {"encoder": "vit_tiny_patch16"},
        "mask half": {"method_args": {"mask_ratio": 0.5}},
        "rate 2.5e-4, normalised pixels": {"learning_rate": 2.5e-4, "method_args": {"norm_pixels": True}},
        "rate 2.5e-4, crops from 0.2": {"learning_rate": 2.5e-4, "method_args": {"min_scale": 0.2}},
    },
    "simclr": {
        "random weights": None,
        "batch 64, rate 5e-4": {},
        "rate 2.5e-4": {"learning_rate": 2.5e-4},
        "rate 1e-3": {"learning_rate": 1e-3},
        "batch 128": {"batch_size": 128},
    },
    "ijepa": {
        "random weights": None,
        "momentum 0.98, rate 5e-4": {},
        "rate 2.5e-4": {"learning_rate": 2.5e-4},
        "rate 1.25e-4": {"learning_rate": 1.25e-4},
        "momentum 0.99": {"method_args": {"momentum": 0.99}},
        "momentum 0.95": {"method_args": {"momentum": 0.95}},
    },
}


def development_table() -> pd.DataFrame:
    """Training and validation rows of the study's table, the latter under the name of test rows."""
    table = pd.read_csv(DATA)
    table["image_path"] = [str((DATA.parent / path).resolve()) for path in table["image_path"]]
    table = table[table["split"] != "test"].reset_index(drop=True)
    table["split"] = table["split"].replace({"val": "test"})
    return table


def scores(method: str, given: dict[str, Any] | None) -> dict[str, Any]:
    """Pretrain with one setting (None: not at all) and probe it: read-out -> fraction -> macro AUROC."""
    table = development_table()
    data_module = gather(data=table, target=["label"], size=96, quiet=True)
    assert data_module.target is not None
    if given is None:
        config: dict[str, Any] = {"method": method, "method_args": {}, "encoder": None, "size": 96, "seed": controls.FIRST_SEED}
        encoder, info = controls.build_untrained(config, data_module)
    else:
        images = IMAGES[method] * (4 if given.get("encoder") else 1)
        given = START | given
        steps = images // given["batch_size"]
        with tempfile.TemporaryDirectory() as folder:
            run = pretrain(table, method, Path(folder) / "run", steps=steps, quiet=True, **given)
            encoder, info, _ = encoders.load(run)
    result = {}
    readouts = {"class token": encoder, "mean over patches": MeanOverPatches(encoder)} if is_vit(encoder) else {"pooled": encoder}
    for readout, network in readouts.items():
        context = Context(
            network, info, None, data_module.dataset, data_module.store, data_module.split, data_module.target, FRACTIONS, 5, method
        )
        rows = [r for r in linear.evaluate(context) if r["metric"] == "auroc" and "seed" not in r and "class" not in r]
        result[readout] = {r["fraction"]: round(r["value"], 4) for r in rows}
    return result


class MeanOverPatches(torch.nn.Module):
    """A vision transformer that gives the mean of its patches' last tokens: (B, C, H, W) -> (B, D)."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit, self.num_features = vit, vit.num_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features."""
        return self.vit.forward_features(x)[:, self.vit.num_prefix_tokens :].mean(1)


def main() -> None:
    """Run the settings asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=list(SETTINGS))
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()
    for name in options.settings or SETTINGS[options.method]:
        for readout, values in scores(options.method, SETTINGS[options.method][name]).items():
            line = {"method": options.method, "setting": name, "readout": readout, "auroc": values}
            line |= {"mean": round(float(np.mean(list(values.values()))), 4)}
            line |= {"control_of": options.method} if SETTINGS[options.method][name] is None else {}
            print(line, flush=True)
            key = itemgetter("method", "setting", "readout")
            write("choices", [*(other for other in read_new("choices") if key(other) != key(line)), line])


if __name__ == "__main__":
    main()
