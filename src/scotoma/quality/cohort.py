"""Who is in training, validation and test: the table that stands first in a clinical paper, with tests and differences.

Numeric columns: median and quartiles, Mann-Whitney's test; categorical ones: shares, the chi-square test; both: the
standardised mean difference from the training rows, which unlike a p-value does not grow with the number of patients (above 0.1
is often called an imbalance: Austin 2009). Where patients are known they are counted, not images: a patient has the median of
its numbers and its most frequent category.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma.data import phi
from scotoma.data.dataset import SPLITS

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
MOST_CATEGORIES = 20  # more is free text or an identifier
LEAST_NUMBERS = 11  # a numeric column with fewer different values is one of categories


def kinds(table: pd.DataFrame, targets: Iterable[str] = ()) -> dict[str, str]:
    """The columns that can be described -> ``number`` or ``category``; what identifies, free text and constants are left out."""
    from pandas.api.types import is_bool_dtype

    left_out = {*phi.STRUCTURE, *phi.identifying(table, targets)}
    found = {}
    for name in (str(c) for c in table.columns if c not in left_out):
        different = table[name].astype(str)[table[name].notna()].nunique()
        if different >= LEAST_NUMBERS and not is_bool_dtype(table[name]) and _of_numbers(table[name]):
            found[name] = "number"
        elif 2 <= different <= min(MOST_CATEGORIES, int(table[name].notna().sum()) // 2):
            found[name] = "category"
    return found


def _of_numbers(column: pd.Series[Any]) -> bool:
    """Whether all values are numbers, however they are spelled (2.10 stays text in a table)."""
    import pandas as pd
    from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype

    if is_datetime64_any_dtype(column):
        return False
    numbers = pd.to_numeric(column, errors="coerce")
    return is_numeric_dtype(numbers) and bool(numbers.notna().eq(column.notna()).all())


def compare(table: pd.DataFrame, of: np.ndarray, patients: np.ndarray | None = None, targets: Iterable[str] = ()) -> list[Row]:
    """Describe each split, and compare each with training.

    Args:
        table: one row per image.
        of: (n,) the split of each row, one of ``SPLITS``; others are left out.
        patients: (n,) int, whose image each row is; None where that is not known, and images are counted.
        targets: columns whose categories are all shown; of others, those of fewer than ``phi.FEW`` patients are one.

    Returns:
        Rows with ``evaluator`` "cohort", ``split``, ``n`` (patients, or images, whose value is known) and ``metric``: ``images``;
        ``patients``; ``median`` with ``lower_quartile`` and ``upper_quartile`` of a ``column``; ``share`` of a ``class`` of a
        ``column``; ``missing``, how many have no value, in a ``column`` where some have none; and, against ``reference`` "train",
        ``difference`` (standardised; without sign for categories) and ``p_value``
        with its ``test``.
    """
    import pandas as pd

    rows: list[Row] = []
    present = [name for name in SPLITS if (of == name).any()]
    units = np.arange(len(table)) if patients is None else patients
    for name in present:
        rows.append({"metric": "images", "split": name, "value": int((of == name).sum())})
        if patients is not None:
            rows.append({"metric": "patients", "split": name, "value": len(np.unique(patients[of == name]))})
    wanted = set(targets)
    for column, kind in kinds(table, wanted).items():
        values = pd.to_numeric(table[column]) if kind == "number" else table[column].map(_word, na_action="ignore")
        if kind == "category" and column not in wanted:
            values = phi.rare(values, units)
        pairs = pd.DataFrame({"split": of, "unit": units, "value": values.to_numpy()}).dropna()
        one = _one_a_unit(pairs, kind)
        parts = {name: one["value"][one["split"] == name].to_numpy() for name in present}
        without = {name: len(np.unique(units[of == name])) - len(parts[name]) for name in present}
        describe = _numbers if kind == "number" else _categories
        rows += [{"column": column, **row} for row in describe(parts)]
        if any(without.values()):
            rows += [{"column": column, "metric": "missing", "split": name, "value": n} for name, n in without.items()]
    return [{"evaluator": "cohort", **row} for row in rows]


def compare_sets(data_module: Any) -> list[Row]:
    """`compare` of the table, split and patients that a verb uses; without what fewer than ``phi.FEW`` patients would state."""
    from scotoma.data.splits.units import codes_of

    table, split = data_module.dataset.table, data_module.split
    patients = codes_of(data_module.dataset, "patient") if "patient" in split.unit.split(" + ") else None
    targets = [c for c in (data_module.target.columns if data_module.target else ()) if c in table.columns]
    return [row for row in compare(table, split.of, patients, targets) if "n" not in row or row["n"] >= phi.FEW]


def describe_sets(data_module: Any) -> list[Row]:
    """Images, patients and classes of each set, files that could not be read, and `compare_sets`: of a verb that tests nothing."""
    from scotoma.data.splits.splits import cohort

    target = data_module.target
    counts = cohort(data_module.split, target.y if target else None, target.classes if target else ())
    unreadable = int(data_module.store.facts["error"].notna().sum())
    return [*counts, {"evaluator": "data", "metric": "unreadable", "value": unreadable}, *compare_sets(data_module)]


def _one_a_unit(pairs: pd.DataFrame, kind: str) -> pd.DataFrame:
    """One row for each split and unit: the median of its numbers, or its most frequent category (the first of equals)."""
    if kind == "number":
        return pairs.groupby(["split", "unit"])["value"].median().reset_index()
    counts = pairs.groupby(["split", "unit", "value"], as_index=False).size()
    return counts.sort_values("size", ascending=False, kind="stable").drop_duplicates(["split", "unit"])


def _word(value: object) -> str:
    """A category as text; 1.0 (a column of integers with gaps) is 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(parts: dict[str, np.ndarray]) -> list[Row]:
    from scipy.stats import mannwhitneyu

    rows: list[Row] = []
    for name, values in parts.items():
        low, middle, high = np.quantile(values.astype(float), (0.25, 0.5, 0.75)) if len(values) else [float("nan")] * 3
        quartiles = {"lower_quartile": float(low), "upper_quartile": float(high)}
        rows.append({"metric": "median", "split": name, "value": float(middle), **quartiles, "n": len(values)})
    for name, values, train in _against_train({k: v for k, v in parts.items() if len(v)}):
        a, b = values.astype(float), train.astype(float)
        spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)) if min(len(a), len(b)) > 1 else 0.0
        common = {"split": name, "reference": "train", "n": len(a) + len(b)}
        rows.append({**common, "metric": "difference", "value": float(a.mean() - b.mean()) / spread if spread else float("nan")})
        p = float(mannwhitneyu(a, b, alternative="two-sided").pvalue)
        rows.append({**common, "metric": "p_value", "test": "Mann-Whitney", "value": p})
    return rows


