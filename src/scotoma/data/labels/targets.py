"""Targets: columns of the table -> what a classifier is trained on. A label is 1, 0 or missing; missing never means 0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from scotoma.data import phi
from scotoma.data.dataset import Dataset
from scotoma.data.io.dicom_headers import age_in_years
from scotoma.data.labels import masks
from scotoma.data.labels.annotators import SHARES, label_text
from scotoma.data.store.store import MASK_ROW
from scotoma.errors import UsageError

MOST_CLASSES = 100
_ZERO_ONE = {"0.0": "0", "0.00": "0", "1.0": "1", "1.00": "1", "true": "1", "false": "0"}
BANDS = 5  # of numbers
MASKS = "mask_path"  # the target of segmentation


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Args:
        columns: the table's columns: one categorical, one of numbers, several 0/1/missing, or ``mask_path``.
        classes: names of the classes, or of the 0/1 targets.
        y: (n,) int64 class ids, -1 unknown; or (n, K) float32 0/1, NaN unknown. Of several annotators, the majority.
        shares: (n, C) or (n, K) float32: the share of annotators for each class, or for 1, NaN unknown; what training aims at where
            labels are soft. None where they are not.
        mask_classes: of ``mask_path``: the classes that the user names (``masks.parse``).
        numbers: (n,) float32, NaN unknown, of a column to be predicted as a number; ``y`` and ``classes`` are its bands then, by
            which splits and draws are balanced. None where classes are predicted.
    """

    columns: tuple[str, ...]
    classes: tuple[str, ...]
    y: np.ndarray
    shares: np.ndarray | None = None
    numbers: np.ndarray | None = None
    mask_classes: tuple[str, ...] = ()

    @property
    def aims(self) -> np.ndarray:
        """What a loss is given: ``shares`` where labels are soft, else ``y``."""
        return self.y if self.shares is None else self.shares

    @property
    def tied(self) -> np.ndarray:
        """(n,) bool: rows of soft labels without a majority: they train, and are neither drawn by class nor tested on."""
        return np.zeros(len(self.y), bool) if self.shares is None else ~self.known & ~np.isnan(self.shares).all(1)

    def only(self, rows: np.ndarray) -> Target:
        """The target with every other row unknown."""
        hidden = np.ones(len(self.y), bool)
        hidden[rows] = False
        y = self.y.copy()
        y[hidden] = np.nan if self.multilabel else -1
        shares = None if self.shares is None else np.where(hidden[:, None], np.float32(np.nan), self.shares)
        numbers = None if self.numbers is None else np.where(hidden, np.float32(np.nan), self.numbers)
        return replace(self, y=y, shares=shares, numbers=numbers)

    @property
    def multilabel(self) -> bool:
        """Whether these are several 0/1 targets."""
        return self.y.ndim == 2

    @property
    def known(self) -> np.ndarray:
        """(n,) bool: rows with any label."""
        return ~np.isnan(self.y).all(1) if self.multilabel else self.y >= 0

    def weights(self, rows: np.ndarray) -> tuple[float, ...]:
        """Weights that make classes count alike (inverse frequency, mean 1), or positives of each target as much as negatives."""
        y = self.y[rows]
        if self.multilabel:
            positives, negatives = np.nansum(y == 1, 0), np.nansum(y == 0, 0)
            return tuple(float(w) for w in np.clip(negatives / np.maximum(positives, 1), 0.05, 20))
        counts = np.maximum(np.bincount(y[y >= 0], minlength=len(self.classes)), 1)
        return tuple(float(w) for w in counts.sum() / (len(counts) * counts))


