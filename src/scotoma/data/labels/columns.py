"""The columns that mean something to Scotoma, in the spellings that people give them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma.data import phi, pseudonyms
from scotoma.data.labels import spreadsheets
from scotoma.data.labels.spreadsheets import key
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

IDENTIFIERS = ("patient", "study", "group")
GAPS = 0.05  # share of rows without a patient from which on unique patients with gaps are taken for the heads of blocks
IDS = ("image_path", "mask_path", *IDENTIFIERS)  # text, whatever it looks like
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "test": "test", "testing": "test"}  # fmt: skip
# Other spellings of each column (as ``sheets.key`` makes them), the likeliest first.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "image_path": ("imagepath", "imagefilepath", "filepath", "imagefile", "imagefilename", "imagename", "filename", "file", "path",
                   "image", "img", "imgpath"),
    "mask_path": ("maskpath", "maskfilepath", "maskfile", "maskfilename"),
    "patient": ("patient", "patientid", "patientkey", "patientnumber", "patientno", "patientnr", "patid", "patno", "patnr",
                "patientfolder", "patientenid", "patientennummer", "patientennr", "pid", "idpatient", "idpaciente",
                "subjectid", "subject", "participantid", "participant", "mrn", "patientname"),
    "study": ("study", "studyinstanceuid", "studyuid", "studyid"),
    "split": ("split", "datasetsplit", "datasplit", "dataset", "subset", "partition", "set"),
    "frame": ("frame",),
}  # fmt: skip
_BETWEEN = re.compile(r"(?<!\d)[\W_]+|[\W_]+(?!\d)")  # punctuation, but between digits
_BESIDE = ("patientname", "mrn")  # what a table may have beside a patient's number
_BY_VALUE = ("dataset", "subset", "partition", "set")  # these name a split only where they hold nothing else


def recognise_columns(name: str, frame: pd.DataFrame, roles: tuple[str, ...] = tuple(SPELLINGS)) -> dict[str, str]:
    """Which columns are another spelling of one that Scotoma knows; reported on standard error.

    Args:
        name: of the table, for messages.
        frame: the table.
        roles: the columns of ``SPELLINGS`` to look for.

    Returns:
        Column as it is spelled -> the column that it is.
    """
    found: dict[str, str] = {}
    for role in roles:
        named = {key(column): str(column) for column in reversed(frame.columns.tolist()) if str(column) != role}
        others = [named[k] for k in SPELLINGS[role] if k in named and _fits(frame, k, named[k])]
        if role in frame.columns:
            unused = [c for c in others if role in ("patient", "split", "study") and key(c) not in _BESIDE]
            if unused:
                notice(name, f"column {', '.join(map(repr, unused))} is not used: {role!r} is")
        elif others:
            found[others[0]] = role
            also = f" ({', '.join(map(repr, others[1:]))} is not)" if others[1:] and role != "image_path" else ""
            notice(name, f"column {others[0]!r} is taken as {role}{also}")
    group = next((c for c in map(str, frame.columns) if c != "group" and key(c) in ("group", "groupid")), None)
    if group and "group" not in frame.columns:
        notice(name, f"column {group!r} is not used as the unit of a split: name it group if it is one")
    return found


def _fits(frame: pd.DataFrame, spelling: str, column: str) -> bool:
    if spelling not in _BY_VALUE:
        return True
    words = {str(v).strip().casefold() for v in frame[column].dropna().unique()}
    return len(words) > 1 and words <= set(SPLIT_NAMES)


def recognise_roles(
    name: str, frame: pd.DataFrame, missing: Sequence[str] = (), roles: tuple[str, ...] = tuple(SPELLINGS), ids: Iterable[str] = ()
) -> tuple[pd.DataFrame, dict[str, str]]:
    """A frame of a file (text) or one with types of its own -> known columns under their names, numbers as numbers, ids as text.

    Args:
        name: of the table, for messages.
        frame: as ``sheets.read`` gives it, or a user's own.
        missing: words that mean a missing cell.
        roles: the columns of ``SPELLINGS`` to look for.
        ids: columns that hold identifiers beside ``IDS``, as they are spelled.

    Returns:
        The frame, and how its columns were renamed.
    """
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1)
    renamed = recognise_columns(name, frame, roles)
    attrs, frame = frame.attrs, frame.rename(columns=renamed)
    identifiers = [*IDS, *(renamed.get(column, column) for column in ids)]
    if attrs.get(spreadsheets.TEXT):
        frame = spreadsheets.infer_types(name, fill_blocks(name, frame), identifiers, missing, attrs.get(spreadsheets.COMMA, False))
    else:
        frame = spreadsheets.clean_typed(name, frame, identifiers, missing)
    frame.attrs = attrs
    return frame, renamed


def fill_blocks(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Fill patients (and what stands in the same rows) that are given once for a block of rows, as merged cells are saved.

    Raises:
        UsageError: they seem to be, in blocks of different lengths.
    """
    for column in ("patient", "study"):
        if column not in frame.columns:
            continue
        starts = np.flatnonzero(frame[column].notna())
        gaps = len(frame) - len(starts)
        _report_heads(name, frame, column)
        if len(starts) < 2 or not gaps or frame[column].nunique() < len(starts):
            continue  # an identifier that stands twice is no block's head
        if step := _every(starts, len(frame)):
            known = frame.notna().to_numpy()
            heads = known[starts].all(0) & (known.sum(0) == len(starts))
            filled = [c for c, same in zip(frame.columns, heads, strict=True) if same]
            frame = frame.copy()
            frame[filled] = frame[filled].ffill()
            notice(name, f"{', '.join(filled)}: given once for every {step} rows, as merged cells are saved: {gaps} rows filled")
        elif _count_nameless(frame) >= GAPS * len(frame):
            raise UsageError(
                f"{name}: {column} stands in {len(starts)} of {len(frame)} rows, each value once, as merged cells are saved: "
                f"repeat it in every row that it is of (where it is unknown, give each such row a {column} of its own)"
            )
    for column in frame.columns:
        starts = np.flatnonzero(frame[column].notna())
        if (step := _every(starts, len(frame))) and not _names_files(frame[column].iloc[starts]):
            text = (
                f"{column} stands in one row of {step} only, as merged cells are saved: {len(frame) - len(starts)} rows are without"
            )
            notice(name, f"{text}; repeat it in every row that it is of")
    return frame


