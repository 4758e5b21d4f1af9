"""The rows and the figure of a study, from the files that its models left."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from scotoma import plugins
from scotoma.data import encoder_header
from scotoma.data.datamodule import DataModule, data_rows
from scotoma.data.splits.label_draws import Draw
from scotoma.metrics import intervals, learning_curves
from scotoma.models import encoders
from scotoma.models.features import extract
from scotoma.quality import cohort
from scotoma.run_folder import Row, Run, read_rows
from scotoma.studies.arms import (
    RANDOM,
    Arm,
    folder_of,
    folder_of_control,
    number_of,
    reads_labels,
    slug,
    tuning_of,
    weights_of,
)
from scotoma.tasks.base import Task
from scotoma.visualization import embedding_map


def rows_of(
    run: Run, data_module: DataModule, task: Task, arms: list[Arm], draws: list[Draw], networks: dict[str, str]
) -> list[Row]:
    """All rows of the study.

    Args:
        run: the study.
        data_module: its images.
        task: the kind of its target.
        arms: what is compared.
        draws: of labels, for each fraction.
        networks: method -> name of its network.
    """
    test = task.examples("test")
    rows: list[Row] = [*data_rows(data_module), *cohort.compare_sets(data_module)]
    for method in networks:
        rows += _list_costs(run, task, method, draws)
    about: Row = {"target": ",".join(task.target.columns), "split": "test"}
    guess = {**about, "evaluator": "extrapolation", "protocol": learning_curves.PROTOCOL}
    rows += [{**guess, **row} for row in task.sample_size(test)]
    differences: list[Row] = []
    looked: set[tuple[str, str]] = set()
    for arm in arms:
        common = {**task.row_keys(arm.evaluator), "method": arm.method, "encoder": arm.encoder or None, **about}
        common["protocol"] = _protocol(run, task, arm)
        if arm.control_of:
            common["control_of"] = ",".join(arm.control_of)
        if arm.method != "control":
            source = weights_of(run.config).get(arm.method) or folder_of(run, task.target, arm, draws[-1])
            common["overlap"] = data_module.overlap_in_words(source)
            if arm.method != RANDOM and (arm.method, arm.encoder) not in looked:
                looked.add((arm.method, arm.encoder))
                rows.append(data_module.overlap(source).row(method=arm.method, encoder=arm.encoder))
        curve: dict[int, list[np.ndarray]] = {}
        for fraction in sorted({d.fraction for d in draws}):
            chosen = [d for d in draws if d.fraction == fraction]
            scores, labels = _load(run, arm, chosen), len(chosen[0].train)
            of_draws = [row for d, one in zip(chosen, scores, strict=True) for row in _of_draw(run, task, arm, d, one, test)]
            curve[labels] = scores
            of_all: Row = {}
            if arm.method in networks:
                of_all["pretrainings"] = len({folder_of(run, task.target, arm, d) for d in chosen})
            rows += [{**common, **row} for row in of_draws]
            rows += [{**common, **of_all, **row} for row in task.summarise_fraction(scores, test, fraction, labels)]
            of_all |= {"metric": f"{task.headline}_difference", "fraction": fraction, "labels": labels}
            for name, reference in _references(arm, arms, networks):
                found = task.difference(scores, _load(run, reference, chosen), test)
                differences.append({**common, **of_all, "reference": name, **found})
        if arm.method != "control":
            of_curve = {**common, **guess, "use": arm.evaluator}
            rows += [{**of_curve, **row} for row in task.extrapolate(list(curve), list(curve.values()), test)]
    return rows + _correct(differences, networks)


def _list_costs(run: Run, task: Task, method: str, draws: list[Draw]) -> Iterator[Row]:
    """What each pretraining of a method took and gave; of several with ``pretraining``, its number, or the draw that it saw."""
    arm = Arm("", method)
    folders: dict[Path, Draw] = {}
    for drawn in draws:
        folders.setdefault(folder_of(run, task.target, arm, drawn), drawn)
    labelled = reads_labels(method, task.target)
    for folder, drawn in folders.items():
        where: Row = {"pretraining": number_of(run.config, drawn) + 1} if len(folders) > 1 and not labelled else {}
        if labelled:
            where = {"fraction": drawn.fraction, "seed": drawn.seed, "labels": len(drawn.train)}
        yield from ({**row, "method": method, **where} for row in read_rows(folder) if row["evaluator"] == "pretrain")


def _of_draw(run: Run, task: Task, arm: Arm, drawn: Draw, scores: np.ndarray, test: np.ndarray) -> list[Row]:
    """Rows of one model: its metrics, and of a fine-tuned one where its head started and what training took."""
    found, place = task.summarise_draw(scores, test, drawn), arm.file(run, drawn).with_suffix(".json")
    if not place.exists():
        return found
    about = json.loads(place.read_text())
    head = {"head": about["head"]} if "head" in about else {}
    common = {"fraction": drawn.fraction, "seed": drawn.seed, "labels": len(drawn.train)}
    cost = {**common, "split": "train", "metric": "seconds", "value": about["seconds"]}
    return [{**row, **head} for row in [*found, cost]]


def _references(arm: Arm, arms: list[Arm], networks: Collection[str]) -> Iterator[tuple[str, Arm]]:
    """What an encoder's arm is compared with: its own untrained network; a method's with all other controls and weights, too."""
    alike = [other for other in arms if other.evaluator == arm.evaluator and other != arm]
    yield from ((RANDOM, other) for other in alike if arm.method in other.control_of)
    if arm.method in networks:
        yield from ((other.evaluator, other) for other in arms if other.method == "control")
        yield from ((other.method, other) for other in alike if other.method not in (*networks, RANDOM))


def _correct(differences: list[Row], networks: Collection[str]) -> list[Row]:
    """Differences, with p-values corrected over one family: all methods, uses and shares against the untrained network (Holm)."""
    family = [i for i, row in enumerate(differences) if row["method"] in networks and row["reference"] == RANDOM]
    adjusted = intervals.holm([differences[i].get("p_value", math.nan) for i in family])
    corrected = {i: {"p_holm": float(p)} for i, p in zip(family, adjusted, strict=True)}
    return [{**row, **corrected.get(i, {})} for i, row in enumerate(differences)]


def _load(run: Run, arm: Arm, draws: list[Draw]) -> list[np.ndarray]:
    """What the study stored of an arm's models."""
    return [np.load(arm.file(run, d)).astype(float) for d in draws]


