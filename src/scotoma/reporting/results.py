"""What classifiers reached on test images beside their controls: tables, and what the summary states of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from scotoma import plugins
from scotoma.reporting.cells import Table, at, brackets, cell, decimals, is_same, missing, p_value, point
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import (
    CALIBRATION,
    CONTROL,
    METRICS,
    RANDOM,
    finding,
    label_rows,
    title_of,
    title_of_use,
)
from scotoma.reporting.reading import has_unknown_keys
from scotoma.reporting.verdicts import find_verdicts, mark_of, name_pairs, nearest_tenth

ENCODERS = ("method", RANDOM)  # kinds of lines that are no control
DRAWN = ("roc", "confusion")
DECIDED = ("sensitivity", "specificity", "accuracy", "balanced_accuracy", "f1", "mcc")  # what a rule of decision makes of scores
KEYS = ("reference", "predicted", "fpr", "p_value", "p_holm", "threshold", "decision", "tp", "fp", "fn", "tn")
CELL = ["run", "target", "evaluator", "label", "reference", "metric", "class", "predicted", "fraction", "fpr", "decision"]
WIDEST = 7  # columns of a table
C = TypeVar("C")
RULES = {"threshold": "at the threshold", "argmax": "most probable"}


def select_test(rows: pd.DataFrame) -> pd.DataFrame:
    """Those about test images: a training writes rows about validation images under the same evaluators' names."""
    return rows[rows["split"] == "test"]


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
    found["kind"] = np.where(control, found["evaluator"], np.where(found["method"] == RANDOM, RANDOM, "method"))
    labels = label_rows(found, several)
    found["label"] = [title_of_use(e) if c else n for e, n, c in zip(found["evaluator"], labels, control, strict=True)]
    stated = found["threshold"].notna() & found["metric"].isin(DECIDED) & found["decision"].isna()
    found.loc[stated, "decision"] = "threshold"
    # the same control in two runs is one control
    found = found.drop_duplicates([c for c in found.columns if c != "run"])
    if len(found):
        alone = found.groupby(["target", "evaluator", "label"])["run"].transform("nunique") == 1
        found["label"] = found["label"].where(alone, found["label"] + ", " + found["run"])
    return _drop_negative(_over_draws(found))


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


def positive_class(found: pd.DataFrame, target: str) -> str:
    """The class whose metrics those of a classifier of two classes are; empty where there are more, or several findings.

    Classes stand in their order, of which the second is the positive one; where one alone has rows it is that.
    """
    names = list(dict.fromkeys(found.loc[(found["metric"] == "auroc") & found["class"].notna(), "class"]))
    classes = set(found.loc[found["metric"] == "confusion", "class"]) | set(names)
    return str(names[-1]) if names and len(classes) < 3 and "," not in target else ""


def _drop_negative(found: pd.DataFrame) -> pd.DataFrame:
    """The rows without those of the class that is not positive, where there are two: they mirror the other's."""
    positive = {target: positive_class(part, str(target)) for target, part in found.groupby("target", sort=False)}
    mirrored = [
        bool(positive[target]) and not missing(name) and name != positive[target]
        for target, name in zip(found["target"], found["class"], strict=True)
    ]
    return found[(found["metric"] == "confusion") | ~pd.Series(mirrored, found.index, dtype=bool)]


def target_view(found: pd.DataFrame, target: str, named: bool, sheets: Sheets) -> Table:
    """Tables and sentences about one target."""
    positive = finding(target, name) if (name := positive_class(found, target)) else ""
    whole = found[found["class"].isna()]
    auroc, differences = whole[whole["metric"] == "auroc"], whole[whole["metric"] == "auroc_difference"]
    classes = found[found["class"].notna() & ~found["metric"].isin(DRAWN)]
    used = auroc[auroc["kind"].isin(ENCODERS)]
    fractions = sorted(set((used if len(used) else auroc)["fraction"].dropna()))
    fraction = nearest_tenth(fractions)
    here = whole[is_same(whole["fraction"], fraction)]
    count = classes.loc[classes["metric"] == "auroc", "class"].nunique()
    several = count > 2 or (count > 1 and "," in target)  # of two classes the AUROC is one; of two findings it is their mean
    columns = [(f, head(f, auroc)) for f in sorted(auroc["fraction"].unique(), key=lambda f: (f != f, f))]
    own, beside = name_pairs(differences)
    calibration = [(m, (METRICS[m], "lower is better")) for m in CALIBRATION if m in set(here["metric"])]
    apart = ("auroc", "auroc_difference", *CALIBRATION, *DRAWN)
    other = [m for m in in_order(here["metric"]) if m not in apart]
    by_class = classes[is_same(classes["fraction"], fraction)]
    titles = list(dict.fromkeys(by_class["class"]))
    metric = "macro AUROC" if several else "AUROC"
    prefix = f"{target} " if named else ""
    each = "of each finding" if "," in target else "of each class against the rest"
    others, one = here[here["metric"].isin(other)], _one_threshold(here)
    view = {
        "name": target if named else "", "metric": metric, "fraction": fraction, "at": at(fraction), "positive": positive,
        "main": _table(sheets, f"{prefix}auroc", auroc, "fraction", columns, best=True),
        "differences": _table(sheets, f"{prefix}differences", own, "fraction", _compared(columns, own)),
        "beside": _table(sheets, f"{prefix}differences from other controls", beside, "fraction", _compared(columns, beside)),
        "others": _table(sheets, f"{prefix}other measures", *_by_rule(others, other), noted=one is None),
        "calibration": _table(sheets, f"{prefix}calibration errors", here, "metric", calibration),
        "classes": [
            (f"{title_of(m)} {each}" + (f", {RULES.get(rule, rule)}" if rule else ""), _table(
                sheets, f"{prefix}{m} {rule} by class".replace("  ", " "), part, "class", [(c, (c, "")) for c in titles]
            ))
            for m, rule, part in _each_rule(by_class) if len(titles) > 1 and not positive
        ],
    }  # fmt: skip
    view["ece_alone"] = bool(here.loc[here["metric"] == "ece", "low"].isna().any())
    view["rules"] = set(here["decision"].dropna())
    return view | {"compared": _compare(auroc, differences, fraction, view, several)}