def _names_files(values: pd.Series) -> bool:
    """Whether all values end as file names do, and differ: a further file of some rows is of these rows alone."""
    texts = [value for value in values if isinstance(value, str)]
    return len(set(texts)) == len(values) and all(re.search(r"[^\s.]\.[A-Za-z][A-Za-z0-9]{1,4}$", text) for text in texts)


def _count_nameless(frame: pd.DataFrame) -> int:
    """How many rows have no identifier that states what they belong to."""
    others = [c for c in IDENTIFIERS if c in frame.columns]
    return int(frame[others].isna().all(axis=1).sum())


def _every(starts: np.ndarray, rows: int) -> int:
    """The step at which a column's cells stand, from the first row to the last; 0 where they do not, or all are filled."""
    if len(starts) < 2 or starts[0]:
        return 0
    lengths = np.diff(starts)
    regular = lengths.min() > 1 and lengths.min() == lengths.max() and rows - starts[-1] <= lengths[0]
    return int(lengths[0]) if regular else 0


def _report_heads(name: str, frame: pd.DataFrame, column: str) -> None:
    """Say which columns stand in the first row alone of every block of rows of one identifier.

    They are not filled: a table in which one image of each patient has a label looks the same.
    """
    ids = frame[column].to_numpy(object)
    first = np.array([k == 0 or ids[k] != ids[k - 1] for k in range(len(ids))], bool)
    if frame[column].isna().any() or first.sum() < 2 or first.all() or _every(np.flatnonzero(first), len(frame)):
        return  # blocks of one length are reported whatever the patients are
    known = frame.notna().to_numpy()
    heads = [str(c) for k, c in enumerate(frame.columns) if c != "mask_path" and (known[:, k] == first).all()]
    if heads:
        notice(
            name,
            f"{', '.join(heads)}: stands in the first row alone of each {column}, and the {int((~first).sum())} other rows have "
            f"none: repeat it in every row that it is of",
        )


