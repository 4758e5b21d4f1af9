"""What ``study`` does once table, store and run folder stand: pretrain, draw labels, fit, compare.

Everything slow leaves a file (an encoder in a run folder of its own, ``predictions/NAME.npy`` for each classifier), and is not done
again when the study is taken up; all rows are then derived from those files in one go.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scotoma import files, plugins
from scotoma.data import encoder_header, provenance
from scotoma.data.datamodule import DataModule, data_rows
from scotoma.data.labels import masks
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw, draw
from scotoma.evaluators.base import Context, say_few
from scotoma.metrics import bootstrap, learning_curves
from scotoma.models import encoders, pretrained_weights, segmentation_decoders
from scotoma.models.features import extract
from scotoma.run_folder import Row, Run, read_config, read_rows, status
from scotoma.tasks import segmentation
from scotoma.tasks.base import Recipe
from scotoma.tasks.classification import predict, tune
from scotoma.tasks.judging import Judge, OfClasses, OfRegions
from scotoma.training import label_columns
from scotoma.training.pretraining import assemble, describe, train
from scotoma.visualization import embedding_map


@dataclass(frozen=True)
class Arm:
    """One line of the study: an encoder used one way, or a control that needs none.

    Args:
        evaluator: ``linear``, ``finetune``, or the control's evaluator.
        method: that made the encoder; ``random``; ``control``.
        encoder: name of the network; "" for none.
    """

    evaluator: str
    method: str
    encoder: str = ""

    def file(self, run: Run, drawn: Draw) -> Path:
        """Where the predictions of one classifier lie."""
        parts = (self.evaluator, _slug(self.method), _slug(self.encoder), f"f{drawn.fraction:g}", f"s{drawn.seed}")
        return run.path / "predictions" / ("-".join(p for p in parts if p) + ".npy")


def carry_out(run: Run, material: DataModule, quiet: bool = False) -> None:
    """Do what is not done yet, then write all rows and figures."""
    config, target = run.config, _target(material)
    say_few(material)
    (run.path / "predictions").mkdir(exist_ok=True)
    draws = [draw(target, material.split, f, s) for f in config["fractions"] for s in range(config["seeds"])]
    _save_draws(run, material, draws)
    material.save_used(run.path)
    networks: dict[str, str] = {}
    for method in config["methods"]:
        if not _reads_labels(method, target):
            networks[method] = _pretrain(run, material, method, run.path / "pretrain" / _slug(method), quiet)
        else:
            networks[method] = config["encoder"] or plugins.variant(method)[0].default_encoder
    _save_steps(run, networks)
    arms = list(_arms(config, networks, _weights(config)))
    for number, arm in enumerate(arms, 1):
        todo = [d for d in draws if not arm.file(run, d).exists()]
        if todo and not quiet:
            name = " ".join(p for p in (arm.evaluator, arm.method, arm.encoder) if p)
            print(f"[{number}/{len(arms)}] {name}: {len(todo)} classifiers", flush=True)
        for drawn, p in _classify(run, material, arm, todo, quiet):
            _save(arm.file(run, drawn), p)
    run.replace_rows(_rows(run, material, arms, draws, networks))
    _figure_of_features(run, material, networks)


def _slug(method: str) -> str:
    """A method with its arguments as a name for files."""
    return re.sub(r"[^\w.=-]", "_", method)


def _reads_labels(method: str, target: Target) -> bool:
    """Whether a method sees the target: then it is trained anew on the labels of each draw alone."""
    chosen, given = plugins.variant(method)
    return label_columns.reads_target(chosen.wants(chosen.settings(given)), target.columns)


def _target(material: DataModule) -> Target:
    assert material.target is not None
    return material.target


def _pretrain(run: Run, material: DataModule, method: str, folder: Path, quiet: bool) -> str:
    """Pretrain one method into a run folder of its own, or find it done; the network's name."""
    if status(folder) != "finished":
        config = run.config
        shared = ["data", "labels", "on", "annotators", "target", "classes", "size", "channels", "modality", "minutes", "epochs"]
        shared += ["missing", "separator", "seed", "strict", "allow_leakage", "encoder"]
        steps = config["steps"].get(method) if isinstance(config["steps"], dict) else config["steps"]
        automatic = ("init", "batch_size", "learning_rate", "weight_decay", "precision")
        arguments: dict[str, Any] = {k: config.get(k) for k in shared} | dict.fromkeys(automatic)
        arguments |= {"method": method.partition("?")[0], "method_args": plugins.variant(method)[1], "steps": steps}
        arguments |= {"variant": method}  # by which rows and curves tell it from others of the same method
        if not quiet:
            print(f"pretraining {method}", flush=True)
        parts = assemble(arguments, material)
        inner = Run.open(folder, "pretrain", arguments, resume=True)
        try:
            train(inner, material, parts, quiet)
            inner.finish()
        finally:
            inner.close()
    return str(read_config(folder)["encoder"])


