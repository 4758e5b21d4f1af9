"""``scotoma prepare``: a store of the user's own, with the table beside the pixels and without what identifies patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma import files
from scotoma.data import dataset as dataset_
from scotoma.data import phi
from scotoma.data.dataset import TABLE, Dataset
from scotoma.data.io import slices
from scotoma.data.io.read import Display, parse_windows
from scotoma.data.store import store
from scotoma.data.store.store import Store
from scotoma.errors import UsageError, notice, number

if TYPE_CHECKING:
    import pandas as pd


def write_store(
    dataset: Dataset,
    out: Path,
    size: int,
    channels: int | None,
    columns: list[str],
    display: dict[str, Any],
    axis: str,
    every: int,
    skip_empty: bool,
    strict: bool,
    quiet: bool,
) -> Path:
    """Decode the images of a table into ``out``; the other arguments are those of ``scotoma prepare``.

    Raises:
        UsageError, RunError: with a line that states what to do.
    """
    from pandas.api.types import infer_dtype

    if dataset.store is not None:
        raise UsageError(f"{dataset.store} is prepared already: name the images themselves")
    for column in columns:
        dataset.column(column)  # a wrong column is found before anything is decoded
        reason = phi.reason_of(column, dataset.table[column], phi.units_of(dataset.table))
        if reason is not None and reason.direct and column not in phi.STRUCTURE:
            mend = "rename the column" if phi.reason_by_name(column) else "write its values otherwise"
            raise UsageError(
                f"--columns {column}: {reason.text} is kept in no store; join it later by row in a table of your own, or {mend} if "
                "it identifies nobody"
            )
    shown = _display(dataset.display, **display)
    dataset = slices.choose(replace(dataset, display=shown), axis, every)
    dataset, opened = store.prepare(dataset, size, channels, out, strict, quiet=quiet, skip_empty=skip_empty)
    if "mask_path" in dataset.table.columns and dataset.table["mask_path"].notna().any():
        _, at = store.open_masks(dataset, opened.side, quiet, opened.path / store.MASKS_FOLDER)
        dataset = replace(dataset, table=dataset.table.assign(**{store.MASK_ROW: at}))
    left_out = phi.identifying(dataset.table, columns)
    if left_out:
        listing = ", ".join(f"{name} ({reason.text})" for name, reason in left_out.items())
        indirect = [name for name, reason in left_out.items() if not reason.direct]
        hint = f"; keep one that identifies nobody with --columns {indirect[0]}" if indirect else ""
        notice(dataset.name, f"left out of the store as identifying: {listing}{hint}")
    drop = ("image_path", "mask_path", "frame", *left_out)
    keep = dataset.table.drop(columns=[c for c in drop if c in dataset.table.columns])
    keep.attrs[dataset_.LEFT_OUT] = {name: reason.text for name, reason in left_out.items()}
    for column in keep.columns:  # a spreadsheet's column of numbers and words; Parquet has one type per column
        if infer_dtype(keep[column]) in ("mixed", "mixed-integer"):
            keep[column] = keep[column].map(str, na_action="ignore")
    with files.replacing(opened.path / TABLE) as temporary:
        keep.to_parquet(temporary)
    _report_left_out(dataset, opened, keep)
    return opened.path


def _report_left_out(dataset: Dataset, opened: Store, kept: pd.DataFrame) -> None:
    """One line about what the store holds."""
    unread = int(opened.facts["error"].notna().sum())
    shape = f"{opened.side} x {opened.side} pixels, {number(opened.channels, 'channel')}"
    of_file = dataset.table["image_path"].value_counts()
    several = int((of_file > 1).sum())
    columns = sorted(c for c in kept.columns if c != "row")
    notice(
        dataset.name,
        f"{number(len(kept), 'image')} of {shape}; {unread} unreadable; {number(several, 'file')} of several images; "
        f"{number(len(columns), 'column')} kept{': ' if columns else ''}{', '.join(columns)}",
    )


def _display(
    given: Display, windows: list[str] | None, equalize: str | None, offset: float | None, redact: bool = False
) -> Display:
    """The data set's display with what the user gives otherwise."""
    from scotoma.data.io import text_detector

    if (redact or given.redact) and text_detector.models() is None:
        raise UsageError(f"--redact: {text_detector.MISSING}")
    try:
        return replace(
            given,
            windows=given.windows if windows is None else parse_windows(windows),
            equalize=given.equalize if equalize is None else equalize,
            offset=given.offset if offset is None else offset,
            redact=given.redact or redact,
        )
    except ValueError as error:
        raise UsageError(f"--windows, --equalize, --offset: {error}") from error