def _one_threshold(rows: pd.DataFrame) -> float | None:
    """The threshold at which all were decided; None where there are several, or none is stated."""
    found = set(rows.loc[rows["decision"] == "threshold", "threshold"].dropna())
    return found.pop() if len(found) == 1 else None


def _compared(columns: list[tuple[Any, tuple[str, str]]], differences: pd.DataFrame) -> list[tuple[Any, tuple[str, str]]]:
    return [c for c in columns if c[0] in set(differences["fraction"])]


def _each_rule(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Metric, rule of decision ("" where none is stated) and rows, metrics in order."""
    rule = rows["decision"].fillna("")
    return [
        (m, r, rows[(rows["metric"] == m) & (rule == r)])
        for m in in_order(rows["metric"])
        for r in sorted(set(rule[rows["metric"] == m]), key=lambda r: [*RULES, r].index(r))
    ]


def _by_rule(rows: pd.DataFrame, metrics: list[str]) -> tuple[pd.DataFrame, str, list[tuple[Any, tuple[str, str]]]]:
    """The rows with a key of metric and rule of decision, its name, and the columns that show both."""
    keyed = rows.assign(use_order=rows["metric"] + "|" + rows["decision"].fillna(""))
    pairs = sorted(((m, r) for m, r, _ in _each_rule(rows) if m in metrics), key=lambda pair: ["", *RULES, pair[1]].index(pair[1]))
    words, one = dict(RULES), _one_threshold(rows)
    if one is not None:  # else it stands beneath each value
        words["threshold"] += f" of {decimals(one)}"
    columns = [(f"{m}|{r}", (title_of(m), words.get(r, r))) for m, r in pairs]
    return keyed, "use_order", columns


def _compare(auroc: pd.DataFrame, differences: pd.DataFrame, fraction: float, view: Table, several: bool) -> Table:
    """What the page's summary reports at one share of the labels: each method beside its controls."""
    values, pairs = (t.assign(use=t["evaluator"].where(t["kind"].isin(ENCODERS))) for t in (auroc, differences))
    findings = find_verdicts(values, pairs, fraction, chance=0.5)
    here = auroc[is_same(auroc["fraction"], fraction)]
    header = auroc[auroc["evaluator"] == "header"].sort_values("fraction", ascending=False).head(1)
    clear = header[header["low"] > 0.5]
    n, labels = format_greatest(here["n"]), format_greatest(here["labels"])
    scope = ", ".join(filter(None, [f"What follows holds for {n or 'the'} test images", view["at"]]))
    scope += f" (n = {labels} labelled training images)" if labels else ""
    measured = f", measured by the {view['metric']} (1 is perfect, 0.5 is chance)"
    of = f", for the class {view['positive']}" if view["positive"] else ""
    mean = " Macro: the plain mean over classes or findings." if several else ""
    return {
        "name": view["name"], "scope": f"{scope}{measured}{of}.{mean}" if view["at"] else "",
        "metric": view["metric"], "unit": "labels",
        "findings": findings, "warning": "" if clear.empty else _warn(clear.iloc[0]),
    }  # fmt: skip


def _warn(header: pd.Series) -> str:
    """A warning where image sizes and headers alone predict the target."""
    bounds = brackets(header)
    return (
        f"Image size and header facts alone, without one pixel, reach an AUROC of {point(header)}{f' {bounds}' if bounds else ''}: "
        "clearly more than chance. Part of what any classifier here does may be to recognise where or how an image was made rather "
        "than the finding. Check where the classes come from before trusting any number on this page."
    )


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


def format_greatest(column: pd.Series) -> str:
    """The greatest of some counts, as text; empty where none is known."""
    return f"{column.max():,.0f}" if column.notna().any() else ""


def _table(
    sheets: Sheets,
    name: str,
    found: pd.DataFrame,
    key: str,
    columns: Sequence[tuple[Any, tuple[str, str]]],
    best: bool = False,
    noted: bool = True,
) -> Table:
    """Values with intervals: one row per line, one column per value of ``key``; wide tables in pieces of like width.

    Args:
        sheets: to which the numbers go.
        name: of the sheet.
        found: the rows.
        key: by which they stand in columns.
        columns: values of the key, each with its head and what stands beneath it.
        best: whether the highest of each column is marked.
        noted: whether the threshold stands beneath each decision.
    """
    pieces, marks = [], set()
    sign = key == "fraction" and bool((found["metric"] == "auroc_difference").any())
    for part in split_evenly(columns, WIDEST):
        groups = []
        picked = [found[is_same(found[key], value)] for value, _ in part]
        for title, evaluators, mine in group_by_use(found):
            lines = []
            for label, kind in dict(zip(mine["label"], mine["kind"], strict=True)).items():
                rows = [_first(p[(p["label"] == label) & p["evaluator"].isin(evaluators)]) for p in picked]
                tops = [
                    best and r is not None and p["value"].count() > 1 and r["value"] == p["value"].max()
                    for r, p in zip(rows, picked, strict=True)
                ]
                cells = [
                    None if r is None else marked_cell(r, mark_of(r) if sign else "†" if top else "", sign, noted)
                    for r, top in zip(rows, tops, strict=True)
                ]
                marks |= {c["mark"] for c in cells if c and c["mark"]}
                if any(cells):
                    lines.append((kind != "method", label, cells))
            if lines:
                groups.append((title, [(label, cells) for _, label, cells in sorted(lines, key=lambda line: line[0])]))
        if groups:
            pieces.append({"heads": [head for _, head in part], "groups": groups})
    if not pieces:
        return {}
    kept = found[key].isna() if any(missing(v) for v, _ in columns) else pd.Series(False, index=found.index)
    sheet = sheets.add(name, found[kept | found[key].isin([v for v, _ in columns])])
    return {"pieces": pieces, "sheet": sheet, "marks": sorted(marks)}


def split_evenly(columns: Sequence[C], most: int) -> list[Sequence[C]]:
    """The columns in as few parts of at most so many as there can be, of like length."""
    count = -(-len(columns) // most)
    ends = [len(columns) * i // max(count, 1) for i in range(count + 1)]
    return [columns[a:b] for a, b in itertools.pairwise(ends)]


def marked_cell(row: pd.Series, mark: str, sign: bool, noted: bool = True) -> Table | None:
    """One number as the page prints it, with what stands beneath: p-values, the threshold, that it rests on few patients."""
    tests = [f"{word} {p_value(row[c])}" for word, c in (("p", "p_value"), ("Holm", "p_holm")) if not missing(row.get(c))]
    decided = noted and row["metric"] in DECIDED and not missing(row.get("threshold"))
    notes = [", ".join(tests), f"positive from {decimals(row['threshold'])}" if decided else ""]
    return cell(row.to_frame().T, sign, mark, [note for note in notes if note])


def head(fraction: float, rows: pd.DataFrame) -> tuple[str, str]:
    """What stands over a column: the share of the labels, and beneath how many these were."""
    labels = rows.loc[is_same(rows["fraction"], fraction), "labels"].max()
    return ("as trained" if fraction != fraction else f"{100 * fraction:g}\u00a0% of labels"), (
        f"n = {labels:,.0f}" if labels == labels else ""
    )


def headlines(rows: pd.DataFrame) -> pd.DataFrame:
    """The main metric of each model that predicts no class, on test images, with a ``label`` and its ``words``.

    Of a study, those with the most labels.
    """
    sections = plugins.modules("sections")
    kinds = {name: section.HEADLINE for name, section in sections.items() if hasattr(section, "HEADLINE")}
    kept = select_test(rows[rows["class"].isna() & rows["seed"].isna() & (rows["unit"].isna() | (rows["unit"] == "image"))])
    kept = pd.concat([kept.iloc[:0], *(kept[(kept["evaluator"] == e) & (kept["metric"] == m)] for e, (m, _) in kinds.items())])
    most = kept.groupby(["run", "evaluator"])["fraction"].transform("max")
    kept = kept[kept["fraction"].isna() | (kept["fraction"] == most)]
    kept = kept.assign(label=label_rows(kept, kept["encoder"].nunique() > 1), words=[kinds[e][1] for e in kept["evaluator"]])
    for name in (n for n in kinds if hasattr(sections[n], "name_uses")):
        kept.loc[kept["evaluator"] == name, "label"] = sections[name].name_uses(kept[kept["evaluator"] == name])
    return kept.assign(label=kept["label"] + ", " + kept["run"]) if kept["run"].nunique() > 1 else kept
