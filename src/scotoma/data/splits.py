"""Splits by patient, nested label fractions, and the refusal of leakage."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scotoma.data.store import Store
from scotoma.data.table import SPLITS, Dataset
from scotoma.errors import UsageError

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
NEAR_DUPLICATE_BITS = 10  # of 256: recompression moves about 4, another slice of the same patient 30 and more
_BANDS = 16


@dataclass(frozen=True)
class Split:
    """Which rows train, choose and test.

    Args:
        of: (n,) str, ``train`` / ``val`` / ``test``, or ``""`` where the user's own split leaves a row out.
        units: (n,) int, the patient or group of each row, numbered in order of appearance.
        unit: what a unit is: ``patient``, ``group`` or ``near-duplicate``.
        made: whether Scotoma drew it (else it is the table's own).
    """

    of: np.ndarray
    units: np.ndarray
    unit: str
    made: bool

    def rows(self, name: str) -> np.ndarray:
        """Positions of the rows of a split."""
        return np.flatnonzero(self.of == name)


def units(dataset: Dataset, store: Store) -> tuple[np.ndarray, str]:
    """The unit of splitting of each row: its patient, else its group, else its group of near-duplicates.

    A row whose patient (or group) is missing is a unit of its own.
    """
    import pandas as pd

    for name in ("patient", "group"):
        if name in dataset.table.columns and dataset.table[name].notna().any():
            codes = pd.factorize(dataset.table[name])[0]
            alone = codes < 0
            codes[alone] = codes.max() + 1 + np.arange(alone.sum())
            return codes, name
    return near_duplicates(store.hashes[dataset.table["row"].to_numpy()]), "near-duplicate"


def near_duplicates(hashes: np.ndarray, bits: int = NEAR_DUPLICATE_BITS) -> np.ndarray:
    """Group pictures whose perceptual hashes differ by at most ``bits`` bits.

    Args:
        hashes: (n, 32) uint8.
        bits: largest Hamming distance within a pair; groups are the connected components.

    Returns:
        (n,) int group numbers, in order of appearance. Hashes are cut into 16 bands of 16 bits; two hashes that differ by fewer
        bits than there are bands share a band, so only pictures that share one are compared.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if bits >= _BANDS:
        raise ValueError(f"bits must be below {_BANDS}, or pairs would be missed")
    n = len(hashes)
    unique, inverse = np.unique(np.ascontiguousarray(hashes).view("V32").ravel(), return_inverse=True)
    distinct = unique.view(np.uint8).reshape(-1, 32)
    edges: list[np.ndarray] = []
    bands = np.ascontiguousarray(distinct).view(np.uint16)
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(bands[order, band].astype(int)) != 0, True])
        for a, b in pairwise(starts):
            members = order[a:b]
            for k in range(len(members) - 1):
                distance = np.bitwise_count(distinct[members[k + 1 :]] ^ distinct[members[k]]).sum(1)
                near = members[k + 1 :][distance <= bits]
                edges.append(np.stack([np.full(len(near), members[k]), near]))
    pairs = np.concatenate(edges, 1) if edges else np.zeros((2, 0), int)
    graph = coo_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), (len(distinct), len(distinct)))
    groups = connected_components(graph, directed=False)[1][inverse.ravel()]
    return _by_appearance(groups) if n else groups


def linked(*codes: np.ndarray) -> np.ndarray:
    """(n,) int: rows that share a value of any of these (n,) columns, directly or by way of other rows, have one number.

    Units and contents so linked may stand on one side of a split only: a picture filed under two patients makes them one.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(codes[0])
    rows, nodes, size = np.tile(np.arange(n), len(codes)), [], n
    for column in codes:
        nodes.append(size + _by_appearance(column))
        size += n
    graph = coo_array((np.ones(len(rows)), (rows, np.concatenate(nodes))), (size, size))
    return _by_appearance(connected_components(graph, directed=False)[1][:n])


def _by_appearance(codes: np.ndarray) -> np.ndarray:
    import pandas as pd

    return pd.factorize(codes)[0]


def make(dataset: Dataset, store: Store, strata: np.ndarray | None, seed: int, allow_leakage: bool = False,
         earlier: dict[str, str] | None = None) -> Split:  # fmt: skip
    """The table's own split, checked; or one drawn by unit, 70 / 10 / 20, balanced over ``strata``.

    Args:
        dataset: the readable rows.
        store: their pixels' hashes.
        strata: (n,) int class of each row (-1 unlabelled) over which to balance; None without a target. Units without a label go
            to training, where a pretraining may see them.
        seed: of the draw.
        allow_leakage: keep a split that shares units or pictures between its sides.
        earlier: the split of an earlier run by patient and content, which patients and pictures known there keep.

    Raises:
        UsageError: a patient, group or picture on two sides; too few units to draw a split.
    """
    codes, unit = units(dataset, store)
    together = linked(codes, contents(dataset, store))
    given = dataset.table["split"] if "split" in dataset.table.columns else None
    if given is not None and given.notna().any():
        split = Split(given.fillna("").to_numpy(dtype="U5"), codes, unit, made=False)
        if (split.of == "train").any() and not (split.of == "val").any():
            split = _carve_validation(split, together, strata, seed)
    else:
        split = Split(_draw(together, strata, seed, SHARES), codes, unit, made=True)
        if earlier:
            _keep(split, together, known_by(dataset, store), earlier)
        elif not {"train", "test"} <= set(split.of.tolist()):
            raise UsageError(f"{dataset.name}: too few patients or groups to draw a split; give the table a column split")
    if not allow_leakage:
        refuse_leakage(dataset, store, split)
    return split


def contents(dataset: Dataset, store: Store) -> np.ndarray:
    """(n,) the keyed hash of each row's pixels."""
    return store.facts["content"].iloc[dataset.table["row"]].to_numpy(object)


