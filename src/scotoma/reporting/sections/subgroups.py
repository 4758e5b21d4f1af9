"""Subgroup performance: a classifier by what the table states of the patients, and the gaps."""

from __future__ import annotations

import pandas as pd

from scotoma.reporting.cells import TOO_FEW, Table, cell, count, decimals, interval, square
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import METRICS, title_of

HEADING = "Subgroup performance"
ORDER = 6
KEYS = ("column", "subgroup", "highest", "lowest", "patients", "small")


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """A table a classifier and column of the metadata, each with its gaps."""
    if rows.empty:
        return {}
    whole = rows[rows["class"].isna()]
    found = []
    for (label, column), part in whole.groupby(["label", "column"], sort=False):
        named = part[part["subgroup"].notna()]
        known = list(dict.fromkeys(named["metric"]))
        metrics = [m for m in METRICS if m in known] + [m for m in known if m not in METRICS]
        lines = []
        for name, of_name in named.groupby("subgroup", sort=False):
            first, n = of_name.iloc[0], count(of_name["n"].max(), None)
            cells = [cell(of_name[of_name["metric"] == m]) or square(TOO_FEW) for m in metrics]
            small = bool((of_name["small"] == 1).any())
            lines.append({"name": name, "patients": count(first["patients"], None), "n": n, "cells": cells, "small": small})
        gaps = [
            {
                "metric": title_of(m),
                "value": decimals(row["value"]),
                "interval": interval(row),
                "highest": row["highest"],
                "lowest": row["lowest"],
                "beyond_chance": bool(row["low"] > 0),
            }
            for m in metrics
            for _, row in part[part["metric"] == f"{m}_gap"].iterrows()
        ]
        sheet = sheets.add(f"subgroups by {column}", part)
        heads = [title_of(m) for m in metrics]
        whose = str(part["whose"].iloc[0] if "whose" in part else "patients").capitalize()
        table = {"label": label, "column": column, "heads": heads, "lines": lines, "gaps": gaps, "sheet": sheet, "whose": whose}
        found.append(table)
    return {"tables": found, "small": bool((whole["small"] == 1).any())}
