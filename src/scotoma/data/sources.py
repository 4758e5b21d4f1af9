"""What the user has -> ``Dataset``: a table with one row per image.

``load`` takes a folder (flat, ``CLASS/``, ``train|val|test/CLASS/``), a CSV or Parquet table, a ``.npz`` in MedMNIST's form, a
prepared store, ``phantom:N``, ``name:path`` of a known public data set, or a DataFrame, and joins a spreadsheet of labels to it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma import files
from scotoma.data import catalog, folders
from scotoma.data.dataset import DISPLAY, SPLITS, TABLE, Dataset
from scotoma.data.io import read as images
from scotoma.data.labels import columns, joining, spreadsheets
from scotoma.data.labels.annotators import check, combine
from scotoma.data.labels.columns import IDENTIFIERS, hash_identifiers, resolve_paths, tidy, values
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DISPLAY", "IDENTIFIERS", "SPLITS", "TABLE", "Dataset", "from_frame", "hide_columns", "load", "read", "values"]


def load(
    data: Any,
    labels: str | Path | None = None,
    on: str | None = None,
    annotators: str | None = None,
    missing: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
) -> Dataset:
    """Make a ``Dataset`` of whatever ``--data`` names.

    Args:
        data: a folder, a ``.csv`` / ``.parquet`` / ``.npz`` file, a prepared store, ``phantom:N`` or ``phantom:N:SEED``, a known
            public data set (``chexpert:/data/chexpert?uncertain=1``), a pandas DataFrame with ``image_path``, or a ``Dataset``.
        labels: a CSV or XLSX spreadsheet whose columns are joined to the images.
        on: the spreadsheet's column that names the image: its path, file name, stem or a folder above it.
        annotators: ``majority`` or ``soft``, how several rows of one image (of the spreadsheet, or of the table) become one; see
            ``scotoma.data.labels.annotators``.
        missing: words that mean a missing cell, in table and spreadsheet.
        target: columns to predict, where they are named. Beside a spreadsheet names of folders are a ``label`` only if it is one.

    Raises:
        UsageError: nothing is there, or it is none of these.
    """
    return hide_columns(read(data, labels, on, annotators, missing, target))


def read(
    data: Any,
    labels: str | Path | None = None,
    on: str | None = None,
    annotators: str | None = None,
    missing: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
) -> Dataset:
    """What ``load`` does, but identifiers stay as they came where nothing has hashed them yet (``plain``)."""
    import pandas as pd

    check(annotators)
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, pd.DataFrame):
        dataset = _from_frame("table", columns.recognise_roles("table", data, missing or ())[0], Path.cwd())
    elif str(data).startswith("phantom:"):
        dataset = _from_phantom(str(data))
    elif catalog.is_name(str(data)):
        dataset = catalog.load(str(data))
    else:
        has_label = labels is None or not target or "label" in (*target, on)
        dataset = _from_path(Path(str(data)).expanduser(), missing or (), has_label)
    if dataset.plain and not annotators:
        _report_repeated(dataset)
    if annotators and "image_path" in dataset.table.columns:
        frames = dataset.table["frame"] if "frame" in dataset.table.columns else pd.Series(0, dataset.table.index)
        named = dataset.table.groupby([dataset.table["image_path"], frames.fillna(0)], sort=False).ngroup()
        combined = combine(dataset.name, dataset.table, named.to_numpy(), annotators)
        dataset = replace(dataset, table=combined, spelled=dataset.spelled if len(combined) == len(dataset) else None)
    if labels is not None:
        joined, new, keys = joining.join(
            dataset.name, dataset.table, dataset.plain, Path(labels).expanduser(), on, annotators, missing or ()
        )
        spelled = None if dataset.spelled is None else dataset.spelled.drop(columns=[*new], errors="ignore")
        dataset = replace(dataset, table=joined, keys=keys, spelled=spelled)
    elif on is not None:
        raise UsageError("--on names a column of the spreadsheet: give it with --labels")
    if dataset.table.empty:
        raise UsageError(f"{dataset.name} holds no images")
    return dataset


def _report_repeated(dataset: Dataset) -> None:
    """Say how many rows name an image that another row names too, and in what these differ."""
    keys = [c for c in ("image_path", "frame") if c in dataset.table.columns]
    rows = dataset.table[dataset.table.duplicated(keys, keep=False)]
    if len(rows):
        of = rows.groupby(keys, sort=False, dropna=False).ngroup()
        differ = rows.drop(columns=keys).map(str).groupby(of).nunique().gt(1).any()
        named = [str(c) for c in differ.index[differ]]
        in_what = f", with different {', '.join(named[:3])}" + (" and others" if len(named) > 3 else "") if named else ""
        notice(
            dataset.name,
            f"{len(rows)} rows name {of.nunique()} images between them{in_what}: each row is an example of its own; "
            "--annotators majority (or soft) makes one of an image's rows",
        )


def hide_columns(dataset: Dataset) -> Dataset:
    """The dataset with its patients, studies and groups as keyed hashes."""
    if not dataset.plain:
        return dataset
    table = dataset.table.copy(deep=False)
    for column in IDENTIFIERS:
        if column in table.columns:
            table[column] = hash_identifiers(dataset.name, table[column])
    return replace(dataset, table=table, plain=False, spelled=None)


def _from_path(path: Path, missing: Sequence[str] = (), has_label: bool = True) -> Dataset:
    shown = str(path.absolute()).encode(errors="replace").decode()
    if shown != str(path.absolute()):
        raise UsageError(f"{shown}: its name is not UTF-8, and no table can hold it: rename it, or link to it by another name")
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / "store.json").exists():
            return _from_store(path)
        name = path.name or path.resolve().name  # that of `.` is empty
        return Dataset(name, tidy(name, folders.read(path, has_label)), plain=True)
    kind = path.suffix.lower()
    if kind == ".npz":
        return _from_npz(path)
    if kind in (*spreadsheets.SUFFIXES, ".gz"):
        frame = spreadsheets.read(path, columns.SPELLINGS["image_path"])
        name = path.stem if path.stem != "table" else path.parent.name
        understood, renamed = columns.recognise_roles(name, frame, missing)
        dataset = _from_frame(name, understood, path.parent)
        text = frame.rename(columns=renamed).reset_index(drop=True)
        return replace(dataset, spelled=text) if frame.attrs.get(spreadsheets.TEXT) else dataset
    raise UsageError(f"{path}: not a folder, .csv, .tsv, .parquet, .xlsx or .npz")


def from_frame(name: str, frame: pd.DataFrame, folder: Path) -> Dataset:
    """A table with ``image_path`` (and raw ``patient`` and ``study``) -> ``Dataset``, paths relative to ``folder``.

    Raises:
        UsageError: a column is not what its name states.
    """
    return hide_columns(_from_frame(name, frame, folder))


def _from_frame(name: str, frame: pd.DataFrame, folder: Path) -> Dataset:
    if "image_path" not in frame.columns:
        raise UsageError(f"{name}: a table needs the column image_path (has: {', '.join(map(str, frame.columns))})")
    table = frame.reset_index(drop=True).copy()
    if table["image_path"].isna().any():
        raise UsageError(f"{name}: {int(table['image_path'].isna().sum())} rows have no image_path")
    strange = next((i for i, v in enumerate(table["image_path"]) if not isinstance(v, (str, Path)) or not str(v)), None)
    if strange is not None:
        raise UsageError(f"{name}: image_path of row {strange} is no path: write file names, with their suffix")
    bare = next((v for v in table["image_path"] if str(v).isdecimal()), None)
    if bare is not None and not (folder / str(bare)).exists():
        raise UsageError(f"{name}: image_path holds numbers that are no files: write file names, with their suffix")
    for column in ("image_path", "mask_path"):
        if column in table.columns:
            table[column] = resolve_paths(folder, table[column])
    return Dataset(name, tidy(name, table), plain=True, display=images.Display.of(frame.attrs.get(DISPLAY)))


def _from_npz(path: Path) -> Dataset:
    """MedMNIST's form: members ``train_images``, ``train_labels``, ``val_...``, ``test_...`` (labels (N, 1) or 0/1 (N, K))."""
    import numpy as np
    import pandas as pd

    parts = []
    try:
        with np.load(files.regular(path), allow_pickle=False) as archive:
            for split in SPLITS:
                if f"{split}_images" not in archive.files:
                    continue
                member = f"{path.absolute()}#{split}_images"
                part = pd.DataFrame({"image_path": member, "frame": range(images.frames(member)), "split": split})
                labels = archive[f"{split}_labels"] if f"{split}_labels" in archive.files else None
                if labels is not None:
                    labels = labels.reshape(len(part), -1)
                    names = ["label"] if labels.shape[1] == 1 else [f"label_{k}" for k in range(labels.shape[1])]
                    part[names] = labels
                parts.append(part)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not an .npz in MedMNIST's form ({str(error).splitlines()[0]})") from error
    if not parts:
        raise UsageError(f"{path}: no member named train_images, val_images or test_images")
    return Dataset(path.stem, pd.concat(parts, ignore_index=True), plain=True)


def _from_phantom(text: str) -> Dataset:
    match = re.fullmatch(r"phantom:(\d+)(?::(\d+))?", text)
    if not match or int(match[1]) == 0:
        raise UsageError(f"{text}: write phantom:N or phantom:N:SEED, N images")
    from scotoma.data.phantom import phantom

    return Dataset("phantom", tidy("phantom", phantom.table(int(match[1]), int(match[2] or 0))), plain=True)


def _from_store(path: Path) -> Dataset:
    import json

    import pandas as pd

    try:
        settings = dict(json.loads(files.regular(path / "store.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged (store.json): prepare it anew") from error
    if not (path / TABLE).exists():
        raise UsageError(f"{path}: a store of the cache, without its table; name the data themselves, or `scotoma prepare` them")
    display = images.Display.of(settings.get("display"))
    return Dataset(settings["name"], pd.read_parquet(files.regular(path / TABLE)), store=path, display=display)
