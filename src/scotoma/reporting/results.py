"""What classifiers reached on test images beside their controls: tables, and the sentences of the summary.

A verdict is read off an interval and never off the values alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from scotoma import plugins
from scotoma.reporting.cells import Table, at, brackets, is_same, missing, p_value, point, square
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import CALIBRATION, CONTROL, METRICS, label_of, name_of_method, phrase_of_use, title_of, title_of_use
from scotoma.reporting.reading import has_unknown_keys

MARKS = {1: "▲", -1: "▼", 0: "○"}  # of a difference by its interval
ENCODERS = ("method", "random")  # kinds of lines that are no control
DRAWN = ("roc", "confusion")
KEYS = ("reference", "predicted", "fpr", "p_value", "p_holm", "threshold")
CELL = ["run", "target", "evaluator", "label", "reference", "metric", "class", "predicted", "fraction", "fpr"]


def select_test(rows: pd.DataFrame) -> pd.DataFrame:
    """Those about test images: a training writes rows about validation images under the same evaluators' names."""
    return rows[rows["split"].isna() | (rows["split"] == "test")]


def find_classifiers(rows: pd.DataFrame) -> list[str]:
    """Evaluators that tested classifiers: those without a section whose rows about test images hold an AUROC."""
    found = select_test(rows[rows["metric"] == "auroc"])["evaluator"]
    return [name for name in dict.fromkeys(found) if name not in plugins.names("sections")]


def results(rows: pd.DataFrame, several: bool) -> pd.DataFrame:
    """Rows about classifiers on test images, one per cell, with a ``label`` and the ``kind`` of each line."""
    classified = rows[rows["evaluator"].isin(find_classifiers(rows))]
    found = select_test(classified[~has_unknown_keys(classified, KEYS)]).copy()
    control = found["method"] == CONTROL
    found.loc[control, ["method", "encoder"]] = None
    found["target"] = found["target"].fillna("")
    found["kind"] = np.where(control, found["evaluator"], np.where(found["method"] == "random", "random", "method"))
    found["label"] = [
        title_of_use(e) if c else label_of(m, n, several)
        for e, m, n, c in zip(found["evaluator"], found["method"], found["encoder"], control, strict=True)
    ]
    # the same control in two runs is one control
    found = found.drop_duplicates([c for c in found.columns if c != "run"])
    if len(found):
        alone = found.groupby(["target", "evaluator", "label"])["run"].transform("nunique") == 1
        found["label"] = found["label"].where(alone, found["label"] + ", " + found["run"])
    return _over_draws(found)


