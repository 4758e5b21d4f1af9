"""The test of a finished model on a table without a split: what its training or validation saw is left out, all else is tested."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from scotoma.data.dataset import SPLITS, Dataset
from scotoma.data.splits.splits import Split, contents, find_known_sides, keep
from scotoma.data.splits.stratification import UNDECIDED
from scotoma.data.splits.units import name_owners, units
from scotoma.data.store.store import Store
from scotoma.errors import UsageError

WHY = "they or their patients were in the model's training or validation, or near-duplicates of them in its training"


def hold_out(dataset: Dataset, store: Store, earlier: dict[str, str], copied: np.ndarray) -> Split:
    """Test all rows but those of patients and images that trained or validated a model, and what belongs together with them.

    Args:
        dataset: the readable rows.
        store: their pixels' hashes.
        earlier: the model's split by patient and content, as ``splits.make`` takes it. What it tested is tested again.
        copied: (n,) bool: near-duplicates of images of the model's training.

    Returns:
        A split of test rows, and of rows without a side, which are left out.
    """
    codes, unit = units(dataset, store)
    owners, content = (find_known_sides(names, earlier) for names in (name_owners(dataset, store), contents(dataset, store)))
    content = np.where(copied, "train", content)
    if not np.isin([*owners, *content], SPLITS).any():
        return Split(np.full(len(dataset), "test", "U5"), codes, unit, made=False)
    together, _ = units(dataset, store, altered=None)
    settled = keep((together, owners), (contents(dataset, store), content))
    tested = np.isin(settled, (UNDECIDED, SPLITS.index("test")))
    if not tested.all():  # what only a row that is left out has in common does not belong together
        inside = replace(dataset, table=dataset.table[tested].reset_index(drop=True))
        codes = len(codes) + np.arange(len(codes))
        codes[tested], unit = units(inside, store)
    return Split(np.where(tested, "test", "").astype("U5"), codes, unit, made=False)


def refuse_missing_classes(data_module: Any) -> None:
    """Refuse a test in which a class has no row because its rows are left out.

    Raises:
        UsageError: naming the class and how many of its rows are left out.
    """
    target, test, out = data_module.target, data_module.split.rows("test"), data_module.left_out
    for k, label in enumerate(target.classes if target.numbers is None else ()):
        has = target.y[:, k] == 1 if target.multilabel else target.y == k
        if not has[test].any() and (count := int(has[out].sum())):
            raise UsageError(
                f"{data_module.dataset.name}: class {label!r} has no row left to test: its {count} rows are left out, as {WHY}; "
                "add images of other patients"
            )
