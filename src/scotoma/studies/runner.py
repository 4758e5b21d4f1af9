"""What ``study`` does once table, store and run folder stand: pretrain, draw labels, train models, compare.

Everything slow leaves a file (an encoder in a run folder of its own, ``predictions/NAME.npy`` for each model), and is not done
again when the study is taken up; all rows are then derived from those files in one go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scotoma import files, plugins
from scotoma.data import encoder_header, provenance
from scotoma.data.datamodule import DataModule
from scotoma.data.splits.label_draws import Draw, draw
from scotoma.evaluators.base import Context, warn_few_units
from scotoma.models import encoders, pretrained_weights, segmentation_decoders
from scotoma.run_folder import Run, read_config, status
from scotoma.studies import summary
from scotoma.studies.arms import Arm, arms_of, folder_of, reads_labels, slug, tuning_of, weights_of
from scotoma.tasks.base import Task
from scotoma.training.pretraining import assemble, describe, train


def carry_out(run: Run, data_module: DataModule, task: Task, quiet: bool = False) -> None:
    """Do what is not done yet, then write all rows and figures."""
    config = run.config
    for method in config["methods"]:  # a wrong one is refused before the first is trained
        assemble(_pretraining_of(config, method), data_module)
    warn_few_units(data_module)
    (run.path / "predictions").mkdir(exist_ok=True)
    draws = [draw(task.target, task.split, f, s) for f in config["fractions"] for s in range(config["seeds"])]
    _save_draws(run, task, draws)
    data_module.save_used(run.path)
    networks: dict[str, str] = {}
    for method in config["methods"]:
        if reads_labels(method, task.target):
            networks[method] = config["encoder"] or plugins.variant(method)[0].default_encoder
        else:
            networks[method] = _pretrain(run, data_module, method, run.path / "pretrain" / slug(method), quiet)
    _save_steps(run, networks)
    arms = list(arms_of(config, networks))
    for number, arm in enumerate(arms, 1):
        todo = [d for d in draws if not arm.file(run, d).exists()]
        if todo and not quiet:
            print(f"[{number}/{len(arms)}] {arm}: {len(todo)} models", flush=True)
        for drawn, scores in _measure(run, data_module, task, arm, todo, quiet):
            with files.replacing(arm.file(run, drawn)) as temporary, temporary.open("wb") as file:
                np.save(file, scores.astype(np.float32))
    run.replace_rows(summary.rows_of(run, data_module, task, arms, draws, networks))
    if task.is_of_images:
        summary.draw_features(run, task, networks)


def _pretrain(run: Run, data_module: DataModule, method: str, folder: Path, quiet: bool) -> str:
    """Pretrain one method into a run folder of its own, or find it done; the network's name."""
    if status(folder) != "finished":
        arguments = _pretraining_of(run.config, method)
        if not quiet:
            print(f"pretraining {method}", flush=True)
        parts = assemble(arguments, data_module)
        inner = Run.open(folder, "pretrain", arguments, resume=True)
        try:
            train(inner, data_module, parts, quiet)
            inner.finish()
        finally:
            inner.close()
    return str(read_config(folder)["encoder"])


def _pretraining_of(config: dict[str, Any], method: str) -> dict[str, Any]:
    """The configuration of the pretraining by a study's method."""
    shared = ["data", "labels", "on", "annotators", "target", "classes", "size", "channels", "modality", "minutes", "epochs"]
    shared += ["missing", "separator", "seed", "strict", "allow_leakage", "encoder"]
    steps = config["steps"].get(method) if isinstance(config["steps"], dict) else config["steps"]
    automatic = ("init", "batch_size", "learning_rate", "weight_decay", "precision")
    arguments: dict[str, Any] = {k: config.get(k) for k in shared} | dict.fromkeys(automatic)
    arguments |= {"method": method.partition("?")[0], "method_args": plugins.variant(method)[1], "steps": steps}
    return arguments | {"variant": method}  # by which rows and curves tell it from others of the same method


def _save_steps(run: Run, networks: dict[str, str]) -> None:
    """The steps that a budget of minutes became, method by method, so that the study's configuration repeats them."""
    folders = {method: run.path / "pretrain" / slug(method) for method in networks}
    steps = {method: read_config(folder)["steps"] for method, folder in folders.items() if status(folder) == "finished"}
    if steps and len(steps) == len(networks):
        run.save_config(steps=steps, minutes=None, epochs=None, resolved=["steps", "minutes", "epochs"])


def _network(run: Run, data_module: DataModule, task: Task, arm: Arm, drawn: Draw, quiet: bool) -> Path:
    """The encoder file of an arm: pretrained, pretrained anew on the draw's labels, or random or given weights, written once."""
    given, folder = weights_of(run.config).get(arm.method), folder_of(run, task.target, arm, drawn)
    if given is None and arm.method != "random":
        if reads_labels(arm.method, task.target):
            _pretrain(run, replace(data_module, target=task.target.only(drawn.train)), arm.method, folder, quiet)
        return folder
    if not (folder / encoder_header.FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        info = describe({"size": run.config["size"], "seed": run.config["seed"]}, data_module, arm.encoder)
        torch.manual_seed(run.config["seed"])
        network = encoders.build(info)
        if given is not None:
            pretrained_weights.start(network, info, given)
            info = replace(info, method={"name": arm.method})
        record = provenance.Record() if given is None else provenance.record(given)
        encoders.save(folder / encoder_header.FILE, network, replace(info, trained_on=record.header()))
    return folder


def _measure(
    run: Run, data_module: DataModule, task: Task, arm: Arm, draws: list[Draw], quiet: bool
) -> Iterator[tuple[Draw, np.ndarray]]:
    """Train a model on each draw and give what the study stores of its outputs for the test images."""
    test, inputs, last = task.examples("test"), None, None
    module = None if arm.evaluator == "finetune" else plugins.module("evaluators", arm.evaluator)
    for drawn in draws:
        first = arm.file(run, replace(drawn, seed=0))
        if drawn.fraction >= 1 and drawn.seed and module is not None and first.exists():
            yield drawn, np.load(first)  # all labels can be drawn in one way only, and nothing else is random here
            continue
        source = None if arm.method == "control" else _network(run, data_module, task, arm, drawn, quiet)
        if module is not None:
            if inputs is None or source != last:
                inputs, last = _inputs(task, module, source), source
            yield drawn, task.score(module.predict(inputs, task, drawn, test), test)
            continue
        assert source is not None
        dilated = segmentation_decoders.STRIDE if run.config["decoder"] == "deeplabv3plus" else 0
        encoder, info = pretrained_weights.adapt(source, run.config["finetune_size"], dilated)
        model, _ = task.train(encoder, info, drawn, tuning_of(run.config, drawn.seed))
        yield drawn, task.measure(model, test)


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
        files.write(run.path / "labels.csv", pd.concat(parts).to_csv(index=False))
