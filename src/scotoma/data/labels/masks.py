"""Masks: the label maps of ``mask_path`` as classes of pixels. The background is 0 and always the first class."""

from __future__ import annotations

import re
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
BACKGROUND = "background"
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
        cut: some masks have smoothed edges, so that what lies between 0 and 255 is no class.
        names: of the classes beside the background; by default their values.
    """

    store: Store
    at: np.ndarray
    values: tuple[int, ...]
    cut: bool = False
    names: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, the background's first: without names a class is called by its pixels' value in the files."""
        return (BACKGROUND, *(self.names or map(str, self.values[1:])))

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


def parse(classes: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Values and names of the classes beside the background, which may stand first: ``1=tumour``, ``255``; or names alone.

    Returns:
        The values, empty where names stand alone: those of the values that the maps hold, in their order; and the names.

    Raises:
        UsageError: some have a value and some have none; a value or a name stands there twice; a value is none of 1 to 255.

    Example:
        >>> parse(["background", "1=tumour", "2=edema"])
        ((1, 2), ('tumour', 'edema'))
        >>> parse(["tumour"]), parse(["background", "255"])
        (((), ('tumour',)), ((255,), ('255',)))
    """
    parts = [re.fullmatch(r"(?:(\d+)=)?(.+)", text.strip(), re.DOTALL) for text in classes]
    pairs = [(p[1] or (p[2] if p[2].isdecimal() else None), p[2]) for p in parts if p]
    pairs = [pair for k, pair in enumerate(pairs) if k or not (pair[1] == BACKGROUND or pair[0] == "0")]
    values, names = [int(v) for v, _ in pairs if v is not None], tuple(name for _, name in pairs)
    if len(pairs) < len(parts) - 1 or not pairs or len(values) not in (0, len(pairs)):
        raise UsageError(
            "--classes of masks: name each as VALUE=NAME (1=tumour,2=edema), or all by name, in the order of their values"
        )
    if len({*names, BACKGROUND}) <= len(names) or len(set(values)) < len(values) or not all(0 < v < 256 for v in values):
        raise UsageError("--classes of masks: each class beside the background needs a name and a value of its own, from 1 to 255")
    return tuple(values), names


def read(dataset: Dataset, side: int, classes: Sequence[str] = (), quiet: bool = True) -> Masks:
    """The label maps of a table.

    Args:
        dataset: readable rows.
        side: of the store that holds their images.
        classes: which values are classes, or their names (`parse`); by default every value that any map holds.
        quiet: no progress bar.

    Raises:
        UsageError: no map, nothing but background, or so many values that these are no label maps; names that are not as many as
            values, or values that no map holds.
        RunError: no map can be read.
    """
    opened, at = store.open_masks(dataset, side, quiet)
    rows, count = np.unique(at[at >= 0]), np.zeros(256, np.int64)
    cut = store.NOTE in opened.facts.columns and opened.facts[store.NOTE].iloc[rows].str.contains(THRESHOLDED, regex=False).any()
    chosen, names = parse(classes) if classes else ((), ())
    for start in range(0, len(rows), AT_A_TIME):
        count += np.bincount(opened.pixels[rows[start : start + AT_A_TIME]].ravel(), minlength=256)
    if chosen:
        if count[1:].any() and not count[list(chosen)].any():
            there = ", ".join(map(str, np.flatnonzero(count[1:])[:SHOWN] + 1))
            raise UsageError(f"{dataset.name}: no mask has a pixel of {', '.join(map(str, chosen))}: their values are {there}")
        return Masks(opened, at, (0, *chosen), bool(cut) and chosen == (255,), names)
    if cut and count[1:255].sum() <= SMOOTHED * count[255] and len(names) <= 1:
        return Masks(opened, at, (0, 255), True, names)
    if cut:
        raise UsageError(f"{dataset.name}: some masks of 0 and 255 have smoothed edges, others more classes: save whole labels")
    values = np.flatnonzero(count[1:]) + 1
    if not len(values):
        raise UsageError(f"{dataset.name}: the masks of mask_path are all 0: nothing to find")
    if len(values) > MOST_VALUES:
        raise UsageError(f"{dataset.name}: the masks hold {len(values)} different values: images, not label maps?")
    if len(values) > 1:
        called = dict(zip(values.tolist(), names or values.tolist(), strict=False))
        listing = ", ".join(f"{called.get(v, v)} ({count[v] / count[1:].sum():.1%})" for v in values[:SHOWN].tolist())
        more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
        notice(dataset.name, f"masks of {len(values)} classes beside the background, by share of their pixels: {listing}{more}")
    if names and len(names) != len(values):
        there = ", ".join(map(str, values[:SHOWN].tolist()))
        raise UsageError(
            f"{dataset.name}: --classes names {len(names)} beside the background, and the masks hold {len(values)} values "
            f"({there}): name each, or name some as VALUE=NAME"
        )
    return Masks(opened, at, (0, *values.tolist()), False, names)
