"""What a run knows of itself, in sentences: the data_module of the model card and of the checklists.

Everything comes from ``config.yaml``, ``rows.jsonl`` and the headers of the networks; a fact that they do not hold is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from scotoma.reporting.cells import decimals, interval, is_same, point
from scotoma.reporting.naming import data_name, finding, label_of, phrase_of_use, title_of
from scotoma.reporting.origin import origins
from scotoma.reporting.provenance import describe_configuration, describe_training
from scotoma.reporting.reading import Folder
from scotoma.reporting.results import DRAWN, headlines
from scotoma.reporting.training import cautions
from scotoma.run_folder import WITHDRAWN, withdrawal_sentence, withdrawn

TO_FILL = "TO FILL"
SETS = {"train": "training", "val": "validation", "test": "test"}
VERBS = {"study": "Development and internal evaluation", "finetune": "Development", "evaluate": "Evaluation"}


def facts(folders: Sequence[Folder], rows: pd.DataFrame, results: pd.DataFrame) -> dict[str, str]:
    """Sentences by key; a key whose sentence the run cannot tell is left out.

    Args:
        folders: of the runs.
        rows: all of them.
        results: one row per cell, as the page shows them, with ``label`` and ``kind``.
    """
    tops = [f for f in folders if f.top not in {g.top for g in folders[: folders.index(f)]}]
    configs = [f.config for f in folders]
    targets = ", ".join(dict.fromkeys(str(t) for c in configs for t in (c.get("target") or [])))
    aim = next((words for verb, words in VERBS.items() if verb in {c.get("command") for c in configs}), "")
    annotators = ", ".join(sorted({str(c["annotators"]) for c in configs if c.get("annotators")}))
    tested = ", ".join(dict.fromkeys(data_name(f.config) for f in tops))
    found = {
        **describe_configuration(folders, tops, rows),
        **_data(rows, any(c.get("allow_leakage") for c in configs), origins(rows, bool(results["kind"].eq("method").any()))),
        **(_of_tasks(rows) | _describe_measures(rows, results)),
        **_decisions(rows[rows["evaluator"] == "operating"]),
        **_parts(rows),
        "aim": f"{aim} of {describe_training(configs)} of {targets or 'images'}. {TO_FILL}: hypotheses" if aim else "",
        "outcome": f"Labels: {targets}. {TO_FILL}: how and by whom they were made" if targets else "",
        "annotators": f"Several annotators' labels became one ({annotators}). {TO_FILL}: agreement" if annotators else "",
        "missing": "A missing label is unknown, never negative; such images join the pretraining alone.",
        "identity": f"Rows and reports name images by number, patients by keyed hashes. {_withdrawn(folders)}{TO_FILL}: "
        "de-identification of input",
        "limits": (
            f"Tested on {tested}; intervals cover chance in the test patients, not other hospitals, scanners or years, nor wrong "
            f"labels. {TO_FILL}: limits of data and labels"
        ),
        "code": f"Scotoma is free software (MIT licence). {TO_FILL}: whether model and data can be had",
        "predictors": "Pixels alone: no measurement and no judgement enters the model.",
        "ensembles": "No ensemble: one network gives each answer.",
        "external": f"{TO_FILL}: whether the test data come from elsewhere (`scotoma evaluate` tests on data of another source)",
    }
    return {key: text for key, text in found.items() if text}


def _withdrawn(folders: Sequence[Folder]) -> str:
    """What `scotoma purge` noted in the runs, as a sentence."""
    count = withdrawn(*(f.path for f in folders))
    return f"It {withdrawal_sentence(count)}. " if count else ""


def _data(rows: pd.DataFrame, leaking: bool, origin: list[str]) -> dict[str, str]:
    """Counts and split of the last table that was counted, and whether networks were trained on its test images."""
    data = rows[(rows["evaluator"] == "data") & (rows["metric"] != WITHDRAWN)]
    if data.empty:
        return {}
    leaking |= bool((data.loc[data["metric"] == "shared_between_sides", "value"] > 0).any())
    data = data[data["run"] == data["run"].iloc[-1]].drop_duplicates(["metric", "split", "class"], keep="last")
    parts = {}
    for split, name in SETS.items():
        mine = data[data["split"] == split]
        whole = mine[mine["class"].isna()].set_index("metric")["value"]
        if "images" in whole:
            units = next((f" of {whole[u]:,.0f} {u}" for u in ("patients", "groups") if u in whole), "")
            of = mine[mine["class"].notna() & (mine["metric"] == "images")]
            classes = ", ".join(f"{c}: {v:,.0f}" for c, v in zip(of["class"], of["value"], strict=True))
            parts[split] = f"{name} {whole['images']:,.0f} images{units}{f' ({classes})' if classes else ''}"
    if not parts:
        return {}
    unreadable, test = data.loc[data["metric"] == "unreadable", "value"].sum(), parts.get("test", "")
    unit = _unit(data)
    return {
        "counts": f"{'; '.join(parts.values()).capitalize()}. Unreadable files left out: {unreadable:,.0f}.",
        "split": " ".join([f"By {unit}{'; but the run allows leakage' if leaking else ': none is in two sets'}.", *origin]),
        "size": f"{TO_FILL}: how the size was planned" + (f" (there were: {test})" if test else ""),
        "internal": "Test images were kept apart from the start and used once, at the end." if test else "",
    }


def _unit(data: pd.DataFrame) -> str:
    """What no two sets share, in words."""
    found = data["unit"].dropna() if "unit" in data.columns else data.loc[[], "metric"]
    parts = str(found.iloc[-1]).split(" + ") if len(found) else ["near-duplicate" if "groups" in set(data["metric"]) else "patient"]
    words = {"near-duplicate": "group of near-duplicate images", "altered copy": "group of altered copies"}
    unit = " and ".join(words.get(part, part) for part in parts)
    return unit if "patient" in parts else f"{unit}, as patients are not known"


def _describe_measures(rows: pd.DataFrame, results: pd.DataFrame) -> dict[str, str]:
    """Measures, their uncertainty, and the AUROCs at the greatest share of labels."""
    if results.empty:
        return {}
    measures = list(dict.fromkeys(title_of(m) for m in results["metric"] if m not in ("auroc_difference", *DRAWN)))
    if "operating" in set(rows["evaluator"]):
        measures += ["decisions at a threshold", "predictive values by prevalence", "reliability diagram", "decision curve"]
    whole = results[(results["metric"] == "auroc") & results["class"].isna() & (results["kind"] == "method")]
    parts = []
    for target, mine in whole.groupby("target", sort=False):
        here = mine[is_same(mine["fraction"], mine["fraction"].max() if mine["fraction"].notna().any() else math.nan)]
        before = f"{target}, " if whole["target"].nunique() > 1 else ""
        parts += [f"{before}{r['label']}, {phrase_of_use(r['evaluator'])}: AUROC {_format_estimate(r)}" for _, r in here.iterrows()]
    return {
        "measures": ", ".join(measures) + ".",
        "uncertainty": " ".join(
            ["95 % intervals: bootstrap over patients (or the split's other units); Holm-corrected p-values.", *cautions(rows)]
        ),
        "performance": "; ".join(parts) + "." if parts else "",
    }


def _of_tasks(rows: pd.DataFrame) -> dict[str, str]:
    """What a segmenter, or a model of numbers, reached on test images."""
    found = headlines(rows)
    parts = [f"{r['label']}: {r['words']} {_format_estimate(r)}" for _, r in found.iterrows()]
    if not parts:
        return {}
    return {
        "measures": "Overlap of predicted masks with the annotators'."
        if "dice" in set(found["metric"])
        else "Errors of the predicted number.",
        "uncertainty": " ".join(["95 % intervals: bootstrap over patients (or the split's other units).", *cautions(rows)]),
        "performance": "; ".join(parts) + ".",
    }


def _format_estimate(row: Any, sign: bool = False) -> str:
    """A value with its interval, in a sentence."""
    bounds = interval(row, sign)
    return point(row, sign) + (f" ({bounds})" if bounds else "")


def _decisions(rows: pd.DataFrame) -> dict[str, str]:
    """Thresholds, what they decide, and what local recalibration would bring."""
    chosen, decided, brought = [], [], []
    for (target, name), part in rows[rows["class"].notna()].groupby(["target", "class"], sort=False):
        word = finding(target, name)
        rates = part[part["prevalence"].isna() & part["metric"].isin(["sensitivity", "specificity"])]
        if len(rates):
            chosen.append(f"{word} from {decimals(rates['threshold'].iloc[0])}")
            decided.append(f"{word}: " + ", ".join(f"{r['metric']} {_format_estimate(r)}" for _, r in rates.iterrows()))
        change = part[part["metric"] == "log_loss_change"]
        brought += [f"{word} {_format_estimate(r, True)}" for _, r in change.iterrows()]
    return {
        "thresholds": f"The model gives probabilities; called positive: {', '.join(chosen)} (chosen on validation rows, else 0.5)."
        if chosen
        else "",
        "decisions": "; ".join(decided) + "." if decided else "",
        "updating": f"The model was not updated. Local recalibration would change the log loss by: {', '.join(brought)}."
        if brought
        else "",
    }


def _parts(rows: pd.DataFrame) -> dict[str, str]:
    """Subgroups, corruptions, explanations."""
    of = {name: rows[rows["evaluator"] == name] for name in ("subgroups", "robustness", "explain")}
    found = {}
    if len(of["subgroups"]):
        gaps = of["subgroups"][(of["subgroups"]["metric"] == "auroc_gap") & of["subgroups"]["class"].isna()]
        words = [
            f"{r['column']}: AUROC gap {_format_estimate(r)}, highest for {r['highest']}, lowest for {r['lowest']}"
            for _, r in gaps.iterrows()
        ]
        small = of["subgroups"][of["subgroups"]["small"] == 1].drop_duplicates(["column", "subgroup"])
        names = ", ".join(f"{r['column']} {r['subgroup']}" for _, r in small.iterrows())
        found["subgroups"] = (
            f"{'; '.join(words) or 'No two subgroups are large enough to compare'}. Too small to judge: {names or 'none'}."
        )
        found["fairness"] = f"{found['subgroups']} {TO_FILL}: why these groups, and what follows"
    drops = of["robustness"]
    drops = drops[(drops["metric"] == "mean_auroc_relative_drop") & (drops["corruption"] == "all")]
    drops_text = [f"{label_of(r['method'], r['encoder'], False)} {_format_estimate(r)}" for _, r in drops.iterrows()]
    found["robustness"] = f"Mean relative drop of the AUROC over corrupted images: {'; '.join(drops_text)}." if drops_text else ""
    sane = of["explain"][of["explain"]["metric"] == "sanity_passed"]
    if len(sane):
        names = ", ".join(dict.fromkeys(str(n).replace("_", " ") for n in sane.loc[sane["value"] == 0, "explanation"]))
        count = sane["explanation"].nunique()
        found["explanations"] = (
            f"{count} methods of explanation, checked against random weights. Failed that check: {names or 'none'}."
        )
    return found
