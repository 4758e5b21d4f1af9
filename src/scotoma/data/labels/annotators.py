"""Several annotators' labels of one image -> one row per image: the majority, and how many read it and agreed.

A column that holds one value for each image everywhere (its age) stays as it is. One in which annotators differ anywhere is an
annotation: its majority takes its place, beside ``X_annotators`` (how many gave a value) and ``X_agreement`` (the share that gave
the most frequent one). A tie is unknown. A column in which no two rows of an image ever agree (the annotator's name, the date) is
no label and is left out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

WAYS = ("majority", "soft")
SHARES = "_shares"  # of a soft label: the share of annotators for each class, as JSON
_OF_THE_IMAGE = ("image_path", "frame", "patient", "study", "group", "split")  # what annotators cannot differ on


def check(annotators: str | None) -> None:
    """Refuse an unknown way to bring annotators together."""
    if annotators not in (None, *WAYS):
        raise UsageError(f"--annotators {annotators}: {' or '.join(WAYS)}")


def label_text(value: object) -> str | None:
    """A class as text; 1.0 (a column of integers with gaps) is the class 1; None where it is missing or empty."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)


def combine(name: str, frame: pd.DataFrame, images: np.ndarray, annotators: str) -> pd.DataFrame:
    """Bring the rows of each image together.

    Args:
        name: of the table, for messages.
        frame: one row per annotation.
        images: (n,) which image each row is of.
        annotators: ``majority``, or ``soft``, which keeps the share of annotators for each class too, in ``X_shares``.

    Returns:
        One row per image, in order of first appearance.

    Raises:
        UsageError: rows of one image name two patients, groups or splits.
    """
    import pandas as pd

    image, labels = pd.factorize(images)
    count = len(labels)
    if count == len(frame):
        return frame
    found: dict[str, object] = {}
    left_out: list[str] = []
    for column in frame.columns:
        values = frame[column].astype(object)
        codes = pd.factorize(values.where(values != "", None))[0]
        votes = _votes(image, codes)
        cells = values.to_numpy()[votes.first]
        chosen = np.full(count, None, object)
        chosen[votes.image[votes.leads]] = cells[votes.leads]  # of values that tie the last, until ties are emptied
        read, most = np.zeros(count, int), np.zeros(count, int)
        np.add.at(read, votes.image, votes.count)
        np.maximum.at(most, votes.image, votes.count)
        differ = np.bincount(votes.image, minlength=count) > 1
        if not differ.any():
            found[column] = chosen
        elif column in _OF_THE_IMAGE:
            raise UsageError(f"{name}: rows of one image differ in {column}, in {int(differ.sum())} images: mend them first")
        elif most.max() > 1:
            tied = np.bincount(votes.image[votes.leads], minlength=count) > 1
            chosen[tied] = None
            found |= {column: chosen, f"{column}_annotators": read}
            found[f"{column}_agreement"] = np.where(read > 0, most / np.maximum(read, 1), np.nan)
            if annotators == "soft":
                found[f"{column}{SHARES}"] = _shares(votes, cells, read)
            _report_agreement(name, column, image, codes, read, int(tied.sum()))
        else:
            left_out.append(str(column))
    if left_out:
        notice(name, f"left out, as no two rows of an image agree in it: {', '.join(left_out)}")
    return pd.DataFrame(found).infer_objects()


class _Votes:
    """Each value that an image was given, once: the image, a row that gave it, how many did, whether none has more."""

    def __init__(self, image: np.ndarray, first: np.ndarray, count: np.ndarray) -> None:
        self.image, self.first, self.count = image, first, count
        most = np.zeros(int(image.max(initial=-1)) + 1, int)
        np.maximum.at(most, image, count)
        self.leads = count == most[image]


def _votes(image: np.ndarray, codes: np.ndarray) -> _Votes:
    known = np.flatnonzero(codes >= 0)
    width = int(codes.max(initial=0)) + 1
    _, first, count = np.unique(image[known] * width + codes[known], return_index=True, return_counts=True)
    return _Votes(image[known[first]], known[first], count)


def _shares(votes: _Votes, cells: np.ndarray, read: np.ndarray) -> np.ndarray:
    """(images,) JSON text ``{"class": share}``; None where nobody gave a value."""
    found: list[dict[str, float]] = [{} for _ in read]
    for image, value, count in zip(votes.image.tolist(), cells, votes.count.tolist(), strict=True):
        text = str(label_text(value))
        found[image][text] = found[image].get(text, 0) + count / int(read[image])
    return np.array([json.dumps(shares) if shares else None for shares in found], object)


def _report_agreement(name: str, column: str, image: np.ndarray, codes: np.ndarray, read: np.ndarray, ties: int) -> None:
    table = np.zeros((len(read), int(codes.max()) + 1), np.int32)
    np.add.at(table, (image[codes >= 0], codes[codes >= 0]), 1)
    seen = read[read > 0]
    kappa = f"Fleiss' kappa {fleiss_kappa(table):.2f}"
    notice(name, f"{column}: {len(seen)} images read {seen.min()} to {seen.max()} times, {kappa}; {ties} ties are unknown")


def fleiss_kappa(table: np.ndarray) -> float:
    """Agreement of several annotators beyond chance (Fleiss 1971, "Measuring nominal scale agreement among many raters").

    Args:
        table: (images, classes) int: how many annotators gave each image each class. Images read once or never say nothing;
            where the number of annotators differs, each image counts once for the agreement and each annotation once for how
            frequent the classes are.

    Returns:
        1 for perfect agreement, 0 for what chance would do; NaN where all labels are one class or no image was read twice.
    """
    table = table[table.sum(1) > 1].astype(float)
    if not len(table):
        return float("nan")
    read = table.sum(1)
    observed = float((((table**2).sum(1) - read) / (read * (read - 1))).mean())
    chance = float(((table.sum(0) / table.sum()) ** 2).sum())
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")
