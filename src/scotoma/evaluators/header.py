"""Control: what image size and header facts alone predict, without a single pixel."""

from __future__ import annotations

import numpy as np

from scotoma.data.targets import Target
from scotoma.evaluators import linear
from scotoma.evaluators.base import Context, Draw, Row, evaluate_draws

PROTOCOL = 1
CONTROL = True
SIZES = ("width", "height", "orig_w", "orig_h", "spacing_mm", "bits", "channels")  # orig_*: a table that says what size a file had
NAMES = ("format", "modality", "vendor", "model", "photometric", "transfer_syntax")
MOST_NAMES = 20


def inputs(context: Context) -> np.ndarray:
    """(n, D): sizes, their logarithms and the aspect; one column for each common value of a header's names."""
    import pandas as pd

    table = context.dataset.table.reset_index(drop=True)
    facts = context.store.facts.iloc[table["row"]].reset_index(drop=True)
    own = table[[c for c in SIZES if c in table.columns and c not in facts.columns]]
    facts = pd.concat([facts, own], axis=1)
    columns = []
    for name in (n for n in SIZES if n in facts.columns):
        values = pd.to_numeric(facts[name], errors="coerce").to_numpy(dtype=float)
        columns += [np.nan_to_num(values), np.log1p(np.abs(np.nan_to_num(values))), np.isnan(values)]
    for wide, high in (("width", "height"), ("orig_w", "orig_h")):
        if wide in facts.columns and high in facts.columns:
            sides = (pd.to_numeric(facts[side], errors="coerce").to_numpy(dtype=float) for side in (wide, high))
            columns.append(next(sides) / next(sides).clip(1))
    for name in (n for n in NAMES if n in facts.columns):
        words = facts[name].astype(str)
        columns += [(words == v).to_numpy() for v in words.value_counts().index[:MOST_NAMES]]
    return np.stack([np.nan_to_num(np.asarray(c, float)) for c in columns], 1)


def predict(x: np.ndarray, target: Target, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """Logistic regression, as in the linear probe."""
    return linear.predict(x, target, drawn, rows)


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    return evaluate_draws(context, inputs(context), predict)
