"""Which slices of volumes become images: along an axis, every so many-th."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scotoma.data.dataset import Dataset
from scotoma.data.io import read
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd


def choose(dataset: Dataset, axis: str = "axial", every: int = 1) -> Dataset:
    """The dataset with its NIfTI volumes cut along ``axis`` and every ``every``-th frame of each file kept, in their order.

    A row without a frame, which stands for the middle slice of its volume, stays one row.

    Args:
        dataset: as :func:`scotoma.data.sources.load` gives it: the rows of one volume differ in ``frame`` only.
        axis: axial, coronal or sagittal.
        every: at least 1; frames 0, every, 2 every, ... of a file.

    Raises:
        UsageError: there is no such axis, no volume to cut along it, or rows of one volume differ in more than their frame, such as
            one label per slice, so that other slices have no rows of theirs.
    """
    table = dataset.table
    if axis != "axial":
        table = _cut(dataset.name, table, axis)
    if every > 1:
        frames = table["frame"] if "frame" in table.columns else table["image_path"].map(lambda _: None)
        if unnumbered := int(frames.isna().sum()):
            notice(dataset.name, f"--every {every}: {unnumbered} of {len(table)} rows name no slice of their file and stay")
        table = table[frames.isna() | (frames % every == 0)]
    return replace(dataset, table=table.reset_index(drop=True))


def _cut(name: str, table: pd.DataFrame, axis: str) -> pd.DataFrame:
    import pandas as pd

    if axis not in read.AXES:
        raise UsageError(f"--axis {axis}: one of {', '.join(read.AXES)}")
    volume = table["image_path"].map(read.is_volume)
    if not volume.any():
        raise UsageError(f"--axis {axis}: {name} holds no volumes (NIfTI)")
    pieces = [table[~volume]]
    for path, rows in table[volume].groupby("image_path", sort=False):
        if (rows.drop(columns="frame", errors="ignore").nunique(dropna=False) > 1).any():
            raise UsageError(f"--axis {axis}: rows of one volume of {name} differ in more than their frame")
        whole = "frame" in rows.columns and rows["frame"].notna().any()
        try:
            cut = read.add_axis(str(path), axis)
            count = read.frames(cut) if whole else 1
            if whole and len(rows) != read.frames(str(path)):
                raise UsageError(f"--axis {axis}: {name} names some axial slices of a volume; name the volume without a frame")
        except read.ImageError:  # stays in the table, so that it is listed among the unreadable
            pieces.append(rows.head(1))
            continue
        piece = rows.iloc[[0] * count].assign(image_path=cut)
        mask = rows["mask_path"].iloc[0] if "mask_path" in rows.columns else None
        if isinstance(mask, str) and read.is_volume(mask):
            piece["mask_path"] = read.add_axis(mask, axis)
        pieces.append(piece.assign(frame=range(count)) if whole else piece)
    return pd.concat(pieces).sort_index(kind="stable")
