"""What the report says of models that predict no class: regions, numbers; and of what lies near an image's features.

Each function takes the rows of one evaluator (with ``label``, the line's name) and the sheets to which its tables go as numbers,
and gives plain tables for ``tasks.html.jinja``.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from scotoma.reporting import figures, svg
from scotoma.reporting.cells import Table, at, cell, line, missing, same, square
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import METRICS, NAMES, label_of
from scotoma.reporting.sections.results import MARKS, head, select_test, sign_of

OVERLAPS = {
    "dice": "Dice", "iou": "Intersection over union", "sensitivity": "Sensitivity", "precision": "Precision",
    "hausdorff95": "95 % Hausdorff distance, pixels",
}  # fmt: skip
ERRORS = {
    "mae": "Mean absolute error", "mae_of_mean": "… of always saying the mean", "rmse": "Root mean squared error",
    "bias": "Bias (predicted less true)", "r2": "R²", "pearson": "Correlation",
}  # fmt: skip
RETRIEVAL = {
    "precision_at_1": "Nearest", "precision_at_5": "5 nearest", "precision_at_10": "10 nearest", "precision_chance": "By chance",
    "map": "Whole ranking (mAP)", "map_chance": "… by chance",
}  # fmt: skip


def regions(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """Dice and its fellows: of a study by share of the masks beside random weights, of one model by region and patient."""
    if rows.empty:
        return {}
    single = rows[rows["fraction"].isna()]
    study = rows[rows["fraction"].notna() & rows["seed"].isna() & rows["class"].isna()]
    dice, differences = (study[study["metric"] == name] for name in ("dice", "dice_difference"))
    columns = sorted(set(dice["fraction"]))
    names = dict.fromkeys(dice["label"], "method") | dict.fromkeys(dice.loc[dice["method"] == "random", "label"], "random")
    pairs = differences.assign(label=[f"{n} minus {str(NAMES['random']).lower()}" for n in differences["label"]])
    drawn = [("Segmenters", dice)] if len(columns) > 1 else []
    tenth = min(columns, key=lambda f: abs(math.log(f / 0.1)), default=math.nan)
    return {
        "at": at(tenth).replace("labels", "masks"),
        "findings": _findings(dice, differences, tenth),
        "main": _by_share(dice, columns, "Segmenters", sheets.add("dice", dice)),
        "differences": _by_share(pairs, columns, "", sheets.add("dice differences", pairs), sign=True),
        "curve": svg.uri(figures.curve(drawn, svg.styles(names), "Dice")) if drawn else "",
        "single": _of_models(single, OVERLAPS, "regions", sheets),
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


def headlines(rows: pd.DataFrame) -> pd.DataFrame:
    """The Dice of each segmenter and the error of each model of numbers on test images, with a ``label`` and its ``words``.

    Of a study, those with the most labels.
    """
    kinds = {"segmentation": ("dice", OVERLAPS["dice"]), "regression": ("mae", ERRORS["mae"])}
    kept = select_test(rows[rows["class"].isna() & rows["seed"].isna() & (rows["unit"].isna() | (rows["unit"] == "image"))])
    kept = pd.concat([kept[(kept["evaluator"] == e) & (kept["metric"] == m)] for e, (m, _) in kinds.items()])
    kept = kept[kept["fraction"].isna() | (kept["fraction"] == kept["fraction"].max())]
    several = kept["run"].nunique() > 1
    names = [label_of(m, n, kept["encoder"].nunique() > 1) for m, n in zip(kept["method"], kept["encoder"], strict=True)]
    labels = [f"{name}, {run}" if several else name for name, run in zip(names, kept["run"], strict=True)]
    return kept.assign(label=labels, words=[kinds[e][1] for e in kept["evaluator"]])


def numbers(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """Errors of a predicted number, a line a model."""
    return _of_models(rows, ERRORS, "errors of numbers", sheets)


def neighbours(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """How often what lies nearest has the same label, a line an encoder."""
    return _of_models(rows[rows["class"].isna()], RETRIEVAL, "neighbours", sheets)


def validation_tables(rows: pd.DataFrame, sheets: Sheets) -> list[Table]:
    """What trainings reached on their validation images, a table an evaluator: no test result, as these chose settings."""
    whole = rows[rows["class"].isna() & (rows["unit"].isna() | (rows["unit"] == "image"))]
    names = {"segmentation": OVERLAPS, "regression": ERRORS}
    found = (
        _of_models(part, names.get(str(e), METRICS), "validation", sheets) for e, part in whole.groupby("evaluator", sort=False)
    )
    return [table for table in found if table]


def _by_share(rows: pd.DataFrame, columns: list[float], group: str, sheet: str, sign: bool = False) -> Table:
    """A line a label, a column a share of the masks."""
    lines = []
    for label in dict.fromkeys(rows["label"]):
        cells = []
        for fraction in columns:
            found = cell(rows[(rows["label"] == label) & same(rows["fraction"], fraction)], sign)
            if found and sign:
                row = rows[(rows["label"] == label) & same(rows["fraction"], fraction)].iloc[0]
                found = square(found["value"], found["interval"], MARKS[sign_of(row)])
            cells.append(found)
        lines.append(line(label, cells, group))
    heads = [" ".join(filter(None, head(f, rows))) for f in columns]
    return {"heads": heads, "lines": lines, "sheet": sheet} if lines else {}


def _of_models(rows: pd.DataFrame, names: dict[str, str], sheet: str, sheets: Sheets) -> Table:
    """A line a model (and region, and unit), a column a metric."""
    found = rows[rows["metric"].isin(names)]
    if found.empty:
        return {}
    columns = [m for m in names if m in set(found["metric"])]
    keys = [k for k in ("label", "target", "class", "unit") if k in found.columns]
    lines = []
    for key, part in found.groupby(keys, sort=False, dropna=False):
        known: dict[str, Any] = dict(zip(keys, key, strict=True))
        told = {"class": "region {}", "unit": "a {}"}
        words = [told[k].format(known[k]) for k in told if k in known and not missing(known[k]) and known[k] != "image"]
        counted = f"n = {part['n'].max():,.0f}"
        lines.append(
            line(str(known["label"]), [cell(part[part["metric"] == m]) for m in columns], note=", ".join([*words, counted]))
        )
    return {"heads": [names[m] for m in columns], "lines": lines, "sheet": sheets.add(sheet, found)}
