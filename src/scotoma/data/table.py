"""What the user has -> ``Dataset``: a table with one row a picture.

``load`` takes a folder (flat, ``CLASS/``, ``train|val|test/CLASS/``), a CSV or Parquet table, a ``.npz`` in MedMNIST's form, a
prepared store, ``phantom:N``, ``name:path`` of a known public data set, or a DataFrame, and joins a spreadsheet of labels to it.
"""

from __future__ import annotations

import difflib
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma.data import folders, identity, images, known, readings
from scotoma.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test")
DISPLAY = "scotoma_display"  # a Parquet table's attribute: how its pictures are shown
TABLE = "table.parquet"  # of a prepared store
LEFT_OUT = "scotoma_left_out"  # its attribute: the columns that `prepare` left out as identifying, with why
IDENTIFIERS = ("patient", "study", "group")
_KEPT = (*IDENTIFIERS, "split")  # what a joined spreadsheet adds to, and never empties


@dataclass(frozen=True)
class Dataset:
    """A named table, one row a picture.

    Columns: ``image_path`` (absolute, or ``phantom:SEED``, or ``file.npz#member``), ``frame`` (which picture of the file; missing
    for files with one), and where known ``patient``, ``study`` and ``group`` (keyed hashes), ``split``, ``mask_path``, targets,
    metadata. The index is 0..n-1 and is the row id by which rows, logs and reports name a picture.
    """

    name: str
    table: pd.DataFrame
    store: Path | None = None  # set where the pictures lie prepared already
    display: images.Display = images.AS_STORED  # how stored values become grey levels
    plain: bool = (
        False  # identifiers are as they came, no hashes: inside ``load``, and for `scotoma split`, which writes the user's table
    )

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> pd.Series[Any]:
        """One column of the table.

        Raises:
            UsageError: there is none of that name; the message names the nearest.
        """
        if name not in self.table.columns:
            usable = [c for c in self.table.columns if c not in ("image_path", "frame", "row")]
            near = difflib.get_close_matches(name, usable, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(map(str, usable)) or 'none'}"
            if why := self.table.attrs.get(LEFT_OUT, {}).get(name):
                hint = f"`scotoma prepare` left it out as {why}: prepare anew with --columns {name}"
            raise UsageError(f"{self.name} has no column {name!r}; {hint}")
        return self.table[name]


def load(data: Any, labels: str | Path | None = None, on: str | None = None, readers: str | None = None) -> Dataset:
    """Make a ``Dataset`` of whatever ``--data`` names.

    Args:
        data: a folder, a ``.csv`` / ``.parquet`` / ``.npz`` file, a prepared store, ``phantom:N`` or ``phantom:N:SEED``, a known
            public data set (``chexpert:/data/chexpert?uncertain=1``), a pandas DataFrame with ``image_path``, or a ``Dataset``.
        labels: a CSV or XLSX spreadsheet whose columns are joined to the pictures.
        on: the spreadsheet's column that names the picture: its path, file name, stem or a folder above it.
        readers: ``majority`` or ``soft``, how several rows of one picture (of the spreadsheet, or of the table) become one; see
            ``scotoma.data.readings``.

    Raises:
        UsageError: nothing is there, or it is none of these.
    """
    return hidden(read(data, labels, on, readers))


def read(data: Any, labels: str | Path | None = None, on: str | None = None, readers: str | None = None) -> Dataset:
    """What ``load`` does, but identifiers stay as they came where nothing has hashed them yet (``plain``)."""
    import pandas as pd

    readings.check(readers)
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, pd.DataFrame):
        dataset = _from_frame("table", data, Path.cwd())
    elif str(data).startswith("phantom:"):
        dataset = _from_phantom(str(data))
    elif known.is_name(str(data)):
        dataset = known.load(str(data))
    else:
        dataset = _from_path(Path(str(data)).expanduser())
    if readers and "image_path" in dataset.table.columns:
        frames = dataset.table["frame"] if "frame" in dataset.table.columns else pd.Series(0, dataset.table.index)
        named = dataset.table.groupby([dataset.table["image_path"], frames.fillna(0)], sort=False).ngroup()
        dataset = replace(dataset, table=readings.combine(dataset.name, dataset.table, named.to_numpy(), readers))
    if labels is not None:
        dataset = _join(dataset, Path(labels), on, readers)
    elif on is not None:
        raise UsageError("--on names a column of the spreadsheet: give it with --labels")
    if dataset.table.empty:
        raise UsageError(f"{dataset.name} holds no pictures")
    return dataset


def hidden(dataset: Dataset) -> Dataset:
    """The dataset with its patients, studies and groups as keyed hashes."""
    if not dataset.plain:
        return dataset
    table = dataset.table.copy(deep=False)
    for column in IDENTIFIERS:
        if column in table.columns:
            table[column] = _hashed(table[column])
    return replace(dataset, table=table, plain=False)