def _categories(parts: dict[str, np.ndarray]) -> list[Row]:
    from scipy.stats import chi2_contingency

    rows: list[Row] = []
    names = sorted({v for values in parts.values() for v in values.tolist()}, key=lambda v: (len(v) if v.isdecimal() else 99, v))
    counts = {name: np.array([(values == c).sum() for c in names]) for name, values in parts.items()}
    for name, count in counts.items():
        total = int(count.sum())
        rows += [
            {
                "metric": "share",
                "split": name,
                "class": c,
                "value": k / total if total else float("nan"),
                "count": int(k),
                "n": total,
            }
            for c, k in zip(names, count.tolist(), strict=True)
        ]
    for name, a, b in _against_train({k: v for k, v in counts.items() if v.any()}):
        both = np.stack([a, b])[:, a + b > 0]
        common = {"split": name, "reference": "train", "n": int(both.sum())}
        rows.append({**common, "metric": "difference", "value": share_difference(a / a.sum(), b / b.sum())})
        p = float(chi2_contingency(both, correction=False).pvalue) if both.shape[1] > 1 else 1.0
        rows.append({**common, "metric": "p_value", "test": "chi-square", "value": p})
    return rows


def _against_train(known: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Every other split with the training rows, of those that know a value."""
    return [(name, values, known["train"]) for name, values in known.items() if name != "train" and "train" in known]


def share_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Standardised difference of two lists of shares (K,), each of sum 1 (Yang and Dalton 2012); at least 0.

    Of two categories it is |p - q| / sqrt((p (1 - p) + q (1 - q)) / 2).
    """
    gap = (a - b)[1:]
    spread = sum((np.diag(s[1:]) - np.outer(s[1:], s[1:])) / 2 for s in (a, b))
    return float(np.sqrt(max(0.0, gap @ np.linalg.pinv(spread) @ gap)))
