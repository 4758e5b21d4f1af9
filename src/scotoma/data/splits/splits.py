"""Splits by patient, nested label fractions, and the refusal of leakage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scotoma.data.dataset import SPLITS, Dataset
from scotoma.data.splits import altered_copies
from scotoma.data.splits.stratification import UNDECIDED, assign
from scotoma.data.splits.units import by_appearance, count_of, link, name_owners, plural, separate, units
from scotoma.data.store.store import Store
from scotoma.errors import UsageError, notice

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
LEFT_OUT = -2  # beside UNDECIDED: a row that is to have no side
LOOKED_THROUGH = 2000  # images of a table with a split of its own among which altered copies are looked for (4 ms each, once)
_VALIDATION = 1 / 8  # of the training rows, where a user's split has none


# What is right for the images of one patient.
ALL_TRAIN = "to pretrain on all images, name a table (columns image_path and split) in which every row is train"


@dataclass(frozen=True)
class Split:
    """Which rows train, choose and test.

    Args:
        of: (n,) str, ``train`` / ``val`` / ``test``, or ``""`` where the user's own split leaves a row out.
        units: (n,) int, what belongs together, numbered in order of appearance.
        unit: what a unit is made of, as ``scotoma.data.splits.units`` states: ``patient``, ``patient + study``, ``near-duplicate``.
        made: whether Scotoma drew it (else it is the table's own).
        copied: groups of altered copies (mirrored, turned, cropped, brightened) on several sides; None where none were looked for.
    """

    of: np.ndarray
    units: np.ndarray
    unit: str
    made: bool
    copied: int | None = None

    def rows(self, name: str) -> np.ndarray:
        """Positions of the rows of a split."""
        return np.flatnonzero(self.of == name)


def make(dataset: Dataset, store: Store, strata: np.ndarray | None, seed: int, allow_leakage: bool = False,
         earlier: dict[str, str] | None = None, whole: bool = False) -> Split:  # fmt: skip
    """The table's own split, checked; or one drawn by unit, 70 / 10 / 20, balanced over ``strata``.

    Args:
        dataset: the readable rows.
        store: their pixels' hashes.
        strata: the labels over which to balance, as a ``Target`` has them: (n,) int class ids, -1 unknown, or (n, K) float 0/1,
            NaN unknown; None without a target. Units without a label go to training, where a pretraining may see them.
        seed: of the draw.
        allow_leakage: keep a split that shares units or images between its sides.
        earlier: the split of an earlier run by patient and content, which patients and images known there keep. A row that
            bridges two of its sides (a patient seen in training, an image identical to a tested one) is left out.
        whole: all rows test.

    Raises:
        UsageError: a patient, group or image on two sides; too few units to draw a split.
    """
    if whole:
        codes, unit = units(dataset, store)
        return Split(np.full(len(dataset), "test", "U5"), codes, unit, made=False)
    given = dataset.table["split"] if has_split(dataset) else None
    codes, unit = units(dataset, store, altered=None if given is None else False)
    together = link(codes, contents(dataset, store))
    if given is not None:
        split = Split(given.fillna("").to_numpy(dtype="U5"), codes, unit, made=False)
        if (split.of == "train").any() and not (split.of == "val").any():
            split = _carve_validation(split, together, strata, seed, _number_known_sides(dataset, store, earlier or {}))
    else:
        settled = None
        if earlier:
            content = contents(dataset, store)
            owner_sides, content_sides = (find_known_sides(names, earlier) for names in (name_owners(dataset, store), content))
            settled = keep((codes, owner_sides), (content, content_sides))
            out = settled == LEFT_OUT
            report_bridges(dataset.name, int(out.sum()))
            if out.any():  # what only a row that is left out has in common does not belong together
                inside = replace(dataset, table=dataset.table[~out].reset_index(drop=True))
                codes = codes.max(initial=-1) + 1 + np.arange(len(codes))
                codes[~out], unit = units(inside, store, altered=None)
                codes = by_appearance(codes)
            together = link(separate(codes, out), separate(content, out))
        split = Split(draw(together, strata, seed, SHARES, settled), codes, unit, made=True)
        if not earlier and not {"train", "test"} <= set(split.of.tolist()):
            raise UsageError(_too_few(dataset, store, together, unit, strata))
    if not allow_leakage:
        refuse_leakage(dataset, store, split)
    return _count_copies_across(dataset, store, split)


def _count_copies_across(dataset: Dataset, store: Store, split: Split) -> Split:
    """Count altered copies on several sides where they were looked for; say of a table's own split how many, or that nobody looked.

    Patients may look alike: what is found is a warning. Among few images they are looked for here.
    """
    if not split.made and len(np.unique(split.of[split.of != ""])) < 2:
        return split
    if altered_copies.load_groups(store) is None and (split.made or len(dataset) > LOOKED_THROUGH):
        if not split.made:
            notice(dataset.name, f"altered copies on several sides of the table's own split: {altered_copies.NOT_LOOKED_FOR}")
        return split
    found = _count_shared_codes(altered_copies.find_copies_of_store(store, dataset.table["row"].to_numpy()), split.of)
    if found and not split.made:
        notice(
            dataset.name,
            f"{found} groups of altered copies (mirrored, turned, cropped, brightened) or near-duplicates stand on several sides "
            "of the table's own split: `scotoma audit` shows them, `scotoma split --copies` keeps them together",
        )
    return replace(split, copied=found)


def has_split(dataset: Dataset) -> bool:
    """Whether the table has a split of its own."""
    return "split" in dataset.table.columns and bool(dataset.table["split"].notna().any())


def contents(dataset: Dataset, store: Store) -> np.ndarray:
    """(n,) the keyed hash of each row's pixels."""
    return store.facts["content"].iloc[dataset.table["row"]].to_numpy(object)


def name_rows(dataset: Dataset, store: Store) -> list[list[str]]:
    """The names by which another run would know each row: the keyed hashes of its patient (else study, ...) and of its pixels."""
    pairs = zip(name_owners(dataset, store).tolist(), contents(dataset, store).tolist(), strict=True)
    return [[name for name in pair if isinstance(name, str)] for pair in pairs]


def find_known_sides(names: np.ndarray, earlier: dict[str, str]) -> np.ndarray:
    """(n,) str: the side that an earlier split gave each of these names; ``""`` where it does not know the name.

    A missing name is ``None``: what is not named settles nothing.
    """
    import pandas as pd

    column = pd.Series(names, dtype=object)
    return column.map(earlier).fillna("").mask(column.isna(), None).to_numpy(object)


def keep(*named: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The sides that an earlier split settles, so that nothing it knows moves.

    Args:
        named: for each kind of name (patient, image) its (n,) codes, and the sides by which the earlier split knows them, as
            ``known_sides`` states. Rows of one code belong together.

    Returns:
        (n,) int: the side of rows whose unit is known, an index into ``SPLITS``; ``UNDECIDED`` for new units; ``LEFT_OUT`` for rows
        that bridge two sides: those whose own names stand on two, and those not known by every name that link two together.
    """
    places = {name: k for k, name in enumerate(SPLITS)}
    numbers, links = [], []
    for codes, sides in named:
        number, code = np.array([places.get(side, UNDECIDED) for side in sides.tolist()]), by_appearance(codes)
        most, least = _range(code, number)
        settled = (most >= 0) & (least == most)
        numbers.append(np.where(settled, most, number))
        links.append(separate(code, settled))  # a settled code states its side by itself; others may link rows of two sides
    nameless = np.stack([np.array([side is None for side in sides.tolist()], bool) for _, sides in named])
    known = np.stack(numbers)
    own, lowest = known.max(0), np.where(known < 0, len(SPLITS), known).min(0)
    bridges = (own >= 0) & (lowest < own)
    most, least = _range(link(*(separate(codes, bridges) for codes in links)), np.where(bridges, UNDECIDED, own))
    torn = (most >= 0) & (least < most)
    whole = ((known >= 0) | nameless).all(0)
    return np.where(bridges | (torn & ~whole), LEFT_OUT, np.where(torn, own, most))


def _range(codes: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the largest and the smallest number that is not negative among the rows of each row's code."""
    most, least = np.full(len(codes), UNDECIDED), np.full(len(codes), len(SPLITS))
    np.maximum.at(most, codes, numbers)
    np.minimum.at(least, codes, np.where(numbers < 0, len(SPLITS), numbers))
    return most[codes], least[codes]


def report_bridges(name: str, count: int) -> None:
    """Say on standard error how many rows are left out because they bridge two sides."""
    if count:
        notice(name, f"{count} images bridge two sides of the earlier split and are left out")


def _number_known_sides(dataset: Dataset, store: Store, earlier: dict[str, str]) -> np.ndarray:
    """(n,) int: the first side by which an earlier split knows each row's patient or image; ``UNDECIDED`` where it does not."""
    places = {name: k for k, name in enumerate(SPLITS)}
    sides = [find_known_sides(names, earlier).tolist() for names in (name_owners(dataset, store), contents(dataset, store))]
    numbers = np.array([[places.get(side, len(SPLITS)) for side in column] for column in sides]).min(0)
    return np.where(numbers < len(SPLITS), numbers, UNDECIDED)


def _carve_validation(split: Split, together: np.ndarray, strata: np.ndarray | None, seed: int, known: np.ndarray) -> Split:
    """A user's split without validation rows gives up an eighth of its training units for them.

    Units by which an earlier run was trained or chosen (``known``) stay on that side, so that no choice is made on images that an
    encoder was pretrained on; unless that leaves none to choose by.
    """
    train = split.rows("train")
    shares = {"train": 1 - _VALIDATION, "val": _VALIDATION}
    labels, units = None if strata is None else strata[train], by_appearance(together[train])
    first = _range(units, known[train])[1]
    settled = np.where(first <= SPLITS.index("val"), first, UNDECIDED)
    of = split.of.copy()
    of[train] = draw(units, labels, seed, shares, settled)
    if not (of == "val").any():
        of[train] = draw(units, labels, seed, shares)
    return Split(of, split.units, split.unit, split.made)


def draw(
    units: np.ndarray, strata: np.ndarray | None, seed: int, shares: dict[str, float], settled: np.ndarray | None = None
) -> np.ndarray:
    """Deal units out to sides, balanced over rows and labels.

    Args:
        units: (n,) int.
        strata: labels, as in ``make``. A unit without any trains, and does not count: labelled rows are assigned by the shares.
        seed: of the draw.
        shares: of the labelled rows, by side.
        settled: what ``keep`` found: sides named there stay, rows that are left out there get none.

    Returns:
        (n,) str: the side of each row, ``""`` for none.
    """
    names = np.array([*SPLITS, "", ""], "U5")  # the last two stand for LEFT_OUT and UNDECIDED
    side = np.full(len(units), UNDECIDED) if settled is None else settled.copy()
    dealt = side != LEFT_OUT
    if strata is not None:
        labelled = _is_labelled(strata)
        _, unit = np.unique(units, return_inverse=True)
        labelled = (np.bincount(unit, labelled) > 0)[unit]
        side[~labelled & (side == UNDECIDED)] = SPLITS.index("train")
        dealt &= labelled
    y = None if strata is None else strata[dealt]
    found = assign(units[dealt], y, [shares.get(name, 0) for name in SPLITS], seed, side[dealt])
    side[dealt] = np.where(side[dealt] == UNDECIDED, found, side[dealt])
    return names[side]


def _is_labelled(strata: np.ndarray) -> np.ndarray:
    """(n,) bool: rows with any label."""
    return np.asarray(~np.isnan(strata).all(1) if strata.ndim == 2 else strata >= 0)


def refuse_leakage(dataset: Dataset, store: Store, split: Split) -> None:
    """Refuse a split that has a unit, or an image with the same pixels, on two sides.

    Raises:
        UsageError: naming how many, and how to go on.
    """
    for what, count in count_shared(dataset, store, split):
        told = f"{count} {what} stand"
        if count == 1:
            told = f"{count_of(1, split.unit)} stands" if what == plural(split.unit) else "1 image with its copies stands"
        drawn = "leave it out to have one drawn" if len(np.unique(split.units)) > 2 else ALL_TRAIN
        raise UsageError(
            f"{dataset.name}: {told} on more than one side of the split; mend the column split, {drawn}, or use --allow_leakage"
        )


def _too_few(dataset: Dataset, store: Store, together: np.ndarray, unit: str, strata: np.ndarray | None) -> str:
    """Why no split can be drawn, and what can be done."""
    labelled = np.ones(len(together), bool) if strata is None else _is_labelled(strata)
    counted = count_of(len(np.unique(together[labelled])), unit) + ("" if labelled.all() else " with a label")
    by_headers = []
    for name in ("patient", "study"):
        if name in dataset.table.columns and name in store.facts.columns:
            said = store.facts[name].iloc[dataset.table["row"]]
            by_headers += [name] if (said.to_numpy(object) == dataset.table[name].to_numpy(object)).any() else []
    columns = [c for c in ("patient", "study", "group") if c in dataset.table.columns and c not in by_headers]
    told = f"{dataset.name}: too few patients or groups to draw a split ({counted}"
    told += f", as the files' headers say); {ALL_TRAIN}" if by_headers else f"); {ALL_TRAIN}"
    if columns:
        told += f"; or leave out the column {' or '.join(columns)} where it joins what does not belong together"
    return f"{told}; to test a model, use images of more patients"


def count_shared(dataset: Dataset, store: Store, split: Split) -> list[tuple[str, int]]:
    """What stands on more than one side of a split, in words, and how many there are of it; nothing where none does."""
    kinds = ((plural(split.unit), split.units), ("identical images", contents(dataset, store)))
    return [(what, count) for what, codes in kinds if (count := _count_shared_codes(codes, split.of))]


def _count_shared_codes(codes: np.ndarray, of: np.ndarray) -> int:
    import pandas as pd

    used = of != ""
    code, side = pd.factorize(codes[used])[0], pd.factorize(of[used])[0]
    pairs = np.unique(code * (len(SPLITS) + 1) + side)  # each code once a side
    return int((np.bincount(pairs // (len(SPLITS) + 1)) > 1).sum())


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
    """Rows that count images and units by split and class, and of several labels the images of which one is ``missing``."""
    found: list[dict[str, object]] = []
    for name in SPLITS if np.isin(split.of, ("train", "val")).any() else ("test",):  # a test alone has no other set
        rows = split.rows(name)
        found.append({"evaluator": "data", "metric": "images", "split": name, "value": len(rows)})
        metric, count = "patients" if split.unit == "patient" else "groups", len(np.unique(split.units[rows]))
        found.append({"evaluator": "data", "metric": metric, "split": name, "value": count, "unit": split.unit})
        if y is not None:
            for k, label in enumerate(classes):
                count = (y[rows] == k).sum() if y.ndim == 1 else np.nansum(y[rows, k])
                found.append({"evaluator": "data", "metric": "images", "split": name, "class": label, "value": int(count)})
                if y.ndim == 2 and np.isnan(y[:, k]).any():  # of several labels each may be missing
                    without = int(np.isnan(y[rows, k]).sum())
                    found.append({"evaluator": "data", "metric": "missing", "split": name, "class": label, "value": without})
    return found
