"""What the report says of a trained classifier beyond its test pictures' average: corruptions, subgroups, explanations.

Each function takes the rows of one evaluator (with ``label``, the line's name) and gives plain tables for ``page.html.jinja``.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from scotoma.report import METRICS, count, decimals, interval, missing

Table = dict[str, Any]
CORRUPTIONS = {
    "poisson": "Photon (Poisson) noise", "gaussian": "Gaussian noise", "speckle": "Speckle noise",
    "impulse": "Dead and bright pixels", "gaussian_blur": "Out of focus", "motion_blur": "Motion", "brightness": "Brightness",
    "contrast": "Contrast", "gamma": "Display curve (gamma)", "down_sampling": "Lower resolution", "jpeg": "JPEG compression",
    "rotation": "Rotation", "cropping": "Cropping", "bias_field": "MR bias field", "ghosting": "MR ghosting",
    "patches": "Patches painted over", "dropped_tokens": "Patches dropped", "all": "Mean over corruptions",
}  # fmt: skip
EXPLANATIONS = {
    "deletion": "Deletion", "insertion": "Insertion", "pointing_game": "Pointing game", "mask_iou": "Overlap with mask",
    "pointing_game_random_weights": "Pointing game, random weights", "sanity_correlation": "Correlation with random weights",
}  # fmt: skip
DROP = "auroc_relative_drop"


def robustness(rows: pd.DataFrame) -> Table:
    """Mean relative drops by corruption, a column a classifier; and the drop by share of hidden patches, for the figure."""
    means = rows[rows["metric"] == f"mean_{DROP}"]
    labels = list(dict.fromkeys(rows["label"]))
    shown = [c for c in CORRUPTIONS if c in set(means["corruption"]) - {"patches", "dropped_tokens"}]
    lines = [
        (CORRUPTIONS[c], c == "all", [_cell(means[(means["corruption"] == c) & (means["label"] == label)]) for label in labels])
        for c in shown
    ]
    clean = [_cell(rows[(rows["metric"] == "auroc") & (rows["corruption"] == "clean") & (rows["label"] == n)]) for n in labels]
    hidden = rows[(rows["metric"] == DROP) & rows["corruption"].isin(["patches", "dropped_tokens"])]
    panels = [(CORRUPTIONS[str(c)], part) for c, part in hidden.groupby("corruption", sort=False)]
    return {"heads": labels, "clean": clean, "lines": lines, "hidden": panels} if labels else {}


def subgroups(rows: pd.DataFrame) -> list[Table]:
    """A table a classifier and column of the metadata, each with its gaps."""
    if rows.empty:
        return []
    whole = rows[rows["class"].isna()]
    found = []
    for (label, column), part in whole.groupby(["label", "column"], sort=False):
        named = part[part["subgroup"].notna()]
        metrics = [m for m in METRICS if m in set(named["metric"])]
        lines = []
        for name, of_name in named.groupby("subgroup", sort=False):
            first = of_name.iloc[0]
            cells = [_cell(of_name[of_name["metric"] == m]) for m in metrics]
            small = bool((of_name["small"] == 1).any())
            lines.append({"name": name, "patients": count(first["patients"], None), "cells": cells, "small": small})
        gaps = [
            {
                "metric": METRICS[m], "value": decimals(row["value"]), "interval": interval(row), "highest": row["highest"],
                "lowest": row["lowest"], "beyond_chance": bool(row["low"] > 0),
            }
            for m in metrics for _, row in part[part["metric"] == f"{m}_gap"].iterrows()
        ]  # fmt: skip
        found.append({"label": label, "column": column, "heads": [METRICS[m] for m in metrics], "lines": lines, "gaps": gaps})
    return found


def explanations(rows: pd.DataFrame) -> list[Table]:
    """A table a classifier: every method's scores, and whether it failed the sanity check."""
    if rows.empty:
        return []
    found = []
    for label, part in rows.groupby("label", sort=False):
        metrics = [m for m in EXPLANATIONS if m in set(part["metric"])]
        lines = []
        for name, of_name in part[part["metric"] != "agreement"].groupby("explanation", sort=False):
            passed = of_name.loc[of_name["metric"] == "sanity_passed", "value"]
            cells = [_cell(of_name[of_name["metric"] == m]) for m in metrics]
            words = "" if passed.empty else "passed" if passed.iloc[0] else "failed"
            lines.append({"name": str(name).replace("_", " "), "cells": cells, "sanity": words})
        found.append({"label": label, "heads": [EXPLANATIONS[m] for m in metrics], "lines": lines})
    return found


def _cell(rows: pd.DataFrame) -> Table | None:
    """A value with its interval; None where there is no such row."""
    if rows.empty or missing(rows.iloc[0]["value"]):
        return None
    row = rows.iloc[0]
    bounds = "" if missing(row["low"]) else f"[{decimals(row['low'])}, {decimals(row['high'])}]"
    return {"value": decimals(row["value"]), "interval": bounds}
