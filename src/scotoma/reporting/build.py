"""Run folders -> one self-contained ``report.html``, its tables as CSV, a model card and checklists.

Everything comes from ``config.yaml``, ``rows.jsonl``, ``metrics.csv``, ``figures/`` and the headers of the networks in the run
folders and in the run folders inside them; nothing is computed anew but means over label draws, and corruption errors of one run
relative to another's. The sentences stand in the templates, the drawings in ``figures.py``, the tables of sections in modules of
their own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from scotoma.errors import UsageError, notice
from scotoma.reporting import cohorts, figures, summary, svg, training
from scotoma.reporting.cells import interval, p_value, point
from scotoma.reporting.checklist import checklist
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.model_card import card, keep_edited
from scotoma.reporting.naming import SECTIONS, data_name, label_rows
from scotoma.reporting.origin import origins
from scotoma.reporting.page import templates
from scotoma.reporting.parts import find_parts
from scotoma.reporting.reading import Folder, describe_run, frame, images_of, mixed_protocols, read, units_of_page
from scotoma.reporting.results import find_classifiers, results, select_test, target_view
from scotoma.reporting.statements import facts
from scotoma.run_folder import withdrawal_sentence, withdrawn, write_atomically

FIRST = ("method", "random", "pixels", "header", "majority")  # kinds of lines that come first in the legend; others follow


def build(runs: list[Path], out: Path | None = None) -> Path:
    """Write one page about these runs: ``scotoma.report``, whose arguments and errors these are."""
    if not runs:
        raise UsageError("name at least one run folder")
    folders = read([Path(run) for run in runs])
    path = Path(out) if out else Path(runs[0]) / "report.html"
    prefix = "" if path.stem == "report" else f"{path.stem}_"
    rows = frame(folders)
    several = rows.loc[rows["evaluator"].isin(find_classifiers(rows)), "encoder"].nunique() > 1
    found, sheets = results(rows, several), Sheets(f"{prefix}tables")
    content = _content(folders, rows, found, several, sheets)
    environment = templates()
    environment.globals |= {"interval": interval, "point": point, "p_value": p_value, "units": units_of_page(rows)}
    beside = {"card": f"{prefix}model_card.md", "checklist": f"{prefix}checklist.md", "tables": f"{sheets.folder}/"}
    page = environment.get_template("page.html.jinja").render(**content, beside=beside)
    write_atomically(path, page)
    for text in content["withdrawn"]:
        notice("report", text)
    sheets.write(path)
    known = facts(folders, rows, found)
    keep_edited(path.with_name(beside["card"]), card(content["data"], folders, known, found, rows))
    keep_edited(path.with_name(beside["checklist"]), checklist(content["data"], known))
    return path


def _content(folders: list[Folder], rows: pd.DataFrame, found: pd.DataFrame, several: bool, sheets: Sheets) -> dict[str, Any]:
    """Everything that the page shows."""
    runs = [f for f in folders if f.top not in {g.top for g in folders[: folders.index(f)]}]
    curves = training.curves(folders, several)
    learned = [(label, table) for label, table in curves if table["effective_rank"].notna().any()]
    kinds = dict(zip(found["label"], found["kind"], strict=True))
    kinds = dict(sorted(kinds.items(), key=lambda item: next((i for i, k in enumerate(FIRST) if k == item[1]), len(FIRST))))
    style = svg.styles(kinds | {label: "method" for label, _ in curves if label not in kinds})
    counted = cohorts.cohorts(rows, sheets, {f.top for f in folders if f.config.get("allow_leakage")})
    whole = found[found["class"].isna()]
    auroc, targets = whole[whole["metric"] == "auroc"], list(dict.fromkeys(found["target"]))
    views = [target_view(found[found["target"] == t], t, len(targets) > 1, sheets) for t in targets]
    headline = views[0]["fraction"] if views else math.nan
    figures_of: dict[tuple[str, ...], Any] = {}
    for f in folders:
        for p in images_of(f):  # of several pretrainings by one method within a study those of the first
            once = f.top if f.path.name != f.top and f.config.get("command") == "pretrain" else str(f.path)
            figures_of.setdefault((once, p["title"], p["caption"]) if once == f.top else (once, str(len(figures_of))), p)
    images = list(figures_of.values())
    counts = {f.top: withdrawn(*(g.path for g in folders if g.top == f.top)) for f in runs}
    gone = [f"{top} {withdrawal_sentence(n)}" for top, n in counts.items() if n]
    results_of = ~rows["evaluator"].isin(["data", "pretrain", "cohort"])
    chosen_by, stateless = (_add_labels(rows[results_of & of], several) for of in (rows["split"] == "val", rows["split"].isna()))
    saved = {s: [p for p in images if p["section"] == s] for s in SECTIONS}
    tested = select_test(rows)
    parts = find_parts(tested, lambda some: _add_labels(some, several), saved, sheets)
    comparisons = [v["compared"] for v in views] + [
        {"name": "", **c} for part in parts for _, c in part.blocks if c.get("findings")
    ]
    summary.add_subjects(comparisons, folders)
    for found_here in (f for c in comparisons for f in c["findings"]):
        found_here["on"] = summary.tested_on(found_here["own"], rows)
    return {
        "data": ", ".join(dict.fromkeys(data_name(f.config) for f in runs)),
        "runs": [describe_run(f) for f in runs],
        "several_runs": len(runs) > 1,
        "unfinished": [f.top for f in runs if f.state == "running"],
        "cohorts": counted,
        "compositions": cohorts.compositions(rows, sheets),
        "few": cohorts.cautions(rows),
        "withdrawn": gone,
        "title": summary.title(comparisons, rows, [f.config for f in folders]),
        "comparisons": comparisons,
        "compares": any(f["random"] is not None for c in comparisons for f in c["findings"]),
        "headlines": summary.list_headlines(rows, comparisons),
        "once": not any(f["own"].get("pretrainings") and f["own"]["pretrainings"] > 1 for c in comparisons for f in c["findings"]),
        "untested": summary.untested(folders, rows),
        "contradictions": summary.find_contradictions(rows),
        "origins": origins(rows, tested=bool(found["kind"].eq("method").any())),
        "views": views,
        "draws": sorted({int(d) for d in tested.loc[tested["fraction"].notna(), "draws"].dropna()}),
        "curve": figures.auroc_by_labels(auroc, style),
        "roc": figures.roc_by_class(found[found["metric"] == "roc"], style, headline),
        "confusion": figures.confusions(found[found["metric"] == "confusion"], headline),
        "losses": svg.uri(figures.losses(curves, style)) if curves else "",
        "features": svg.uri(figures.features(learned, style)) if learned else "",
        "costs": training.costs(rows[rows["evaluator"] == "pretrain"], several, sheets),
        "images": saved,
        "evaluated": parts,
        "headings": [(part.id, part.heading, True) for part in parts],
        "by_intervals": any(g["by_intervals"] for c in comparisons for f in c["findings"] for g in f["as_good"]),
        "validated": training.validation_tables(chosen_by, sheets),
        "stateless": training.validation_tables(stateless, sheets, "of no stated set"),
        "protocols": mixed_protocols(found),
        "heads": {"probe", "zero"} <= set(found["protocol"].str.extract(r"'head': '(\w+)'")[0].dropna()),
        "paired": bool(tested["p_holm"].notna().any() or (found["metric"] == "auroc_difference").any()),
        "folders": [
            (f.top if f in runs else f"{f.top}: {f.path.name}", f.text)
            for f in folders
            if f in runs or f.config.get("command") == "pretrain"
        ],
    }


def _add_labels(rows: pd.DataFrame, several: bool) -> pd.DataFrame:
    """Rows about networks, each with a ``label``: the method's name, with the run's where several have the same."""
    found = rows.copy()
    names = label_rows(found, several) if len(found) else []
    found["label"] = [f"{name}, {run}" for name, run in zip(names, found["run"], strict=True)] if names else []
    alone = len(set(found["label"])) == len(set(names))
    return found.assign(label=names) if alone else found
