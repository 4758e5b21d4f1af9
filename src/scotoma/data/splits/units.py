"""What belongs together: rows of one patient, study, series, file or group, and near-duplicates of rows that have no such id.

A unit stands on one side of a split only. It is a connected component: rows that share any of these, directly or by way of other
rows, are one unit. Every verb takes its units from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scotoma.data import pseudonyms
from scotoma.data.dataset import Dataset
from scotoma.data.io import read
from scotoma.data.splits.altered_copies import find_copies_of_store
from scotoma.data.splits.near_duplicates import near_duplicates
from scotoma.errors import notice

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.store.store import Store

NEAR, COPY = "near-duplicate", "altered copy"
MOST_LOOKED_AT = 20_000  # images without any id among which altered copies are looked for by default (4 ms each, once)
_PLURALS = {"study": "studies", "series": "series", NEAR: "near-duplicate groups", COPY: "groups of altered copies"}


def units(
    dataset: Dataset, store: Store | None = None, by: str | None = None, altered: bool | None = False
) -> tuple[np.ndarray, str]:
    """The unit of splitting of each row.

    Args:
        dataset: the rows.
        store: their pixels and headers; None where only the table is to be read. Then near-duplicates are not looked for.
        by: another column whose equal values belong together.
        altered: join altered copies (mirrored, turned, cropped, brightened) too: True for all rows, None for rows without any id,
            of which near-duplicates are joined in any case.

    Returns:
        (n,) int, numbered in order of appearance; and what a unit is made of, such as ``patient`` or ``patient + study``: the parts
        that joined rows, or named rows that nothing before named.
    """
    n = len(dataset)
    codes, named, words = np.arange(n), np.zeros(n, bool), []
    for word, values in _ids(dataset, store, by):
        joined = link(codes, values) if not _is_nested(values, codes) else codes
        known = _known(values)
        if ((joined != codes).any() or (known & ~named).any()) and word not in words:
            words.append(word)
        codes, named = joined, named | known
    if store is None or not n or (named.all() and not altered):
        return codes, " + ".join(words) or NEAR
    rows = dataset.table["row"].to_numpy()
    if not named.all():
        codes = _join_alike(codes, near_duplicates(store.hashes[rows]), named)
        words.append(NEAR)
    if altered or (altered is None and n <= MOST_LOOKED_AT):
        found = _join_alike(codes, find_copies_of_store(store, rows), np.zeros(n, bool) if altered else named)
        words += [COPY] if (found != codes).any() else []
        codes = found
    elif altered is None:
        notice(dataset.name, f"altered copies are not looked for among {n} images: `scotoma split --copies` does")
    return codes, " + ".join(words)


def plural(unit: str) -> str:
    """What a unit is made of, of several: ``patients``, ``studies``, ``units (patient + study)``."""
    return f"units ({unit})" if " + " in unit else _PLURALS.get(unit, f"{unit}s")


def count_of(count: int, unit: str) -> str:
    """So many of a unit: ``1 patient``, ``2 studies``, ``1 unit (patient + study)``."""
    if count != 1:
        return f"{count} {plural(unit)}"
    alone = {NEAR: "near-duplicate group", COPY: "group of altered copies"}.get(unit, unit)
    return f"1 unit ({unit})" if " + " in unit else f"1 {alone}"


def name_owners(dataset: Dataset, store: Store) -> np.ndarray:
    """(n,) object: the name by which another table or run would know whose image this is; None where nothing states it.

    The keyed hash of the patient, else of the study, the series, or the file of which the image is a frame.
    """
    import pandas as pd

    columns = [_column(dataset.table, "patient")]
    columns += [c for name in ("patient", "study") for c in (_column(store.facts, name, dataset), _column(dataset.table, name))]
    columns += [_column(store.facts, "series", dataset), _files(dataset, store)]
    found = np.full(len(dataset), None, object)
    for column in columns:
        if column is not None:
            found = np.where(pd.isna(found), column, found)
    found[pd.isna(found)] = None
    return found


def codes_of(dataset: Dataset, column: str) -> np.ndarray:
    """(n,) int: rows with one value of this column have one number; a row without a value has one of its own."""
    return number_values(dataset.column(column).to_numpy(object))


def number_values(values: np.ndarray) -> np.ndarray:
    """(n,) int: rows of one value have one number; a row without a value has one of its own."""
    import pandas as pd

    codes = pd.factorize(pd.Series(values, dtype=object))[0].astype(np.int64)
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(alone.sum())
    return codes


def link(*codes: np.ndarray) -> np.ndarray:
    """(n,) int: rows that share a value of any of these (n,) columns, directly or by way of other rows, have one number.

    Units and contents so linked may stand on one side of a split only: an image filed under two patients makes them one.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(codes[0])
    rows, nodes, size = np.tile(np.arange(n), len(codes)), [], n
    for column in codes:
        numbers = by_appearance(column)
        nodes.append(size + numbers)
        size += int(numbers.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(rows), np.int8), (rows, np.concatenate(nodes))), (size, size))
    return by_appearance(connected_components(graph, directed=False)[1][:n])