def known_by(dataset: Dataset, store: Store) -> list[list[str]]:
    """The names by which another run would know each row: the keyed hashes of its patient and of its pixels."""
    content = contents(dataset, store).tolist()
    patients = dataset.table["patient"].tolist() if "patient" in dataset.table.columns else [None] * len(content)
    return [[name for name in (p, c) if isinstance(name, str)] for p, c in zip(patients, content, strict=True)]


def _keep(split: Split, together: np.ndarray, names: list[list[str]], earlier: dict[str, str]) -> None:
    """Units known to an earlier run keep its split, in place; those that it had on two sides train, so that no test sees them."""
    kept: dict[int, str] = {}
    for code, known in zip(together.tolist(), names, strict=True):
        found = [earlier[name] for name in known if name in earlier]
        if found:
            kept[code] = min([*found, kept.get(code, SPLITS[-1])], key=SPLITS.index)
    for position, code in enumerate(together.tolist()):
        split.of[position] = kept.get(code, split.of[position])


def _carve_validation(split: Split, together: np.ndarray, strata: np.ndarray | None, seed: int) -> Split:
    """A user's split without validation rows gives up an eighth of its training units for them."""
    train = split.rows("train")
    inner = _draw(together[train], None if strata is None else strata[train], seed, {"train": 7 / 8, "val": 1 / 8})
    of = split.of.copy()
    of[train] = inner
    return Split(of, split.units, split.unit, split.made)


def _draw(codes: np.ndarray, strata: np.ndarray | None, seed: int, shares: dict[str, float]) -> np.ndarray:
    """Draw a split of units: within each stratum, shuffled units are cut where the running count of rows passes each share."""
    rng = np.random.default_rng(seed)
    _, first, inverse, sizes = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    stratum = np.zeros(len(first), int)
    if strata is not None:  # a unit's stratum is its highest class, so that one with any label is not taken for unlabelled
        stratum.fill(-1)
        np.maximum.at(stratum, inverse, strata)
    names = np.array(list(shares))
    bounds = np.cumsum(list(shares.values()))[:-1]
    unit_split = np.full(len(first), "train", names.dtype)
    for value in np.unique(stratum[stratum >= 0]):
        members = rng.permutation(np.flatnonzero(stratum == value))
        middle = (np.cumsum(sizes[members]) - sizes[members] / 2) / sizes[members].sum()
        unit_split[members] = names[np.searchsorted(bounds, middle)]
    return unit_split[inverse]


def refuse_leakage(dataset: Dataset, store: Store, split: Split) -> None:
    """Refuse a split that has a unit, or a picture with the same pixels, on two sides.

    Raises:
        UsageError: saying how many, and how to go on.
    """
    for what, codes in ((split.unit, split.units), ("identical picture", contents(dataset, store))):
        shared = _shared(codes, split.of)
        if shared:
            plural = f"{what} groups" if what == "near-duplicate" else f"{what}s"
            raise UsageError(
                f"{dataset.name}: {shared} {plural} stand on more than one side of the split; "
                "mend the column split, leave it out to have one drawn, or say --allow_leakage"
            )


def _shared(codes: np.ndarray, of: np.ndarray) -> int:
    import pandas as pd

    used = of != ""
    return int((pd.Series(of[used]).groupby(pd.factorize(codes[used])[0]).nunique() > 1).sum())


def label_fraction(y: np.ndarray, rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draw a fraction of the labelled rows; a smaller fraction of the same seed lies inside a larger one.

    Args:
        y: (n,) int class ids, -1 unknown; or (n, K) float 0/1, NaN unknown.
        rows: positions to draw from.
        fraction: in (0, 1].
        seed: of the draw.

    Returns:
        Sorted positions. Each class keeps max(1, round(fraction * n)) rows; with several 0/1 targets round(fraction * n) rows are
        kept, and at least one positive and one negative row of each target.
    """
    rng = np.random.default_rng([seed, 20_171])
    order = rng.permutation(rows)
    if y.ndim == 1:
        members = [order[y[order] == c] for c in np.unique(y[order]) if c >= 0]
        return np.sort(np.concatenate([m[: max(1, round(fraction * len(m)))] for m in members] or [order[:0]]))
    order = order[~np.isnan(y[order]).all(1)]
    firsts = [order[y[order, k] == v][:1] for k in range(y.shape[1]) for v in (1, 0)]
    front = np.unique(np.concatenate(firsts))
    rest = order[~np.isin(order, front)]
    return np.sort(np.concatenate([front, rest])[: max(len(front), round(fraction * len(order)))])


def cohort(split: Split, y: np.ndarray | None, classes: tuple[str, ...]) -> list[dict[str, object]]:
    """Rows that count pictures and units by split and class."""
    found: list[dict[str, object]] = []
    for name in SPLITS:
        rows = split.rows(name)
        found.append({"evaluator": "data", "metric": "images", "split": name, "value": len(rows)})
        unit = "patients" if split.unit == "patient" else "groups"
        found.append({"evaluator": "data", "metric": unit, "split": name, "value": len(np.unique(split.units[rows]))})
        if y is not None:
            for k, label in enumerate(classes):
                count = (y[rows] == k).sum() if y.ndim == 1 else np.nansum(y[rows, k])
                found.append({"evaluator": "data", "metric": "images", "split": name, "class": label, "value": int(count)})
    return found
