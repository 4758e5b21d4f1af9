"""A classifier by subgroups of patients: sex, age, view, site, scanner, or whatever the table states; and the gaps between them.

Of a classifier its own head is tested; of an encoder a linear probe on all training labels. Every column of 2 to 12 different
values among the labelled test rows is taken, age in bands, unless it is a target or states whose image a row is; a missing value
makes a subgroup of its own. Columns that identify patients are left out, and values that fewer than five patients each have are
one subgroup. Gaps are bootstrapped over patients, in all subgroups at once, so that they are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from scotoma.data import phi
from scotoma.data.labels.annotators import SHARES, label_text
from scotoma.data.sources import values
from scotoma.errors import UsageError
from scotoma.evaluators import linear
from scotoma.evaluators.base import Context, Row, decisions_of
from scotoma.metrics.bootstrap import bootstrap_weights, number_groups
from scotoma.metrics.classification import Cases, check_cases, classwise
from scotoma.metrics.intervals import estimate, leave_out
from scotoma.metrics.support import support_of

PROTOCOL = 3
TRAINS = False  # of a classifier nothing is trained; an encoder's training rows are checked where its probe is fitted
AGES = (18, 40, 60, 80)  # years, at which a new band begins
BANDS = ("0-17", "18-39", "40-59", "60-79", "80+")
MOST_VALUES = 12  # more is free text, a measurement or an identifier
FEW_PATIENTS, FEW_OF_A_CLASS = 30, 10  # a subgroup with fewer patients is small: it has its values, but no part in a gap
Samples = dict[tuple[str, int | None], np.ndarray]  # of a metric and class under each line of weights; of None, over the classes


def require_data(context: Context) -> None:
    """Refuse a table without a column of subgroups, before any evaluator runs.

    Raises:
        UsageError: no column divides the test rows.
    """
    if not _columns(context):
        raise UsageError(
            "--with subgroups needs a column that divides the test rows (sex, age, view, site): add one to the table, "
            "join one with --labels, or leave subgroups out"
        )


def evaluate(context: Context, resamples: int = 1000) -> list[Row]:
    """AUROC, sensitivity, specificity and balanced accuracy of each subgroup, and their largest difference in each column.

    Returns:
        Rows with ``column``, ``subgroup``, ``n``, ``patients`` and ``small``; with several classes or labels, also one for each
        ``class``. A class without positive or without negative rows in a subgroup has no value there (NaN), and neither has the
        mean over classes: over other classes it would compare unlike things. ``few`` where the rarer side has fewer than
        ``FEW_OF_A_CLASS`` patients. And rows ``..._gap``: the highest less the lowest of the subgroups that are not small, where
        there are two. Sensitivity and specificity are at the classifier's thresholds, where it has such; the balanced accuracy of
        several classes is that of the most probable one.

    Raises:
        UsageError: no target has both classes there; the classifier predicts something else.
    """
    columns = _columns(context)
    test, units = context.test, context.split.units[context.test]
    p = linear.probabilities(context)[test]
    cases = check_cases(context.target.y[test], p)
    cases = replace(cases, decision=decisions_of(context, p) & cases.known)
    testable = [k for k in cases.columns("auroc") if _rarest(cases, units, [k])]
    if not testable:
        raise UsageError("no target has positive and negative test rows: there is nothing to compare subgroups by")
    left_out, codes = leave_out(units, len(test)), number_groups(units)[1]
    lines = len(left_out)
    weights = np.concatenate([left_out, bootstrap_weights(units, resamples)])
    rows: list[Row] = []
    for column, names in columns.items():
        gaps: dict[tuple[str, int | None], dict[str, np.ndarray]] = {}
        for name in sorted(set(names.tolist()), key=_order):
            inside = names == name
            part, people = _part(cases, inside), units[inside]
            for (metric, k), found in _samples(part, weights[:, inside], testable).items():
                known = part.known[:, testable if k is None else [k]].any(1)
                patients, rarest = len(np.unique(people[known])), _rarest(part, people, testable if k is None else [k])
                small = patients < FEW_PATIENTS or rarest < FEW_OF_A_CLASS
                counts = {"n": int(known.sum()), "patients": patients, "small": small, "few": rarest < FEW_OF_A_CLASS}
                support = support_of(metric, part, codes[inside], testable if k is None else [k], float(found[0]))
                estimates = estimate(found[:lines], metric, support)
                rows.append({"metric": metric, "column": column, "subgroup": name, **_class(context, k), **estimates, **counts})
                if not small:
                    gaps.setdefault((metric, k), {})[name] = found[[0, *range(lines, len(found))]]
        for (metric, k), by_name in gaps.items():
            if len(by_name) > 1:
                rows.append({"metric": f"{metric}_gap", "column": column, **_class(context, k), **_gap(by_name), "n": len(test)})
    return rows


def _columns(context: Context) -> dict[str, np.ndarray]:
    """The columns that divide the labelled test rows, each with the subgroup (n,) of these rows."""
    table = context.dataset.table.iloc[context.test]
    left_out = {*phi.STRUCTURE, *phi.identifying(context.dataset.table)}
    left_out |= {*context.target.columns, *(f"{name}{SHARES}" for name in context.target.columns)}
    found = {}
    for column in (c for c in table.columns if c not in left_out):
        names = _bands(table[column]) if str(column).lower() == "age" else [_word(v) for v in values(table[column])]
        if 2 <= len(set(names) - {None}) <= MOST_VALUES:
            known = phi.rare(pd.Series(names, dtype=object), context.split.units[context.test])
            found[str(column)] = known.fillna(phi.MISSING).to_numpy(str)
    return found


def _order(name: str) -> tuple[int, int, str]:
    """Numbers by size, words by alphabet, then rare values, what is missing last."""
    return (name == phi.OTHER) + 2 * (name == phi.MISSING), len(name) if name.isdecimal() else 99, name


def _word(value: object) -> str | None:
    """A value as the name of its subgroup, as it is written; 1.0 is 1; None where it is missing."""
    return (label_text(value) or "").strip() or None


def _bands(column: pd.Series) -> list[str | None]:
    """The band of each age in years; None where it is missing."""
    ages = pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
    return [BANDS[band] if age >= 0 else None for age, band in zip(ages, np.digitize(ages, AGES), strict=True)]


def _part(cases: Cases, inside: np.ndarray) -> Cases:
    return Cases(cases.truth[inside], cases.known[inside], cases.probability[inside], cases.decision[inside], cases.categorical)


def _rarest(cases: Cases, people: np.ndarray, columns: Sequence[int]) -> int:
    """The fewest patients that are positive, or negative, for any of these classes."""
    sides = [cases.known & cases.truth, cases.known & ~cases.truth]
    return min(len(np.unique(people[side[:, k]])) for side in sides for k in columns)


def _samples(part: Cases, weights: np.ndarray, columns: Sequence[int]) -> Samples:
    """Every metric under the weights; a subgroup, or a resample, without one of the classes has none (NaN)."""
    area, sensitivity, specificity = (classwise(m, part, weights, columns) for m in ("auroc", "sensitivity", "specificity"))
    sensitivity, specificity = (np.where(np.isnan(area), np.nan, rate) for rate in (sensitivity, specificity))
    each = {
        "auroc": area,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }
    several = len(part.columns("auroc")) > 1
    recall = sensitivity
    if part.categorical and several:  # whose one decision is the most probable class
        likeliest = part.probability.argmax(1)[:, None] == np.arange(part.probability.shape[1])
        recall = classwise("sensitivity", replace(part, decision=likeliest), weights, columns)
        recall = np.where(np.isnan(area), np.nan, recall)
    found: Samples = {}
    for metric, by_class in each.items():
        # The balanced accuracy of several classes is their mean sensitivity.
        is_recall = metric == "balanced_accuracy" and part.categorical and several
        found[metric, None] = (recall if is_recall else by_class).mean(1)
        found |= {(metric, k): by_class[:, i] for i, k in enumerate(columns) if several}
    return found


def _gap(by_name: dict[str, np.ndarray]) -> Row:
    """The highest less the lowest value, its 95 % interval, and whose they are.

    A largest difference is never negative and grows with chance alone, so percentiles of its resamples would always find one. But
    it errs by no more than the largest difference between the errors of its subgroups: the 95 % quantile of that over resamples,
    laid to either side, makes an interval that begins at 0 where chance would do, for however many subgroups.
    """
    names, found = list(by_name), np.stack(list(by_name.values()))
    errors = found[:, 1:] - found[:, :1]
    reach = float(np.nanquantile(errors.max(0) - errors.min(0), 0.95))
    gap, first, last = float(np.ptp(found[:, 0])), int(found[:, 0].argmax()), int(found[:, 0].argmin())
    ends = {"low": max(0.0, gap - reach), "high": min(1.0, gap + reach)}
    return {"value": gap, **ends, "highest": names[first], "lowest": names[last]}


def _class(context: Context, k: int | None) -> Row:
    return {} if k is None else {"class": context.target.classes[k]}


def is_headline(row: Row) -> bool:
    """Whether a row stands in the short table: AUROC of each subgroup, over the classes, and the gaps."""
    return row["metric"] in ("auroc", "auroc_gap") and "class" not in row
