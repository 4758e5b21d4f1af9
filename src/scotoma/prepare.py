"""``prepare``: decode once into a store that can be moved and shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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
    """
    from scotoma.data import store, table

    dataset = table.load(data, labels, on)
    dataset, opened = store.prepare(dataset, size, channels, Path(out), strict, quiet=quiet)
    keep = dataset.table.drop(columns=[c for c in ("image_path", "mask_path", "frame") if c in dataset.table.columns])
    temporary = opened.path / "table.parquet.new"
    keep.to_parquet(temporary)
    temporary.replace(opened.path / "table.parquet")
    return opened.path