def read(dataset: Dataset, names: Sequence[str], classes: Sequence[str] = (), numbers: bool = False) -> Target:
    """Read the target columns.

    Args:
        dataset: the table.
        names: one column of classes, or several of 0/1/missing.
        classes: of a categorical column, the classes to distinguish; rows of others count as unlabelled.
        numbers: the one column holds numbers to predict.

    Raises:
        UsageError: no such column; one class only; values that are no labels.
    """
    if not names:
        raise UsageError("name a target: --target COLUMN")
    for name in names:
        if (reason := phi.reason_by_name(name)) is not None and reason.direct:
            raise UsageError(f"--target {name}: {reason.text} is no target, as classes are written down; rename it if it is none")
    if numbers:
        return _numbers(dataset, names, classes)
    if MASKS in names:
        return _masks(dataset, names, classes)
    if len(names) == 1:
        return _categorical(dataset, names[0], classes)
    if classes:
        raise UsageError("--classes goes with one categorical target")
    if len(set(names)) < len(names):
        raise UsageError(f"--target names {max(names, key=list(names).count)!r} twice")
    y = np.stack([_binary(dataset, name) for name in names], 1)
    soft = [f"{name}{SHARES}" in dataset.table.columns for name in names]
    shares = np.stack(
        [_shares(dataset, name, ("1",))[:, 0] if s else y[:, k] for k, (name, s) in enumerate(zip(names, soft, strict=True))], 1
    )
    return Target(tuple(names), tuple(names), y, shares if any(soft) else None)


def _masks(dataset: Dataset, names: Sequence[str], classes: Sequence[str]) -> Target:
    if len(names) > 1:
        raise UsageError(f"--target {MASKS} stands alone, without other targets")
    if classes:
        masks.parse(classes)
    kept = dataset.store is not None and MASK_ROW in dataset.table.columns
    given = dataset.table[MASK_ROW].to_numpy() >= 0 if kept else dataset.column(MASKS).notna().to_numpy()
    if not given.any():
        raise UsageError(f"{dataset.name}: column {MASKS!r} is empty")
    return Target((MASKS,), ("mask",), np.where(given, 0, -1), mask_classes=tuple(classes))


def _numbers(dataset: Dataset, names: Sequence[str], classes: Sequence[str]) -> Target:
    """A column of numbers, cut into as many as five bands of equally many rows."""
    import pandas as pd

    if MASKS in names:
        raise UsageError(f"--target {MASKS} names masks, not numbers: leave --regression out")
    if len(names) > 1 or classes:
        raise UsageError("--regression predicts one column of numbers, without --classes")
    column = dataset.column(names[0])
    values = pd.to_numeric(column, errors="coerce").astype(float)  # of True and False too
    ages = column.where(values.isna() & column.notna()).map(lambda v: age_in_years(v) if isinstance(v, str) else None)
    values = values.fillna(pd.to_numeric(ages, errors="coerce"))
    strange = column[~np.isfinite(values) & column.notna()]
    if len(strange):
        comma = "," in str(strange.iloc[0])
        hint = (
            "a decimal comma is read in tables with semicolons between columns" if comma else "leave --regression out for classes"
        )
        raise UsageError(
            f"{dataset.name}: {names[0]} holds {phi.show_value(dataset.table, names[0], strange.iloc[0])}, "
            f"which is no number; {hint}"
        )
    if values.nunique() < 2:
        raise UsageError(f"{dataset.name}: {names[0]} has fewer than two different numbers: nothing to predict")
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, BANDS + 1)))
    y = np.clip(np.digitize(values, edges[1:-1], right=True), 0, len(edges) - 2)
    bands = tuple(f"{low:g} to {high:g}" for low, high in pairwise(edges))
    return Target((names[0],), bands, np.where(values.isna(), -1, y), numbers=values.to_numpy(np.float32))


