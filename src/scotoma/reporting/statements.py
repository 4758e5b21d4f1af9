"""What a run knows of itself, in sentences: the facts of the model card and of the checklists.

Everything comes from ``config.yaml``, ``rows.jsonl`` and the headers of the networks; a fact that they do not hold is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scotoma.reporting.cells import decimals, interval, is_same, point
from scotoma.reporting.cohorts import cautions
from scotoma.reporting.naming import data_name, finding, label_of, phrase_of_use, title_of
from scotoma.reporting.origin import origins
from scotoma.reporting.provenance import describe_configuration, describe_training
from scotoma.reporting.reading import Folder, units_of_page
from scotoma.reporting.results import DRAWN, headlines, select_test
from scotoma.reporting.sections.explain import has_passed
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
    named = ", ".join(dict.fromkeys(data_name(f.config) for f in tops))
    tested = select_test(rows)
    found = {
        **describe_configuration(folders, tops, rows),
        **_data(rows, any(c.get("allow_leakage") for c in configs), origins(rows, bool(results["kind"].eq("method").any()))),
        **(_of_tasks(rows) | _describe_measures(rows, results)),
        **_decisions(tested[tested["evaluator"] == "operating"]),
        **_parts(tested),
        "aim": f"{aim} of {describe_training(configs)} of {targets or 'images'}. {TO_FILL}: hypotheses" if aim else "",
        "outcome": f"Labels: {targets}. {TO_FILL}: how and by whom they were made" if targets else "",
        "annotators": f"Several annotators' labels became one ({annotators}). {TO_FILL}: agreement" if annotators else "",
        "missing": "A missing label is unknown, never negative; such images join the pretraining alone.",
        "identity": f"Rows and reports name images by number, patients by keyed hashes. {_withdrawn(folders)}{TO_FILL}: "
        "de-identification of input",
        "limits": (
            f"Tested on {named}; intervals cover chance in which {units_of_page(rows)} were tested, not other hospitals, scanners "
            f"or years, nor wrong labels. {TO_FILL}: limits of data and labels"
        ),
        "code": f"Scotoma is free software (MIT licence). {TO_FILL}: whether model and data can be had",
        "composition": _composition(rows),
        "cross_table": _cross_table(tested),
        "predictors": "Pixels alone: no measurement and no judgement enters the model.",
        "ensembles": "No ensemble: one network gives each answer.",
        "external": f"{TO_FILL}: whether the test data come from elsewhere (`scotoma evaluate` tests on data of another source)",
    }
    return {key: text for key, text in (found | _combine(found, folders)).items() if text}


def _combine(found: Mapping[str, str], folders: Sequence[Folder]) -> dict[str, str]:
    """Sentences of several facts: what an item requires together, with what is left to fill in where a part is missing."""

    def fact(key: str) -> str:
        return found.get(key, "")

    kept = any((f.path / "predictions").is_dir() for f in folders)
    by_subgroup = f"{TO_FILL}: subgroups (scotoma evaluate --with subgroups)"
    several = [fact(key) for key in ("subgroups", "robustness") if fact(key)]
    return {
        "quality": f"{fact('pixels')} {TO_FILL}: quality checks of the data (scotoma audit)" if fact("pixels") else "",
        "acquisition": f"{fact('pixels')} {TO_FILL}: how the images were acquired" if fact("pixels") else "",
        "devices": f"{fact('software')} {TO_FILL}: devices" if fact("software") else "",
        "development": f"{fact('training')} {fact('counts')}" if fact("counts") else "",
        "flow": f"{fact('counts')} {TO_FILL}: who was left out before these data" if fact("counts") else "",
        "by_subgroup": f"{fact('performance')} {fact('subgroups') or by_subgroup}" if fact("performance") else "",
        "variability": f"{' '.join(several)} {TO_FILL}: which of these were planned" if several else "",
        "stored": "Predictions of every test image lie in the run folder, with keyed hashes in the place of names." if kept else "",
    }


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
        "internal": f"{test[0].upper()}{test[1:]}, kept apart from training and validation." if test else "",
        "exclusions": f"Unreadable files left out: {unreadable:,.0f}.{_left_out(data)}{_unlabelled(data)} {TO_FILL}: criteria of "
        "inclusion and exclusion, and what was left out before these data",
    }


def _left_out(data: pd.DataFrame) -> str:
    """The images that an external test left out, as the model had seen them."""
    return "".join(
        f" Left out: {r['value']:,.0f} images ({r['reason']})." for _, r in data[data["metric"] == "left_out"].iterrows()
    )


def _unlabelled(data: pd.DataFrame) -> str:
    """How many of the test images had no label, in a sentence; empty where the rows do not state it."""
    tested = data[(data["metric"] == "tested") & data["n"].notna()]
    if tested.empty:
        return ""
    row = tested.iloc[-1]
    return f" Test images without a label that is tested: {row['n'] - row['value']:,.0f} of {row['n']:,.0f}."


def _composition(rows: pd.DataFrame) -> str:
    """Of which columns the composition of the sets is known."""
    own = rows[(rows["evaluator"] == "cohort") & rows["column"].notna()]
    columns = ", ".join(dict.fromkeys(own["column"]))
    return f"The report's table of the sets' composition has, beside counts: {columns}." if columns else ""


def _cross_table(tested: pd.DataFrame) -> str:
    """Results against the truth as counts, where rows have them."""
    counted = tested[(tested["evaluator"] == "operating") & tested["tp"].notna()].drop_duplicates(["run", "target", "class"])
    words = [
        f"{finding(r['target'], r['class'])}: {r['tp']:,.0f} true positive, {r['fp']:,.0f} false positive, {r['fn']:,.0f} false "
        f"negative, {r['tn']:,.0f} true negative"
        for _, r in counted.iterrows()
    ]
    if words:
        return "; ".join(words) + "."
    return "Confusion matrices stand in the report." if "confusion" in set(tested["metric"]) else ""


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
        "uncertainty": " ".join([_intervals(rows), *cautions(rows)]),
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
        "uncertainty": " ".join([_intervals(rows), *cautions(rows)]),
        "performance": "; ".join(parts) + ".",
    }


def _intervals(rows: pd.DataFrame) -> str:
    """Over what the intervals are, and whether p-values were corrected."""
    corrected = "; p-values corrected by Holm" if rows["p_holm"].notna().any() else ""
    return f"95 % intervals over {units_of_page(rows)}{corrected}."


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
        names = ", ".join(dict.fromkeys(str(n).replace("_", " ") for n in sane.loc[~has_passed(sane["value"]), "explanation"]))
        count = sane["explanation"].nunique()
        found["explanations"] = f"{count} methods of explanation. Failed the randomisation test: {names or 'none'}."
    return found
