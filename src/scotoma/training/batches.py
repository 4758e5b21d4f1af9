"""What a method requires beside the images, out of the table: columns as numbers, paired images, masks."""

from __future__ import annotations

import numpy as np

from scotoma.data.datamodule import DataModule
from scotoma.data.io.dicom_headers import age_in_years
from scotoma.data.labels.annotators import label_text
from scotoma.data.pairing import GroupPairing, SuccessorPairing
from scotoma.data.splits import units
from scotoma.data.store import store
from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Column, Requirements
from scotoma.training.label_columns import NEXT, pair_column
from scotoma.training.trainer import Batches

MOST_CLASSES = 100


def make_batches(
    data_module: DataModule, positions: np.ndarray, requirements: Requirements, seed: int
) -> tuple[Batches, tuple[Column, ...]]:
    """The batches that a method requires, of the images at these positions, and what its columns are.

    Raises:
        UsageError: the table lacks a column, or a column states nothing.
    """
    rows = data_module.rows[positions]
    described, values = make_columns(data_module, requirements.columns, positions)
    targets = data_module.target.aims[positions] if requirements.labels and data_module.target is not None else None
    pairs = make_pairing(data_module, requirements.pairs, positions) if requirements.pairs else None
    masks = None
    if requirements.masks:
        opened, at = store.open_masks(data_module.dataset, data_module.store.side)
        masks = opened, at[positions]
    return Batches(data_module.store, rows, targets, values, pairs, masks, seed), described


def make_columns(
    data_module: DataModule, names: tuple[str, ...], positions: np.ndarray
) -> tuple[tuple[Column, ...], np.ndarray | None]:
    """Columns of the table as (n, K) float32, NaN where missing, and what each is.

    Words, and numbers of which there are two, are classes (sorted); other numbers are standardised; ages such as 058Y become years.

    Raises:
        UsageError: no such column, one without two different values, or words of more than ``MOST_CLASSES`` kinds.
    """
    found = [_column(data_module, name, positions) for name in names]
    if not found:
        return (), None
    return tuple(column for column, _ in found), np.stack([values for _, values in found], 1)


def _column(data_module: DataModule, name: str, positions: np.ndarray) -> tuple[Column, np.ndarray]:
    import pandas as pd

    target = data_module.target
    if target is not None and name in target.columns:  # a study shows some of its labels only
        y = target.y[:, target.columns.index(name)] if target.multilabel else np.where(target.y < 0, np.nan, target.y)
        return Column(name, ("0", "1") if target.multilabel else target.classes), y[positions].astype(np.float32)
    cells = data_module.dataset.column(name).iloc[positions].reset_index(drop=True)
    if cells.isna().all() or cells.nunique() < 2:
        raise UsageError(f"{data_module.dataset.name}: column {name!r} has fewer than two different values on the training images")
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
        raise UsageError(f"{data_module.dataset.name}: column {name!r} has {len(classes)} different words: no classes")
    at = {text: float(k) for k, text in enumerate(classes)}
    return Column(name, tuple(classes)), np.array([np.nan if t is None else at[t] for t in texts], np.float32)


def make_pairing(data_module: DataModule, spec: str, positions: np.ndarray) -> GroupPairing | SuccessorPairing:
    """The pairing of images by ``COLUMN``, ``COLUMN:WIDTH`` (bands of numbers) or ``next:COLUMN``; see ``Requirements.pairs``.

    Raises:
        UsageError: no such column, no number where one is needed, or every image would be alone.
    """
    import pandas as pd

    dataset = data_module.dataset
    follows = spec.startswith(NEXT)
    name, width = pair_column(spec)
    target = data_module.target
    if target is not None and name in target.columns and not width:  # a study shows some of its labels only
        y = target.y[:, target.columns.index(name)] if target.multilabel else target.y.astype(float)
        codes = units.number_values(np.where(np.isnan(y) | (y < 0), np.nan, y))
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
        return GroupPairing(codes)
    order = np.arange(len(dataset), dtype=float)
    facts = data_module.store.facts.iloc[data_module.rows]
    for frame, column in ((facts, "slice_position"), (dataset.table, "frame")):
        if column in frame.columns and frame[column].notna().any():
            order = frame[column].to_numpy(float, na_value=np.nan)
            break
    return SuccessorPairing(codes, np.nan_to_num(order[positions]))
