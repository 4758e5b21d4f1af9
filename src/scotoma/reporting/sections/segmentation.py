"""Segmentation: Dice and its fellows, of a study by share of the masks beside random weights, of one model by class and patient."""

from __future__ import annotations

import pandas as pd

from scotoma.reporting import figures, svg
from scotoma.reporting.cells import Table, at, is_same
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.results import format_greatest
from scotoma.reporting.sections.base import tabulate_models, tabulate_shares
from scotoma.reporting.verdicts import find_verdicts, kinds_of, name_pairs, nearest_tenth

HEADING = "Results: segmentation"
ORDER = 1
KEYS = ("unit", "reference", "p_value", "p_holm")
TITLES = {
    "dice": "Dice",
    "iou": "Intersection over union",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "hausdorff95": "95 % Hausdorff distance, pixels",
}
HEADLINE = ("dice", TITLES["dice"])


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """Dice and its fellows: of a study by share of the masks beside random weights, of one model by class and patient."""
    if rows.empty:
        return {}
    single = rows[rows["fraction"].isna()]
    study = rows[rows["fraction"].notna() & rows["seed"].isna()]
    dice, differences = (study[(study["metric"] == name) & study["class"].isna()] for name in ("dice", "dice_difference"))
    columns = sorted(set(dice["fraction"]))
    names = dict.fromkeys(dice["label"], "method") | dict.fromkeys(dice.loc[dice["method"] == "random", "label"], "random")
    pairs, beside = name_pairs(differences)
    drawn = [("Segmenters", dice)] if len(columns) > 1 else []
    tenth = nearest_tenth(columns)
    others = study[is_same(study["fraction"], tenth) & (study["class"].notna() | (study["metric"] != "dice_difference"))]
    here = dice[is_same(dice["fraction"], tenth)]
    n, labels = (format_greatest(here[name]) for name in ("n", "labels"))
    return {
        "metric": TITLES["dice"],
        "unit": "masks",
        "scope": f"What follows holds for the {n} test images with masks, {at(tenth).replace('labels', 'masks')} (n = {labels} "
        "labelled training images), measured by the Dice coefficient (1 is perfect, 0 is none).",
        "findings": find_verdicts(dice.assign(kind=kinds_of(dice)), differences, tenth),
        "warning": "",
        "main": tabulate_shares(dice, columns, "Segmenters", sheets.add("dice", dice), unit="masks"),
        "differences": tabulate_shares(pairs, columns, "", sheets.add("dice differences", pairs), 1, "masks"),
        "beside": tabulate_shares(beside, columns, "", sheets.add("dice differences from other controls", beside), 1, "masks"),
        "curve": svg.uri(figures.curve(drawn, svg.styles(names), "Dice")) if drawn else "",
        "others": tabulate_models(others, TITLES, "other overlaps", sheets),
        "others_at": at(tenth).replace("labels", "masks"),
        "single": tabulate_models(single, TITLES, "segmentation", sheets),
    }
