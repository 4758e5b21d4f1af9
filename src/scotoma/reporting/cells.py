"""How values are written: numbers, intervals, counts, durations, and the cells of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd


def decimals(value: float, sign: bool = False) -> str:
    """Three decimals, with a true minus sign; a dash where there is no value."""
    return "\u2013" if missing(value) else f"{value:{'+' if sign else ''}.3f}".replace("-", "\u2212")


def p_value(value: float) -> str:
    """A p-value with its relation."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def interval(row: pd.Series, sign: bool = False) -> str:
    """The 95 % interval in words; empty where a row has none."""
    bounds = f"{decimals(row['low'], sign)} to {decimals(row['high'], sign)}"
    return "" if missing(row["low"]) else f"95\u00a0% interval {bounds}"


def count(value: float | None, of: float | None) -> str:
    """A count, with its share ``of`` a whole."""
    if value is None or missing(value):
        return "\u2013"
    return f"{value:,.0f}" + (f" ({100 * value / of:.0f}\u00a0%)" if of else "")


def duration(seconds: float) -> str:
    """A time as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def same(column: pd.Series, value: Any) -> pd.Series:
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


def cell(rows: pd.DataFrame, sign: bool = False) -> Table | None:
    """The first row's value with its interval, as a table's cell; None where there is no such row."""
    if rows.empty or missing(rows.iloc[0]["value"]):
        return None
    row = rows.iloc[0]
    bounds = "" if missing(row["low"]) else f"[{decimals(row['low'], sign)}, {decimals(row['high'], sign)}]"
    return square(decimals(row["value"], sign), bounds)


def square(value: str, interval: str = "", mark: str = "") -> Table:
    """A table's cell of these words."""
    return {"value": value, "interval": interval, "mark": mark}


def line(name: str, cells: Sequence[Table | None], group: str = "", note: str = "") -> Table:
    """A line of a table: its name with a note beneath, under the heading ``group`` where there is one."""
    return {"name": name, "cells": cells, "group": group, "note": note}


def plain(text: Any) -> str:
    """Text that Markdown shows as it is: no line breaks, no cells, no tags, no links or images from elsewhere."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")
