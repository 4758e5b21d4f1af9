"""What went in and what it took: images and patients of each set, loss curves, costs of the pretraining."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import pandas as pd

from scotoma import plugins
from scotoma.data.splits.units import plural
from scotoma.metrics.intervals import caution
from scotoma.reporting.cells import Table, count, missing
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import COSTS, METRICS, label_of, method_of, title_of
from scotoma.reporting.reading import Folder
from scotoma.reporting.sections.base import tabulate_models


def curves(folders: Iterable[Folder], several: bool) -> list[tuple[str, pd.DataFrame]]:
    """Loss curves of the pretraining runs, and of any run that was named itself."""
    found: list[tuple[str, pd.DataFrame]] = []
    for folder in folders:
        files = [file for file in folder.metrics if file.stat().st_size]
        if files and (folder.config.get("command") == "pretrain" or folder.path.name == folder.top):
            table = pd.concat(map(pd.read_csv, files), ignore_index=True)
            table = table.reindex(columns=["step", "loss", "feature_spread", "effective_rank"])
            table = table.apply(pd.to_numeric, errors="coerce")
            label = label_of(method_of(folder.config) or folder.path.name, folder.config.get("encoder"), several)
            taken = [name for name, _ in found]
            found.append((label if label not in taken else f"{label}, {folder.path.name} ({len(found) + 1})", table))
    return [(label, table) for label, table in found if table["loss"].notna().any()]


def costs(rows: pd.DataFrame, several: bool, sheets: Sheets) -> Table:
    """What each pretraining run took and gave."""
    lines: dict[str, dict[str, float]] = {}
    labels = []
    extra = [c for c in ("run", "fraction", "seed") if rows[c].nunique() > 1]
    for _, row in rows.iterrows():
        words = [f"{c} {row[c]:g}" if c != "run" else row[c] for c in extra if not missing(row[c])]
        label = ", ".join([label_of(row["method"], row["encoder"], several), *words])
        lines.setdefault(label, {})[row["metric"]] = row["value"]
        labels.append(label)
    given = [*COSTS, *dict.fromkeys(c for line in lines.values() for c in line if c not in COSTS)]
    columns = [c for c in given if any(c in line and line[c] == line[c] for line in lines.values())]
    ways = {c: COSTS.get(c, (title_of(c).capitalize(), "{:.4g}".format)) for c in columns}
    cells = {
        label: [ways[c][1](v) if (v := line.get(c, math.nan)) == v else "\u2013" for c in columns] for label, line in lines.items()
    }
    if not columns:
        return {}
    return {
        "sheet": sheets.add("pretraining costs", rows.assign(label=labels)[rows["metric"].isin(columns)]),
        "heads": list(cells),
        "lines": [(ways[c][0], [cell[i] for cell in cells.values()]) for i, c in enumerate(columns)],
    }


def cautions(rows: pd.DataFrame) -> list[str]:
    """What is reported of intervals over so few patients (or other units) that they are unreliable, of each run."""
    tested = rows[(rows["evaluator"] == "data") & (rows["metric"] == "tested") & rows["patients"].notna()]
    last = tested.drop_duplicates("run", keep="last")
    found = {r["run"]: caution(int(r["patients"]), str(r["unit"]), plural(str(r["unit"]))) for _, r in last.iterrows()}
    alone = rows["run"].nunique() == 1
    return [f"{text[0].upper()}{text[1:]}." if alone else f"{run}: {text}." for run, text in found.items() if text]


def cohorts(rows: pd.DataFrame, sheets: Sheets, leaking: Collection[str] = ()) -> list[Table]:
    """Images, patients and classes in each split, one table per run; equal tables once.

    Args:
        rows: all of them.
        sheets: to which the tables go.
        leaking: the runs that allow that a patient is in several sets.
    """
    found: list[Table] = []
    shown: list[pd.DataFrame] = []
    data = rows[(rows["evaluator"] == "data") & rows["metric"].isin(["images", "patients", "groups"]) & rows["split"].notna()]
    for run, mine in data.groupby("run", sort=False):
        known = [s for s in ("train", "val", "test") if s in set(mine["split"])]
        splits = known + [s for s in dict.fromkeys(mine["split"]) if s not in known]
        several, lines = mine.loc[mine["class"].isna(), "target"].nunique() > 1, []
        images = (
            mine[(mine["metric"] == "images") & mine["class"].isna()]
            .drop_duplicates("split", keep="last")
            .set_index("split")["value"]
        )
        mine = mine.assign(target=mine["target"].where(several | mine["class"].notna()), order=mine["class"].notna())
        for (order, metric, target, name), part in mine.sort_values("order", kind="stable").groupby(
            ["order", "metric", "target", "class"], dropna=False, sort=False
        ):
            counts = part.drop_duplicates("split", keep="last").set_index("split")["value"]
            cells = [count(counts.get(s), images.get(s) if order and metric == "images" else None) for s in splits]
            words = {"images": "Images", "patients": "Patients", "groups": "Groups kept together"}[str(metric)]
            label = f"{name} ({words.lower()})" if order else words if missing(target) else f"{words}, {target}"
            lines.append({"label": label, "class": bool(order), "cells": cells})
        if len(rows[(rows["run"] == run) & (rows["evaluator"] == "regression")]):  # its classes are bands of the numbers
            bands = mine[mine["class"].notna()].drop_duplicates(["split", "class"], keep="last")
            counts = bands.groupby("split")["value"].sum()
            without = {s: images[s] - counts.get(s, 0.0) for s in splits if s in images}
            if any(without.values()):
                cells = [count(without.get(s), images.get(s)) for s in splits]
                lines.append({"label": "No number (images)", "class": True, "cells": cells})
        unread = rows[(rows["run"] == run) & (rows["evaluator"] == "data") & (rows["metric"] == "unreadable")]
        grouped = "groups" in set(mine["metric"])
        units = mine["unit"].dropna() if "unit" in mine.columns else mine["metric"][:0]
        unit = str(units.iloc[-1]) if len(units) else ""
        said = rows[(rows["run"] == run) & (rows["metric"] == "tested")] if "rule" in rows.columns else rows[:0]
        tested = [f"Tested: {r['value']:,.0f} labelled images ({r['rule']})." for _, r in said.iterrows()]
        copied = (
            rows[(rows["run"] == run) & (rows["metric"] == "near_duplicates_in_training")]
            if "overlap" in rows.columns
            else rows[:0]
        )
        tested += [f"Near-duplicates of test images in the encoder's training: {r['overlap']}." for _, r in copied.iterrows()]
        table = {
            "apart": _describe_overlap(
                rows[(rows["run"] == run) & (rows["metric"] == "shared_between_sides")], grouped, unit, run in leaking
            ),
            "tested": " ".join(dict.fromkeys(tested)),
            "splits": splits,
            "lines": lines,
            "unreadable": sum(unread["value"].dropna()),
        }
        if table not in found:
            found.append(table)
            shown.append(data[data["run"] == run])
    return [{**table, "sheet": sheets.add("data", rows)} for table, rows in zip(found, shown, strict=True)]


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


def validation_tables(rows: pd.DataFrame, sheets: Sheets, name: str = "validation") -> list[Table]:
    """What trainings reached on their validation images, a table an evaluator: no test result, as these chose settings."""
    whole = rows[rows["class"].isna() & (rows["unit"].isna() | (rows["unit"] == "image"))]
    sections = plugins.modules("sections")
    return [
        tabulate_models(part, getattr(sections.get(str(evaluator)), "TITLES", METRICS), name, sheets)
        for evaluator, part in whole.groupby("evaluator", sort=False)
    ]
