"""What a classifier could go by without looking at the patient: sizes and header facts, and the pixels along the border."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scotoma.data.dataset import Dataset
from scotoma.data.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

SIZES = ("width", "height", "orig_w", "orig_h", "spacing_mm", "bits", "channels")  # orig_*: a table that says what size a file had
NAMES = ("format", "modality", "vendor", "model", "photometric", "transfer_syntax")
MOST_NAMES = 20
BORDER_SIDE, BORDER_WIDTH = 32, 3  # of 32 px: about a tenth of either side


def facts_of(dataset: Dataset, store: Store) -> pd.DataFrame:
    """(n rows) what the headers say, and the columns of the table that say how large a file was."""
    import pandas as pd

    table = dataset.table.reset_index(drop=True)
    facts = store.facts.iloc[table["row"]].reset_index(drop=True)
    own = table[[c for c in SIZES if c in table.columns and c not in facts.columns]]
    return pd.concat([facts, own], axis=1)


def header(facts: pd.DataFrame) -> dict[str, np.ndarray]:
    """Name -> (n,) float: sizes, their logarithms and the aspect; one column for each common value of a header's names."""
    import pandas as pd

    columns: dict[str, np.ndarray] = {}
    for name in (n for n in SIZES if n in facts.columns):
        values = pd.to_numeric(facts[name], errors="coerce").to_numpy(dtype=float)
        known = np.nan_to_num(values)
        columns |= {name: known, f"log {name}": np.log1p(np.abs(known)), f"{name} is missing": np.isnan(values).astype(float)}
    for wide, high in (("width", "height"), ("orig_w", "orig_h")):
        if wide in facts.columns and high in facts.columns:
            sides = (pd.to_numeric(facts[side], errors="coerce").to_numpy(dtype=float) for side in (wide, high))
            columns[f"{wide} / {high}"] = np.nan_to_num(next(sides) / next(sides).clip(1))
    for name in (n for n in NAMES if n in facts.columns):
        words = facts[name].astype(str)
        columns |= {f"{name} is {v}": (words == v).to_numpy(float) for v in words.value_counts().index[:MOST_NAMES]}
    return columns


def border(store: Store, rows: np.ndarray) -> np.ndarray:
    """(n, D) in [0, 1]: the pixels along the border of the image in the store, seen at 32 px."""
    side = np.arange(BORDER_SIDE)
    edge = (side < BORDER_WIDTH) | (side >= BORDER_SIDE - BORDER_WIDTH)
    ring = edge[:, None] | edge[None, :]
    return np.stack([small(store.pixels[row])[ring].ravel() for row in rows.tolist()]) / 255


def small(pixels: np.ndarray) -> np.ndarray:
    """(32, 32, channels) uint8 of an image of the store."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    shrunk = np.asarray(image.resize((BORDER_SIDE, BORDER_SIDE), Image.Resampling.BOX))
    return shrunk if shrunk.ndim == 3 else shrunk[..., None]
