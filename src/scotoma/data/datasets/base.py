"""What the public data sets share: files found with or without ``.gz``, columns required, labels and metadata made alike.

A data set builds a frame with ``image_path`` relative to its folder, raw ``patient`` and ``study``, and hands it to
``dataset``, which leaves out what is not on the disk and turns identifiers into keyed hashes. Paths are made for whole columns
at once and compared with one listing a folder, so that a million rows need no question of the disk each.
"""

from __future__ import annotations

import os
import re
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scotoma.data.dataset import Dataset
from scotoma.data.io import read as images
from scotoma.data.sources import from_frame
from scotoma.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
OLDEST = 120  # years; ages above are errors of the published table (one lists 414)
Unknown = Literal["missing", "0", "1"]  # what an uncertain label counts as
Blank = Literal["missing", "0"]  # what a finding that was not mentioned counts as


def find(root: Path, layout: str, *names: str) -> Path:
    """The first of these files or folders that is under ``root``, with or without ``.gz``.

    Raises:
        UsageError: there is none; the message names what was looked for and the expected layout.
    """
    found = optional(root, *names)
    if found is None:
        raise absent(root, layout, " or ".join(names))
    return found


def absent(root: Path, layout: str, what: str) -> UsageError:
    """The error that states what was looked for and what a folder of the data set holds."""
    expected = "; ".join(line.strip() for line in layout.splitlines() if line.strip())
    return UsageError(f"{root}: no {what} there; expected below this folder: {expected}")


def optional(root: Path, *names: str) -> Path | None:
    """The first of these that is under ``root``, with or without ``.gz``; None where none is."""
    return next((p for name in names for p in (root / name, root / f"{name}.gz") if p.exists()), None)


def read(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """These columns of a CSV; a table that has not all of them is another one than the data set's.

    Raises:
        UsageError: it cannot be read, or lacks a column.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, low_memory=False)  # a published table's form is known
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({str(error).splitlines()[0]}); copy it again") from error
    frame.columns = frame.columns.str.strip()
    columns = list(columns)
    absent = [c for c in columns if c not in frame.columns]
    if absent:
        raise UsageError(f"{path}: no column {absent[0]!r}; this is not the published table (has: {', '.join(frame.columns)})")
    return frame[columns]


def files(root: Path, folders: Iterable[str], suffixes: Sequence[str] = IMAGES) -> list[str]:
    """The images in these folders (relative to ``root``), in natural order, relative to ``root``; an absent folder holds none."""
    found = []
    for folder in folders:
        if (root / folder).is_dir():
            names = [e.name for e in os.scandir(root / folder) if e.name.lower().endswith(tuple(suffixes))]
            found += [f"{folder}/{name}" for name in sorted(names, key=_natural) if not name.startswith(".")]
    return found


def folders(root: Path, *patterns: str) -> list[str]:
    """The folders under ``root`` that match one of these globs, in natural order, relative to ``root``."""
    found = {p.relative_to(root).as_posix() for pattern in patterns for p in root.glob(pattern) if p.is_dir()}
    return sorted(found, key=_natural)


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def by_name(ids: pd.Series[str], root: Path, folders: Iterable[str]) -> pd.Series[str]:
    """For each name of an image, with or without a suffix, its path among these folders; missing where it is not on the disk.

    Suffixes and their case differ between a publisher's table and its copies: ``IM1.JPG`` and ``IM1.png`` are the same image.
    """
    paths = {stem(path): path for path in files(root, folders)}
    return ids.astype(str).map(stem).map(paths)


def stem(path: str) -> str:
    """An image's name without folder and suffix."""
    name = path.rpartition("/")[2]
    return name[: -len(found)] if (found := next((s for s in IMAGES if name.lower().endswith(s)), "")) else name


def class_folders(root: Path, layout: str, *paths: str) -> pd.DataFrame:
    """``image_path`` of every image in these folders, and ``folder``, the name of the one it lies in.

    Raises:
        UsageError: none of the folders holds an image.
    """
    import pandas as pd

    found = files(root, paths)
    if not found:
        raise absent(root, layout, " or ".join(f"images in {path}" for path in paths[:3]))
    return pd.DataFrame({"image_path": found, "folder": [path.split("/")[-2] for path in found]})


def on_disk(paths: pd.Series[str], root: Path) -> pd.Series[str]:
    """Paths relative to ``root``; missing where there is no such file."""
    within = paths.str.rsplit("/", n=1).str[0].unique()
    return paths.where(paths.isin(set(files(root, within, suffixes=("",)))))


def dataset(name: str, frame: pd.DataFrame, root: Path, layout: str, display: images.Display = images.AS_STORED) -> Dataset:
    """Leave out the rows whose ``image_path`` is missing (not on the disk), with a count, and make a ``Dataset`` of the others.

    Raises:
        UsageError: no row is left.
    """
    here = frame["image_path"].notna()
    if not here.any():
        raise absent(root, layout, f"image of the {len(frame)} of {name}")
    if not here.all():
        print(f"{name}: {int((~here).sum())} of {len(frame)} images are not on the disk; left out", file=sys.stderr)
    return replace(from_frame(name, frame[here].reset_index(drop=True), root), display=display)


def snake(name: str) -> str:
    """A publisher's label as a column: ``Pleural Effusion`` is ``pleural_effusion``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def findings(frame: pd.DataFrame, names: Sequence[str], uncertain: str, blank: str) -> pd.DataFrame:
    """Columns of 1, 0, -1 (uncertain) and blank (not mentioned) -> 1, 0 and missing, under their names in snake_case.

    Raises:
        UsageError: a policy, or a value of the table, is none of these.
    """
    for policy, value, allowed in (("uncertain", uncertain, Unknown), ("blank", blank, Blank)):
        if value not in allowed.__args__:  # type: ignore[attr-defined]
            raise UsageError(f"{policy}={value!r} is none of missing, 0" + (", 1" if policy == "uncertain" else ""))
    labels = frame[list(names)].rename(columns=snake).astype(float)
    if not (labels.isin([1, 0, -1]) | labels.isna()).all(axis=None):
        raise UsageError("a finding holds another value than 1, 0, -1 and blank: this is not the published table")
    if blank != "missing":
        labels = labels.fillna(float(blank))
    return labels.replace(-1.0, float("nan") if uncertain == "missing" else float(uncertain))


def one_hot(frame: pd.DataFrame, classes: Sequence[str]) -> pd.Series[str]:
    """Columns of which one is 1 in each row -> its name in lower case; missing where none is.

    Raises:
        UsageError: a row has two.
    """
    chosen = frame[list(classes)].to_numpy(float) == 1
    if (chosen.sum(1) > 1).any():
        raise UsageError(f"an image is of two classes of {', '.join(classes)}: this is not the published table")
    names = frame[list(classes)].columns.str.lower().to_numpy(object)
    label = frame[classes[0]].astype(object)
    label[:] = names[chosen.argmax(1)]
    return label.where(chosen.any(1))


def age(column: pd.Series[Any]) -> pd.Series[float]:
    """Years, of ``61``, ``061Y`` and the like; missing where it is none a patient can have."""
    import pandas as pd

    years = pd.to_numeric(column.astype("string").str.rstrip("Yy"), errors="coerce").astype(float)
    return years.where((years >= 0) & (years <= OLDEST))


def sex(column: pd.Series[str]) -> pd.Series[str]:
    """``F`` and ``M``, of ``female``, ``Male``, ``f`` and the like; missing otherwise."""
    return column.astype("string").str[:1].str.upper().map({"F": "F", "M": "M"}).astype(object)
