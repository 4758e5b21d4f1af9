"""``prepare``: decode once into a store that can be moved and shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scotoma.data.table import TABLE
from scotoma.errors import UsageError


def prepare(
    data: Any,
    out: str | Path,
    size: int = 96,
    labels: str | None = None,
    on: str | None = None,
    channels: int | None = None,
    strict: bool = False,
    quiet: bool = False,
) -> Path:
    """Decode pictures once into a store; the other verbs do it by themselves, into a cache.

    The store holds the table without paths and identifiers: patients and studies as keyed hashes.

    Args:
        data: a folder, a CSV or Parquet table, a MedMNIST .npz, or phantom:N.
        out: the store's folder, new or empty.
        size: the training size it must serve, pixels; the store's side is at least 1.3 times that.
        labels: a spreadsheet (CSV or XLSX) to join to the pictures.
        on: the spreadsheet's column that names the picture.
        channels: 1 or 3; by default 3 where any picture has colour.
        strict: stop at an unreadable picture instead of leaving it out.
        quiet: no progress bar.

    Returns:
        The store's folder.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the disk is full, a picture unreadable under `strict`; what was decoded waits beside `out` for the next try.
    """
    from pandas.api.types import infer_dtype

    from scotoma.data import store, table

    if size < 16:
        raise UsageError(f"--size {size}: pictures need at least 16 pixels")
    if channels not in (None, 1, 3):
        raise UsageError(f"--channels {channels}: 1 or 3")
    if (Path(out) / TABLE).exists():
        raise UsageError(f"{out} holds a prepared store: name another folder")
    dataset = table.load(data, labels, on)
    if dataset.store is not None:
        raise UsageError(f"{dataset.store} is prepared already: name the pictures themselves")
    dataset, opened = store.prepare(dataset, size, channels, Path(out), strict, quiet=quiet)
    keep = dataset.table.drop(columns=[c for c in ("image_path", "mask_path", "frame") if c in dataset.table.columns])
    for column in keep.columns:  # a spreadsheet's column of numbers and words; Parquet has one type a column
        if infer_dtype(keep[column]) in ("mixed", "mixed-integer"):
            keep[column] = keep[column].map(str, na_action="ignore")
    temporary = opened.path / (TABLE + ".new")
    keep.to_parquet(temporary)
    temporary.replace(opened.path / TABLE)
    return opened.path
