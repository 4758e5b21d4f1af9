"""How values are written: numbers, intervals, counts, durations, and the cells of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd


def decimals(value: float, sign: bool = False, places: int = 3) -> str:
    """So many decimals, with a true minus sign; a dash where there is no value."""
    if missing(value):
        return "\u2013"
    text = f"{value:{'+' if sign else ''},.{places}f}"
    return (text if text.strip("+-0.") else text.lstrip("+-")).replace("-", "\u2212")


def places_of(row: pd.Series) -> int:
    """Decimals of a row's value and bounds: three, fewer from 10 on (four digits), more where three would all be 0."""
    top = max((abs(v) for v in (row["value"], row["low"], row["high"]) if not missing(v) and math.isfinite(v)), default=0.0)
    if top < 10:
        return 3 if top >= 0.0005 or top == 0 else 1 - math.floor(math.log10(top))
    return max(0, 3 - math.floor(math.log10(top)))


def point(row: pd.Series, sign: bool = False) -> str:
    """The value of a row, with as many decimals as its interval."""
    return decimals(row["value"], sign, places_of(row))


def p_value(value: float) -> str:
    """A p-value with its relation."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def interval(row: pd.Series, sign: bool = False) -> str:
    """The 95 % interval in words; empty where a row has none."""
    low, high = (decimals(row[end], sign, places_of(row)) for end in ("low", "high"))
    return "" if missing(row["low"]) else f"95\u00a0% interval {low} to {high}"


def count(value: float | None, of: float | None) -> str:
    """A count, with its share ``of`` a whole."""
    if value is None or missing(value):
        return "\u2013"
    return f"{value:,.0f}" + (f" ({100 * value / of:.0f}\u00a0%)" if of else "")


def duration(seconds: float) -> str:
    """A time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def is_same(column: pd.Series, value: Any) -> pd.Series:
    """Equality where missing equals missing."""
    return column.isna() if missing(value) else column == value


def at(fraction: float) -> str:
    """A share of the labels in words; empty where it is not known."""
    if missing(fraction):
        return ""
    return "with all labels" if fraction == 1 else f"with {100 * fraction:g}\u00a0% of the labels"


def missing(value: Any) -> bool:
    """None or not-a-number."""
    return value is None or (isinstance(value, float) and value != value)


Table = dict[str, Any]  # what a template shows of one table


TOO_FEW = "too few"


def cell(rows: pd.DataFrame, sign: bool = False, mark: str = "", notes: Sequence[str] = ()) -> Table | None:
    """The first row's value with its interval, as a table's cell; None where there is no such row.

    A row without a value is shown as such, with its number of images: there were too few. So is an interval over few patients.

    Args:
        rows: of which the first is shown.
        sign: whether a plus sign is written.
        mark: beside the value.
        notes: what stands beneath.
    """
    if rows.empty:
        return None
    row = rows.iloc[0]
    n = "" if missing(row.get("n")) else f"n = {row['n']:,.0f}"
    if missing(row["value"]):
        return square(TOO_FEW, note=n)
    few = [f"{TOO_FEW} {row.get('whose') or 'patients'}"] if row.get("few") == 1 else []
    return square(point(row, sign), brackets(row, sign), mark, "; ".join([*notes, *few]))


def brackets(row: pd.Series, sign: bool = False) -> str:
    """The 95 % interval of a row in brackets; empty where it has none."""
    low, high = (decimals(row[end], sign, places_of(row)) for end in ("low", "high"))
    return "" if missing(row["low"]) else f"[{low}, {high}]"


def square(value: str, interval: str = "", mark: str = "", note: str = "") -> Table:
    """A table's cell of these words."""
    return {"value": value, "interval": interval, "mark": mark, "note": note}


def line(name: str, cells: Sequence[Table | None], group: str = "", note: str = "") -> Table:
    """A line of a table: its name with a note beneath, under the heading ``group`` where there is one."""
    return {"name": name, "cells": cells, "group": group, "note": note}


def plain(text: Any) -> str:
    """Text that Markdown shows as it is: no line breaks, no cells, no tags, no links or images from elsewhere."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")