def _categorical(dataset: Dataset, name: str, wanted: Sequence[str]) -> Target:
    codes, labels = _labels(dataset, name)
    present = sorted({v for v in labels if v is not None}, key=lambda v: (not v.isdecimal(), int(v) if v.isdecimal() else 0, v))
    missing = [c for c in wanted if c not in present]
    if missing:
        shown = (
            "" if phi.reason_of(name, dataset.table[name], phi.units_of(dataset.table)) else f"; it has {', '.join(present[:10])}"
        )
        raise UsageError(
            f"{dataset.name}: {name} has no row of class {missing[0]!r}{shown}: each class of --classes, or of the model that is "
            "tested, needs a row: add some, or join a table that has them"
        )
    chosen = tuple(wanted) or tuple(present)
    if len(chosen) < 2:
        found = f"one class ({chosen[0]})" if chosen else "no label"
        raise UsageError(f"{dataset.name}: {name} has {found}: nothing to distinguish")
    if len(chosen) > MOST_CLASSES:
        told = f"{dataset.name}: {name} has {len(chosen)} different values: that is no column of classes"
        raise UsageError(f"{told}; numbers are predicted with --regression")
    ids = {c: i for i, c in enumerate(chosen)}
    y = np.array([*(ids.get(v, -1) if v is not None else -1 for v in labels), -1])[codes]
    soft = f"{name}{SHARES}" in dataset.table.columns
    return Target((name,), chosen, y, _shares(dataset, name, chosen) if soft else None)


def _labels(dataset: Dataset, name: str) -> tuple[np.ndarray, list[str | None]]:
    """(n,) codes, -1 for missing, and the text of each code: every different value is looked at once."""
    import pandas as pd

    column = dataset.column(name)
    codes, different = pd.factorize(column.astype(object).where(column.notna(), None))
    return codes, [label_text(value) for value in different]


def _binary(dataset: Dataset, name: str) -> np.ndarray:
    codes, found = _labels(dataset, name)
    labels = [None if v is None else _ZERO_ONE.get(v.casefold(), v) for v in found]
    strange = next((v for v in labels if v not in (None, "0", "1")), None)
    if strange is not None:
        value = phi.show_value(dataset.table, name, strange)
        also = ": -1, as tables mark what is uncertain, is left out by --missing=-1" if strange in ("-1", "-1.0") else ""
        raise UsageError(f"{dataset.name}: {name} holds {value}; several targets together must be 0, 1 or missing{also}")
    y = np.array([*(np.nan if v is None else float(v) for v in labels), np.nan], np.float32)[codes]
    if not ((y == 0).any() and (y == 1).any()):
        raise UsageError(f"{dataset.name}: {name} needs rows with 0 and with 1")
    return y


def _shares(dataset: Dataset, name: str, classes: Sequence[str]) -> np.ndarray:
    """(n, classes) float32: the share of annotators for each class, of those who chose one of several; NaN where nobody did."""
    codes, texts = _labels(dataset, f"{name}{SHARES}")
    try:
        read = [json.loads(text or "{}") for text in texts]
        found = np.array([[float(shares.get(c, 0)) for c in classes] for shares in [*read, {}]], np.float32)
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{dataset.name}: {name}{SHARES} holds no shares of annotators; rename the column") from error
    empty = np.array([not shares for shares in [*read, {}]])
    if len(classes) > 1:
        total = found.sum(1, keepdims=True)
        empty |= total[:, 0] == 0
        found /= np.maximum(total, 1e-12)
    found[empty] = np.nan
    return found[codes]


def require_classes(target: Target, rows: np.ndarray, where: str, trains: bool = True) -> None:
    """Refuse to train or test where a class has no row, and to train where all numbers are one.

    Args:
        target: the labels.
        rows: positions of the rows that train or test.
        where: what they are, for the message.
        trains: whether these rows train.

    Raises:
        UsageError: naming the class and the split.
    """
    if target.numbers is not None:
        different = np.unique(target.numbers[rows][target.known[rows]])
        if not len(different):
            raise UsageError(f"no row in {where} has a number in {target.columns[0]}: add some, or name another target")
        if trains and len(different) < 2:
            raise UsageError(f"all labelled rows in {where} have the same number in {target.columns[0]}: nothing to learn")
        return
    for k, label in enumerate(target.classes):
        present = (target.y[rows, k] == 1).any() if target.multilabel else (target.y[rows] == k).any()
        if not present:
            raise UsageError(
                f"class {label!r} has no row in {where}: add some, join it with another class, or leave it out with --classes"
            )
