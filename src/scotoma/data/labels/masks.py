"""Masks: the label maps of ``mask_path`` as classes of pixels. The background is 0 and always the first class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scotoma.data.dataset import Dataset
from scotoma.data.io.alignment import THRESHOLDED
from scotoma.data.store import store
from scotoma.data.store.store import Store
from scotoma.errors import UsageError, notice

MOST_VALUES = 64
SHOWN = 8  # classes that a line names
UNKNOWN = -1  # of a pixel whose value is none of the classes: it is neither trained nor tested on
AT_A_TIME = 64
SMOOTHED = 0.02  # the most pixels between 0 and 255 for one of 255, of masks with smoothed edges that were too small to be cut


@dataclass(frozen=True)
class Masks:
    """Label maps of a table's images.

    Args:
        store: of them, laid out as the images are.
        at: (n,) the row there of each row of the table; -1 where it has none.
        values: what is stored for each class, the background's 0 first.
    """

    store: Store
    at: np.ndarray
    values: tuple[int, ...]
    cut: bool = False  # some masks have smoothed edges, so that what lies between 0 and 255 is no class

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, the background's first: a class is called by the value that its pixels have in the files."""
        return ("background", *(str(value) for value in self.values[1:]))

    @cached_property
    def codes(self) -> np.ndarray:
        """(256,) int64: stored value -> number of its class, ``UNKNOWN`` for others."""
        if self.cut:
            return (np.arange(256) >= 128).astype(np.int64)
        found = np.full(256, UNKNOWN)
        found[list(self.values)] = np.arange(len(self.values))
        return found

    def maps(self, rows: np.ndarray) -> np.ndarray:
        """(n, side, side) int64 classes of the pixels of these rows of the table, all of which have a map."""
        return self.codes[self.store.batch(self.at[rows])[:, 0]]


def read(dataset: Dataset, side: int, classes: Sequence[str] = (), quiet: bool = True) -> Masks:
    """The label maps of a table.

    Args:
        dataset: readable rows.
        side: of the store that holds their images.
        classes: names that a trained model has for them, the background's first; by default every value that any map holds.
        quiet: no progress bar.

    Raises:
        UsageError: no map, nothing but background, or so many values that these are no label maps.
        RunError: no map can be read.
    """
    opened, at = store.open_masks(dataset, side, quiet)
    rows, count = np.unique(at[at >= 0]), np.zeros(256, np.int64)
    cut = store.NOTE in opened.facts.columns and opened.facts[store.NOTE].iloc[rows].str.contains(THRESHOLDED, regex=False).any()
    if classes:
        given = (0, *(int(name) for name in classes[1:]))
        return Masks(opened, at, given, bool(cut) and given == (0, 255))
    for start in range(0, len(rows), AT_A_TIME):
        count += np.bincount(opened.pixels[rows[start : start + AT_A_TIME]].ravel(), minlength=256)
    if cut and count[1:255].sum() <= SMOOTHED * count[255]:
        return Masks(opened, at, (0, 255), True)
    if cut:
        raise UsageError(f"{dataset.name}: some masks of 0 and 255 have smoothed edges, others more classes: save whole labels")
    values = np.flatnonzero(count[1:]) + 1
    if not len(values):
        raise UsageError(f"{dataset.name}: the masks of mask_path are all 0: nothing to find")
    if len(values) > MOST_VALUES:
        raise UsageError(f"{dataset.name}: the masks hold {len(values)} different values: images, not label maps?")
    if len(values) > 1:
        listing = ", ".join(f"{value} ({count[value] / count[1:].sum():.1%})" for value in values[:SHOWN].tolist())
        more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
        notice(dataset.name, f"masks of {len(values)} classes beside the background, by share of their pixels: {listing}{more}")
    return Masks(opened, at, (0, *values.tolist()))