def _hashed(column: pd.Series[Any]) -> pd.Series[Any]:
    """Each different identifier is hashed once."""
    import numpy as np
    import pandas as pd

    key = identity.load_key()
    codes, different = pd.factorize(column.astype(object).where(column.notna(), None))
    plain = [identity.canonical(value) for value in different]
    names = np.array([*(p and identity.pseudonym(p, key) for p in plain), None], object)  # the last is of the code -1
    return pd.Series(names[codes], column.index, object)


def _from_path(path: Path) -> Dataset:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / "store.json").exists():
            return _from_store(path)
        return Dataset(path.name, _tidy(path.name, folders.read(path)), plain=True)
    kind = path.suffix.lower()
    if kind == ".npz":
        return _from_npz(path)
    if kind in (".csv", ".parquet", ".xlsx"):
        return _from_frame(path.stem if path.stem != "table" else path.parent.name, read_frame(path), path.parent)
    raise UsageError(f"{path}: not a folder, .csv, .parquet, .xlsx or .npz")


def read_frame(path: Path) -> pd.DataFrame:
    """Read a CSV, Parquet or XLSX table.

    Raises:
        UsageError: no such file, or pandas cannot read it.
    """
    import pandas as pd

    if not path.exists():
        raise UsageError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        if path.suffix.lower() in (".xlsx", ".xls"):
            return pd.read_excel(path)
        return pd.read_csv(path, low_memory=False)
    except (ValueError, OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from error


def from_frame(name: str, frame: pd.DataFrame, folder: Path) -> Dataset:
    """A table with ``image_path`` (and raw ``patient`` and ``study``) -> ``Dataset``, paths relative to ``folder``.

    Raises:
        UsageError: a column is not what its name says.
    """
    return hidden(_from_frame(name, frame, folder))


def _from_frame(name: str, frame: pd.DataFrame, folder: Path) -> Dataset:
    if "image_path" not in frame.columns:
        raise UsageError(f"{name}: a table needs the column image_path (has: {', '.join(map(str, frame.columns))})")
    table = frame.reset_index(drop=True).copy()
    if table["image_path"].isna().any():
        raise UsageError(f"{name}: {int(table['image_path'].isna().sum())} rows have no image_path")
    strange = next((v for v in table["image_path"] if not isinstance(v, (str, Path)) or not str(v)), None)
    if strange is not None:
        raise UsageError(f"{name}: image_path {strange!r} is no path: write file names, with their suffix")
    for column in ("image_path", "mask_path"):
        if column in table.columns:
            table[column] = _resolved(folder, table[column])
    return Dataset(name, _tidy(name, table), plain=True, display=images.Display.of(frame.attrs.get(DISPLAY)))


def _resolved(folder: Path, column: Iterable[Any]) -> list[str | None]:
    """A table's paths, relative to the table; ``file.npz#member`` and ``phantom:`` keep their form."""
    root = str(folder.absolute())
    found: list[str | None] = []
    for value in column:
        text = str(value) if isinstance(value, (str, Path)) else ""
        if not text or text.startswith("phantom:"):
            found.append(text or None)
        elif "//" in text or "./" in text or text[-1] in "./":  # as pathlib writes it, at its price
            found.append(str((folder / text).absolute()))
        else:
            found.append(os.path.join(root, text))  # noqa: PTH118 (a million rows)
    return found


def _tidy(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Check and normalise the columns that mean something to Scotoma, identifiers apart."""
    import numpy as np
    import pandas as pd

    if "split" in table.columns:
        codes, different = pd.factorize(table["split"].astype(object).where(table["split"].notna(), None))
        unknown = next((v for v in different if str(v).lower() not in folders.SPLIT_NAMES), None)
        if unknown is not None:
            raise UsageError(f"{name}: split {unknown!r} is none of train, val, test")
        names = np.array([*(folders.SPLIT_NAMES[str(v).lower()] for v in different), None], object)
        table["split"] = pd.Series(names[codes], table.index, object)
    if "frame" in table.columns:
        frames = pd.to_numeric(table["frame"], errors="coerce")
        if (table["frame"].notna() & ~(frames >= 0)).any():
            raise UsageError(f"{name}: column frame must say which picture of a file is meant, from 0; rename it if it does not")
        table["frame"] = frames
    return table


def values(column: pd.Series[Any]) -> list[Any]:
    """A column's values, None where one is missing, whatever pandas has for that."""
    return column.astype(object).where(column.notna(), None).tolist()


def _from_npz(path: Path) -> Dataset:
    """MedMNIST's form: members ``train_images``, ``train_labels``, ``val_...``, ``test_...`` (labels (N, 1) or 0/1 (N, K))."""
    import numpy as np
    import pandas as pd

    parts = []
    try:
        with np.load(path, allow_pickle=False) as archive:
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
        raise UsageError(f"{text}: write phantom:N or phantom:N:SEED, N pictures")
    from scotoma.data import phantom

    return Dataset("phantom", _tidy("phantom", phantom.table(int(match[1]), int(match[2] or 0))), plain=True)


def _from_store(path: Path) -> Dataset:
    import json

    import pandas as pd

    settings = json.loads((path / "store.json").read_text())
    if not (path / TABLE).exists():
        raise UsageError(f"{path}: a store of the cache, without its table; name the data themselves, or `scotoma prepare` them")
    display = images.Display.of(settings.get("display"))
    return Dataset(settings["name"], pd.read_parquet(path / TABLE), store=path, display=display)


def _join(dataset: Dataset, path: Path, on: str | None, readers: str | None) -> Dataset:
    """Join a spreadsheet: ``on`` holds, for each picture, its path, name, stem or the name of a folder above it.

    A column of the table that is named ``on`` goes before these. Columns of the spreadsheet replace the table's; of patient, study,
    group and split the table keeps what the spreadsheet does not say.
    """
    import numpy as np

    frame = read_frame(path)
    if on is None:
        raise UsageError(
            f"--labels {path.name} needs --on: the column that names the picture ({', '.join(map(str, frame.columns))})"
        )
    named = values(Dataset(path.name, frame).column(on))
    present = np.array([identity.canonical(v) is not None for v in named], bool)
    frame = frame.drop(columns=[c for c in ("image_path", "frame", "row") if c in frame.columns])  # the pictures' own
    frame = _tidy(path.name, frame[present].reset_index(drop=True))
    if not dataset.plain:  # then the table's identifiers are hashes, and the spreadsheet's must be
        frame = hidden(Dataset(path.name, frame, plain=True)).table
    own = dataset.table[on] if on in dataset.table.columns and on not in ("image_path", "frame") else None
    if own is None and "image_path" not in dataset.table.columns:
        raise UsageError(
            f"{dataset.name} is prepared and has no paths: give --labels to `scotoma prepare`, or join --on a column it has"
        )
    by_hash = own is not None and on in IDENTIFIERS and not dataset.plain
    keys = frame[on].tolist() if by_hash else [identity.canonical(v) for v, p in zip(named, present, strict=True) if p]
    if readers:
        frame[on] = keys
        frame = readings.combine(path.name, frame, np.array(keys, object), readers)
        keys = list(dict.fromkeys(keys))
    position = {key: i for i, key in enumerate(keys)}
    if len(position) < len(keys):
        twice = next(key for i, key in enumerate(keys) if position[key] != i)
        raise UsageError(
            f"{path.name}: {on} {twice!r} stands in {keys.count(twice)} rows; one row a picture or study, or say --readers "
            "majority (or soft) where each row is one reader's"
        )
    names: Iterable[Iterable[str | None]]
    if own is not None:
        names = ([v if by_hash else identity.canonical(v)] for v in values(own))
    else:
        names = map(_candidates, dataset.table["image_path"])
    found = [next((position[c] for c in candidates if c in position), None) for candidates in names]
    if all(f is None for f in found):
        raise UsageError(
            f"{path.name}: no value of {on} names a picture of {dataset.name} "
            f"(first value {keys[0] if keys else None!r}, first picture {_first(dataset)!r})"
        )
    joined = dataset.table.copy()
    if "mask_path" in frame.columns:
        frame["mask_path"] = _resolved(path.parent, frame["mask_path"])
    for column in frame.columns:
        if column == on and (own is not None or on not in IDENTIFIERS):
            continue
        cells = values(frame[column])
        old = values(joined[column]) if column in _KEPT and column in joined.columns else [None] * len(found)
        joined[column] = [o if f is None or cells[f] is None else cells[f] for f, o in zip(found, old, strict=True)]
    return replace(dataset, table=joined.infer_objects())


def _first(dataset: Dataset) -> str:
    return Path(dataset.table["image_path"].iloc[0]).name if "image_path" in dataset.table.columns else "in a prepared store"


def _candidates(image_path: str) -> Iterator[str | None]:
    """By what a spreadsheet may name a picture, nearest first: name, stem, the end of its path, all of it, a folder above it."""
    folder, _, name = image_path.rpartition("/")
    yield identity.canonical(name)
    yield identity.canonical(name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem)
    parts = Path(image_path).parts
    for k in range(2, min(6, len(parts))):
        yield identity.canonical("/".join(parts[-k:]))
    yield identity.canonical(image_path)
    yield from _folders(folder)


@lru_cache(maxsize=4096)
def _folders(folder: str) -> tuple[str | None, ...]:
    return tuple(identity.canonical(part) for part in reversed(Path(folder).parts))