def _save_steps(run: Run, networks: dict[str, str]) -> None:
    """The steps that a budget of minutes became, method by method, so that the study's configuration repeats them."""
    folders = {method: run.path / "pretrain" / _slug(method) for method in networks}
    steps = {method: read_config(folder)["steps"] for method, folder in folders.items() if status(folder) == "finished"}
    if steps and len(steps) == len(networks):
        run.save_config(steps=steps, minutes=None, epochs=None, resolved=["steps", "minutes", "epochs"])


def _weights(config: dict[str, Any]) -> dict[str, str]:
    """The weights that stand as controls: the name under which each is shown -> where they come from.

    That is the last part of a path, unless a method or other weights are called so; then the path.
    """
    own = ("random", "control", *plugins.names("evaluators"))
    sources = [c for c in dict.fromkeys(config["controls"]) if c not in own]
    short = {c: Path(c).resolve().name if Path(c).exists() else c for c in sources}
    taken = Counter([*short.values(), *config["methods"], *own])
    paths = {c: c if c not in taken else str(Path(c).resolve()) for c in sources}
    return {short[c] if taken[short[c]] == 1 else paths[c]: c for c in sources}


def _arms(config: dict[str, Any], networks: dict[str, str], weights: dict[str, str]) -> Iterator[Arm]:
    of_weights = {name: pretrained_weights.network(source) or str(config["encoder"]) for name, source in weights.items()}
    for control in ("majority", "header", "pixels"):
        if control in config["controls"]:
            yield Arm(control, "control")
    for mode in config["modes"]:
        if "random" in config["controls"]:
            for network in dict.fromkeys([*networks.values(), *of_weights.values()]):
                yield Arm(mode, "random", network)
        for name, network in {**networks, **of_weights}.items():
            yield Arm(mode, name, network)


