"""Targets: columns of the table -> what a classifier is trained on. A label is 1, 0 or missing; missing never means 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scotoma.data.table import Dataset, values
from scotoma.errors import UsageError

MOST_CLASSES = 100


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Args:
        columns: the table's columns: one categorical, or several 0/1/missing.
        classes: names of the classes, or of the 0/1 targets.
        y: (n,) int64 class ids, -1 unknown; or (n, K) float32 0/1, NaN unknown.
    """

    columns: tuple[str, ...]
    classes: tuple[str, ...]
    y: np.ndarray

    @property
    def multilabel(self) -> bool:
        """Whether these are several 0/1 targets."""
        return self.y.ndim == 2

    @property
    def known(self) -> np.ndarray:
        """(n,) bool: rows with any label."""
        return ~np.isnan(self.y).all(1) if self.multilabel else self.y >= 0

    @property
    def strata(self) -> np.ndarray:
        """(n,) int: the class of each row, or of the first 0/1 target, over which a split is balanced; -1 unknown."""
        return np.nan_to_num(self.y[:, 0], nan=-1).astype(int) if self.multilabel else self.y

    def weights(self, rows: np.ndarray) -> tuple[float, ...]:
        """Weights that make classes count alike (inverse frequency, mean 1), or positives of each target as much as negatives."""
        y = self.y[rows]
        if self.multilabel:
            positives, negatives = np.nansum(y == 1, 0), np.nansum(y == 0, 0)
            return tuple(float(w) for w in np.clip(negatives / np.maximum(positives, 1), 0.05, 20))
        counts = np.maximum(np.bincount(y[y >= 0], minlength=len(self.classes)), 1)
        return tuple(float(w) for w in counts.sum() / (len(counts) * counts))


def read(dataset: Dataset, names: Sequence[str], classes: Sequence[str] = ()) -> Target:
    """Read the target columns.

    Args:
        dataset: the table.
        names: one column of classes, or several of 0/1/missing.
        classes: of a categorical column, the classes to tell apart; rows of others count as unlabelled.

    Raises:
        UsageError: no such column; one class only; values that are no labels.
    """
    if not names:
        raise UsageError("name a target: --target COLUMN")
    if "mask_path" in names:
        raise UsageError("--target mask_path (segmentation) is not offered yet: name a column of classes")
    if len(names) == 1:
        return _categorical(dataset, names[0], classes)
    if classes:
        raise UsageError("--classes goes with one categorical target")
    if len(set(names)) < len(names):
        raise UsageError(f"--target names {max(names, key=list(names).count)!r} twice")
    columns = [_binary(dataset, name) for name in names]
    return Target(tuple(names), tuple(names), np.stack(columns, 1))


def _categorical(dataset: Dataset, name: str, wanted: Sequence[str]) -> Target:
    labels = [_text(v) for v in values(dataset.column(name))]
    present = sorted({v for v in labels if v is not None}, key=lambda v: (not v.isdecimal(), int(v) if v.isdecimal() else 0, v))
    missing = [c for c in wanted if c not in present]
    if missing:
        raise UsageError(f"{dataset.name}: {name} has no row of class {missing[0]!r}; it has {', '.join(present[:10])}")
    chosen = tuple(wanted) or tuple(present)
    if len(chosen) < 2:
        found = f"one class ({chosen[0]})" if chosen else "no label"
        raise UsageError(f"{dataset.name}: {name} has {found}: nothing to tell apart")
    if len(chosen) > MOST_CLASSES:
        raise UsageError(f"{dataset.name}: {name} has {len(chosen)} different values: that is no column of classes")
    ids = {c: i for i, c in enumerate(chosen)}
    return Target((name,), chosen, np.array([ids.get(v, -1) if v is not None else -1 for v in labels]))


def _text(value: object) -> str | None:
    """A class as text; 1.0 (a column of integers with gaps) is the class 1."""
    if value is None or value == "":
        return None
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)


def _binary(dataset: Dataset, name: str) -> np.ndarray:
    labels = [_text(v) for v in values(dataset.column(name))]
    strange = next((v for v in labels if v not in (None, "0", "1")), None)
    if strange is not None:
        raise UsageError(f"{dataset.name}: {name} holds {strange!r}; several targets together must be 0, 1 or missing")
    y = np.array([np.nan if v is None else float(v) for v in labels], np.float32)
    if not ((y == 0).any() and (y == 1).any()):
        raise UsageError(f"{dataset.name}: {name} needs rows with 0 and with 1")
    return y


def require_classes(target: Target, rows: np.ndarray, where: str) -> None:
    """Refuse to train or test where a class has no row.

    Raises:
        UsageError: naming the class and the split.
    """
    for k, label in enumerate(target.classes):
        present = (target.y[rows, k] == 1).any() if target.multilabel else (target.y[rows] == k).any()
        if not present:
            raise UsageError(
                f"class {label!r} has no row in {where}: add some, join it with another class, or leave it out with --classes"
            )