def tidy(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Check and normalise the columns that mean something to Scotoma, identifiers apart.

    Raises:
        UsageError: a split that is none, a frame that is no number.
    """
    import pandas as pd

    table = table.copy(deep=False)
    if "split" in table.columns:
        codes, different = pd.factorize(table["split"].astype(object).where(table["split"].notna(), None))
        texts = [str(v).strip().lower() for v in different]
        unknown = next((v for v, text in zip(different, texts, strict=True) if text and text not in SPLIT_NAMES), None)
        if unknown is not None:
            raise UsageError(f"{name}: split {phi.show_value(table, 'split', unknown)} is none of train, val, test")
        names = np.array([*(SPLIT_NAMES.get(text) for text in texts), None], object)
        table["split"] = pd.Series(names[codes], table.index, object)
    if "frame" in table.columns:
        frames = pd.to_numeric(table["frame"], errors="coerce")
        if (table["frame"].notna() & ~((frames >= 0) & (frames % 1 == 0))).any():
            raise UsageError(f"{name}: column frame must be the number of an image in its file, from 0; rename it if it is not")
        table["frame"] = frames
    return table


def resolve_paths(folder: Path, column: Iterable[Any]) -> list[str | None]:
    """A table's paths, relative to the table; ``file.npz#member`` and ``phantom:`` keep their form.

    Of a table written on Windows, each backslash parts folders, where the first such path is no file's name as it stands.
    """
    root = str(folder.absolute())
    found: list[str | None] = []
    windows: bool | None = None
    for value in column:
        text = str(value) if isinstance(value, (str, Path)) else ""
        if text != text.strip() and not os.path.exists(folder / text):  # noqa: PTH110 (too long a name is none)
            text = text.strip()
        if "\\" in text:
            windows = not os.path.exists(folder / text) if windows is None else windows  # noqa: PTH110 (too long a name is none)
            text = text.replace("\\", "/") if windows else text
        if not text or text.startswith("phantom:"):
            found.append(text or None)
        elif "//" in text or "./" in text or text[-1] in "./":  # as pathlib writes it, at its price
            found.append(str((folder / text).absolute()))
        else:
            found.append(os.path.join(root, text))  # noqa: PTH118 (a million rows)
    return found


def values(column: pd.Series[Any]) -> list[Any]:
    """A column's values, None where one is missing, whatever pandas has for that."""
    return column.astype(object).where(column.notna(), None).tolist()


def hash_identifiers(name: str, column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of identifiers as keyed hashes; how many were written in several ways is reported.

    Each different identifier is hashed once.
    """
    import pandas as pd

    key_ = pseudonyms.load_key()
    codes, different = pd.factorize(column.astype(object).where(column.notna(), None))
    plain = [pseudonyms.canonical(value) for value in different]
    written = {spreadsheets.id_text(value) for value, p in zip(different, plain, strict=True) if p}
    alike = {p for p in plain if p}
    if len(written) > len(alike):
        many = len(written) - len(alike)
        notice(
            name, f"{column.name}: {many} ids differ from another in case, blanks or leading zeros alone and are taken as that one"
        )
    if column.name == "patient":
        bare = [_BETWEEN.sub("", p) for p in alike]
        if len(set(bare)) < len(bare):
            text = (
                f"{len(bare) - len(set(bare))} ids differ from another in punctuation alone (such as P-1 and P1) and are kept apart"
            )
            notice(name, f"patient: {text}: write them alike where they are one patient")
    names = np.array([*(p and pseudonyms.pseudonym(p, key_) for p in plain), None], object)  # the last is of the code -1
    return pd.Series(names[codes], column.index, object, name=column.name)
