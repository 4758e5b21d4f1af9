"""Run folders -> one self-contained ``report.html``.

Everything on the page comes from ``config.yaml``, ``rows.jsonl``, ``metrics.csv`` and ``figures/`` of the run folders and of the run
folders inside them; nothing is computed anew but means over label draws that a run did not write. The words stand in
``page.html.jinja``, the drawings in ``figures.py``.
"""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scotoma.errors import UsageError
from scotoma.report import figures
from scotoma.run import read_config, read_rows, status, write_atomically

NAMES = {
    "simclr": "SimCLR", "mae": "MAE", "moco_v1": "MoCo v1", "moco_v2": "MoCo v2", "simsiam": "SimSiam", "byol": "BYOL", "dino": "DINO",
    "msn": "MSN", "simmim": "SimMIM", "ijepa": "I-JEPA", "vicreg": "VICReg", "lejepa": "LeJEPA", "msmae": "MSMAE",
    "intelligent_masking": "Intelligent masking", "autoencoder": "Autoencoder", "context_encoder": "Context encoder",
    "proxy": "Proxy tasks", "supervised": "Supervised", "random": "Random weights",
}  # fmt: skip
USES = {
    "linear": ("Linear classifier on the frozen encoder", "a linear classifier on the frozen encoder"),
    "finetune": ("Fine-tuned network", "the fine-tuned network"),
    "knn": ("Nearest neighbours in the frozen encoder's features", "a nearest-neighbour classifier on the frozen encoder"),
    "metrics": ("Trained classifier", "the trained classifier"),
}
CONTROLS = {
    "pixels": "Pixels alone (32 px, PCA, logistic regression)",
    "header": "Image size and header facts alone",
    "majority": "Majority class",
}
METRICS = {
    "auroc": "AUROC", "balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy", "average_precision": "Average precision", "f1": "F1",
    "mcc": "Matthews correlation", "sensitivity": "Sensitivity", "specificity": "Specificity", "brier": "Brier score",
    "ece": "Calibration error (ECE)",
}  # fmt: skip
CALIBRATION = ("brier", "ece")
COSTS = {
    "images_seen": ("Pictures seen", lambda v: f"{v:,.0f}"),
    "steps": ("Steps", lambda v: f"{v:,.0f}"),
    "seconds": ("Time", lambda v: _duration(v)),
    "images_per_second": ("Pictures per second", lambda v: f"{v:,.0f}"),
    "peak_memory_bytes": ("Peak memory", lambda v: f"{v / 2**30:,.2f} GiB"),
    "parameters": ("Parameters", lambda v: f"{v / 1e6:,.1f} million"),
    "loss": ("Last loss", lambda v: f"{v:.4g}"),
    "feature_spread": ("Feature spread", lambda v: f"{v:.2f}"),
    "effective_rank": ("Effective rank", lambda v: f"{v:.1f}"),
}
TEXT = ("evaluator", "metric", "split", "target", "class", "predicted", "method", "encoder", "protocol", "reference")
NUMBERS = ("value", "low", "high", "n", "fraction", "seed", "labels", "draws", "p_value", "p_holm", "fpr")
CELL = ["run", "target", "evaluator", "label", "reference", "metric", "class", "predicted", "fraction", "fpr"]
Table = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """A run folder as it lies on the disk; ``top`` names the folder the user gave, of which this is a part."""

    path: Path
    top: str
    config: dict[str, Any]
    text: str
    state: str | None
    rows: list[dict[str, Any]]


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
    folders = _read([Path(run) for run in runs])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html.jinja").render(**_content(folders))
    path = Path(out) if out else Path(runs[0]) / "report.html"
    write_atomically(path, page)
    return path


