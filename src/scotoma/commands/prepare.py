"""``prepare``: decode once into a store that can be moved and shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma import files
from scotoma.arguments import checked
from scotoma.data.dataset import TABLE
from scotoma.data.io.read import Display, parse_windows
from scotoma.errors import UsageError, notice, number

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.dataset import Dataset
    from scotoma.data.store.store import Store


@checked
def prepare(
    data: Any,
    out: str | Path,
    size: int = 96,
    labels: str | None = None,
    on: str | None = None,
    annotators: str | None = None,
    missing: list[str] | None = None,
    channels: int | None = None,
    columns: list[str] | None = None,
    windows: list[str] | None = None,
    equalize: str | None = None,
    offset: float | None = None,
    redact: bool = False,
    axis: str = "axial",
    every: int = 1,
    skip_empty: bool = False,
    strict: bool = False,
    quiet: bool = False,
) -> Path:
    """Decode images once into a store; the other verbs do it by themselves, into a cache.

    Where files do not state what is black and white, that is decided once for all images of a data set (PNG, TIFF, npz) or of a
    series (DICOM), printed and recorded.

    The store holds the table without paths and what identifies patients: patients, studies and groups are keyed hashes, and
    columns of names, numbers of persons, dates, addresses and free text are left out, with a line that names them.

    Args:
        data: a folder, a CSV or Parquet table, a MedMNIST .npz, NAME:PATH of a public data set, or phantom:N.
        out: the store's folder, new or empty.
        size: the training size it must serve, pixels; the store's side is at least 1.3 times that.
        labels: a spreadsheet (CSV or XLSX) to join to the images.
        on: the spreadsheet's column that names the image.
        annotators: majority or soft: several rows of an image are several annotators', brought together so (soft: train on shares).
        missing: words that mean a missing value, such as NA,unknown; by default empty cells, and NA and the like among numbers.
        channels: 1 or 3; by default 3 where any image has colour.
        columns: further columns of the table to keep that would be left out, separated by commas; a direct identifier (a name, a
            record number, a birth date, an address) never is.
        windows: 1 or 3 windows of the stored values (CT: HU), one a channel: brain, subdural, bone, lung, mediastinum, softtissue,
            abdomen, or centre:width; by default as the data set and the files say.
        equalize: none, histogram or clahe; by default as the data set says.
        offset: added to the values of PNG, TIFF and npz before the windows, such as -32768 for 16-bit PNG of HU + 32768.
        redact: burned-in text painted over at full resolution, lines of four letters or digits and more; needs the extra `ocr`.
        axis: along which NIfTI volumes are cut: axial, coronal or sagittal.
        every: keep every so many-th slice of a file, from its first.
        skip_empty: leave out slices that show nothing.
        strict: stop at an unreadable image instead of leaving it out.
        quiet: no progress bar.

    Returns:
        The store's folder.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the disk is full, an image unreadable under `strict`; what was decoded waits beside `out` for the next try.
    """
    from pandas.api.types import infer_dtype

    from scotoma.data import dataset as dataset_
    from scotoma.data import phi, sources
    from scotoma.data.io import slices
    from scotoma.data.store import store

    if size < 16:
        raise UsageError(f"--size {size}: images need at least 16 pixels")
    if channels not in (None, 1, 3):
        raise UsageError(f"--channels {channels}: 1 or 3")
    if every < 1:
        raise UsageError(f"--every {every}: at least 1")
    if (Path(out) / TABLE).exists():
        raise UsageError(f"{out} holds a prepared store: name another folder")
    dataset = sources.load(data, labels, on, annotators, missing)
    if dataset.store is not None:
        raise UsageError(f"{dataset.store} is prepared already: name the images themselves")
    for column in columns or ():
        dataset.column(column)  # a wrong column is found before anything is decoded
        reason = phi.reason_of(column, dataset.table[column], phi.units_of(dataset.table))
        if reason is not None and reason.direct and column not in phi.STRUCTURE:
            mend = "rename the column" if phi.named(column) else "write its values otherwise"
            raise UsageError(
                f"--columns {column}: {reason.text} is kept in no store; join it later by row in a table of your own, or {mend} if "
                "it identifies nobody"
            )
    display = _display(dataset.display, windows, equalize, offset, redact)
    dataset = slices.choose(replace(dataset, display=display), axis, every)
    dataset, opened = store.prepare(dataset, size, channels, Path(out), strict, quiet=quiet, skip_empty=skip_empty)
    if "mask_path" in dataset.table.columns and dataset.table["mask_path"].notna().any():
        _, at = store.regions(dataset, opened.side, quiet, opened.path / store.REGIONS)
        dataset = replace(dataset, table=dataset.table.assign(**{store.REGION: at}))
    left_out = phi.identifying(dataset.table, columns or ())
    if left_out:
        told = ", ".join(f"{name} ({reason.text})" for name, reason in left_out.items())
        indirect = [name for name, reason in left_out.items() if not reason.direct]
        hint = f"; keep one that identifies nobody with --columns {indirect[0]}" if indirect else ""
        notice(dataset.name, f"left out of the store as identifying: {told}{hint}")
    drop = ("image_path", "mask_path", "frame", *left_out)
    keep = dataset.table.drop(columns=[c for c in drop if c in dataset.table.columns])
    keep.attrs[dataset_.LEFT_OUT] = {name: reason.text for name, reason in left_out.items()}
    for column in keep.columns:  # a spreadsheet's column of numbers and words; Parquet has one type a column
        if infer_dtype(keep[column]) in ("mixed", "mixed-integer"):
            keep[column] = keep[column].map(str, na_action="ignore")
    with files.replacing(opened.path / TABLE) as temporary:
        keep.to_parquet(temporary)
    _say(dataset, opened, keep)
    return opened.path


def _say(dataset: Dataset, opened: Store, kept: pd.DataFrame) -> None:
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
    """The data set's display with what the user says otherwise."""
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
