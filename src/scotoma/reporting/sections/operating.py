"""Operating points: decisions, predictive values, calibration, net benefit, one answer per patient."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from scotoma.reporting import figures, svg
from scotoma.reporting.cells import Table, cell, count, decimals, line, missing, square
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import METRICS, finding

COUNTS = {"tp": "true positive", "fp": "false positive", "fn": "false negative", "tn": "true negative"}  # keys of a decision's rows
OF = {
    "sensitivity": ("tp", "fn"),
    "specificity": ("tn", "fp"),
    "ppv": ("tp", "fp"),
    "npv": ("tn", "fn"),
}  # right and wrong of a rate

HEADING = "Operating points"
ORDER = 3
KEYS = ("threshold", "prevalence", "recalibrated", "confidence", "count", "unit", "aggregation", *COUNTS, "decision", "test")
DRAWN = ("reliability", "net_benefit", "net_benefit_all")
DECIDED = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "balanced_accuracy", "f1")
WORDS = METRICS | {"f1": "F1", "ppv": "PPV", "npv": "NPV", "log_loss": "Log loss", "ece": "Calibration error of this class"}
CALIBRATED = {
    "calibration_in_the_large": "On average (0 is right)",
    "calibration_slope": "Slope (1 is right)",
    "calibration_intercept": "Intercept (0 is right)",
}
ERRORS = ("brier", "ece", "log_loss")
PREDICTED = ("ppv", "npv")
HOW = {"mean": "the mean of its images", "max": "its highest image", "noisy_or": "any image positive (noisy or)"}
SUPPOSED, MANY = 0.1, 1000  # prevalence and number of those of whom the page tells a story
PANELS = 9  # a figure


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """All tables and figures of the section; empty where nothing of it was evaluated."""
    if rows.empty:
        return {}
    style = svg.styles(dict.fromkeys(rows["label"], "method"))
    points, curve = rows[rows["metric"] == "reliability"], rows[rows["metric"].str.startswith("net_benefit")]
    panels = [list(_panels(found)) for found in (points, curve)]
    return {
        "decided": _tabulate_decisions(rows[rows["prevalence"].isna() & rows["metric"].isin(DECIDED)], sheets),
        "counts": _tabulate_counts(rows[rows["prevalence"].isna() & rows["tp"].notna()], sheets),
        "stories": list(_stories(rows)),
        "counted": bool(rows["tp"].notna().any()),
        "predictive": _predictive(rows[rows["prevalence"].notna()], sheets),
        "calibrated": _tabulate_calibration(rows[rows["metric"].isin(CALIBRATED)], sheets),
        "recalibrated": _tabulate_recalibration(rows[rows["metric"].isin([*ERRORS, *(f"{m}_change" for m in ERRORS)])], sheets),
        "units": _units(rows[rows["unit"].notna()], sheets),
        "reliability": [figures.reliability(panels[0][i : i + PANELS], style) for i in range(0, len(panels[0]), PANELS)],
        "benefit": [figures.net_benefit(panels[1][i : i + PANELS], style) for i in range(0, len(panels[1]), PANELS)],
    }


def _group_by_name(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The classifier's name ("" where there is one), the finding's, and the rows about both."""
    several = rows["label"].nunique() > 1
    for (label, target, name), part in rows.groupby(["label", "target", "class"], sort=False, dropna=False):
        yield str(label) if several else "", finding(target, name), part


