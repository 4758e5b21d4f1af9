"""A user's own list of labelled training images: a text file that names one image a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scotoma import files
from scotoma.data.dataset import Dataset
from scotoma.data.labels import matching, spreadsheets
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw
from scotoma.data.splits.splits import Split, label_fraction
from scotoma.errors import UsageError, number

SHOWN = 3  # lines that name no image, by their number


def read(path: str | Path, dataset: Dataset, split: Split, target: Target, on: str | None = None) -> tuple[float, np.ndarray]:
    """The images that a list names, and their share of all labelled training images.

    A line is a path, the end of one or a file name; where no line is any of these, a row id. With ``on`` it may be what that column
    of the table holds. Empty lines are skipped.

    Args:
        path: the list.
        dataset: the images.
        split: of them.
        target: of which they have labels.
        on: a column that names images.

    Returns:
        The share, rounded to four digits, and positions, sorted.

    Raises:
        UsageError: a line names no image, or one that is no labelled training image; the message counts them.
    """
    lines = files.regular(Path(path)).read_text(encoding="utf-8-sig").splitlines()
    at = {line.strip(): i for i, line in reversed([*enumerate(lines, 1)]) if line.strip()}
    keys = list(at)
    if not keys:
        raise UsageError(f"{path}: names no image")
    keys_of = _match(keys, dataset, on)
    unknown = np.setdiff1d(np.arange(len(keys)), keys_of)
    if len(unknown):
        numbers = ", ".join(str(at[keys[i]]) for i in sorted(unknown, key=lambda i: at[keys[i]])[:SHOWN])
        raise UsageError(f"{path}: {len(unknown)} of {number(len(keys), 'line')} name no image of {dataset.name} (line {numbers})")
    named = np.flatnonzero(keys_of >= 0)
    labelled = split.rows("train")
    labelled = labelled[target.known[labelled]]
    others = np.setdiff1d(named, labelled)
    if len(others):
        raise UsageError(
            f"{path}: {len(others)} of {number(len(named), 'image')} are no labelled training images of {dataset.name}: take them "
            "out of the list, or bring the split in a column split"
        )
    return float(f"{len(named) / len(labelled):.4g}"), named


def _match(keys: list[str], dataset: Dataset, on: str | None) -> np.ndarray:
    """(n,) the key that names each image, -1 none."""
    import pandas as pd

    table = dataset.table
    rows = matching.Level("the row id", np.arange(len(table)), [str(row) for row in table["row"]])
    choices = [matching.levels(table["image_path"].tolist(), "file")] if "image_path" in table.columns else []
    if on and on in table.columns:
        codes, forms = pd.factorize(np.array([spreadsheets.id_text(v) for v in table[on]], object))
        choices.insert(0, [matching.Level(f"the column {on}", codes, forms.tolist())])
    for levels in (*choices, [rows]):
        try:
            found = matching.match(keys, levels)
        except matching.Torn as torn:
            raise UsageError(
                f"{len(torn.images)} images answer to two lines of the list, by {torn.best.level.name} and by "
                f"{torn.other.level.name}: write paths"
            ) from None
        if found is not None:
            return found.keys
    return np.full(len(table), -1)


def draw_listed(target: Target, split: Split, share: float, listed: np.ndarray, seed: int) -> Draw:
    """The draw of a list: its images, and of the validation labels the same share, drawn."""
    return Draw(share, seed, listed, label_fraction(target.y, split.rows("val"), share, seed))
