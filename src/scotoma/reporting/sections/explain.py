"""Explanations: every method's scores, and whether it failed the sanity check."""

from __future__ import annotations

import pandas as pd

from scotoma.reporting.cells import Table, cell
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import title_of

HEADING = "Explanations"
PART = "explanations"
ORDER = 7
KEYS = ("explanation", "other")
TITLES = {
    "deletion": "Deletion",
    "insertion": "Insertion",
    "pointing_game": "Pointing game",
    "mask_iou": "Overlap with mask",
    "pointing_game_exact": "Pointing game, exact",
    "pointing_game_random_weights": "Pointing game, random weights",
    "sanity_correlation": "Correlation with random weights",
}


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """A table a classifier: every method's scores, and whether it failed the sanity check."""
    if rows.empty:
        return {}
    found = []
    for label, part in rows.groupby("label", sort=False):
        known = [m for m in dict.fromkeys(part["metric"]) if m not in ("sanity_passed", "agreement")]
        metrics = [m for m in TITLES if m in known] + [m for m in known if m not in TITLES]
        lines = []
        for name, of_name in part[part["metric"] != "agreement"].groupby("explanation", sort=False):
            passed = of_name.loc[of_name["metric"] == "sanity_passed", "value"]
            cells = [cell(of_name[of_name["metric"] == m]) for m in metrics]
            words = "" if passed.empty else "passed" if passed.iloc[0] else "failed"
            lines.append({"name": str(name).replace("_", " "), "cells": cells, "sanity": words})
        sheet = sheets.add("explanations", part[part["metric"].isin([*metrics, "sanity_passed"])])
        found.append({"label": label, "heads": [title_of(m, TITLES) for m in metrics], "lines": lines, "sheet": sheet})
    return {"tables": found}