def _panels(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (target, name), part in rows.groupby(["target", "class"], sort=False, dropna=False):
        yield finding(target, name), part


def _tabulate_decisions(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One line per finding: what its threshold decides, each proportion with the counts that it is made of."""
    shown = [m for m in DECIDED if m in set(rows["metric"])]
    lines = [
        line(name, [_rate(part[part["metric"] == m], m) for m in shown], label, _from(part))
        for label, name, part in _group_by_name(rows)
    ]
    return {"heads": [WORDS[m] for m in shown], "lines": lines, "sheet": sheets.add("decisions", rows)} if lines else {}


def _tabulate_counts(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One line per finding: how many images with and without it were called positive and negative, and how many there are."""
    lines = []
    for label, name, part in _group_by_name(rows.drop_duplicates(["label", "target", "class"])):
        numbers = part[list(COUNTS)].iloc[0]
        lines.append(line(name, [square(count(n, None)) for n in (*numbers, numbers.sum())], label, _from(part)))
    heads = [*(words.capitalize() for words in COUNTS.values()), "Total"]
    return {"heads": heads, "lines": lines, "sheet": sheets.add("decisions in numbers", rows)} if lines else {}


def _from(rows: pd.DataFrame) -> str:
    return f"positive from {decimals(rows['threshold'].iloc[0])}"


def _rate(rows: pd.DataFrame, metric: str) -> Table | None:
    """A proportion, with its numerator and denominator beneath where the row states them."""
    found = cell(rows)
    if found and metric in OF and not missing(rows.iloc[0].get("tp")):
        right, wrong = (rows.iloc[0][c] for c in OF[metric])
        found["note"] = "; ".join(filter(None, [f"{right:,.0f} of {right + wrong:,.0f}", found["note"]]))
    return found


def _stories(rows: pd.DataFrame) -> Iterator[Table]:
    """What the threshold would do to so many patients where rates are of patients, one image each; else to so many images."""
    for label, name, part in _group_by_name(rows[rows["metric"].isin(["sensitivity", "specificity"]) & rows["prevalence"].isna()]):
        rates = part.drop_duplicates("metric").set_index("metric")["value"]
        whose = "patients" if bool(part["alone"].all()) else "images"
        if len(rates.dropna()) == 2:
            ill = round(SUPPOSED * MANY)
            hit, alarms = round(rates["sensitivity"] * ill), round((1 - rates["specificity"]) * (MANY - ill))
            yield {
                "label": label, "name": name, "of": count(MANY, None), "whose": whose, "ill": ill,
                "positive": hit + alarms, "hit": hit,
                "alarms": alarms, "missed": ill - hit,
            }  # fmt: skip


def _predictive(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """PPV and NPV of each finding, one line per prevalence."""
    shown = [m for m in PREDICTED if m in set(rows["metric"])]
    lines = [
        line(f"{100 * s:g}\u00a0%", [cell(found[(found["metric"] == m) & (found["prevalence"] == s)]) for m in shown], group)
        for label, name, found in _group_by_name(rows)
        for group in [f"{name}, {label}" if label else name]
        for s in sorted(set(found["prevalence"]))
    ]
    return {"heads": [WORDS[m] for m in shown], "lines": lines, "sheet": sheets.add("predictive values", rows)} if lines else {}


def _tabulate_calibration(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One line per finding: how its probabilities lie."""
    lines = [
        line(name, [cell(part[part["metric"] == m], sign=True) for m in CALIBRATED], label)
        for label, name, part in _group_by_name(rows)
    ]
    table = {"heads": list(CALIBRATED.values()), "lines": lines, "intervals": bool(rows["low"].notna().any())}
    return table | {"sheet": sheets.add("calibration", rows)} if lines else {}


def _tabulate_recalibration(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """Errors as they are, after a local recalibration, and the change with a mark where it is more than chance."""
    lines = []
    for label, name, part in _group_by_name(rows):
        for m in (m for m in ERRORS if m in set(part["metric"])):
            change = part[part["metric"] == f"{m}_change"]
            cells = [cell(part[(part["metric"] == m) & (part["recalibrated"] == again)]) for again in (0, 1)]
            changed = cell(change, sign=True)
            if changed:
                row = change.iloc[0]
                changed["mark"] = "" if missing(row["low"]) else "▼" if row["high"] < 0 else "▲" if row["low"] > 0 else "○"
            lines.append(line(f"{name}: {WORDS[m]}", [*cells, changed], label))
    heads = ["As predicted", "Recalibrated here", "Change"]
    return {"heads": heads, "lines": lines, "sheet": sheets.add("local recalibration", rows)} if lines else {}


def _units(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """AUROC of every image for itself, and of one answer per study or patient."""
    several, lines = rows["label"].nunique() > 1, []
    for (label, target), part in rows.groupby(["label", "target"], sort=False, dropna=False):
        ordered = part.assign(order=part["unit"] != "image").sort_values("order", kind="stable")
        for _, row in ordered.iterrows():
            note = "" if row["unit"] == "image" else HOW.get(row["aggregation"], row["aggregation"])
            cells = [square(count(row["n"], None)), cell(row.to_frame().T)]
            words = "Every image for itself" if row["unit"] == "image" else f"One answer a {row['unit']}"
            name = words if missing(target) or rows["target"].nunique() == 1 else f"{target}: {words}"
            lines.append(line(name, cells, str(label) if several else "", note))
    return {"heads": ["Answers", "AUROC"], "lines": lines, "sheet": sheets.add("answers", rows)} if lines else {}
