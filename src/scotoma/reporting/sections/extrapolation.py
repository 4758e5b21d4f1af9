"""Labels and test patients needed: a study's curves, continued."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from scotoma.reporting.cells import Table, cell, count, decimals, line, square
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import finding, phrase_of_use, title_of_use

HEADING = "Labels and patients needed"
ORDER = 4
KEYS = ("use", "wanted", "width", "never", "points", "prevalence")
DRAWN = ("misfit", "labels_for_auroc", "auroc_predicted")  # of curves that are not continued no table has any
FLAT = 0.002  # AUROC that twice to ten times the labels must bring to count as growth
LOOSE = 0.02  # AUROC that a measured mean may lie off the law before the page warns
FAR = 100  # times the labels that were tried: what lies beyond is out of reach
NOTHING_CHECKS = 3  # label counts through which the law passes whatever they are


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """Labels that wanted AUROCs need, what more labels would give, test patients that narrow intervals need; empty without rows.

    A curve that does not grow is not continued: it is named, and stands in neither table of labels.
    """
    grown = (
        rows[rows["metric"] == "auroc_predicted"].groupby(["label", "use"], sort=False)["value"].agg(lambda v: v.max() - v.min())
    )
    flat = grown[grown < FLAT].index
    kept = rows[~pd.MultiIndex.from_frame(rows[["label", "use"]]).isin(flat)]
    parts = {
        "labels": _labels(kept[kept["metric"] == "labels_for_auroc"], sheets),
        "further": _further(kept[kept["metric"] == "auroc_predicted"], sheets),
        "patients": _patients(rows[rows["metric"] == "patients_for_width"], sheets),
    }
    if not (any(parts.values()) or len(flat)):
        return {}
    misfits = kept[kept["metric"] == "misfit"]
    return parts | {
        "points": int(misfits["points"].min()) if len(misfits) else 0,
        "unchecked": bool((misfits["points"] <= NOTHING_CHECKS).any()),
        "loose": [f"{_line(row)} ({decimals(row['value'])})" for _, row in misfits[misfits["value"] > LOOSE].iterrows()],
        "flat": [f"{label}, {phrase_of_use(use)}" for label, use in flat],
    }


def _line(row: pd.Series) -> str:
    return f"{row['label']}, {phrase_of_use(row['use'])}"


def _lines(rows: pd.DataFrame, sheets: Sheets, name: str, key: str, heads: list[tuple[float, str]],
           format_cell: Callable[[pd.DataFrame], Table | None]) -> Table:  # fmt: skip
    """One line per classifier, under its use of the encoder; one column per value of ``key``."""
    lines = []
    for (use, label), part in rows.groupby(["use", "label"], sort=False):
        cells = [format_cell(part[part[key] == value]) for value, _ in heads]
        lines.append(line(str(label), cells, title_of_use(use)))
    return {"heads": [head for _, head in heads], "lines": lines, "sheet": sheets.add(name, rows)} if lines else {}


def _labels(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One line per classifier, one column per wanted AUROC."""
    return _lines(
        rows, sheets, "labels needed", "wanted", [(w, decimals(w)[:4]) for w in sorted(set(rows["wanted"]))], _describe_needed
    )


def _describe_needed(rows: pd.DataFrame) -> Table | None:
    """Labels in words: a number, within what was tried, or out of reach."""
    if rows.empty:
        return None
    row = rows.iloc[0]
    value, low, high = (_about(row[c]) if row[c] <= FAR * row["labels"] else "" for c in ("value", "low", "high"))
    if not value:
        return square("out of reach", f"[{low}, no limit]" if low else "")
    return square(value, f"[{low}, {high or 'no limit'}]", "✓" if row["value"] <= row["labels"] else "")


def _about(number: float) -> str:
    """A whole number to two digits: a curve continued shows no more."""
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return f"{round(number / step) * step:,}"


def _further(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One line per classifier, one column per multiple of the labels."""
    return _lines(rows, sheets, "more labels", "labels", [(n, f"n = {n:,.0f}") for n in sorted(set(rows["labels"]))], cell)


def _patients(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One line per class and width, one column per expected AUROC."""
    wanted, lines = sorted(set(rows["wanted"])), []
    for (target, name, width), part in rows.groupby(["target", "class", "width"], sort=False, dropna=False):
        note = f"{100 * part['prevalence'].iloc[0]:.0f}\u00a0% have it; interval {width:g} wide"
        cells = [square(count(part.loc[part["wanted"] == w, "value"].max(), None)) for w in wanted]
        lines.append(line(finding(target, name), cells, note=note))
    heads = [decimals(w)[:4] for w in wanted]
    return {"heads": heads, "lines": lines, "sheet": sheets.add("test patients needed", rows)} if lines else {}
