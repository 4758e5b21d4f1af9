"""What sections of the report share, and the plain table that shows the rows of an evaluator without a section.

A module of this package is the section of the evaluator of its name: ``describe(rows, sheets)`` takes that evaluator's rows (with
``label``, the line's name) and the CSV sheets, and gives what its template, ``NAME.html.jinja`` beside it, shows as ``s`` (without
a template: ``plain.html.jinja``). ``HEADING`` is its heading, ``ORDER`` its place on the page, ``PART`` the id of its part (its
name, where missing), ``KEYS`` the row keys that its tables distinguish, ``DRAWN`` metrics of which it speaks outside of its tables.
``HEADLINE`` is a metric with its title, for the summary; ``TITLES`` are titles of its metrics. What a section does not show, rows
with keys that it does not know among them, is shown in a plain table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from scotoma.reporting.cells import Table, cell, count, is_same, line, missing, square
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import title_of
from scotoma.reporting.results import head, marked_cell
from scotoma.reporting.verdicts import mark_of

MOST = 200  # lines of a plain table; its sheet has all rows


def plain_table(rows: pd.DataFrame, name: str, sheets: Sheets) -> Table:
    """One line per row: the metric, each key by which rows differ, the value with its interval, and n."""
    others = [c for c in rows.columns if c not in ("label", "metric", "value", "low", "high", "n", "evaluator")]
    keys = [c for c in others if rows[c].nunique(dropna=False) > 1]
    lines = []
    for _, row in rows.head(MOST).iterrows():
        key_cells = [square("" if missing(row[k]) else f"{row[k]:g}" if isinstance(row[k], float) else str(row[k])) for k in keys]
        lines.append(
            line(title_of(row["metric"]), [*key_cells, cell(row.to_frame().T), square(count(row["n"], None))], str(row["label"]))
        )
    heads = [*(k.replace("_", " ") for k in keys), "value [95 % interval]", "n"]
    return {"heads": heads, "lines": lines, "sheet": sheets.add(name, rows), "more": max(0, len(rows) - MOST)}


def tabulate_models(rows: pd.DataFrame, titles: Mapping[str, str], sheet: str, sheets: Sheets) -> Table:
    """One line per model (and class, and unit), one column per metric: those with a title first."""
    if rows.empty:
        return {}
    known = set(rows["metric"])
    columns = [m for m in titles if m in known] + [m for m in dict.fromkeys(rows["metric"]) if m not in titles]
    keys = ["label", "target", "class", "unit"]
    lines = []
    for key, part in rows.groupby(keys, sort=False, dropna=False):
        of: dict[str, Any] = dict(zip(keys, key, strict=True))
        name = "" if missing(of["class"]) else str(of["class"])
        words = [f"class {name}" if name.isdecimal() else name, "" if of["unit"] in (None, "image") else f"a {of['unit']}"]
        words = [*(w for w in words if w and w != "a nan"), f"n = {part['n'].max():,.0f}"]
        lines.append(line(str(of["label"]), [cell(part[part["metric"] == m]) for m in columns], note=", ".join(words)))
    return {"heads": [title_of(m, titles) for m in columns], "lines": lines, "sheet": sheets.add(sheet, rows)}


def tabulate_shares(
    rows: pd.DataFrame, columns: Collection[float], group: str, sheet: str, better: int = 0, unit: str = "labels"
) -> Table:
    """One line per label, one column per share of the labels.

    Args:
        rows: of one metric.
        columns: the shares.
        group: heading of all lines.
        sheet: the file that has the rows.
        better: of differences the side of zero, 1 or -1, on which pretraining helped; 0 for values.
        unit: what the labels are called.
    """
    lines = []
    for label in dict.fromkeys(rows["label"]):
        cells: list[Table | None] = []
        for fraction in columns:
            found = rows[(rows["label"] == label) & is_same(rows["fraction"], fraction)]
            if better and len(found):
                cells.append(marked_cell(found.iloc[0], mark_of(found.iloc[0], better), True))
            else:
                cells.append(cell(found))
        lines.append(line(label, cells, group))
    heads = ["\n".join(filter(None, head(f, rows))).replace("labels", unit) for f in columns]
    return {"heads": heads, "lines": lines, "sheet": sheet} if lines else {}
