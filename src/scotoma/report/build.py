"""Run folders -> one self-contained ``report.html``.

Everything on the page comes from ``config.yaml``, ``rows.jsonl``, ``metrics.csv`` and ``figures/`` of the run folders
and of the run folders inside them; nothing is computed anew but means over label draws that a run did not write. The
sentences stand in ``page.html.jinja``, the drawings in ``figures.py``. A verdict is read off an interval and never off
the values alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scotoma.errors import UsageError
from scotoma.report import (
    CALIBRATION,
    CONTROLS,
    COSTS,
    METRICS,
    NAMES,
    USES,
    Folder,
    asked,
    at,
    count,
    data_name,
    decimals,
    evidence,
    figures,
    frame,
    interval,
    label_of,
    missing,
    p_value,
    pictures_of,
    read,
    same,
)
from scotoma.report.page import templates
from scotoma.run import write_atomically

CELL = ["run", "target", "evaluator", "label", "reference", "metric", "class", "predicted", "fraction", "fpr"]
Table = dict[str, Any]


def build(runs: list[Path], out: Path | None = None) -> Path:
    """Write one page about these runs.

    Args:
        runs: run folders; run folders inside them are read too.
        out: the page to write; ``report.html`` in the first run's folder if not given.

    Returns:
        The page's path.

    Raises:
        UsageError: a folder is no run, cannot be read, or holds no results.
        RunError: the page cannot be written.
    """
    if not runs:
        raise UsageError("name at least one run folder")
    folders = read([Path(run) for run in runs])
    environment = templates()
    environment.globals |= {"decimals": decimals, "interval": interval}
    page = environment.get_template("page.html.jinja").render(**_content(folders))
    path = Path(out) if out else Path(runs[0]) / "report.html"
    write_atomically(path, page)
    return path


def _content(folders: list[Folder]) -> dict[str, Any]:
    """Everything that the page shows."""
    rows = frame(folders)
    several = rows.loc[rows["evaluator"].isin(USES), "encoder"].nunique() > 1
    found = _results(rows, several)
    runs = [f for f in folders if f.top not in {g.top for g in folders[: folders.index(f)]}]
    curves = _curves(folders, several)
    learned = [(label, table) for label, table in curves if table["effective_rank"].notna().any()]
    kinds = dict(zip(found["label"], found["kind"], strict=True))
    order = ("method", "random", "pixels", "header", "majority")
    kinds = {label: kind for kind in order for label, k in kinds.items() if k == kind}
    style = figures.styles(kinds | {label: "method" for label, _ in curves if label not in kinds})
    whole = found[found["class"].isna()]
    auroc, targets = whole[whole["metric"] == "auroc"], list(dict.fromkeys(found["target"]))
    views = [_target(found[found["target"] == t], t, len(targets) > 1) for t in targets]
    headline = views[0]["fraction"] if views else math.nan
    pictures = [p for folder in folders for p in pictures_of(folder)]
    shown = set(USES) | set(CONTROLS) | {"data", "pretrain", "robustness", "subgroups", "explain"}
    tested = {name: _tested(rows, name, several) for name in ("robustness", "subgroups", "explain")}
    robust = evidence.robustness(tested["robustness"])
    of_robust = figures.styles(dict.fromkeys(robust.get("heads", ()), "method"))
    return {
        "data": ", ".join(dict.fromkeys(data_name(f.config) for f in runs)),
        "runs": [asked(f) for f in runs],
        "several_runs": len(runs) > 1,
        "unfinished": [f.top for f in runs if f.state == "running"],
        "cohorts": _cohorts(rows),
        "views": views,
        "draws": sorted({int(d) for d in whole["draws"].dropna()}),
        "curve": figures.auroc_by_labels(auroc, style),
        "roc": figures.roc_by_class(found[found["metric"] == "roc"], style),
        "confusion": figures.confusions(found[found["metric"] == "confusion"], headline),
        "losses": figures.uri(figures.losses(curves, style)) if curves else "",
        "features": figures.uri(figures.features(learned, style)) if learned else "",
        "costs": _costs(rows[rows["evaluator"] == "pretrain"], several),
        "pictures": {s: [p for p in pictures if p["section"] == s] for s in ("data", "pretraining", "features", "results")},
        "robustness": robust,
        "hidden": figures.uri(figures.hidden(robust["hidden"], of_robust)) if robust else "",
        "subgroups": evidence.subgroups(tested["subgroups"]),
        "explanations": evidence.explanations(tested["explain"]),
        "protocols": sorted(str(e) for e, p in found.groupby("evaluator")["protocol"].nunique().items() if p > 1),
        "left_out": sorted(set(rows["evaluator"].dropna()) - shown),
        "paired": bool((found["metric"] == "auroc_difference").any()),
        "folders": [
            (f.top if f in runs else f"{f.top}: {f.path.name}", f.text)
            for f in folders
            if f in runs or f.config.get("command") == "pretrain"
        ],
    }


def _results(rows: pd.DataFrame, several: bool) -> pd.DataFrame:
    """Rows about classifiers on test pictures, one a cell, with a ``label`` and the ``kind`` of each line."""
    found = rows[rows["evaluator"].isin([*USES, *CONTROLS])]
    found = found[found["split"].isna() | (found["split"] == "test")].copy()
    control = found["evaluator"].isin(CONTROLS)
    found.loc[control, ["method", "encoder"]] = None
    found["target"] = found["target"].fillna("")
    found["kind"] = np.where(control, found["evaluator"], np.where(found["method"] == "random", "random", "method"))
    found["label"] = [
        CONTROLS.get(e) or label_of(m, n, several)
        for e, m, n in zip(found["evaluator"], found["method"], found["encoder"], strict=True)
    ]
    # the same control in two runs is one control
    found = found.drop_duplicates([c for c in found.columns if c != "run"])
    if len(found):
        alone = found.groupby(["target", "evaluator", "label"])["run"].transform("nunique") == 1
        found["label"] = found["label"].where(alone, found["label"] + ", " + found["run"])
    return _over_draws(found)


def _tested(rows: pd.DataFrame, evaluator: str, several: bool) -> pd.DataFrame:
    """Rows of an evaluator that tests one classifier in many ways, each with a ``label``."""
    found = rows[rows["evaluator"] == evaluator].copy()
    names = [label_of(m, n, several) for m, n in zip(found["method"], found["encoder"], strict=True)] if len(found) else []
    found["label"] = [f"{name}, {run}" for name, run in zip(names, found["run"], strict=True)] if names else []
    alone = len(set(found["label"])) == len(set(names))
    return found.assign(label=names) if alone else found


def _over_draws(found: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: the mean over draws as the run wrote it; else the only draw; else the draws' bare mean."""
    means, drawn = found[found["seed"].isna()], found[found["seed"].notna()]
    means = means.drop_duplicates(CELL, keep="last")  # a study that was taken up again may have written a row twice
    if drawn.empty:
        return means
    groups = drawn.drop_duplicates([*CELL, "seed"], keep="last").groupby(CELL, dropna=False, sort=False)
    single = groups.first().assign(value=groups["value"].mean(), draws=groups.size())
    single.loc[single["draws"] > 1, ["low", "high"]] = math.nan
    both = pd.concat([means, single.reset_index()[means.columns]], ignore_index=True)
    return both.drop_duplicates(CELL, ignore_index=True)