def _over_draws(found: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: the mean over draws as the run wrote it; else the only draw; else the draws' bare mean."""
    means, drawn = found[found["seed"].isna()], found[found["seed"].notna()]
    means = means.drop_duplicates(CELL, keep="last")  # a study that was taken up again may have written a row twice
    if drawn.empty:
        return means
    groups = drawn.drop_duplicates([*CELL, "seed"], keep="last").groupby(CELL, dropna=False, sort=False)
    single = groups.first().assign(value=groups["value"].mean(), draws=groups.size())
    single.loc[single["draws"] > 1, ["low", "high"]] = math.nan
    both = pd.concat([means, single.reset_index()[means.columns]], ignore_index=True)
    return both.drop_duplicates(CELL, ignore_index=True)


def target_view(found: pd.DataFrame, target: str, named: bool, sheets: Sheets) -> Table:
    """Tables and sentences about one target."""
    whole = found[found["class"].isna()]
    auroc, differences = whole[whole["metric"] == "auroc"], whole[whole["metric"] == "auroc_difference"]
    classes = found[found["class"].notna() & ~found["metric"].isin(DRAWN)]
    used = auroc[auroc["kind"].isin(ENCODERS)]
    fractions = sorted(set((used if len(used) else auroc)["fraction"].dropna()))
    fraction = min(fractions, key=lambda f: abs(math.log(f / 0.1)), default=math.nan)
    here = whole[is_same(whole["fraction"], fraction)]
    count = classes.loc[classes["metric"] == "auroc", "class"].nunique()
    several = count > 2 or (count > 1 and "," in target)  # of two classes the AUROC is one; of two findings it is their mean
    columns = [(f, head(f, auroc)) for f in sorted(auroc["fraction"].unique(), key=lambda f: (f != f, f))]
    references = [name_of_method(r) or "reference" for r in differences["reference"]]
    pairs = [f"{label} minus {r[0].lower()}{r[1:]}" for label, r in zip(differences["label"], references, strict=True)]
    compared = [c for c in columns if c[0] in set(differences["fraction"])]
    calibration = [(m, (METRICS[m], "lower is better")) for m in CALIBRATION if m in set(here["metric"])]
    apart = ("auroc", "auroc_difference", *CALIBRATION, *DRAWN)
    other = [m for m in in_order(here["metric"]) if m not in apart]
    per_class = classes[is_same(classes["fraction"], fraction)]
    names = list(dict.fromkeys(per_class["class"]))
    metric = "macro AUROC" if several else "AUROC"
    prefix = f"{target} " if named else ""
    view = {
        "name": target if named else "", "metric": metric, "fraction": fraction, "at": at(fraction),
        "main": _table(sheets, f"{prefix}auroc", auroc, "fraction", columns, best=True),
        "differences": _table(sheets, f"{prefix}differences", differences.assign(label=pairs), "fraction", compared),
        "others": _table(sheets, f"{prefix}other measures", here, "metric", [(m, (title_of(m), "")) for m in other]),
        "calibration": _table(sheets, f"{prefix}calibration errors", here, "metric", calibration),
        "classes": [
            (title_of(m), _table(
                sheets, f"{prefix}{m} by class", per_class[per_class["metric"] == m], "class", [(c, (c, "")) for c in names]
            ))
            for m in in_order(per_class["metric"]) if len(names) > 1
        ],
    }  # fmt: skip
    return view | _findings(auroc, differences, fraction)


def _findings(auroc: pd.DataFrame, differences: pd.DataFrame, fraction: float) -> Table:
    """What the page's summary reports at one share of the labels: each method against its controls."""
    here, findings = auroc[is_same(auroc["fraction"], fraction)], []
    pixel = _first(here[here["evaluator"] == "pixels"])
    for _, own in here[here["kind"] == "method"].iterrows():
        random = here[(here["kind"] == "random") & (here["evaluator"] == own["evaluator"])]
        # the same network's control, from the same run where both have one
        random = random[is_same(random["encoder"], own["encoder"])]
        random = random.assign(other=random["run"] != own["run"]).sort_values("other", kind="stable")
        mine = (differences["label"] == own["label"]) & (differences["evaluator"] == own["evaluator"])
        paired = differences[mine & (differences["reference"] == "random")]
        difference = _first(paired[is_same(paired["fraction"], fraction)])
        beyond = None
        if pixel is not None:
            beyond = "clear" if own["low"] > pixel["high"] else "unclear" if own["value"] > pixel["value"] else "none"
        findings.append({
            "label": own["label"], "use": (title_of_use(own["evaluator"]), phrase_of_use(own["evaluator"])), "own": own,
            "random": _first(random),
            "difference": difference, "sign": None if difference is None or missing(difference["low"]) else sign_of(difference),
            "signs": [sign_of(d) for _, d in paired.iterrows() if not missing(d["low"])], "beyond": beyond,
        })  # fmt: skip
    header = _first(auroc[auroc["evaluator"] == "header"].sort_values("fraction", ascending=False))
    return {
        "findings": findings,
        "header": header if header is not None and header["low"] > 0.5 else None,
        "n": _format_greatest(here["n"]),
        "labels": _format_greatest(here["labels"]),
        "pixel": pixel,
    }


def in_order(metrics: pd.Series) -> list[str]:
    """Different metrics, those with a title first."""
    found = list(dict.fromkeys(metrics))
    return [m for m in METRICS if m in found] + [m for m in found if m not in METRICS]


def group_by_use(rows: pd.DataFrame) -> list[tuple[str, list[str], pd.DataFrame]]:
    """Title, evaluators and rows of each use of encoders, and of all controls that use none."""
    of_encoder = rows["kind"].isin(ENCODERS)
    groups = [(title_of_use(use), [use], rows[of_encoder & (rows["evaluator"] == use)]) for use in uses_of(rows)]
    controls = list(dict.fromkeys(rows.loc[~of_encoder, "evaluator"]))
    return [*groups, ("Controls that use no encoder", controls, rows[~of_encoder])] if controls else groups


def uses_of(rows: pd.DataFrame) -> list[str]:
    """Evaluators of encoders, those of the linear probe and the fine-tuned network first."""
    found = dict.fromkeys(rows.loc[rows["kind"].isin(ENCODERS), "evaluator"])
    return sorted(found, key=lambda use: (use != "linear", use != "finetune"))


def _first(rows: pd.DataFrame) -> pd.Series | None:
    return rows.iloc[0] if len(rows) else None


def _format_greatest(column: pd.Series) -> str:
    """The greatest of some counts, as text; empty where none is known."""
    return f"{column.max():,.0f}" if column.notna().any() else ""


def _table(
    sheets: Sheets, name: str, found: pd.DataFrame, key: str, columns: Sequence[tuple[Any, tuple[str, str]]], best: bool = False
) -> Table:
    """Values with intervals: one row per line, one column per value of ``key``; wide tables in pieces of six columns."""
    pieces = []
    sign = key == "fraction" and bool((found["metric"] == "auroc_difference").any())
    for start in range(0, len(columns), 6):
        part, groups = columns[start : start + 6], []
        picked = [found[is_same(found[key], value)] for value, _ in part]
        for title, evaluators, mine in group_by_use(found):
            lines = []
            for label, kind in dict(zip(mine["label"], mine["kind"], strict=True)).items():
                rows = [_first(p[(p["label"] == label) & p["evaluator"].isin(evaluators)]) for p in picked]
                tops = [
                    best and r is not None and len(p) > 1 and r["value"] == p["value"].max()
                    for r, p in zip(rows, picked, strict=True)
                ]
                cells = [
                    None if r is None else marked_cell(r, MARKS[sign_of(r)] if sign else "†" if top else "", sign)
                    for r, top in zip(rows, tops, strict=True)
                ]
                if any(cells):
                    lines.append((kind != "method", label, cells))
            if lines:
                groups.append((title, [(label, cells) for _, label, cells in sorted(lines, key=lambda line: line[0])]))
        if groups:
            pieces.append({"heads": [head for _, head in part], "groups": groups})
    if not pieces:
        return {}
    kept = found[key].isna() if any(missing(v) for v, _ in columns) else pd.Series(False, index=found.index)
    return {"pieces": pieces, "sheet": sheets.add(name, found[kept | found[key].isin([v for v, _ in columns])])}


def marked_cell(row: pd.Series, mark: str, sign: bool) -> Table:
    """One number as the page prints it, with its p-values beneath."""
    notes = [f"{word} {p_value(row[c])}" for word, c in (("p", "p_value"), ("Holm", "p_holm")) if not missing(row.get(c))]
    return square(point(row, sign), brackets(row, sign), mark, ", ".join(notes))


def head(fraction: float, rows: pd.DataFrame) -> tuple[str, str]:
    """What stands over a column: the share of the labels, and beneath how many these were."""
    labels = rows.loc[is_same(rows["fraction"], fraction), "labels"].max()
    return ("as trained" if fraction != fraction else f"{100 * fraction:g}\u00a0% of labels"), (
        f"n = {labels:,.0f}" if labels == labels else ""
    )


def sign_of(row: pd.Series) -> int:
    """1 or -1 where the interval lies on one side of zero, otherwise 0."""
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


def headlines(rows: pd.DataFrame) -> pd.DataFrame:
    """The main metric of each model that predicts no class, on test images, with a ``label`` and its ``words``.

    Of a study, those with the most labels.
    """
    sections = plugins.modules("sections")
    kinds = {name: section.HEADLINE for name, section in sections.items() if hasattr(section, "HEADLINE")}
    kept = select_test(rows[rows["class"].isna() & rows["seed"].isna() & (rows["unit"].isna() | (rows["unit"] == "image"))])
    kept = pd.concat([kept.iloc[:0], *(kept[(kept["evaluator"] == e) & (kept["metric"] == m)] for e, (m, _) in kinds.items())])
    kept = kept[kept["fraction"].isna() | (kept["fraction"] == kept["fraction"].max())]
    names = [label_of(m, n, kept["encoder"].nunique() > 1) for m, n in zip(kept["method"], kept["encoder"], strict=True)]
    kept = kept.assign(label=names, words=[kinds[e][1] for e in kept["evaluator"]])
    for name in (n for n in kinds if hasattr(sections[n], "name_uses")):
        kept.loc[kept["evaluator"] == name, "label"] = sections[name].name_uses(kept[kept["evaluator"] == name])
    return kept.assign(label=kept["label"] + ", " + kept["run"]) if kept["run"].nunique() > 1 else kept
