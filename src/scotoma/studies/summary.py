"""The rows and the figure of a study, from the files that its models left."""

from __future__ import annotations

import numpy as np

from scotoma import plugins
from scotoma.data import encoder_header
from scotoma.data.datamodule import DataModule, data_rows
from scotoma.data.splits.label_draws import Draw
from scotoma.metrics import bootstrap, learning_curves
from scotoma.models import encoders
from scotoma.models.features import extract
from scotoma.run_folder import Row, Run, read_rows
from scotoma.studies.arms import Arm, folder_of, slug, tuning_of, weights_of
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
    rows: list[Row] = data_rows(data_module)
    for method in networks:
        rows += [{**row, "method": method} for row in read_rows(run.path / "pretrain" / slug(method))]
    about: Row = {"target": ",".join(task.target.columns), "split": "test"}
    guess = {**about, "evaluator": "extrapolation", "protocol": learning_curves.PROTOCOL}
    rows += [{**guess, **row} for row in task.sample_size(test)]
    differences: list[Row] = []
    looked: set[tuple[str, str]] = set()
    for arm in arms:
        common = {**task.row_keys(arm.evaluator), "method": arm.method, "encoder": arm.encoder or None, **about}
        common["protocol"] = _protocol(run, task, arm)
        if arm.method != "control":
            source = weights_of(run.config).get(arm.method) or folder_of(run, task.target, arm, draws[-1])
            common["overlap"] = data_module.overlap_in_words(source)
            if arm.method != "random" and (arm.method, arm.encoder) not in looked:
                looked.add((arm.method, arm.encoder))
                rows.append(data_module.overlap(source).row(method=arm.method, encoder=arm.encoder))
        curve: dict[int, list[float]] = {}
        for fraction in run.config["fractions"]:
            chosen = [d for d in draws if d.fraction == fraction]
            scores, labels = _load(run, arm, chosen), len(chosen[0].train)
            of_draws = [row for drawn, one in zip(chosen, scores, strict=True) for row in task.summarise_draw(one, test, drawn)]
            curve[labels] = [row["value"] for row in of_draws if row["metric"] == task.headline]
            of_all = task.summarise_fraction(scores, test, fraction, labels)
            rows += [{**common, **row} for row in of_draws + of_all]
            reference = Arm(arm.evaluator, "random", arm.encoder)
            if arm.method not in ("control", "random") and reference in arms:
                found = task.difference(scores, _load(run, reference, chosen), test)
                row = {"metric": f"{task.headline}_difference", "reference": "random", "fraction": fraction, "labels": labels}
                differences.append({**common, **row, **found})
        if arm.method != "control":
            of_curve = {**common, **guess, "use": arm.evaluator}
            rows += [{**of_curve, **row} for row in task.extrapolate(list(curve), list(curve.values()))]
    adjusted = bootstrap.holm([row["p_value"] for row in differences])
    return rows + [{**row, "p_holm": float(p)} for row, p in zip(differences, adjusted, strict=True)]


def _load(run: Run, arm: Arm, draws: list[Draw]) -> list[np.ndarray]:
    """What the study stored of an arm's models."""
    return [np.load(arm.file(run, d)).astype(float) for d in draws]


def _protocol(run: Run, task: Task, arm: Arm) -> Row:
    """The version of the evaluator of an arm, and how it was fine-tuned."""
    if arm.evaluator != "finetune":
        return {"version": plugins.module("evaluators", arm.evaluator).PROTOCOL}
    tuning = tuning_of(run.config)
    own = {"steps": tuning.steps, "learning_rate": tuning.learning_rate, **task.protocol(arm.method != "random", tuning)}
    return {"version": plugins.module("evaluators", task.evaluator).PROTOCOL, **own}


def draw_features(run: Run, task: Task, networks: dict[str, str]) -> None:
    """The map of the test images' features: each encoder beside its random weights."""
    from scotoma.reporting.naming import name_of_method

    shown = embedding_map.choose_points(task.examples("test"))
    found: dict[str, np.ndarray] = {}
    sources = {name_of_method(m): run.path / "pretrain" / slug(m) for m in networks} | {
        f"{name_of_method('random')}, {n}": run.path / "pretrain" / f"random-{n}" for n in networks.values()
    }
    for name, source in sources.items():
        if (source / encoder_header.FILE).exists():
            encoder, info, _ = encoders.load(source)
            found[name] = extract(encoder, info, task.store, task.rows[shown])
    if found and len(shown) >= embedding_map.LEAST:
        figure, caption = embedding_map.figure(found, task.target, shown)
        run.figure("features", figure, "How the encoders arrange the test images", caption, "features")
