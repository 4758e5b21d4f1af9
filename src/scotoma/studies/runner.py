"""What ``study`` does once table, store and run folder stand: pretrain, draw labels, train models, compare.

Everything slow leaves a file (an encoder in a run folder of its own, ``predictions/NAME.npy`` for each model), and is not done
again when the study is taken up; all rows are then derived from those files in one go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scotoma import files, plugins
from scotoma.data import encoder_header, evaluated_images, provenance
from scotoma.data.datamodule import DataModule
from scotoma.data.splits.label_draws import Draw, draw
from scotoma.data.splits.label_lists import draw_listed
from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, warn_few_units
from scotoma.models import encoders, pretrained_weights, segmentation_decoders
from scotoma.run_folder import Row, Run, read_config, status
from scotoma.studies import controls, summary
from scotoma.studies.arms import (
    RANDOM,
    Arm,
    arms_of,
    folder_of,
    folder_of_weights,
    number_of,
    pretraining_of,
    reads_labels,
    slug,
    tuning_of,
    weights_of,
)
from scotoma.tasks.base import Task
from scotoma.training.pretraining import assemble, describe, train


def carry_out(run: Run, data_module: DataModule, task: Task, lists: Mapping[float, np.ndarray], quiet: bool = False) -> None:
    """Do what is not done yet, then write all rows and figures.

    Args:
        run: the study.
        data_module: its images.
        task: the kind of its target.
        lists: share of the labels -> positions of the training images that a user's own list names.
        quiet: no progress bar.
    """
    config = run.config
    if run.resumed and "pretrainings" not in config:
        raise UsageError("--resume: an earlier version started this study, with other controls: use --overwrite to start anew")
    # a wrong one is refused before the first is trained
    networks = {method: assemble(pretraining_of(config, method), data_module).info.name for method in config["methods"]}
    opened = [_open_weights(run, data_module, name) for name in weights_of(config)]
    for folder, network, header in filter(None, opened):
        folder.mkdir(parents=True, exist_ok=True)
        encoders.save(folder / encoder_header.FILE, network, header)
    warn_few_units(data_module)
    (run.path / evaluated_images.PREDICTIONS).mkdir(exist_ok=True)
    evaluated_images.save_images(run.path, task, task.examples("test"))
    shares = sorted({*config["fractions"], *lists})
    draws = [_draw(task, lists, share, seed) for share in shares for seed in range(config["seeds"])]
    _save_draws(run, task, draws)
    data_module.save_used(run.path)
    for method in (m for m in config["methods"] if not reads_labels(m, task.target)):
        for drawn in draws[: config["seeds"]]:
            folder = folder_of(run, task.target, Arm("", method), drawn)
            _pretrain(run, data_module, method, folder, number_of(config, drawn), quiet)
    _save_steps(run, networks)
    arms = list(arms_of(config, networks, controls.share(run, data_module)))
    for number, arm in enumerate(arms, 1):
        todo = [d for d in draws if not arm.file(run, d).exists()]
        if todo and not quiet:
            print(f"[{number}/{len(arms)}] {arm}: {len(todo)} models", flush=True)
        for drawn, scores, about in _measure(run, data_module, task, arm, todo, quiet):
            if about:
                files.write(arm.file(run, drawn).with_suffix(".json"), json.dumps(about))
            with files.replacing(arm.file(run, drawn)) as temporary, temporary.open("wb") as file:
                np.save(file, scores.astype(np.float32))
    run.replace_rows(summary.rows_of(run, data_module, task, arms, draws, networks))
    if task.is_of_images:
        summary.draw_features(run, task, arms, networks)


def _draw(task: Task, lists: Mapping[float, np.ndarray], share: float, seed: int) -> Draw:
    if share in lists:
        return draw_listed(task.target, task.split, share, lists[share], seed)
    return draw(task.target, task.split, share, seed)


def _pretrain(run: Run, data_module: DataModule, method: str, folder: Path, number: int, quiet: bool) -> None:
    """Pretrain one method into a run folder of its own, unless that is done."""
    if status(folder) == "finished":
        return
    arguments = pretraining_of(run.config, method, number)
    first = run.path / "pretrain" / slug(method)
    if number and status(first) == "finished":  # all of a method's take the steps that a budget of minutes became
        arguments |= {"steps": read_config(first)["steps"], "minutes": None, "epochs": None}
    if not quiet:
        print(f"pretraining {method}" + (f", number {number + 1}" if number else ""), flush=True)
    parts = assemble(arguments, data_module)
    inner = Run.open(folder, "pretrain", arguments, resume=True)
    try:
        train(inner, data_module, parts, quiet)
        inner.finish()
    finally:
        inner.close()


def _save_steps(run: Run, networks: dict[str, str]) -> None:
    """The steps that a budget of minutes became, method by method, so that the study's configuration repeats them."""
    folders = {method: run.path / "pretrain" / slug(method) for method in networks}
    steps = {method: read_config(folder)["steps"] for method, folder in folders.items() if status(folder) == "finished"}
    if steps and len(steps) == len(networks):
        run.save_config(steps=steps, minutes=None, epochs=None, resolved=["steps", "minutes", "epochs"])