def separate(codes: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """The (n,) codes, numbered, those of ``alone`` (n,) bool rows with a number of their own."""
    return np.where(alone, len(codes) + np.arange(len(codes)), by_appearance(codes))


def by_appearance(codes: np.ndarray) -> np.ndarray:
    """(n,) codes as 0, 1, ... in order of appearance."""
    import pandas as pd

    return pd.factorize(codes)[0]


def _ids(dataset: Dataset, store: Store | None, by: str | None) -> list[tuple[str, np.ndarray]]:
    """What each id is called, and the (n,) numbers that it gives the rows: a number of its own, from n on, where it is missing.

    A study or a series that stands beside more than half of all patients (and three at least), such as ``study1``, is no name of
    its own but one within the patient. The same holds for headers that give one patient to the patients of the table.
    """
    owner = np.full(len(dataset), -1)
    found: list[tuple[str, np.ndarray]] = []
    for name in ("patient", "study", "series"):
        for source in (dataset.table, None if store is None else store.facts):
            column = None if source is None else _column(source, name, dataset if source is not dataset.table else None)
            if column is None:
                continue
            values = _factorize(column)
            if not (values >= 0).any():
                continue
            if _is_reused(values, owner):
                both = (values >= 0) & (owner >= 0)
                values = np.where(both, len(values) + by_appearance(values * (int(owner.max()) + 1) + owner), values)
            found.append((name, values))
            first = values if name != "series" else np.full(len(values), -1)
            owner = np.where(owner < 0, np.where(first < 0, -1, (int(owner.max(initial=-1)) + 1) + first), owner)
    files = _files(dataset, store)
    if files is not None:
        values = _factorize(files)
        several = (values >= 0) & (np.bincount(values[values >= 0], minlength=1)[values] > 1)
        found.append(("file", np.where(several, values, -1)))
    others = [name for name in dict.fromkeys(("group", by)) if name and (name in dataset.table.columns or name == by)]
    found += [(name, _factorize(dataset.column(name).to_numpy(object))) for name in others if name not in ("patient", "study")]
    return [(name, _own(values)) for name, values in found if (values >= 0).any()]


def _factorize(values: np.ndarray) -> np.ndarray:
    """(n,) int: one number per value, -1 where it is missing or blank."""
    import pandas as pd

    column = pd.Series(values, dtype=object)
    return pd.factorize(column.mask(column.map(lambda v: isinstance(v, str) and not v.strip()).astype(bool)))[0].astype(np.int64)


def _own(values: np.ndarray) -> np.ndarray:
    """Numbers in which a row of -1 has one of its own, which is negative."""
    return np.where(values < 0, -1 - np.arange(len(values)), values)


def _known(values: np.ndarray) -> np.ndarray:
    return values >= 0


def _is_nested(values: np.ndarray, codes: np.ndarray) -> bool:
    """Whether all rows of one value have one code already."""
    order = np.argsort(values, kind="stable")
    same = values[order][1:] == values[order][:-1]
    return bool((codes[order][1:] == codes[order][:-1])[same].all())


def _is_reused(values: np.ndarray, owner: np.ndarray) -> bool:
    """Whether some value stands beside more than half of the owners, and three at least."""
    both = (values >= 0) & (owner >= 0)
    pairs = np.unique(np.stack([values[both], owner[both]]), axis=1)
    if not pairs.size:
        return False
    most = int(np.unique(pairs[0], return_counts=True)[1].max())
    return most >= 3 and 2 * most > len(np.unique(pairs[1]))


def _join_alike(codes: np.ndarray, alike: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Units joined by groups of images that look alike: only groups with a row that no id names."""
    free = np.isin(alike, alike[~named])
    return link(codes, separate(alike, ~free))


def _column(table: pd.DataFrame, name: str, of: Dataset | None = None) -> np.ndarray | None:
    """(n,) object: a column of the table, or of the facts for the rows ``of`` a dataset; None where there is none."""
    if name not in table.columns:
        return None
    column = table[name] if of is None else table[name].iloc[of.table["row"].to_numpy()]
    return column.to_numpy(object)


def _files(dataset: Dataset, store: Store | None) -> np.ndarray | None:
    """(n,) object: the keyed hash of the file of which an image is a frame, slice or page; None for other images."""
    import pandas as pd

    table = dataset.table
    if "image_path" not in table.columns:
        return None if store is None else _column(store.facts, "file", dataset)
    codes, paths = pd.factorize(table["image_path"])
    several = np.bincount(codes, minlength=len(paths)) > 1
    if "frame" in table.columns:
        several[codes[table["frame"].notna().to_numpy()]] = True
    key = pseudonyms.load_key() if several.any() else b""
    names = [read.file_of(str(path)) if more else None for path, more in zip(paths, several.tolist(), strict=True)]
    hashed = np.array([*(name and pseudonyms.pseudonym(name, key) for name in names), None], object)
    return hashed[codes]
