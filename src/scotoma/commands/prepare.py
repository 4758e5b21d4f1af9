"""``prepare``: decode once into a store that can be moved and shared."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scotoma.arguments import TableArgs, check_arguments
from scotoma.errors import UsageError, stage


@check_arguments
def prepare(
    source: TableArgs,
    out: str | Path,
    size: int = 96,
    channels: Literal[1, 3] | None = None,
    columns: list[str] | None = None,
    windows: list[str] | None = None,
    equalize: Literal["none", "histogram", "clahe"] | None = None,
    offset: float | None = None,
    redact: bool = False,
    axis: Literal["axial", "coronal", "sagittal"] = "axial",
    every: int = 1,
    skip_empty: bool = False,
    strict: bool = False,
    quiet: bool = False,
) -> Path:
    """Decode images once into a store that can be moved and shared; the other verbs decode into a cache.

    If files do not state their display range, one is chosen for all images of a data set (PNG, TIFF, npz) or of a series (DICOM),
    printed and recorded.

    The store holds the table without paths and what identifies patients: patients, studies and groups are keyed hashes, and
    columns of names, numbers of persons, dates, addresses and free text are left out, with a line that names them.

    Args:
        source: see `TableArgs`.
        out: folder of the store, new or empty.
        size: largest input image size in pixels that the store serves; images are stored at least 1.3 times as large.
        channels: channels to store; by default 3 if any image has colour, else 1.
        columns: further columns of the table to keep that would be left out, separated by commas; a direct identifier (name,
            record number, birth date, address) is never kept.
        windows: 1 or 3 intensity windows, one per channel, in stored values (CT: HU): brain, subdural, bone, lung, mediastinum,
            softtissue, abdomen, or centre:width; by default those of the data set or the headers.
        equalize: histogram equalisation of each image; by default that of the data set.
        offset: number added to the stored values of PNG, TIFF and npz before windowing, such as -32768 for 16-bit PNG of HU +
            32768.
        redact: paint over burned-in text at full resolution (lines of four letters or digits and more); requires the extra
            `ocr`.
        axis: plane in which NIfTI volumes are cut into slices.
        every: slice interval: keep every n-th slice of a file, from its first.
        skip_empty: leave out empty slices.
        strict: stop at an unreadable image instead of leaving it out.
        quiet: no progress bar.

    Returns:
        The store's folder.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the disk is full, an image unreadable under `strict`; what was decoded waits beside `out` for the next try.
    """
    from scotoma.data.dataset import TABLE

    if (Path(out) / TABLE).exists():
        raise UsageError(f"{out} holds a prepared store: name another folder")
    from scotoma.data import sources
    from scotoma.data.store.prepared import write_store

    stage("reading the table", quiet)
    dataset = sources.load(**vars(source))
    stage("preparing the store", quiet)
    display = {"windows": windows, "equalize": equalize, "offset": offset, "redact": redact}
    return write_store(dataset, Path(out), size, channels, columns or [], display, axis, every, skip_empty, strict, quiet)
