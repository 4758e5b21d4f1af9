"""Several readers' labels of one picture -> one row a picture: the majority, and how many read it and agreed.

A column that holds one value for each picture everywhere (its age) stays as it is. One in which readers differ anywhere is a
reading: its majority takes its place, beside ``X_readers`` (how many gave a value) and ``X_agreement`` (the share that gave the
most frequent one). A tie is unknown. A column in which no two rows of a picture ever agree (the reader's name, the date) is no
label and is left out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

WAYS = ("majority", "soft")
SHARES = "_shares"  # of a soft reading: the share of readers for each class, as JSON
_OF_THE_PICTURE = ("image_path", "frame", "patient", "study", "group", "split")  # what readers cannot differ on


def check(readers: str | None) -> None:
    """Refuse an unknown way to bring readers together."""
    if readers not in (None, *WAYS):
        raise UsageError(f"--readers {readers}: {' or '.join(WAYS)}")


def label_text(value: object) -> str | None:
    """A class as text; 1.0 (a column of integers with gaps) is the class 1; None where it is missing or empty."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)


def combine(name: str, frame: pd.DataFrame, pictures: np.ndarray, readers: str) -> pd.DataFrame:
    """Bring the rows of each picture together.

    Args:
        name: of the table, for messages.
        frame: one row a reading.
        pictures: (n,) which picture each row is of.
        readers: ``majority``, or ``soft``, which keeps the share of readers for each class too, in ``X_shares``.

    Returns:
        One row a picture, in order of first appearance.

    Raises:
        UsageError: rows of one picture name two patients, groups or splits.
    """
    import pandas as pd

    picture, labels = pd.factorize(pictures)
    count = len(labels)
    if count == len(frame):
        return frame
    found: dict[str, object] = {}
    left_out: list[str] = []
    for column in frame.columns:
        values = frame[column].astype(object)
        codes = pd.factorize(values.where(values != "", None))[0]
        votes = _votes(picture, codes)
        cells = values.to_numpy()[votes.first]
        chosen = np.full(count, None, object)
        chosen[votes.picture[votes.leads]] = cells[votes.leads]  # of values that tie the last, until ties are emptied
        read, most = np.zeros(count, int), np.zeros(count, int)
        np.add.at(read, votes.picture, votes.count)
        np.maximum.at(most, votes.picture, votes.count)
        differ = np.bincount(votes.picture, minlength=count) > 1
        if not differ.any():
            found[column] = chosen
        elif column in _OF_THE_PICTURE:
            raise UsageError(f"{name}: rows of one picture differ in {column}, in {int(differ.sum())} pictures: mend them first")
        elif most.max() > 1:
            tied = np.bincount(votes.picture[votes.leads], minlength=count) > 1
            chosen[tied] = None
            found |= {column: chosen, f"{column}_readers": read}
            found[f"{column}_agreement"] = np.where(read > 0, most / np.maximum(read, 1), np.nan)
            if readers == "soft":
                found[f"{column}{SHARES}"] = _shares(votes, cells, read)
            _say(name, column, picture, codes, read, int(tied.sum()))
        else:
            left_out.append(str(column))
    if left_out:
        notice(name, f"left out, as no two rows of an image agree in it: {', '.join(left_out)}")
    return pd.DataFrame(found).infer_objects()


class _Votes:
    """Each value that a picture was given, once: the picture, a row that gave it, how many did, whether none has more."""

    def __init__(self, picture: np.ndarray, first: np.ndarray, count: np.ndarray) -> None:
        self.picture, self.first, self.count = picture, first, count
        most = np.zeros(int(picture.max(initial=-1)) + 1, int)
        np.maximum.at(most, picture, count)
        self.leads = count == most[picture]


def _votes(picture: np.ndarray, codes: np.ndarray) -> _Votes:
    known = np.flatnonzero(codes >= 0)
    width = int(codes.max(initial=0)) + 1
    _, first, count = np.unique(picture[known] * width + codes[known], return_index=True, return_counts=True)
    return _Votes(picture[known[first]], known[first], count)


def _shares(votes: _Votes, cells: np.ndarray, read: np.ndarray) -> np.ndarray:
    """(pictures,) JSON text ``{"class": share}``; None where nobody gave a value."""
    found: list[dict[str, float]] = [{} for _ in read]
    for picture, value, count in zip(votes.picture.tolist(), cells, votes.count.tolist(), strict=True):
        text = str(label_text(value))
        found[picture][text] = found[picture].get(text, 0) + count / int(read[picture])
    return np.array([json.dumps(shares) if shares else None for shares in found], object)


def _say(name: str, column: str, picture: np.ndarray, codes: np.ndarray, read: np.ndarray, ties: int) -> None:
    table = np.zeros((len(read), int(codes.max()) + 1), np.int32)
    np.add.at(table, (picture[codes >= 0], codes[codes >= 0]), 1)
    seen = read[read > 0]
    kappa = f"Fleiss' kappa {fleiss_kappa(table):.2f}"
    notice(name, f"{column}: {len(seen)} pictures read {seen.min()} to {seen.max()} times, {kappa}; {ties} ties are unknown")


def fleiss_kappa(table: np.ndarray) -> float:
    """Agreement of several readers beyond chance (Fleiss 1971, "Measuring nominal scale agreement among many raters").

    Args:
        table: (pictures, classes) int: how many readers gave each picture each class. Pictures read once or never say nothing;
            where the number of readers differs, each picture counts once for the agreement and each reading once for how
            frequent the classes are.

    Returns:
        1 for perfect agreement, 0 for what chance would do; NaN where all readings are one class or no picture was read twice.
    """
    table = table[table.sum(1) > 1].astype(float)
    if not len(table):
        return float("nan")
    read = table.sum(1)
    observed = float((((table**2).sum(1) - read) / (read * (read - 1))).mean())
    chance = float(((table.sum(0) / table.sum()) ** 2).sum())
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")