def _target(found: pd.DataFrame, target: str, named: bool) -> Table:
    """Tables and sentences about one target."""
    whole = found[found["class"].isna()]
    auroc, differences = whole[whole["metric"] == "auroc"], whole[whole["metric"] == "auroc_difference"]
    classes = found[found["class"].notna() & found["metric"].isin(METRICS)]
    used = auroc[auroc["evaluator"].isin(USES)]
    fractions = sorted(set((used if len(used) else auroc)["fraction"].dropna()))
    fraction = min(fractions, key=lambda f: abs(math.log(f / 0.1)), default=math.nan)
    here = whole[same(whole["fraction"], fraction)]
    several = classes.loc[classes["metric"] == "auroc", "class"].nunique() > 1
    columns = [(f, _head(f, auroc)) for f in sorted(auroc["fraction"].unique(), key=lambda f: (f != f, f))]
    references = [NAMES.get(r, r) or "reference" for r in differences["reference"]]
    pairs = [f"{label} minus {r[0].lower()}{r[1:]}" for label, r in zip(differences["label"], references, strict=True)]
    compared = [c for c in columns if c[0] in set(differences["fraction"])]
    calibration = [(m, (METRICS[m], "lower is better")) for m in CALIBRATION if m in set(here["metric"])]
    other = [m for m in METRICS if m in set(here["metric"]) and m != "auroc" and m not in CALIBRATION]
    per_class = classes[same(classes["fraction"], fraction)]
    names = list(dict.fromkeys(per_class["class"]))
    metric = "macro AUROC" if several else "AUROC"
    view = {
        "name": target if named else "", "metric": metric, "fraction": fraction, "at": at(fraction),
        "main": _table(auroc, "fraction", columns, best=True),
        "differences": _table(differences.assign(label=pairs), "fraction", compared),
        "others": _table(here, "metric", [(m, (METRICS[m], "")) for m in other]),
        "calibration": _table(here, "metric", calibration),
        "classes": [
            (METRICS[m], _table(per_class[per_class["metric"] == m], "class", [(c, (c, "")) for c in names]))
            for m in METRICS if len(names) > 1 and m in set(per_class["metric"])
        ],
    }  # fmt: skip
    return view | _findings(auroc, differences, fraction)