def _network(run: Run, material: DataModule, arm: Arm, drawn: Draw, quiet: bool) -> Path:
    """The encoder file of an arm: pretrained, pretrained anew on the draw's labels, or random or given weights, written once."""
    given, folder = _weights(run.config).get(arm.method), _network_of(run, _target(material), arm, drawn)
    if given is None and arm.method != "random":
        if _reads_labels(arm.method, _target(material)):
            _pretrain(run, _only(material, drawn), arm.method, folder, quiet)
        return folder
    if not (folder / encoder_header.FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        info = describe({"size": run.config["size"], "seed": run.config["seed"]}, material, arm.encoder)
        torch.manual_seed(run.config["seed"])
        network = encoders.build(info)
        if given is not None:
            pretrained_weights.start(network, info, given)
            info = replace(info, method={"name": arm.method})
        record = provenance.Record() if given is None else provenance.record(given)
        encoders.save(folder / encoder_header.FILE, network, replace(info, trained_on=record.header()))
    return folder


def _network_of(run: Run, target: Target, arm: Arm, drawn: Draw) -> Path:
    """The folder of an arm's network: of a method's, of that on the draw's labels, or of random or given weights."""
    name = _slug(arm.method)
    if arm.method == "random" or arm.method in _weights(run.config):
        name = f"{name}-{arm.encoder}"
    elif _reads_labels(arm.method, target):  # all labels can be drawn in one way only
        name = f"{name}-f{drawn.fraction:g}-s{0 if drawn.fraction >= 1 else drawn.seed}"
    return run.path / "pretrain" / name


def _only(material: DataModule, drawn: Draw) -> DataModule:
    """The material with the labels of one draw alone."""
    return replace(material, target=_target(material).only(drawn.train))


def _classify(run: Run, material: DataModule, arm: Arm, draws: list[Draw], quiet: bool) -> Iterator[tuple[Draw, np.ndarray]]:
    """Fit a classifier on each draw and give its probabilities of the test rows."""
    target, test = _target(material), _test(material)
    config, inputs, last = run.config, None, None
    for drawn in draws:
        first = arm.file(run, replace(drawn, seed=0))
        if drawn.fraction >= 1 and drawn.seed and arm.evaluator != "finetune" and first.exists():
            yield drawn, np.load(first)  # all labels can be drawn in one way only, and nothing else is random here
            continue
        if arm.method == "control":
            module = plugins.module("evaluators", arm.evaluator)
            inputs = module.inputs(_context(material)) if inputs is None else inputs
            yield drawn, module.predict(inputs, target, drawn, test)
            continue
        source = _network(run, material, arm, drawn, quiet)
        if arm.evaluator == "finetune":
            dilated = segmentation_decoders.STRIDE if config["decoder"] == "deeplabv3plus" else 0
            encoder, info = pretrained_weights.adapted(source, config["finetune_size"], dilated)
            recipe = Recipe(
                config["finetune_steps"], config["finetune_batch_size"], config["finetune_learning_rate"], seed=drawn.seed
            )  # fmt: skip
            if target.regional:
                job = segmentation.Job(encoder, info, material, drawn, recipe, config["decoder"], quiet=True)
                job.train(None)
                yield drawn, job.evaluate(test)
                continue
            tuned, _ = tune(encoder, info, material.store, material.rows, target, drawn, recipe)
            yield drawn, predict(tuned.encoder, tuned.head, info, material.store, material.rows[test], target.multilabel)
            continue
        if source != last:
            encoder, info, _ = encoders.load(source)
            inputs, last = _context(material, encoder, info).features, source
        yield drawn, plugins.module("evaluators", arm.evaluator).predict(inputs, target, drawn, test)


def _context(material: DataModule, encoder: Any = None, info: Any = None) -> Context:
    return Context(encoder, info, None, material.dataset, material.store, material.split, _target(material))


def _test(material: DataModule) -> np.ndarray:
    return _context(material).test


def _save(path: Path, p: np.ndarray) -> None:
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, p.astype(np.float32))


def _save_draws(run: Run, material: DataModule, draws: list[Draw]) -> None:
    """``labels.csv``: which rows each draw may see; a user's proof, and the way to repeat it elsewhere."""
    import pandas as pd

    parts = [
        pd.DataFrame({"row": material.rows[rows], "split": name, "fraction": d.fraction, "seed": d.seed})
        for d in draws
        for name, rows in (("train", d.seen), ("val", d.val))
        if d.fraction < 1
    ]
    if parts:
        files.write(run.path / "labels.csv", pd.concat(parts).to_csv(index=False))


