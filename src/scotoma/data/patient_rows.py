"""Which rows of tables are one patient's: by keyed hashes of identifiers and of images, and by what belongs to a row of his.

A file of slices, a series and a study are of one patient: where one row is his, all rows are, but those that name another patient.
What one table states it (his other slices, their files and series) is looked for in all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PEOPLE = ("patient", "study", "group", "series")  # columns of keyed hashes by which a person may be named
OF_TABLE = "table {}"  # beside a header's column, the table's own of that name
OWNER, NAME = "owner", "name"  # in a run: patient, study, series or file; in the cache: patient, study or group
_PATIENTS = ("patient", OF_TABLE.format("patient"))
_TOGETHER = ("file", "series", "study", OF_TABLE.format("study"))  # rows of one value are one patient's, if no row states otherwise
_UNIQUE = ("file", "series")  # whose hashes mean the same in every table: a study may be number 1 of every patient
NAMES = (*PEOPLE, *map(OF_TABLE.format, PEOPLE), OWNER, NAME, "file")


def rows_of(tables: Sequence[pd.DataFrame], typed: set[str]) -> tuple[list[np.ndarray], set[str], set[str]]:
    """The rows of a patient.

    Args:
        tables: each with some of the columns ``NAMES``, ``content`` (keyed hash of an image) and ``blank`` (it shows nothing).
        typed: the keyed hashes by which the user knows him.

    Returns:
        For each table its (n,) bool rows; the names, and the contents, by which they were found.
    """
    blank = {c for t in tables if {"blank", "content"} <= set(t.columns) for c in t["content"][t["blank"].eq(True)].dropna()}
    names, contents = set(typed), set[str]()
    direct = [_find_values(table, NAMES, typed) for table in tables]
    found = list(direct)
    size = None
    while size != (now := (len(names), len(contents), sum(int(rows.sum()) for rows in found))):
        size = now
        for k, table in enumerate(tables):
            like, others = _find_values(table, ("content",), contents), _anothers(table, typed)
            seeds = (found[k] | like) & ~others
            own = direct[k] | ((seeds | _find_values(table, NAMES, names) | _find_linked(table, seeds, others)) & ~others)
            found[k] = own | like
            if "content" in table.columns:
                contents |= set(table["content"][own].dropna()) - blank  # a black slice is nobody's
            names |= {name for column in _UNIQUE if column in table.columns for name in table[column][own].dropna()}
    return found, names, contents


def count_unnamed(table: pd.DataFrame) -> int:
    """How many rows name no person, and can be found by what others know of them only."""
    columns = [c for c in (*PEOPLE[:3], *map(OF_TABLE.format, PEOPLE[:3]), NAME) if c in table.columns]
    without = table[columns].isna().all(axis=1) if columns else np.ones(len(table), bool)
    return int((without & (table["content"].notna() if "content" in table.columns else True)).sum())


def _find_values(table: pd.DataFrame, columns: Iterable[str], values: set[str]) -> np.ndarray:
    """(n,) bool: rows of which one of these columns has one of these values."""
    chosen = np.zeros(len(table), bool)
    for column in (c for c in columns if c in table.columns):
        chosen |= table[column].isin(values).to_numpy()
    return chosen


def _anothers(table: pd.DataFrame, typed: set[str]) -> np.ndarray:
    """(n,) bool: rows that name a patient, who is not this one."""
    named = np.zeros(len(table), bool)
    for column in (c for c in _PATIENTS if c in table.columns):
        named |= table[column].notna().to_numpy()
    return named & ~_find_values(table, _PATIENTS, typed)


def _find_linked(table: pd.DataFrame, seeds: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) bool: rows of a file, series or study of which a row is a seed; of a study only that has no row of ``others``."""
    joined = np.zeros(len(table), bool)
    for column in (c for c in _TOGETHER if c in table.columns):
        values = set(table[column][seeds].dropna())
        values -= set() if column in _UNIQUE else set(table[column][others])
        joined |= table[column].isin(values).to_numpy()
    return joined