def _read(runs: Sequence[Path]) -> list[Folder]:
    """The runs and the runs inside them, each once."""
    found: dict[Path, Folder] = {}
    names = [run.resolve().name for run in runs]
    for run, name in zip(runs, names, strict=True):
        if not (run / "config.yaml").is_file():
            raise UsageError(f"{run} is no run folder: it has no config.yaml")
        top = name if names.count(name) == 1 else f"{run.resolve().parent.name}/{name}"
        before = len(found)
        for file in sorted(run.rglob("config.yaml"), key=lambda f: (len(f.parts), f)):
            folder, path = file.parent, file.parent.resolve()
            if path in found:
                before = -1
                continue
            try:
                rows = [row for row in read_rows(folder) if isinstance(row, dict)]
            except ValueError as error:
                raise UsageError(f"{folder / 'rows.jsonl'} is damaged ({error}): repeat the run") from error
            found[path] = Folder(folder, top, read_config(folder), file.read_text(), status(folder), rows)
        own = list(found.values())[max(before, 0) :]
        if before >= 0 and not any(f.rows or list(f.path.glob("figures/*.png")) or (f.path / "metrics.csv").exists() for f in own):
            raise UsageError(f"{run} holds no results yet: run it first, or go on with it by --resume")
    return list(found.values())


def _content(folders: list[Folder]) -> dict[str, Any]:
    """Everything that the page shows."""
    rows = _frame(folders)
    several = rows.loc[rows["evaluator"].isin(USES), "encoder"].nunique() > 1
    found = _results(rows, several)
    runs = [f for f in folders if f.top not in {g.top for g in folders[: folders.index(f)]}]
    curves = _curves(folders, several)
    kinds = dict(zip(found["label"], found["kind"], strict=True))
    order = ("method", "random", "pixels", "header", "majority")
    kinds = {label: kind for kind in order for label, k in kinds.items() if k == kind}
    style = figures.styles(kinds | {label: "method" for label, _ in curves if label not in kinds})
    whole = found[found["class"].isna()]
    auroc, views = whole[whole["metric"] == "auroc"], []
    for target in dict.fromkeys(found["target"]):
        views.append(_target(found[found["target"] == target], target, [target] != list(dict.fromkeys(found["target"]))))
    headline = views[0]["fraction"] if views else math.nan
    pictures = [p for folder in folders for p in _pictures(folder)]
    shown = set(USES) | set(CONTROLS) | {"data", "pretrain"}
    return {
        "data": ", ".join(dict.fromkeys(_data_name(f.config) for f in runs)),
        "runs": [_asked(f) for f in runs],
        "several_runs": len(runs) > 1,
        "unfinished": [f.top for f in runs if f.state == "running"],
        "cohorts": _cohorts(rows),
        "unreadable": sum(rows.loc[(rows["evaluator"] == "data") & (rows["metric"] == "unreadable"), "value"].dropna()),
        "views": views,
        "metric": views[0]["metric"] if views else "",
        "at": _at(headline),
        "draws": sorted({int(d) for d in whole["draws"].dropna()}),
        "curve": _curve_figures(auroc, style),
        "roc": _roc_figures(found[found["metric"] == "roc"], style),
        "confusion": _confusion_figures(found[found["metric"] == "confusion"], headline),
        "losses": _uri(figures.losses(curves, style)) if curves else "",
        "features": _uri(figures.features(learned, style)) if (learned := [c for c in curves if c[1]["effective_rank"].notna().any()]) else "",
        "costs": _costs(rows[rows["evaluator"] == "pretrain"], several),
        "pictures": {s: [p for p in pictures if p["section"] == s] for s in ("data", "pretraining", "features", "results")},
        "protocols": sorted(str(e) for e, p in found.groupby("evaluator")["protocol"].nunique().items() if p > 1),
        "left_out": sorted(set(rows["evaluator"].dropna()) - shown),
        "paired": bool((found["metric"] == "auroc_difference").any()),
        "folders": [{"name": f"{f.top}: {f.path.name}" if f not in runs else f.top, "text": f.text} for f in folders if _notable(f, runs)],
    }


def _frame(folders: Iterable[Folder]) -> pd.DataFrame:
    """All rows as a table of the known keys, text as text and numbers as numbers; repeated rows once."""
    rows = pd.DataFrame([{**row, "run": f.top} for f in folders for row in f.rows], columns=["run", *TEXT, *NUMBERS])
    for name in TEXT:
        rows[name] = pd.Series([None if _missing(v) else str(v) for v in rows[name]], dtype=object, index=rows.index)
    for name in NUMBERS:
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    return rows.drop_duplicates(ignore_index=True)