def _rows(run: Run, material: DataModule, arms: list[Arm], draws: list[Draw], networks: dict[str, str]) -> list[Row]:
    """All rows of the study, from the files that its classifiers or segmenters left."""
    target, test = _target(material), _test(material)
    y, units, config = target.y[test], material.split.units[test], run.config
    judge: Judge = OfClasses(y, units, target.classes)
    if target.regional:
        judge = OfRegions(units, masks.read(material.dataset, material.store.side).classes)
    rows: list[Row] = data_rows(material)
    for method in networks:
        rows += [{**row, "method": method} for row in read_rows(run.path / "pretrain" / _slug(method))]
    rows += [] if target.regional else _patients_needed(target, y)
    differences: list[Row] = []
    looked: set[tuple[str, str]] = set()
    for arm in arms:
        module = "segmentation" if target.regional else "metrics" if arm.evaluator == "finetune" else arm.evaluator
        protocol = {"version": plugins.module("evaluators", module).PROTOCOL}
        if arm.evaluator == "finetune":
            protocol |= {"steps": config["finetune_steps"], "learning_rate": config["finetune_learning_rate"]}
            start = "zero" if arm.method == "random" else "probe"
            protocol |= {"decoder": config["decoder"]} if target.regional else {"head": start}
        common: Row = {
            "evaluator": "segmentation" if target.regional else arm.evaluator, "method": arm.method, "encoder": arm.encoder or None,
            "target": ",".join(target.columns), "split": "test", "protocol": protocol,
        }  # fmt: skip
        if arm.method != "control":
            source = _weights(config).get(arm.method) or _network_of(run, target, arm, draws[-1])
            overlap = material.overlap(source)
            common |= {"overlap": material.overlap_in_words(source)}
            if arm.method != "random" and (arm.method, arm.encoder) not in looked:
                looked.add((arm.method, arm.encoder))
                rows.append(overlap.row(method=arm.method, encoder=arm.encoder))
        curve: dict[int, list[float]] = {}
        for fraction in config["fractions"]:
            chosen = [d for d in draws if d.fraction == fraction]
            predictions = [np.load(arm.file(run, d)).astype(float) for d in chosen]
            for drawn, p in zip(chosen, predictions, strict=True):
                rows += [{**common, **row} for row in judge.of_draw(p, drawn)]
            labels = len(chosen[0].train)
            curve[labels] = [judge.value(p) for p in predictions]
            rows += [{**common, **row} for row in judge.of_fraction(predictions, fraction, labels)]
            reference = Arm(arm.evaluator, "random", arm.encoder)
            if arm.method not in ("control", "random") and reference in arms:
                base = [np.load(reference.file(run, d)).astype(float) for d in chosen]
                found = judge.difference(predictions, base)
                row = {"metric": f"{judge.headline}_difference", "reference": "random", "fraction": fraction, "labels": labels}
                differences.append({**common, **row, **found})
        if arm.method != "control" and not target.regional:
            guess = {**common, "evaluator": "extrapolation", "use": arm.evaluator, "protocol": learning_curves.PROTOCOL}
            rows += [{**guess, **row} for row in learning_curves.curve_rows(list(curve), np.transpose(list(curve.values())))]
    adjusted = bootstrap.holm([row["p_value"] for row in differences])
    return rows + [{**row, "p_holm": float(p)} for row, p in zip(differences, adjusted, strict=True)]


def _patients_needed(target: Target, y: np.ndarray) -> list[Row]:
    """How many test patients an AUROC's interval wants, of every class that has positive and negative test rows."""
    truth = y if target.multilabel else (y[:, None] == np.arange(len(target.classes))).astype(float)
    common = {
        "evaluator": "extrapolation",
        "target": ",".join(target.columns),
        "split": "test",
        "protocol": learning_curves.PROTOCOL,
    }
    names = list(enumerate(target.classes))[0 if target.multilabel or len(target.classes) > 2 else 1 :]
    shares = ((name, float(np.nanmean(truth[:, k]))) for k, name in names)
    return [{**common, **row} for name, share in shares if 0 < share < 1 for row in learning_curves.width_rows(name, share)]


def _figure_of_features(run: Run, material: DataModule, networks: dict[str, str]) -> None:
    """The map of the test images' features: each encoder beside its random weights."""
    if _target(material).regional:
        return  # regions have no class by which an image could be marked
    from scotoma.reporting.naming import called

    shown = embedding_map.shown(_test(material))
    found: dict[str, np.ndarray] = {}
    sources = {called(m): run.path / "pretrain" / _slug(m) for m in networks} | {
        f"{called('random')}, {n}": run.path / "pretrain" / f"random-{n}" for n in networks.values()
    }
    for name, source in sources.items():
        if (source / encoder_header.FILE).exists():
            encoder, info, _ = encoders.load(source)
            found[name] = extract(encoder, info, material.store, material.rows[shown])
    if found:
        figure, caption = embedding_map.figure(found, _target(material), shown)
        run.figure("features", figure, "How the encoders arrange the test images", caption, "features")
