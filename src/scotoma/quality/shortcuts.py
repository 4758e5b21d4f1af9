"""Shortcuts: how well a target is predicted without looking at the patient, from sizes and header facts or the border alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from scotoma.data.dataset import Dataset
from scotoma.data.labels.targets import Target
from scotoma.data.store.store import Store
from scotoma.metrics import intervals

if TYPE_CHECKING:
    import pandas as pd

SIZES = (
    "width",
    "height",
    "orig_w",
    "orig_h",
    "spacing_mm",
    "bits",
    "channels",
)  # orig_*: a table that states what size a file had
NAMES = ("format", "modality", "vendor", "model", "photometric", "transfer_syntax")
MOST_NAMES = 20
BORDER_SIDE, BORDER_WIDTH = 32, 3  # of 32 px: about a tenth of either side
FOLDS = 5
CLEARLY = 0.55  # an interval that begins above it is no chance
COMPONENTS = 30


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


def find_small_classes(target: Target, groups: np.ndarray) -> list[int]:
    """The classes, by number, whose images are of fewer than ``FOLDS`` groups: too few to predict in every fold."""
    classes = np.unique(target.y[target.known]).tolist()
    return [c for c in classes if len(np.unique(groups[target.y == c])) < FOLDS]


def predictability(x: np.ndarray, target: Target, groups: np.ndarray, trees: bool) -> dict[str, Any] | None:
    """Cross-validated AUROC with its 95 % interval.

    Args:
        x: (n, D) what is predicted from.
        target: one categorical column.
        groups: (n,) int: a group (patient, near-duplicates) lies in one fold; and in the interval.
        trees: a forest (few features, in which exact values count) or else 30 principal components and logistic regression.

    Returns:
        ``value, low, high, n``; more than two classes: the mean over classes. None where a class has fewer than ``FOLDS`` groups or
        nothing varies.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    known = np.flatnonzero(target.known)
    x, y, groups = x[known], target.y[known], groups[known]
    present = np.unique(y)
    x = x[:, x.std(0) > 1e-9]
    if len(present) < 2 or min(len(np.unique(groups[y == c])) for c in present) < FOLDS or not x.shape[1]:
        return None
    y = np.searchsorted(present, y)
    p = np.zeros((len(y), len(present)))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(x, y, groups):
        model = (_forest() if trees else _logistic(min(COMPONENTS, len(train) - 1, x.shape[1]))).fit(x[train], y[train])
        p[np.ix_(test, model.classes_)] = model.predict_proba(x[test])
    row = intervals.evaluate(y, p, groups, names=["auroc"])[0]
    return {k: row[k] for k in ("value", "low", "high", "n")}


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, min_samples_leaf=5, random_state=0)


def _logistic(components: int) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), PCA(components, random_state=0), LogisticRegression(C=0.01, max_iter=500))


def rank_facts(columns: dict[str, np.ndarray], target: Target, most: int = 3) -> list[tuple[str, float]]:
    """The single facts that separate classes best: names with their AUROC (0.5 or more, of the best class), best first."""
    from scipy.stats import rankdata

    known = np.flatnonzero(target.known)
    y, found = target.y[known], []
    for name, values in columns.items():
        if name.startswith("log ") or np.ptp(values[known]) == 0:
            continue  # the logarithm of a size has its order
        ranks, best = rankdata(values[known]), 0.5
        for c in np.unique(y):
            inside = y == c
            n, m = int(inside.sum()), int((~inside).sum())
            area = (ranks[inside].sum() - n * (n + 1) / 2) / (n * m)
            best = max(best, area, 1 - area)
        found.append((name, float(best)))
    return sorted(found, key=lambda item: -item[1])[:most]