def _protocol(run: Run, task: Task, arm: Arm) -> Row:
    """The version of the evaluator of an arm, and how it was fine-tuned."""
    if arm.evaluator != "finetune":
        return {"version": plugins.module("evaluators", arm.evaluator).PROTOCOL}
    tuning = tuning_of(run.config)
    own = {"steps": tuning.steps, "learning_rate": tuning.learning_rate, **task.protocol(tuning)}
    return {"version": plugins.module("evaluators", task.evaluator).PROTOCOL, **own}


def draw_features(run: Run, task: Task, arms: list[Arm], networks: Collection[str]) -> None:
    """The map of the test images' features: each encoder beside its untrained network."""
    from scotoma.reporting.naming import name_of_method

    shown = embedding_map.choose_points(task.examples("test"))
    found: dict[str, np.ndarray] = {}
    sources = {name_of_method(m): run.path / "pretrain" / slug(m) for m in networks}
    for of in dict.fromkeys(arm.control_of for arm in arms if set(arm.control_of) & set(networks)):
        names = ", ".join(name_of_method(m) for m in of)
        sources[f"{name_of_method(RANDOM)} ({names})"] = folder_of_control(run, of[0], 0)
    for name, source in sources.items():
        if (source / encoder_header.FILE).exists():
            encoder, info, _ = encoders.load(source)
            found[name] = extract(encoder, info, task.store, task.rows[shown])
    if found and len(shown) >= embedding_map.LEAST:
        figure, caption = embedding_map.figure(found, task.target, shown)
        run.figure("features", figure, "How the encoders arrange the test images", caption, "features")
