"""A table, a store and labels made in memory: what evaluators are tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from scotoma.data.dataset import Dataset
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw
from scotoma.data.splits.splits import Split
from scotoma.data.store.store import Store
from scotoma.evaluators.base import Context


class Means(nn.Module):
    """An encoder of two features: the mean of the left and of the right half."""

    num_features = 2

    def forward(self, images: Tensor) -> Tensor:
        half = images.shape[3] // 2
        return torch.stack([images[..., :half].mean((1, 2, 3)), images[..., half:].mean((1, 2, 3))], 1)


def context(folder: Path, n: int = 120, classes: int = 2, seed: int = 0, multilabel: bool = False, **changes: object) -> Context:
    """Images whose left half is the brighter the higher the class; rows in the store stand in reverse."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    pixels = rng.integers(0, 80, (n, 32, 32, 1))
    pixels[:, :, :16] += (y * 40)[:, None, None, None]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pixels.npy", pixels.astype(np.uint8)[::-1])
    facts = {"width": 100 + rng.integers(0, 5, n), "height": 100, "format": "PNG", "content": [f"c{i}" for i in range(n)]}
    pd.DataFrame(facts | {"error": None}).to_parquet(folder / "facts.parquet")
    table = pd.DataFrame({"row": np.arange(n)[::-1], "image_path": [f"{i}.png" for i in range(n)]})
    of = np.array(["train"] * (n // 2) + ["val"] * (n // 4) + ["test"] * (n - n // 2 - n // 4))
    if multilabel:
        both = np.stack([y > 0, rng.random(n) < 0.5], 1).astype(np.float32)
        both[rng.random((n, 2)) < 0.2] = np.nan
        target = Target(("bright", "coin"), ("bright", "coin"), both)
    else:
        target = Target(("kind",), tuple(f"class {k}" for k in range(classes)), y)
    info = EncoderInfo("resnet10t", {}, 1, 32, (0.0,), (1.0,), targets=target.columns, classes=target.classes)
    values = {
        "encoder": Means(), "info": info, "head": None, "dataset": Dataset("made", table), "store": Store(folder, 32, 1),
        "split": Split(of, np.arange(n) // 2, "patient", True), "target": target, "name": "made",
    }  # fmt: skip
    return Context(**{**values, **changes})  # type: ignore[arg-type]


def draw_of(train: np.ndarray, val: np.ndarray) -> Draw:
    return Draw(1.0, 0, train, val)


def head(outputs: int) -> nn.Linear:
    """A head for the features of ``Means``."""
    torch.manual_seed(1)
    layer = nn.Linear(2, outputs)
    layer.weight.data.mul_(6)
    return layer
