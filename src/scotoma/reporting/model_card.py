"""The model card, as Markdown beside the page; and how such a file is written without losing what a person filled in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scotoma.reporting.cells import interval, is_same, missing, plain, point
from scotoma.reporting.naming import title_of, title_of_use
from scotoma.reporting.provenance import networks, pixels
from scotoma.reporting.reading import Folder, describe_run
from scotoma.reporting.results import ENCODERS, headlines
from scotoma.run_folder import write_atomically

SHOWN = ("auroc", "average_precision", "balanced_accuracy", "brier", "ece")
MARK = "<!-- written by scotoma, "  # and a hash of all before it: a file in which it fits was not edited
OPEN = {
    "use": (
        "the decision that this model shall support, and who takes it",
        "patients, body parts, scanners and views for which it may be used, and those for which it may not",
        "what happens to a patient where it errs",
    ),
    "data": (
        "where and when the images were taken, who was included and who was left out",
        "who made the labels, how, and how far annotators agree",
        "consent or its waiver, ethical approval, de-identification",
    ),
    "limits": (
        "limits that only you know: known biases, changes of practice or scanners since",
        "how the model is monitored after deployment",
    ),
    "licence": ("licence of the model; the data, and public weights where training began with such, may bind it",),
}


def card(name: str, folders: Sequence[Folder], facts: Mapping[str, str], results: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The card: what the runs know, and open lines for what only the user knows.

    Args:
        name: of the data.
        folders: run folders, those that the user named and those in them.
        facts: sentences by key.
        results: one row per cell, as the page shows them.
        rows: all of them.
    """
    tops = [f for f in folders if f.top not in {g.top for g in folders[: folders.index(f)]}]
    lines = [
        f"# Model card: {plain(name)}",
        "",
        "Written from the run folder. Lines marked TO FILL need what only you know.",
        "",
    ]
    lines += ["## Model", "", *_list_facts(facts, "kind", "model", "start", "software", "ensembles"), ""]
    nets = [
        [n, s.get("timm_name"), s.get("method", {}).get("name"), s.get("image_size"), s.get("seed"), s.get("data")]
        for n, s in networks(folders)
    ]
    lines += _table(("File", "Network", "Method", "Pixels", "Seed", "Fingerprint of the training images"), nets)
    lines += ["## Intended use", "", *_open("use"), "- Research only: this is no medical device.", ""]
    lines += [
        "## Data",
        "",
        *_list_facts(facts, "counts", "exclusions", "composition", "split", "subsets", "missing", "outcome", "identity"),
        *_open("data"),
        "",
    ]
    lines += ["## How pixels were prepared", ""]
    lines += [f"- {plain(text)}" for text in dict.fromkeys(pixels(s) for _, s in networks(folders))] + [""]
    lines += ["## Training", ""]
    for folder in tops:
        lines += [f"- {plain(word)}: {plain(text)}" for word, text in describe_run(folder)["items"] if word != "Versions"]
        lines += [f"- Again: `{plain(describe_run(folder)['full'])}`"]
    lines += [*_list_facts(facts, "choice", "imbalance"), "", "## Results on test images", ""]
    lines += _figures(results, rows)
    lines += [*_list_facts(facts, "uncertainty", "updating", "robustness", "external"), ""]
    lines += [
        "## Thresholds",
        "",
        *(_list_facts(facts, "thresholds", "decisions") or ["- TO FILL: from which probability one acts"]),
        "",
    ]
    lines += ["## Subgroups", "", *(_list_facts(facts, "subgroups") or ["- TO FILL: not tested by subgroup"]), ""]
    lines += ["## Explanations", "", *(_list_facts(facts, "explanations") or ["- Not tested: show no maps as evidence."]), ""]
    lines += ["## Limits", "", *_list_facts(facts, "limits"), *_open("limits"), "", "## Licence", ""]
    lines += ["- Software: Scotoma, MIT licence.", *_open("licence")]
    return "\n".join(lines) + "\n"


def keep_edited(path: Path, text: str) -> Path:
    """Write a Markdown file; where a person edited the one that lies there, beside it as ``NAME.new.md``.

    Returns:
        The file that was written.
    """
    if path.exists():
        before, _, mark = path.read_text().rpartition(MARK)
        if not mark.startswith(_hash(before)):
            path = path.with_suffix(".new.md")
    write_atomically(path, f"{text}\n{MARK}{_hash(text + chr(10))} -->\n")
    return path


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _open(section: str) -> list[str]:
    return [f"- TO FILL: {question}" for question in OPEN[section]]


def _list_facts(facts: Mapping[str, str], *keys: str) -> list[str]:
    return [f"- {plain(facts[key])}" for key in keys if key in facts]


def _table(heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> list[str]:
    if not lines:
        return []
    shown = [["" if missing(cell) else plain(cell) for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *shown)] + [""]


def _figures(results: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Overall values at the greatest share of the labels, controls below."""
    whole = results[results["class"].isna() & results["metric"].isin(SHOWN)]
    if whole.empty:
        told = [
            [row["target"], row["label"], row["words"], point(row), interval(row), f"{row['n']:g}"]
            for _, row in headlines(rows).iterrows()
        ]
        heads = ("Target", "Method", "Measure", "Value", "Interval", "Images")
        return _table(heads, told) or ["- Not tested: no result on test images is among these runs.", ""]
    lines = []
    most = whole["fraction"].max() if whole["fraction"].notna().any() else float("nan")
    here = whole[is_same(whole["fraction"], most)].assign(order=whole["kind"] != "method").sort_values("order", kind="stable")
    for _, row in here.iterrows():
        use = title_of_use(row["evaluator"]) if row["kind"] in ENCODERS else "control"
        lines.append([row["target"], row["label"], use, title_of(row["metric"]), point(row), interval(row), f"{row['n']:g}"])
    return _table(("Target", "Method", "Use", "Measure", "Value", "Interval", "Images"), lines)
