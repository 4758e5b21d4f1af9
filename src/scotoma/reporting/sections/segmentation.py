"""Segmentation: Dice and its fellows, of a study by share of the masks beside random weights, of one model by class and patient."""

from __future__ import annotations

import math

import pandas as pd

from scotoma.reporting import figures, svg
from scotoma.reporting.cells import Table, at, missing, same
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import called
from scotoma.reporting.results import sign_of
from scotoma.reporting.sections.base import tabulate_models, tabulate_shares

HEADING = "Results: segmentation"
ORDER = 1
KEYS = ("unit", "reference", "p_value", "p_holm")
TITLES = {
    "dice": "Dice", "iou": "Intersection over union", "sensitivity": "Sensitivity", "precision": "Precision",
    "hausdorff95": "95 % Hausdorff distance, pixels",
}  # fmt: skip
HEADLINE = ("dice", TITLES["dice"])


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """Dice and its fellows: of a study by share of the masks beside random weights, of one model by class and patient."""
    if rows.empty:
        return {}
    single = rows[rows["fraction"].isna()]
    study = rows[rows["fraction"].notna() & rows["seed"].isna() & rows["class"].isna()]
    dice, differences = (study[study["metric"] == name] for name in ("dice", "dice_difference"))
    columns = sorted(set(dice["fraction"]))
    names = dict.fromkeys(dice["label"], "method") | dict.fromkeys(dice.loc[dice["method"] == "random", "label"], "random")
    pairs = differences.assign(label=[f"{n} minus {called('random').lower()}" for n in differences["label"]])
    drawn = [("Segmenters", dice)] if len(columns) > 1 else []
    tenth = min(columns, key=lambda f: abs(math.log(f / 0.1)), default=math.nan)
    return {
        "metric": TITLES["dice"],
        "unit": "masks",
        "scope": f"What follows holds for the test images with masks, {at(tenth).replace('labels', 'masks')}, measured by the Dice "
        "coefficient (1 is perfect, 0 is none).",
        "findings": _findings(dice, differences, tenth),
        "main": tabulate_shares(dice, columns, "Segmenters", sheets.add("dice", dice)),
        "differences": tabulate_shares(pairs, columns, "", sheets.add("dice differences", pairs), sign=True),
        "curve": svg.uri(figures.curve(drawn, svg.styles(names), "Dice")) if drawn else "",
        "single": tabulate_models(single, TITLES, "segmentation", sheets),
    }


def _findings(dice: pd.DataFrame, differences: pd.DataFrame, fraction: float) -> list[Table]:
    """What the summary says of each method at one share of the masks."""
    here, found = dice[same(dice["fraction"], fraction)], []
    for label in dict.fromkeys(differences["label"]):
        mine, own = differences[differences["label"] == label], here[here["label"] == label].iloc[0]
        random = here[(here["method"] == "random") & (here["encoder"] == own["encoder"])]
        signs = [sign_of(row) for _, row in mine.iterrows() if not missing(row["low"])]
        difference = mine[same(mine["fraction"], fraction)].iloc[0]
        found.append({
            "label": label, "own": own, "random": random.iloc[0] if len(random) else None, "difference": difference,
            "sign": None if missing(difference["low"]) else sign_of(difference), "signs": signs,
        })  # fmt: skip
    return found
