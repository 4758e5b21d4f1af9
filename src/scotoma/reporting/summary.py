"""The page's title and summary: what each model reached, beside which controls, on how many images; and what was not tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from scotoma.reporting.cells import Table, interval, missing, point
from scotoma.reporting.naming import label_of, method_of
from scotoma.reporting.provenance import describe_training
from scotoma.reporting.reading import UNKNOWN_UNITS, Folder
from scotoma.reporting.results import find_classifiers, headlines, select_test

OF_ENCODERS = ("linear", "linear_sgd", "knn", "retrieval")  # evaluators that test an encoder, not a model trained to the end
MODELS = {"segmentation": "segmenter", "regression": "model of numbers"}
SAME = 0.0005  # values of one thing that differ by more are two


def title(comparisons: Sequence[Table], rows: pd.DataFrame, configs: Sequence[dict[str, object]]) -> str:
    """What the page shows, in a few words that fit what was run."""
    findings = [f for c in comparisons for f in c["findings"]]
    if any(f["random"] is not None or f["difference"] is not None for f in findings):
        return "What pretraining was worth"
    tested = select_test(rows[~rows["evaluator"].isin(["data", "extrapolation"])])
    others = tested[tested["evaluator"] != "retrieval"]
    tested = others if len(others) else tested
    classified = {e for e in find_classifiers(rows) if (tested.loc[tested["evaluator"] == e, "method"] != "control").any()}
    kinds = {MODELS.get(e) or ("encoder" if e in OF_ENCODERS else "classifier") for e in tested["evaluator"]}
    kinds -= {"classifier"} if not classified - {*OF_ENCODERS} and kinds & {"encoder", *MODELS.values()} else set()
    if len(kinds) > 1:
        return "How well the models do"
    if kinds:
        return f"How well the {kinds.pop()} does"
    if any(c.get("command") == "finetune" for c in configs):
        return f"How the {describe_training(configs).partition(' ')[2]} was trained"
    return "What the pretraining did"


def add_subjects(comparisons: Sequence[Table], folders: Sequence[Folder]) -> None:
    """Give each finding its subject: of a study that pretrained a method once it is this one pretraining, not the method."""
    studies = {f.top: f.config for f in folders if f.config.get("command") == "study"}
    made = Counter((f.top, str(method_of(f.config))) for f in folders if f.config.get("command") == "pretrain")
    for finding in (f for c in comparisons for f in c["findings"]):
        config = studies.get(finding["run"], {})
        own = finding["method"] in (config.get("methods") or [])
        once = own and int(config.get("pretrainings") or 1) == 1 and made[finding["run"], finding["method"]] < 2
        use = finding["use"].removeprefix("the ")
        finding["use"] = use
        finding["subject"] = f"This one pretraining of {finding['label']}" if once else finding["label"]


def list_headlines(rows: pd.DataFrame, comparisons: Sequence[Table]) -> list[Table]:
    """What models of masks and of numbers reached, those that the comparisons do not show."""
    compared = {(f["run"], f["own"]["evaluator"]) for c in comparisons for f in c["findings"]}
    found = []
    for _, row in headlines(rows).iterrows():
        if (row["run"], row["evaluator"]) in compared and not missing(row["fraction"]):
            continue
        note = "1 is perfect, 0 is none" if row["metric"] == "dice" else ""
        beside = select_test(rows[(rows["run"] == row["run"]) & (rows["metric"] == f"{row['metric']}_of_mean")])
        if len(beside):
            mean = beside.iloc[0]
            note = f"Always predicting the mean of the training images errs by {point(mean)} ({interval(mean)})"
        found.append({"label": row["label"], "words": row["words"], "row": row, "on": tested_on(row, rows), "note": note})
    return found


def tested_on(row: pd.Series, rows: pd.DataFrame) -> str:
    """On how many images a value rests, and of how many patients where that is known."""
    if missing(row["n"]):
        return "test images"
    tested = rows[(rows["run"] == row["run"]) & (rows["evaluator"] == "data") & (rows["metric"] == "tested")]
    tested = tested[(tested["value"] == row["n"]) & tested["patients"].notna()]
    units = row["patients"] if not missing(row["patients"]) else tested["patients"].iloc[-1] if len(tested) else None
    whose = str(row.get("whose"))
    of = f" of {units:,.0f} {whose}" if whose != UNKNOWN_UNITS and units is not None and units != row["n"] else ""
    return f"{row['n']:,.0f} test images{of}"


def untested(folders: Sequence[Folder], rows: pd.DataFrame) -> list[str]:
    """Models that were trained and of whose target no row is about test images, each in a sentence."""
    tested = set(select_test(rows[rows["method"].notna()])["target"].dropna())
    found = []
    for folder in folders:
        targets = folder.config.get("target") or []
        if folder.config.get("command") == "finetune" and targets and not {",".join(targets), *targets} & tested:
            model = describe_training([folder.config]).partition(" ")[2]
            found.append(
                f"Not tested: the {model} of {', '.join(targets)} ({folder.top}). What it reached on its validation images stands "
                "under “Training”; these chose its settings, so it flatters."
            )
    return found


def find_contradictions(rows: pd.DataFrame) -> list[str]:
    """One thing with two values: the AUROC of one classifier as several evaluators of one run state it, in a sentence each."""
    whole = select_test(rows[rows["class"].isna() & rows["seed"].isna() & rows["fraction"].isna() & (rows["metric"] == "auroc")])
    kept = whole[
        (whole["evaluator"] == "metrics")
        | ((whole["evaluator"] == "robustness") & (whole["corruption"] == "clean"))
        | ((whole["evaluator"] == "operating") & (whole["unit"] == "image"))
    ]
    found = []
    for (run, target, method, encoder), part in kept.groupby(["run", "target", "method", "encoder"], sort=False, dropna=False):
        if part["value"].max() - part["value"].min() > SAME:
            values = ", ".join(f"{point(r)} ({r['evaluator']})" for _, r in part.iterrows())
            found.append(
                f"{label_of(method, encoder, False)}, {target} ({run}): the AUROC on the same test images is {values}. These rows "
                "were written under different settings: evaluate again, with all evaluators at once."
            )
    return found