def _findings(auroc: pd.DataFrame, differences: pd.DataFrame, fraction: float) -> Table:
    """What the page's summary says at one share of the labels: each method against its controls."""
    here, findings = auroc[same(auroc["fraction"], fraction)], []
    pixel = _first(here[here["evaluator"] == "pixels"])
    for _, own in here[here["kind"] == "method"].iterrows():
        random = here[(here["kind"] == "random") & (here["evaluator"] == own["evaluator"])]
        # the same network's control, from the same run where both have one
        random = random[same(random["encoder"], own["encoder"])]
        random = random.assign(other=random["run"] != own["run"]).sort_values("other", kind="stable")
        mine = (differences["label"] == own["label"]) & (differences["evaluator"] == own["evaluator"])
        paired = differences[mine & (differences["reference"] == "random")]
        difference = _first(paired[same(paired["fraction"], fraction)])
        beyond = None
        if pixel is not None:
            beyond = "clear" if own["low"] > pixel["high"] else "unclear" if own["value"] > pixel["value"] else "none"
        findings.append({
            "label": own["label"], "use": USES[own["evaluator"]], "own": own, "random": _first(random),
            "difference": difference, "sign": None if difference is None else _sign(difference),
            "signs": [_sign(d) for _, d in paired.iterrows()], "beyond": beyond,
        })  # fmt: skip
    header = _first(auroc[auroc["evaluator"] == "header"].sort_values("fraction", ascending=False))
    return {
        "findings": findings,
        "header": header if header is not None and header["low"] > 0.5 else None,
        "n": _whole(here["n"]),
        "labels": _whole(here["labels"]),
        "pixel": pixel,
    }


def _first(rows: pd.DataFrame) -> pd.Series | None:
    return rows.iloc[0] if len(rows) else None


def _whole(column: pd.Series) -> str:
    """The greatest of some counts, as text; empty where none is known."""
    return f"{column.max():,.0f}" if column.notna().any() else ""


def _table(found: pd.DataFrame, key: str, columns: Sequence[tuple[Any, tuple[str, str]]], best: bool = False) -> list[Table]:
    """Values with intervals: a row a line, a column a value of ``key``; wide tables in pieces of six columns."""
    pieces = []
    sign = key == "fraction" and bool((found["metric"] == "auroc_difference").any())
    for start in range(0, len(columns), 6):
        part, groups = columns[start : start + 6], []
        picked = [found[same(found[key], value)] for value, _ in part]
        for title, evaluators in [*((USES[u][0], [u]) for u in USES), ("Controls that use no encoder", list(CONTROLS))]:
            mine = found[found["evaluator"].isin(evaluators)]
            lines = []
            for label, kind in dict(zip(mine["label"], mine["kind"], strict=True)).items():
                rows = [_first(p[(p["label"] == label) & p["evaluator"].isin(evaluators)]) for p in picked]
                tops = [
                    best and r is not None and len(p) > 1 and r["value"] == p["value"].max()
                    for r, p in zip(rows, picked, strict=True)
                ]
                cells = [None if r is None else _cell(r, top, sign) for r, top in zip(rows, tops, strict=True)]
                if any(cells):
                    lines.append((kind != "method", label, cells))
            if lines:
                groups.append((title, [(label, cells) for _, label, cells in sorted(lines, key=lambda line: line[0])]))
        if groups:
            pieces.append({"heads": [head for _, head in part], "groups": groups})
    return pieces


def _cell(row: pd.Series, best: bool, sign: bool) -> Table:
    """One number as the page prints it."""
    low, high = decimals(row["low"], sign), decimals(row["high"], sign)
    notes = [f"{word} {p_value(row[c])}" for word, c in (("p", "p_value"), ("Holm", "p_holm")) if not missing(row[c])]
    mark = {1: "▲", -1: "▼", 0: "○"}[_sign(row)] if sign else "†" if best else ""
    bounds = "" if missing(row["low"]) else f"[{low}, {high}]"
    return {"value": decimals(row["value"], sign), "interval": bounds, "note": ", ".join(notes), "mark": mark}


