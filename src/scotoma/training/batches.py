"""What a method wants beside the images, out of the table: columns as numbers, partners, regions."""

from __future__ import annotations

import numpy as np

from scotoma.data.datamodule import DataModule
from scotoma.data.io.dicom_headers import age_in_years
from scotoma.data.labels.annotators import label_text
from scotoma.data.pairing import Partners, Successors
from scotoma.data.splits import units
from scotoma.data.store import store
from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Column, Wants
from scotoma.training.label_columns import NEXT, pair_column
from scotoma.training.trainer import Batches

MOST_CLASSES = 100


def batches(material: DataModule, positions: np.ndarray, wants: Wants, seed: int) -> tuple[Batches, tuple[Column, ...]]:
    """The batches that a method wants, of the images at these positions, and what its columns are.

    Raises:
        UsageError: the table lacks a column, or a column says nothing.
    """
    rows = material.rows[positions]
    described, values = columns(material, wants.columns, positions)
    targets = material.target.aims[positions] if wants.labels and material.target is not None else None
    pairs = partners(material, wants.pairs, positions) if wants.pairs else None
    regions = None
    if wants.regions:
        opened, at = store.regions(material.dataset, material.store.side)
        regions = opened, at[positions]
    return Batches(material.store, rows, targets, values, pairs, regions, seed), described


def columns(material: DataModule, names: tuple[str, ...], positions: np.ndarray) -> tuple[tuple[Column, ...], np.ndarray | None]:
    """Columns of the table as (n, K) float32, NaN where missing, and what each is.

    Words, and numbers of which there are two, are classes (sorted); other numbers are standardised; ages such as 058Y become years.

    Raises:
        UsageError: no such column, one without two different values, or words of more than ``MOST_CLASSES`` kinds.
    """
    found = [_column(material, name, positions) for name in names]
    if not found:
        return (), None
    return tuple(column for column, _ in found), np.stack([values for _, values in found], 1)


def _column(material: DataModule, name: str, positions: np.ndarray) -> tuple[Column, np.ndarray]:
    import pandas as pd

    target = material.target
    if target is not None and name in target.columns:  # a study shows some of its labels only
        y = target.y[:, target.columns.index(name)] if target.multilabel else np.where(target.y < 0, np.nan, target.y)
        return Column(name, ("0", "1") if target.multilabel else target.classes), y[positions].astype(np.float32)
    cells = material.dataset.column(name).iloc[positions].reset_index(drop=True)
    if cells.isna().all() or cells.nunique() < 2:
        raise UsageError(f"{material.dataset.name}: column {name!r} has fewer than two different values on the training images")
    numbers = pd.to_numeric(cells, errors="coerce")
    if numbers.isna().sum() > cells.isna().sum():
        ages = pd.Series([age_in_years(str(v)) if isinstance(v, str) else None for v in cells], dtype=float)
        numbers = ages if ages.isna().sum() == cells.isna().sum() else numbers
    if numbers.isna().sum() == cells.isna().sum() and numbers.nunique() > 2:
        x = numbers.to_numpy(np.float64)
        mean, std = float(np.nanmean(x)), float(np.nanstd(x))
        return Column(name, (), mean, std), ((x - mean) / std).astype(np.float32)
    texts = [None if pd.isna(v) else label_text(v) for v in cells]
    classes = sorted({t for t in texts if t is not None})
    if len(classes) > MOST_CLASSES:
        raise UsageError(f"{material.dataset.name}: column {name!r} has {len(classes)} different words: no classes")
    at = {text: float(k) for k, text in enumerate(classes)}
    return Column(name, tuple(classes)), np.array([np.nan if t is None else at[t] for t in texts], np.float32)


def partners(material: DataModule, spec: str, positions: np.ndarray) -> Partners | Successors:
    """Who may stand beside whom: ``COLUMN``, ``COLUMN:WIDTH`` for bands of numbers, or ``next:COLUMN``; see ``Wants.pairs``.

    Raises:
        UsageError: no such column, no number where one is needed, or every image would be alone.
    """
    import pandas as pd

    dataset = material.dataset
    follows = spec.startswith(NEXT)
    name, width = pair_column(spec)
    target = material.target
    if target is not None and name in target.columns and not width:  # a study shows some of its labels only
        y = target.y[:, target.columns.index(name)] if target.multilabel else target.y.astype(float)
        codes = units.numbered(np.where(np.isnan(y) | (y < 0), np.nan, y))
    elif width:
        shown = dataset.column(name) if target is None or target.numbers is None or name not in target.columns else target.numbers
        numbers = pd.Series(pd.to_numeric(shown, errors="coerce"))  # of the target, those that a study shows
        try:
            bands = numbers // float(width)
        except ValueError:
            raise UsageError(f"{spec!r}: write COLUMN:WIDTH, such as age:10") from None
        codes = pd.factorize(bands)[0].astype(np.int64)
        codes[codes < 0] = len(codes) + np.flatnonzero(codes < 0)
    else:
        codes = units.codes_of(dataset, name)
    codes = codes[positions]
    if len(np.unique(codes)) == len(codes):
        raise UsageError(f"{dataset.name}: no two training images share a value of {name!r}: there are no pairs")
    if not follows:
        return Partners(codes)
    order = np.arange(len(dataset), dtype=float)
    facts = material.store.facts.iloc[material.rows]
    for frame, column in ((facts, "slice_position"), (dataset.table, "frame")):
        if column in frame.columns and frame[column].notna().any():
            order = frame[column].to_numpy(float, na_value=np.nan)
            break
    return Successors(codes, np.nan_to_num(order[positions]))
