"""Explanations: every method's scores, whether it passes the randomisation test and whether it is better than a random map."""

from __future__ import annotations

import pandas as pd

from scotoma.reporting.cells import Table, cell
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import title_of

HEADING = "Explanations"
PART = "explanations"
ORDER = 7
MOST = 0.5  # share of images from which on a method passes the randomisation test; rows of earlier versions hold 0 or 1
KEYS = ("explanation", "other")
RANDOM_MAP = "random map"
BETTER = {"deletion": -1, "insertion": 1}  # scores of faithfulness and their better side
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
    """A table a classifier: every method's scores, and those whose maps are no evidence, each with the reason."""
    if rows.empty:
        return {}
    found = []
    for label, part in rows.groupby("label", sort=False):
        known = [m for m in dict.fromkeys(part["metric"]) if m not in ("sanity_passed", "agreement")]
        metrics = [m for m in TITLES if m in known] + [m for m in known if m not in TITLES]
        lines = []
        for name, of_name in part[part["metric"] != "agreement"].groupby("explanation", sort=False):
            passed = of_name[of_name["metric"] == "sanity_passed"]
            cells = [cell(of_name[of_name["metric"] == m]) for m in metrics]
            words = "" if passed.empty else "passed" if has_passed(passed["value"]).iloc[0] else "failed"
            share = cell(passed, notes=[f"n = {n:.0f}" for n in passed["n"].dropna().head(1)])
            lines.append({"name": _words(name), "cells": cells, "randomisation": words, "share": share})
        sheet = sheets.add("explanations", part[part["metric"].isin([*metrics, "sanity_passed"])])
        failed, no_better = [str(n["name"]) for n in lines if n["randomisation"] == "failed"], _find_no_better(part)
        reasons = [f"{', '.join(failed)} failed the randomisation test"] if failed else []
        reasons += [f"{', '.join(names)}: no better than the random map by {metric}" for metric, names in no_better.items()]
        table = {"label": label, "heads": [title_of(m, TITLES) for m in metrics], "lines": lines, "sheet": sheet}
        found.append(table | {"reasons": reasons, "by_values": bool(no_better)})
    return {"tables": found}


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _find_no_better(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Metric -> the methods whose value is no better than the random map's; nothing where there is none."""
    found = {}
    for metric, better in BETTER.items():
        values = (
            rows[(rows["metric"] == metric) & rows["value"].notna()]
            .drop_duplicates("explanation")
            .set_index("explanation")["value"]
        )
        if RANDOM_MAP in values.index:
            below = values.index[(better * (values - values[RANDOM_MAP]) <= 0) & (values.index != RANDOM_MAP)]
            if len(below):
                found[metric] = [_words(name) for name in below]
    return found


def has_passed(shares: pd.Series) -> pd.Series:
    """Whether methods pass the randomisation test, by the shares of images in which their map depends on the weights."""
    return shares >= MOST
