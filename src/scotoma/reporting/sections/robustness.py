"""What the report says of a trained classifier beyond its test images' average: corruptions, subgroups, explanations.

Each function takes the rows of one evaluator (with ``label``, the line's name) and the sheets to which its tables go as numbers,
and gives plain tables for ``evidence.html.jinja``.
"""

from __future__ import annotations

import pandas as pd

from scotoma.reporting.cells import Table, cell, count, decimals, interval
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import METRICS

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
HIDING = ("patches", "dropped_tokens")
BASELINES = ("random", "supervised")  # methods against whose errors the others are held, the first there is


def robustness(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """Mean relative drops by corruption, a column a classifier; and the drop by share of hidden patches, for the figure."""
    labels = list(dict.fromkeys(rows["label"]))
    if not labels:
        return {}
    means = rows[(rows["metric"] == f"mean_{DROP}") & ~rows["corruption"].isin(HIDING)]
    clean = rows[(rows["metric"] == "auroc") & (rows["corruption"] == "clean")]
    baseline, relative = relative_errors(rows)
    lines = [
        (CORRUPTIONS[c], c == "all", [cell(means[(means["corruption"] == c) & (means["label"] == n)]) for n in labels])
        for c in CORRUPTIONS if c in set(means["corruption"])
    ]  # fmt: skip
    hidden = rows[(rows["metric"] == DROP) & rows["corruption"].isin(HIDING)]
    return {
        "heads": labels,
        "clean": [cell(clean[clean["label"] == n]) for n in labels],
        "lines": lines,
        "baseline": baseline,
        "relative": [cell(relative[relative["label"] == n]) for n in labels],
        "hidden": [(CORRUPTIONS[str(c)], part) for c, part in hidden.groupby("corruption", sort=False)],
        "sheet": sheets.add("robustness", pd.concat([clean, means, relative.reindex(columns=rows.columns)])),
    }


def relative_errors(rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Corruption errors relative to a baseline, and its name; "" and no rows where only one classifier was tested.

    The mCE of Hendrycks and Dietterich (2019, section 4.2) with 1 - AUROC as the error: of each corruption the sum of errors over
    severities, divided by that of the baseline, and the mean over corruptions. Classifiers tested on other images than the
    baseline, or under other corruptions, have none.
    """
    kept = rows[(rows["metric"] == "auroc") & ~rows["corruption"].isin(["clean", *HIDING])]
    labels = list(dict.fromkeys(kept["label"]))
    if len(labels) < 2:
        return "", kept.iloc[:0]
    of_method = {m: kept.loc[kept["method"] == m, "label"].tolist() for m in BASELINES}
    baseline = next((found[0] for found in of_method.values() if found), labels[0])
    errors = kept.assign(error=1 - kept["value"]).pivot_table(index="corruption", columns="label", values="error", aggfunc="sum")
    tested = kept.groupby("label").agg({"n": "max", "target": "first"})
    alike = [n for n in labels if tested.loc[n].equals(tested.loc[baseline]) and errors[n].notna().equals(errors[baseline].notna())]
    ratios = errors[alike].div(errors[baseline].where(errors[baseline] > 0), axis=0).mean()
    found = kept.drop_duplicates("label").set_index("label").loc[alike].reset_index()
    found = found.assign(metric="relative_corruption_error", corruption="all", severity=None, reference=baseline)
    return baseline, found.assign(value=ratios[alike].to_numpy(), low=float("nan"), high=float("nan"))


def subgroups(rows: pd.DataFrame, sheets: Sheets) -> list[Table]:
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
            cells = [cell(of_name[of_name["metric"] == m]) for m in metrics]
            small = bool((of_name["small"] == 1).any())
            lines.append({"name": name, "patients": count(first["patients"], None), "cells": cells, "small": small})
        gaps = [
            {
                "metric": METRICS[m], "value": decimals(row["value"]), "interval": interval(row), "highest": row["highest"],
                "lowest": row["lowest"], "beyond_chance": bool(row["low"] > 0),
            }
            for m in metrics for _, row in part[part["metric"] == f"{m}_gap"].iterrows()
        ]  # fmt: skip
        sheet = sheets.add(f"subgroups by {column}", part)
        heads = [METRICS[m] for m in metrics]
        found.append({"label": label, "column": column, "heads": heads, "lines": lines, "gaps": gaps, "sheet": sheet})
    return found


def explanations(rows: pd.DataFrame, sheets: Sheets) -> list[Table]:
    """A table a classifier: every method's scores, and whether it failed the sanity check."""
    if rows.empty:
        return []
    found = []
    for label, part in rows.groupby("label", sort=False):
        metrics = [m for m in EXPLANATIONS if m in set(part["metric"])]
        lines = []
        for name, of_name in part[part["metric"] != "agreement"].groupby("explanation", sort=False):
            passed = of_name.loc[of_name["metric"] == "sanity_passed", "value"]
            cells = [cell(of_name[of_name["metric"] == m]) for m in metrics]
            words = "" if passed.empty else "passed" if passed.iloc[0] else "failed"
            lines.append({"name": str(name).replace("_", " "), "cells": cells, "sanity": words})
        sheet = sheets.add("explanations", part[part["metric"].isin([*metrics, "sanity_passed"])])
        found.append({"label": label, "heads": [EXPLANATIONS[m] for m in metrics], "lines": lines, "sheet": sheet})
    return found
