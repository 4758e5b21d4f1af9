"""Who and what went in: images, patients and classes of each set, what was left out, and the composition of the sets."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from scotoma.data.phi import MISSING
from scotoma.data.splits.units import plural
from scotoma.metrics.intervals import caution
from scotoma.reporting.cells import Table, count, decimals, missing, p_value
from scotoma.reporting.csv_tables import Sheets

SIDES = {"train": "Training", "val": "Validation", "test": "Test"}
COUNTED = {"images": "Images", "patients": "Patients", "groups": "Groups kept together"}
Row = dict[str, Any]


def cautions(rows: pd.DataFrame) -> list[str]:
    """What is reported of intervals over so few patients (or other units) that they are unreliable, of each run."""
    tested = rows[(rows["evaluator"] == "data") & (rows["metric"] == "tested") & rows["patients"].notna()]
    last = tested.drop_duplicates("run", keep="last")
    found = {r["run"]: caution(int(r["patients"]), str(r["unit"]), plural(str(r["unit"]))) for _, r in last.iterrows()}
    alone = rows["run"].nunique() == 1
    return [f"{text[0].upper()}{text[1:]}." if alone else f"{run}: {text}." for run, text in found.items() if text]


def cohorts(rows: pd.DataFrame, sheets: Sheets, leaking: Collection[str] = ()) -> list[Table]:
    """Images, patients and classes in each set, one table per run; equal tables once.

    Args:
        rows: all of them.
        sheets: to which the tables go.
        leaking: the runs that allow that a patient is in several sets.
    """
    found: list[Table] = []
    shown: list[pd.DataFrame] = []
    data = rows[(rows["evaluator"] == "data") & rows["metric"].isin(list(COUNTED)) & rows["split"].notna()]
    for run, mine in data.groupby("run", sort=False):
        of_run = rows[rows["run"] == run]
        splits = _in_order(mine["split"])
        images = _by_split(mine[(mine["metric"] == "images") & mine["class"].isna()])
        unread = of_run[(of_run["evaluator"] == "data") & (of_run["metric"] == "unreadable")]
        units = mine["unit"].dropna() if "unit" in mine.columns else mine["metric"][:0]
        unit, grouped = str(units.iloc[-1]) if len(units) else "", "groups" in set(mine["metric"])
        table = {
            "apart": _describe_overlap(of_run[of_run["metric"] == "shared_between_sides"], grouped, unit, run in leaking)
            if len(splits) == 1 or (images > 0).sum() > 1
            else "All images are in one set: nothing was split.",
            "partly": bool(_without_label(of_run)),
            "tested": " ".join(dict.fromkeys(_tested(of_run))),
            "splits": splits,
            "lines": [*_counts(mine, of_run, splits, images), *_without(mine, of_run, splits, images)],
            "unreadable": sum(unread["value"].dropna()),
        }
        same = [other for other in found if all(other[key] == table[key] for key in ("apart", "splits", "lines", "unreadable"))]
        if same:  # of a model and of its test
            same[0]["tested"] = " ".join(dict.fromkeys(filter(None, [same[0]["tested"], table["tested"]])))
        else:
            found.append(table)
            shown.append(mine)
    names = [str(part["run"].iloc[0]) if len(found) > 1 else "" for part in shown]
    return [
        {**table, "run": name, "sheet": sheets.add("data", part)} for table, name, part in zip(found, names, shown, strict=True)
    ]


def _in_order(splits: pd.Series) -> list[str]:
    """Training, validation and test, others behind."""
    known = [s for s in SIDES if s in set(splits)]
    return known + [s for s in dict.fromkeys(splits) if s not in known]


def _by_split(rows: pd.DataFrame) -> pd.Series:
    return rows.drop_duplicates("split", keep="last").set_index("split")["value"]


def _counts(mine: pd.DataFrame, of_run: pd.DataFrame, splits: list[str], images: pd.Series) -> list[Table]:
    """A line for the images and the units of each set, and for each class, whose share of the set's images is shown.

    Of several labels the share is of those images of which the label is known, and what is missing has a line of its own.
    """
    lines, several = [], mine.loc[mine["class"].isna(), "target"].nunique() > 1
    mine = mine.assign(target=mine["target"].where(several | mine["class"].notna()), order=mine["class"].notna())
    without = _without_label(of_run)
    keys = ["order", "metric", "target", "class"]
    for (order, metric, target, name), part in mine.sort_values("order", kind="stable").groupby(keys, dropna=False, sort=False):
        counts, words = _by_split(part), COUNTED[str(metric)]
        known = {s: images.get(s, math.nan) - without.get((name, s), 0.0) for s in splits} if order and metric == "images" else {}
        cells = [count(counts.get(s), known.get(s)) for s in splits]
        label = f"{name} ({words.lower()})" if order else words if missing(target) else f"{words}, {target}"
        lines.append({"label": label, "class": bool(order), "cells": cells})
        if known and any(without.get((name, s)) for s in splits):
            cells = [count(without.get((name, s)), images.get(s)) for s in splits]
            lines.append({"label": f"{name}, {MISSING} (images)", "class": True, "cells": cells})
    return lines


def _without_label(of_run: pd.DataFrame) -> dict[tuple[Any, str], float]:
    """Of several labels: (label, set) -> its images of which that label is not known, where the rows state it."""
    rows = of_run[(of_run["evaluator"] == "data") & (of_run["metric"] == "missing") & of_run["class"].notna()]
    return {(str(r["class"]), str(r["split"])): float(r["value"]) for _, r in rows.iterrows()}


def _without(mine: pd.DataFrame, of_run: pd.DataFrame, splits: list[str], images: pd.Series) -> list[Table]:
    """The images that have no class, so that the classes add up; nothing where images may have several findings, or none."""
    targets = {t for names in of_run["target"].dropna() for t in str(names).split(",")}
    classes = mine[mine["class"].notna() & (mine["metric"] == "images")].drop_duplicates(["split", "class"], keep="last")
    if classes.empty or set(classes["class"]) <= targets - {"mask"}:
        return []
    counts = classes.groupby("split")["value"].sum()
    without = {s: images[s] - counts.get(s, 0.0) for s in splits if s in images}
    if min(without.values(), default=0) < 0 or not any(without.values()):
        return []
    numeric = (of_run["evaluator"] == "regression").any()
    word = "No number" if numeric else "No mask" if set(classes["class"]) == {"mask"} else "None of these classes"
    cells = [count(without.get(s), images.get(s)) for s in splits]
    return [{"label": f"{word} (images)", "class": True, "cells": cells}]


def _tested(of_run: pd.DataFrame) -> list[str]:
    """How many labelled images were tested, by which rule, which were left out, and what is known of their copies in a training."""
    found = []
    if "rule" in of_run.columns:
        for _, row in of_run[of_run["metric"] == "tested"].iterrows():
            some = not missing(row["n"]) and row["n"] != row["value"]
            which = f"of {row['n']:,.0f} test images, those with a label that is tested" if some else "labelled images"
            found.append(f"Tested: {row['value']:,.0f} {which} ({row['rule']}).")
    for _, row in of_run[(of_run["evaluator"] == "data") & (of_run["metric"] == "left_out")].iterrows():
        found.append(f"Left out: {row['value']:,.0f} of {row['n']:,.0f} images ({row['reason']}).")
    if "overlap" in of_run.columns:
        copied = of_run[of_run["metric"] == "near_duplicates_in_training"]
        found += [f"Near-duplicates of test images in the encoder's training: {r['overlap']}." for _, r in copied.iterrows()]
    return found


def _describe_overlap(shared: pd.DataFrame, grouped: bool, unit: str, leaking: bool) -> str:
    """Whether anything is in more than one set, and what, in a sentence."""
    what = "What was split are patients"
    if grouped:
        what = f"What was split are groups of images that belong together ({unit or 'of the table, or near-duplicates'})"
    counts = shared[shared["value"] > 0].drop_duplicates("what", keep="last") if "what" in shared.columns else shared[:0]
    if len(counts):
        told = " and ".join(f"{row['value']:,.0f} {row['what']}" for _, row in counts.iterrows())
        return f"{what}, but {told} are in more than one of these sets: the run allows it, and its results may flatter."
    none = f"{what}, and no {'group' if grouped else 'patient'} is in more than one of these sets"
    return f"{none}, as far as its rows state: the run allows it." if leaking else f"{none}."


def compositions(rows: pd.DataFrame, sheets: Sheets) -> list[Table]:
    """The composition of each set by every column of the table, one table per run; equal tables once."""
    found: list[Table] = []
    parts: list[pd.DataFrame] = []
    for _, mine in rows[rows["evaluator"] == "cohort"].groupby("run", sort=False):
        records = [{str(k): None if missing(v) else v for k, v in record.items()} for record in mine.to_dict("records")]
        table = composition(records)
        if mine["column"].notna().any() and table not in found:  # images and patients alone stand in the table before it
            found.append(table)
            parts.append(mine)
    return [{**table, "sheet": sheets.add("composition", part)} for table, part in zip(found, parts, strict=True)]


def composition(rows: Sequence[Row]) -> Table:
    """The cohort table: one line per column or category, one cell per set, with differences from training; empty without a split.

    Args:
        rows: as ``quality.cohort.compare`` gives them; others are left out.
    """
    own = [r for r in rows if r["evaluator"] == "cohort"]
    splits = [s for s in SIDES if any(r["split"] == s for r in own)]
    others = [s for s in splits if s != "train" and "train" in splits]
    by = {(r["metric"], r.get("column"), r.get("class"), r["split"]): r for r in own}
    lines = []
    for metric, word in (("patients", "Patients"), ("images", "Images")):
        if (metric, None, None, splits[0] if splits else "") in by:
            cells = [f"{by[metric, None, None, s]['value']:,.0f}" for s in splits]
            lines.append({"name": word, "cells": cells, "inner": False, "tests": [("", "") for _ in others]})
    for column in dict.fromkeys(r["column"] for r in own if r.get("column")):
        tests = [_test(by.get(("difference", column, None, s)), by.get(("p_value", column, None, s))) for s in others]
        if any(("median", column, None, s) in by for s in splits):
            cells = [_median(by.get(("median", column, None, s))) for s in splits]
            lines.append({"name": f"{column}, median (quartiles)", "cells": cells, "inner": False, "tests": tests})
            lines += _missing([by.get(("missing", column, None, s)) for s in splits], len(others))
            continue
        lines.append({"name": column, "cells": ["" for _ in splits], "inner": False, "tests": tests})
        for label in dict.fromkeys(r["class"] for r in own if r.get("column") == column and r["metric"] == "share"):
            found = [by.get(("share", column, label, s)) for s in splits]
            cells = [f"{r['count']:,.0f} ({100 * r['value']:.0f}\u00a0%)" if r and r["n"] else "\u2013" for r in found]
            lines.append({"name": label, "cells": cells, "inner": True, "tests": [("", "") for _ in others]})
        lines += _missing([by.get(("missing", column, None, s)) for s in splits], len(others))
    return {"splits": [SIDES[s] for s in splits], "others": [SIDES[s].lower() for s in others], "lines": lines}


def _missing(rows: Sequence[Row | None], others: int) -> list[Table]:
    """A line of how many have no value in a column; none where the rows state none."""
    cells = [f"{r['value']:,.0f}" if r else "\u2013" for r in rows]
    return [{"name": MISSING, "cells": cells, "inner": True, "tests": [("", "")] * others}] if any(rows) else []


def _median(row: Row | None) -> str:
    """The median with its quartiles; a dash where nobody, or too few, have a value."""
    if not row or not row["n"]:
        return "\u2013"
    return f"{row['value']:.4g} ({row['lower_quartile']:.4g} to {row['upper_quartile']:.4g})"


def _test(difference: Row | None, p: Row | None) -> tuple[str, str]:
    """The standardised difference and the p-value, as they are written."""
    if difference is None or p is None or missing(difference["value"]) or missing(p["value"]):
        return "\u2013", "\u2013"
    return decimals(difference["value"]), p_value(p["value"]).removeprefix("= ")