def _curves(folders: Iterable[Folder], several: bool) -> list[tuple[str, pd.DataFrame]]:
    """Loss curves of the pretraining runs, and of any run that was named itself."""
    found: list[tuple[str, pd.DataFrame]] = []
    for folder in folders:
        files = [file for file in folder.metrics if file.stat().st_size]
        if files and (folder.config.get("command") == "pretrain" or folder.path.name == folder.top):
            table = pd.concat(map(pd.read_csv, files), ignore_index=True)
            table = table.reindex(columns=["step", "loss", "feature_spread", "effective_rank"])
            table = table.apply(pd.to_numeric, errors="coerce")
            label = label_of(folder.config.get("method") or folder.path.name, folder.config.get("encoder"), several)
            taken = [name for name, _ in found]
            found.append((label if label not in taken else f"{label}, {folder.path.name} ({len(found) + 1})", table))
    return [(label, table) for label, table in found if table["loss"].notna().any()]


def _costs(rows: pd.DataFrame, several: bool) -> Table:
    """What each pretraining run took and gave."""
    lines: dict[str, dict[str, float]] = {}
    extra = [c for c in ("run", "fraction", "seed") if rows[c].nunique() > 1]
    for _, row in rows.iterrows():
        words = [f"{c} {row[c]:g}" if c != "run" else row[c] for c in extra if not missing(row[c])]
        label = ", ".join([label_of(row["method"], row["encoder"], several), *words])
        lines.setdefault(label, {})[row["metric"]] = row["value"]
    columns = [c for c in COSTS if any(c in line and line[c] == line[c] for line in lines.values())]
    cells = {
        label: [COSTS[c][1](v) if (v := line.get(c, math.nan)) == v else "\u2013" for c in columns] for label, line in lines.items()
    }
    return {
        "heads": list(cells),
        "lines": [(COSTS[c][0], [cell[i] for cell in cells.values()]) for i, c in enumerate(columns)],
    }


def _cohorts(rows: pd.DataFrame) -> list[Table]:
    """Pictures, patients and classes in each split, a table a run; equal tables once."""
    found: list[Table] = []
    data = rows[(rows["evaluator"] == "data") & rows["metric"].isin(["images", "patients", "groups"]) & rows["split"].notna()]
    for run, mine in data.groupby("run", sort=False):
        known = [s for s in ("train", "val", "test") if s in set(mine["split"])]
        splits = known + [s for s in dict.fromkeys(mine["split"]) if s not in known]
        several, lines = mine.loc[mine["class"].isna(), "target"].nunique() > 1, []
        pictures = (
            mine[(mine["metric"] == "images") & mine["class"].isna()]
            .drop_duplicates("split", keep="last")
            .set_index("split")["value"]
        )
        mine = mine.assign(target=mine["target"].where(several | mine["class"].notna()), order=mine["class"].notna())
        for (order, metric, target, name), part in mine.sort_values("order", kind="stable").groupby(
            ["order", "metric", "target", "class"], dropna=False, sort=False
        ):
            counts = part.drop_duplicates("split", keep="last").set_index("split")["value"]
            cells = [count(counts.get(s), pictures.get(s) if order and metric == "images" else None) for s in splits]
            words = {"images": "Pictures", "patients": "Patients", "groups": "Groups kept together"}[str(metric)]
            label = f"{name} ({words.lower()})" if order else words if missing(target) else f"{words}, {target}"
            lines.append({"label": label, "class": bool(order), "cells": cells})
        unread = rows[(rows["run"] == run) & (rows["evaluator"] == "data") & (rows["metric"] == "unreadable")]
        grouped = "groups" in set(mine["metric"])
        table = {"splits": splits, "lines": lines, "unreadable": sum(unread["value"].dropna()), "grouped": grouped}
        if table not in found:
            found.append(table)
    return found


def _head(fraction: float, rows: pd.DataFrame) -> tuple[str, str]:
    labels = rows.loc[same(rows["fraction"], fraction), "labels"].max()
    return ("as trained" if fraction != fraction else f"{100 * fraction:g}\u00a0% of labels"), (
        f"n = {labels:,.0f}" if labels == labels else ""
    )


def _sign(row: pd.Series) -> int:
    """1 or -1 where the interval lies on one side of zero, otherwise 0."""
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0