def _results(rows: pd.DataFrame, several: bool) -> pd.DataFrame:
    """Rows about classifiers on test pictures, one a cell, with a ``label`` and the ``kind`` of each line."""
    found = rows[rows["evaluator"].isin([*USES, *CONTROLS])]
    test = found[found["split"].isna() | (found["split"] == "test")]
    found = (test if len(test) else found).copy()
    control = found["evaluator"].isin(CONTROLS)
    found.loc[control, ["method", "encoder"]] = None
    found["target"] = found["target"].fillna("")
    found["kind"] = np.where(control, found["evaluator"], np.where(found["method"] == "random", "random", "method"))
    found["label"] = [
        CONTROLS.get(e) or _label(m, n, several) for e, m, n in zip(found["evaluator"], found["method"], found["encoder"], strict=True)
    ]
    found = found.drop_duplicates([c for c in found.columns if c != "run"])  # the same control in two runs is one control
    runs = found.groupby(["target", "evaluator", "label"])["run"].transform("nunique") if len(found) else 0
    found["label"] = found["label"].where(runs == 1, found["label"] + ", " + found["run"])
    return _over_draws(found)


def _over_draws(found: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: the mean over draws as the run wrote it; else the only draw; else the draws' mean, without an interval."""
    means, drawn = found[found["seed"].isna()], found[found["seed"].notna()]
    # a mean without an interval yields to the only draw, which has one
    means = means.sort_values("low", na_position="first", kind="stable").drop_duplicates(CELL, keep="last").sort_index()
    if drawn.empty:
        return means
    groups = drawn.drop_duplicates([*CELL, "seed"], keep="last").groupby(CELL, dropna=False, sort=False)
    single = groups.first().assign(value=groups["value"].mean(), draws=groups.size())
    single.loc[single["draws"] > 1, ["low", "high"]] = math.nan
    return pd.concat([means, single.reset_index()[means.columns]], ignore_index=True).drop_duplicates(CELL, ignore_index=True)


def _target(found: pd.DataFrame, target: str, named: bool) -> Table:
    """Tables and sentences about one target."""
    whole = found[found["class"].isna()]
    auroc, differences = whole[whole["metric"] == "auroc"], whole[whole["metric"] == "auroc_difference"]
    classes = found[found["class"].notna() & found["metric"].isin(METRICS)]
    used = auroc[auroc["evaluator"].isin(USES)]
    fractions = sorted(set((used if len(used) else auroc)["fraction"].dropna()))
    fraction = min(fractions, key=lambda f: abs(math.log(f / 0.1)), default=math.nan)
    here = whole[_same(whole["fraction"], fraction)]
    several = classes.loc[classes["metric"] == "auroc", "class"].nunique() > 1
    columns = [(f, _head(f, auroc)) for f in sorted(auroc["fraction"].unique(), key=lambda f: (f != f, f))]
    labels = differences["label"] + " − " + differences["reference"].map(lambda r: NAMES.get(r, r), na_action="ignore").fillna("reference")
    other = [m for m in METRICS if m in set(here["metric"]) and m != "auroc" and m not in CALIBRATION]
    per_class = classes[_same(classes["fraction"], fraction)]
    names = list(dict.fromkeys(per_class["class"]))
    metric = "macro AUROC" if several else "AUROC"
    view = {
        "name": target if named else "", "metric": metric, "fraction": fraction, "at": _at(fraction),
        "main": _table(auroc, "fraction", columns, best=True),
        "differences": _table(differences.assign(label=labels), "fraction", [c for c in columns if c[0] in set(differences["fraction"])]),
        "others": _table(here, "metric", [(m, (METRICS[m], "")) for m in other]),
        "calibration": _table(here, "metric", [(m, (METRICS[m], "lower is better")) for m in CALIBRATION if m in set(here["metric"])]),
        "classes": [
            (METRICS[m], _table(per_class[per_class["metric"] == m], "class", [(c, (c, "")) for c in names]))
            for m in METRICS if m in set(per_class["metric"])
        ],
    }  # fmt: skip
    return view | _findings(auroc, differences, fraction, metric)


def _findings(auroc: pd.DataFrame, differences: pd.DataFrame, fraction: float, metric: str) -> Table:
    """What the numbers say, one finding a method and use: a verdict, and the sentence that supports it."""
    here = auroc[_same(auroc["fraction"], fraction)]
    pixels, findings = here[here["evaluator"] == "pixels"], []
    for _, own in here[here["kind"] == "method"].iterrows():
        mine = auroc[(auroc["kind"] == "random") & (auroc["evaluator"] == own["evaluator"]) & _same(auroc["encoder"], own["encoder"])]
        random = mine[_same(mine["fraction"], fraction)]
        all_differences = differences[
            (differences["label"] == own["label"]) & (differences["evaluator"] == own["evaluator"]) & (differences["reference"] == "random")
        ]
        paired = all_differences[_same(all_differences["fraction"], fraction)]
        use = USES[own["evaluator"]][1]
        verdicts, sentences = [], []
        if len(paired):
            difference = paired.iloc[0]
            won = _sign(difference)
            verdicts.append({1: "better than random weights", -1: "worse than random weights"}.get(won, "did not beat random weights"))
            move = {1: "raised", -1: "lowered"}.get(won, "changed")
            values = f"from {_n(random.iloc[0]['value'])} to {_n(own['value'])}" if len(random) else f"to {_n(own['value'])}"
            zero = ", which includes zero" if won == 0 else ""
            sentences.append(
                f"Pretraining {move} the {metric} of {use} {values} (difference {_n(difference['value'], sign=True)}{_words(difference, True)}{zero})."
            )
            if len(all_differences) > 1:
                signs = [_sign(d) for _, d in all_differences.iterrows()]
                sentences.append(
                    f"Over the {len(signs)} shares of labels tried: better than random weights at {signs.count(1)}, no clear difference "
                    f"at {signs.count(0)}, worse at {signs.count(-1)}."
                )
        else:
            sentences.append(f"The {metric} of {use} was {_n(own['value'])}{_words(own)}.")
            verdicts.append("difference from random weights not tested" if len(random) else "no random-weights control was run")
            if len(random):
                sentences.append(f"With random weights it was {_n(random.iloc[0]['value'])}{_words(random.iloc[0])}.")
        if len(pixels):
            pixel = pixels.iloc[0]
            control = f"the control that sees only 32-pixel thumbnails reached {_n(pixel['value'])}{_words(pixel)}"
            if not own["value"] > pixel["value"]:
                verdicts.append("did not beat the pixel control")
                sentences.append(f"No better than pixels: {control}.")
            elif own["low"] > pixel["high"]:
                verdicts.append("above the pixel control")
                sentences.append(f"For comparison, {control}.")
            else:
                verdicts.append("not clearly above the pixel control")
                sentences.append(f"For comparison, {control}; the two intervals overlap or are not known.")
        findings.append({"label": own["label"], "use": USES[own["evaluator"]][0], "verdict": "; ".join(verdicts), "text": " ".join(sentences)})
    header = auroc[auroc["evaluator"] == "header"].sort_values("fraction").tail(1)
    counts = [int(v) for v in (here["n"].max(), here["labels"].max()) if v == v] if len(here) else []
    warning = f"{_n(header.iloc[0]['value'])}{_words(header.iloc[0])}" if len(header) and header.iloc[0]["low"] > 0.5 else ""
    known = len(here) and here["labels"].notna().any()
    return {"findings": findings, "header": warning, "n": counts[0] if len(counts) > known else None, "labels": counts[-1] if known else None}


def _table(found: pd.DataFrame, key: str, columns: Sequence[tuple[Any, tuple[str, str]]], best: bool = False) -> list[Table]:
    """Values with intervals: a row a line, a column a value of ``key``; wide tables in pieces of six columns."""
    pieces = []
    sign = key == "fraction" and bool((found["metric"] == "auroc_difference").any())
    for start in range(0, len(columns), 6):
        part, groups = columns[start : start + 6], []
        picked = [found[_same(found[key], value)] for value, _ in part]
        for title, evaluators in [*((USES[u][0], [u]) for u in USES), ("Controls that use no encoder", list(CONTROLS))]:
            mine = found[found["evaluator"].isin(evaluators)]
            lines = []
            for label, kind in dict(zip(mine["label"], mine["kind"], strict=True)).items():
                rows = [p[(p["label"] == label) & p["evaluator"].isin(evaluators)] for p in picked]
                if any(len(r) for r in rows):
                    tops = [best and len(r) and r.iloc[0]["value"] == p["value"].max() for r, p in zip(rows, picked, strict=True)]
                    cells = [_cell(r.iloc[0], bool(top), sign) if len(r) else None for r, top in zip(rows, tops, strict=True)]
                    lines.append((kind != "method", label, cells))
            if lines:
                groups.append((title, [(label, cells) for _, label, cells in sorted(lines, key=lambda line: line[0])]))
        if groups:
            pieces.append({"heads": [head for _, head in part], "groups": groups})
    return pieces


def _cell(row: pd.Series, best: bool, sign: bool) -> Table:
    """One number as the page prints it."""
    note = " ".join(f"{word} {_p(row[c])}" for word, c in (("p", "p_value"), ("Holm", "p_holm")) if row[c] == row[c])
    interval = f"[{_n(row['low'], sign=sign)}, {_n(row['high'], sign=sign)}]" if row["low"] == row["low"] else ""
    mark = {1: "▲", -1: "▼", 0: "○"}[_sign(row)] if sign else "†" if best else ""
    return {"value": _n(row["value"], sign=sign), "interval": interval, "note": note, "mark": mark}


def _curve_figures(auroc: pd.DataFrame, style: dict[str, figures.Style]) -> list[str]:
    panels, targets = [], list(dict.fromkeys(auroc["target"]))
    rows = auroc.dropna(subset=["fraction", "value"])
    for target in targets:
        mine = rows[rows["target"] == target]
        for use in [u for u in USES if u in set(mine["evaluator"])]:
            shown = mine[mine["evaluator"].isin([use, *CONTROLS])]
            if shown["fraction"].nunique() > 1:
                panels.append((f"{target}: {USES[use][0]}" if len(targets) > 1 else USES[use][0], shown))
    return [_uri(figures.curve(panels[i : i + 6], style, "AUROC")) for i in range(0, len(panels), 6)]


def _roc_figures(rows: pd.DataFrame, style: dict[str, figures.Style]) -> list[Table]:
    found = []
    for fraction in sorted(rows["fraction"].unique(), key=lambda f: (f != f, f)):
        here = rows[_same(rows["fraction"], fraction)]
        for use in [u for u in USES if u in set(here["evaluator"])]:
            shown = here[here["evaluator"].isin([use, *CONTROLS])]
            keys = list(dict.fromkeys(zip(shown["target"], shown["class"], strict=True)))
            panels = [(str(c or t), shown[(shown["target"] == t) & _same(shown["class"], c)]) for t, c in keys]
            for i in range(0, len(panels), 9):
                found.append({"use": USES[use][0], "at": _at(fraction), "uri": _uri(figures.roc(panels[i : i + 9], style))})
    return found


def _confusion_figures(rows: pd.DataFrame, headline: float) -> list[Table]:
    found = []
    for use in [u for u in [*USES, *CONTROLS] if u in set(rows["evaluator"])]:
        mine = rows[rows["evaluator"] == use]
        fraction = headline if _same(mine["fraction"], headline).any() else mine["fraction"].max()
        here = mine[_same(mine["fraction"], fraction)]
        panels = []
        for (target, label), one in here.groupby(["target", "label"], sort=False):
            names = list(dict.fromkeys([*one["class"], *one["predicted"]]))
            square = one.pivot_table(index="class", columns="predicted", values="value").reindex(index=names, columns=names).fillna(0)
            panels.append((f"{target}: {label}" if here["target"].nunique() > 1 else str(label), square))
        found.append({"use": USES.get(use, (CONTROLS.get(use),))[0], "at": _at(fraction), "uri": _uri(figures.confusion(panels))})
    return found


def _curves(folders: Iterable[Folder], several: bool) -> list[tuple[str, pd.DataFrame]]:
    """Loss curves of the pretraining runs, and of any run that was named itself."""
    found: list[tuple[str, pd.DataFrame]] = []
    for folder in folders:
        file = folder.path / "metrics.csv"
        if file.exists() and (folder.config.get("command") == "pretrain" or folder.path.name == folder.top):
            table = pd.read_csv(file).reindex(columns=["step", "loss", "feature_spread", "effective_rank"]).apply(pd.to_numeric, errors="coerce")
            label = _label(folder.config.get("method") or folder.path.name, folder.config.get("encoder"), several)
            taken = [name for name, _ in found]
            found.append((label if label not in taken else f"{label}, {folder.path.name} ({len(found) + 1})", table))
    return [(label, table) for label, table in found if table["loss"].notna().any()]


def _costs(rows: pd.DataFrame, several: bool) -> Table:
    """What each pretraining run took and gave."""
    lines: dict[str, dict[str, float]] = {}
    extra = [c for c in ("run", "fraction", "seed") if rows[c].nunique() > 1]
    for _, row in rows.iterrows():
        words = [f"{c} {row[c]:g}" if c != "run" else row[c] for c in extra if not _missing(row[c])]
        label = ", ".join([_label(row["method"], row["encoder"], several), *words])
        lines.setdefault(label, {})[row["metric"]] = row["value"]
    columns = [c for c in COSTS if any(c in line and line[c] == line[c] for line in lines.values())]
    cells = {label: [COSTS[c][1](v) if (v := line.get(c, math.nan)) == v else "–" for c in columns] for label, line in lines.items()}
    return {"heads": list(cells), "lines": [(COSTS[c][0], [cell[i] for cell in cells.values()]) for i, c in enumerate(columns)]}


def _cohorts(rows: pd.DataFrame) -> list[Table]:
    """Pictures, patients and classes in each split, a table a run; equal tables once."""
    found: list[Table] = []
    data = rows[(rows["evaluator"] == "data") & rows["metric"].isin(["images", "patients"]) & rows["split"].notna()]
    for _, mine in data.groupby("run", sort=False):
        known = [s for s in ("train", "val", "test") if s in set(mine["split"])]
        splits = known + [s for s in dict.fromkeys(mine["split"]) if s not in known]
        several, lines = mine.loc[mine["class"].isna(), "target"].nunique() > 1, []
        pictures = mine[(mine["metric"] == "images") & mine["class"].isna()].drop_duplicates("split", keep="last").set_index("split")["value"]
        mine = mine.assign(target=mine["target"].where(several | mine["class"].notna()), order=mine["class"].notna())
        for (order, metric, target, name), part in mine.sort_values("order", kind="stable").groupby(
            ["order", "metric", "target", "class"], dropna=False, sort=False
        ):
            counts = part.drop_duplicates("split", keep="last").set_index("split")["value"]
            cells = [_count(counts.get(s), pictures.get(s) if order and metric == "images" else None) for s in splits]
            words = {"images": "Pictures", "patients": "Patients"}[metric]
            label = f"{name} ({words.lower()})" if order else words if _missing(target) else f"{words}, {target}"
            lines.append({"label": label, "class": bool(order), "cells": cells})
        table = {"splits": splits, "lines": lines}
        if table not in found:
            found.append(table)
    return found


def _pictures(folder: Folder) -> list[Table]:
    """The figures that a run saved, with the words that stand beside them."""
    found = []
    for file in sorted((folder.path / "figures").glob("*.png")):
        try:
            words = json.loads(file.with_suffix(".json").read_text())
        except (OSError, ValueError):
            words = {}
        words = words if isinstance(words, dict) else {}
        section = words.get("section")
        found.append({
            "title": str(words.get("title") or file.stem), "caption": str(words.get("caption") or ""),
            "section": section if section in ("data", "pretraining", "features") else "results",
            "uri": "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode(),
        })  # fmt: skip
    return found


def _asked(folder: Folder) -> Table:
    """What the user asked of a run, and the commands that repeat it."""
    config, items = folder.config, []
    known = {"command": "Verb", "data": "Data", "target": "Target", "method": "Method", "methods": "Methods", "fractions": "Shares of labels",
             "label_fraction": "Share of labels", "seeds": "Label draws", "seed": "Seed", "encoder": "Encoder", "image_size": "Picture size",
             "size": "Picture size", "steps": "Steps", "epochs": "Epochs", "minutes": "Minutes"}  # fmt: skip
    for key, word in known.items():
        if not _missing(value := config.get(key)):
            listed = value if isinstance(value, list) else [value]
            shown = [NAMES.get(str(v), str(v)) if key in ("method", "methods") else str(v) for v in listed]
            shown = [f"{100 * v:g} %" for v in listed] if "fraction" in key and all(isinstance(v, int | float) for v in listed) else shown
            items.append((word, ", ".join(shown) + (" pixels" if word == "Picture size" and len(shown) == 1 else "")))
    record = yaml.safe_load(folder.text)
    for key in ("hardware", "versions"):
        if isinstance(found := record.get(key), dict):
            text = ", ".join(f"{k} {', '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in found.items() if v not in (None, [], ""))
            items.append((key.capitalize(), text))
    verb = str(config.get("command", "VERB"))
    again = ["scotoma", verb, "--config", str(folder.path / "config.yaml"), "--out", "NEW_FOLDER"]
    return {"name": folder.top, "verb": verb, "items": items, "again": shlex.join(again), "full": shlex.join(["scotoma", verb, *_flags(config)])}


def _flags(config: dict[str, Any], prefix: str = "") -> list[str]:
    """A configuration as the flags that the user could have typed."""
    found: list[str] = []
    for key, value in config.items():
        name = prefix + str(key).removesuffix("_args")
        if _missing(value) or value is False or (not prefix and key in ("command", "out", "overwrite", "resume", "resolved")):
            continue
        if isinstance(value, dict):
            found += _flags(value, name + ".")
        elif value is True:
            found.append(f"--{name}")
        else:
            found += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return found


def _notable(folder: Folder, runs: Sequence[Folder]) -> bool:
    return folder in runs or folder.config.get("command") == "pretrain"


def _label(method: Any, encoder: Any, several: bool) -> str:
    name = "no method" if _missing(method) else NAMES.get(str(method), str(method))
    return f"{name} ({encoder})" if several and not _missing(encoder) else name


def _data_name(config: dict[str, Any]) -> str:
    """The data in a word: a table called ``table.csv`` goes by its folder's name."""
    data = config.get("data")
    if _missing(data):
        return "unnamed data"
    path = Path(str(data))
    return path.parent.name or str(data) if path.stem in ("table", "data", "labels", "index", "store") else path.stem if path.suffix else path.name


def _head(fraction: float, rows: pd.DataFrame) -> tuple[str, str]:
    labels = rows.loc[_same(rows["fraction"], fraction), "labels"].max()
    return ("as trained" if fraction != fraction else f"{100 * fraction:g} % of labels"), (f"n = {labels:,.0f}" if labels == labels else "")


def _at(fraction: float) -> str:
    return "" if fraction != fraction else "with all labels" if fraction == 1 else f"with {100 * fraction:g} % of the labels"


def _sign(row: pd.Series) -> int:
    """1 or -1 where the interval lies on one side of zero, otherwise 0."""
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


def _same(column: pd.Series, value: Any) -> pd.Series:
    """Equality where missing equals missing."""
    return column.isna() if _missing(value) else column == value


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _n(value: float, digits: int = 3, sign: bool = False) -> str:
    return "–" if value != value else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _words(row: pd.Series, sign: bool = False) -> str:
    interval = f"95 % interval {_n(row['low'], sign=sign)} to {_n(row['high'], sign=sign)}" if row["low"] == row["low"] else ""
    return (f", {interval}" if sign else f" ({interval})") if interval else ""


def _count(value: float | None, of: float | None) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:,.0f}" + (f" ({100 * value / of:.0f} %)" if of else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