def _network(run: Run, data_module: DataModule, task: Task, arm: Arm, drawn: Draw, quiet: bool) -> Path:
    """The folder of an arm's encoder: pretrained, on the draw's labels where it reads them; untrained; or of given weights."""
    given, folder = weights_of(run.config).get(arm.method), folder_of(run, task.target, arm, drawn)
    if arm.method == RANDOM:
        controls.save(run, data_module, arm.control_of[0], drawn.seed)
    elif given is None and reads_labels(arm.method, task.target):
        labelled = replace(data_module, target=task.target.only(drawn.train))
        _pretrain(run, labelled, arm.method, folder, number_of(run.config, drawn), quiet)
    return folder


def _open_weights(run: Run, data_module: DataModule, name: str) -> tuple[Path, torch.nn.Module, encoder_header.EncoderInfo] | None:
    """Folder, network and header of weights that were given as a control; None where its encoder is there already."""
    source = weights_of(run.config)[name]
    encoder = pretrained_weights.network(source) or str(run.config["encoder"])
    folder = folder_of_weights(run, name, encoder)
    if (folder / encoder_header.FILE).exists():
        return None
    info = describe({"size": run.config["size"], "seed": run.config["seed"]}, data_module, encoder)
    torch.manual_seed(run.config["seed"])
    network = encoders.build(info)
    pretrained_weights.start(network, info, source)
    return folder, network, replace(info, method={"name": name}, trained_on=provenance.record(source).header())


def _measure(
    run: Run, data_module: DataModule, task: Task, arm: Arm, draws: list[Draw], quiet: bool
) -> Iterator[tuple[Draw, np.ndarray, Row]]:
    """Train a model on each draw and give what the study stores of its outputs for the test images, and of how it was trained."""
    test, inputs, last = task.examples("test"), None, None
    module = None if arm.evaluator == "finetune" else plugins.module("evaluators", arm.evaluator)
    for drawn in sorted(draws, key=lambda d: _place(run, task, arm, d)):  # features of a network are made once
        if module is not None and drawn.fraction >= 1:  # all labels can be drawn in one way only
            alike = next(d for d in _before(drawn) if _place(run, task, arm, d) == _place(run, task, arm, drawn))
            if alike != drawn and arm.file(run, alike).exists():
                yield drawn, np.load(arm.file(run, alike)), {}
                continue
        source = None if arm.method == "control" else _network(run, data_module, task, arm, drawn, quiet)
        if module is not None:
            if inputs is None or source != last:
                inputs, last = _inputs(task, module, source), source
            yield drawn, task.score(module.predict(inputs, task, drawn, test), test), {}
            continue
        assert source is not None
        dilated = segmentation_decoders.STRIDE if run.config["decoder"] == "deeplabv3plus" else 0
        encoder, info = pretrained_weights.adapt(source, run.config["finetune_size"], dilated)
        model, costs = task.train(encoder, info, drawn, tuning_of(run.config, drawn.seed))
        (seconds,) = (row["value"] for row in costs if row["metric"] == "seconds")
        yield drawn, task.measure(model, test), {"seconds": seconds, **({"head": h} if (h := costs[0].get("head")) else {})}


def _place(run: Run, task: Task, arm: Arm, drawn: Draw) -> str:
    """The folder of an arm's network for a draw; empty for a control without a network."""
    return "" if arm.method == "control" else str(folder_of(run, task.target, arm, drawn))


def _before(drawn: Draw) -> list[Draw]:
    """The draws of the same share of the labels up to this one."""
    return [replace(drawn, seed=seed) for seed in range(drawn.seed + 1)]


def _inputs(task: Task, module: Any, source: Path | None) -> np.ndarray:
    """(n, D) what a control sees of each image, or the features of an encoder."""
    encoder: Any = None
    info: Any = None
    if source is not None:
        encoder, info, _ = encoders.load(source)
    context = Context(encoder, info, None, task.dataset, task.store, task.split, task.target)
    found: np.ndarray = module.inputs(context) if source is None else context.features
    return found


def _save_draws(run: Run, task: Task, draws: list[Draw]) -> None:
    """``labels.csv``: which rows each draw may see; a user's proof, and the way to repeat it elsewhere."""
    import pandas as pd

    parts = [
        pd.DataFrame({"row": task.rows[rows], "split": name, "fraction": d.fraction, "seed": d.seed})
        for d in draws
        for name, rows in (("train", d.seen), ("val", d.val))
        if d.fraction < 1
    ]
    if parts:
        text, place = pd.concat(parts).to_csv(index=False), run.path / "labels.csv"
        if run.resumed and place.exists() and place.read_text() != text:
            raise UsageError("--resume: the label lists are not as they were when the study was started: use --overwrite")
        files.write(place, text)
