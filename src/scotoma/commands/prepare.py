"""``prepare``: decode once into a store that can be moved and shared."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scotoma.arguments import TableArgs, check_arguments
from scotoma.errors import UsageError


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
    """Decode images once into a store; the other verbs do it by themselves, into a cache.

    Where files do not state what is black and white, that is decided once for all images of a data set (PNG, TIFF, npz) or of a
    series (DICOM), printed and recorded.

    The store holds the table without paths and what identifies patients: patients, studies and groups are keyed hashes, and
    columns of names, numbers of persons, dates, addresses and free text are left out, with a line that names them.

    Args:
        source: see `TableArgs`.
        out: the store's folder, new or empty.
        size: the training size it must serve, pixels; the store's side is at least 1.3 times that.
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
    if size < 16:
        raise UsageError(f"--size {size}: images need at least 16 pixels")
    if every < 1:
        raise UsageError(f"--every {every}: at least 1")
    from scotoma.data.dataset import TABLE

    if (Path(out) / TABLE).exists():
        raise UsageError(f"{out} holds a prepared store: name another folder")
    from scotoma.data import sources
    from scotoma.data.store.prepared import write_store

    dataset = sources.load(**vars(source))
    display = {"windows": windows, "equalize": equalize, "offset": offset, "redact": redact}
    return write_store(dataset, Path(out), size, channels, columns or [], display, axis, every, skip_empty, strict, quiet)
