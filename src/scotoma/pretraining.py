"""What ``pretrain`` and ``study`` do once table, store and run folder stand: choose, train, save, look."""

from __future__ import annotations

import inspect
import resource
import time
from typing import Any

import lightning as L
import numpy as np
import torch

from scotoma import encoders, plugins
from scotoma.data.store import MARGIN, PROTOCOL, statistics
from scotoma.errors import RunError, UsageError
from scotoma.material import Material
from scotoma.methods.base import Inputs, Method
from scotoma.run import Row, Run, versions
from scotoma.training import Batches, Plan, Trained, automatic_precision, fit, measure_rate
from scotoma.views import Draws

PICTURES = 6


def train(run: Run, material: Material, quiet: bool = False) -> list[Row]:
    """Pretrain as ``run.config`` says; leaves the encoder, rows and figures in the run folder and returns the rows."""
    config = run.config
    info = describe(config, material, config["encoder"] or plugins.method(config["method"]).default_encoder)
    positions = material.pretraining
    chosen = plugins.method(config["method"])
    if chosen.needs_labels and material.target is not None:
        positions = positions[material.target.known[positions]]
    L.seed_everything(config["seed"], verbose=False)
    method = build(config, info, material, positions)
    batches = Batches(material.store, material.rows[positions], _targets(material, positions, chosen.needs_labels))
    plan = make_plan(config, method, batches)
    resolved = {
        "encoder": info.name, "steps": plan.steps, "minutes": None, "epochs": None, "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate, "weight_decay": plan.weight_decay, "precision": plan.precision,
        "channels": info.in_chans, "modality": info.modality,
    }  # fmt: skip
    run.save_config(**resolved, resolved=list(resolved))
    trained = fit(method, plan, batches, run.path, resume=run.resumed, quiet=quiet)
    method.cpu().eval()
    encoders.save(run.path / encoders.FILE, method.encoder, info)
    material.save_used(run.path)
    figures(run, method, material, positions)
    (run.path / "rows.jsonl").unlink(missing_ok=True)  # of a run that was killed between its rows and its end
    return run.add_rows(_rows(trained, plan, material, method), evaluator="pretrain", method=config["method"], encoder=info.name)


def describe(config: dict[str, Any], material: Material, name: str) -> encoders.EncoderInfo:
    """The header of the encoder to be: its network, the statistics of the training pixels, and how it came about."""
    timm_name, kwargs = encoders.resolve(name, config["size"])
    positions = material.pretraining
    mean, std = statistics(material.store, material.rows[positions])
    method = {"name": config["method"], **config["method_args"]} if "method" in config else {"name": "random"}
    return encoders.EncoderInfo(
        timm_name, kwargs, material.store.channels, config["size"], mean, std,
        {"side": material.store.side, "margin": MARGIN, "protocol": PROTOCOL}, material.modality, method, config["seed"],
        versions(), material.fingerprint(positions),
    )  # fmt: skip


def build(config: dict[str, Any], info: encoders.EncoderInfo, material: Material, positions: np.ndarray) -> Method:
    """The method around a network of random weights.

    Raises:
        UsageError: the method has no such argument, or does not take this network.
    """
    chosen = plugins.method(config["method"])
    known = [p.name for p in inspect.signature(chosen).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in config["method_args"]:
        if name not in known:
            raise UsageError(f"{config['method']} has no argument {name!r}; it has {', '.join(known)}")
    outputs = len(material.target.classes) if material.target and chosen.needs_labels else 0
    weights = material.target.weights(positions) if material.target and chosen.needs_labels else ()
    inputs = Inputs(info.image_size, info.in_chans, info.mean, info.std, info.modality, outputs, weights)
    return chosen(encoders.build(info), inputs, **config["method_args"])


def make_plan(config: dict[str, Any], method: Method, batches: Batches) -> Plan:
    """Everything automatic, decided: batch size, learning rate, precision, and the steps that a budget of minutes allows."""
    count = len(batches.rows)
    batch_size = config["batch_size"] or max(2, min(method.batch_size, count // 2))
    plan = Plan(
        config["steps"] or 10**6, batch_size, config["learning_rate"] or method.learning_rate,
        method.weight_decay if config["weight_decay"] is None else config["weight_decay"],
        config["precision"] or automatic_precision(), config["seed"],
    )  # fmt: skip
    steps = config["steps"]
    if config["epochs"]:
        steps = max(1, round(config["epochs"] * count / batch_size))
    elif config["minutes"]:
        began = time.perf_counter()
        rate = measure_rate(method, plan, batches)
        steps = max(1, int((60 * config["minutes"] - (time.perf_counter() - began)) / rate))
    return Plan(steps, plan.batch_size, plan.learning_rate, plan.weight_decay, plan.precision, plan.seed)


def _targets(material: Material, positions: np.ndarray, wanted: bool) -> np.ndarray | None:
    return material.target.y[positions] if wanted and material.target is not None else None


def _rows(trained: Trained, plan: Plan, material: Material, method: Method) -> list[Row]:
    images = trained.steps * plan.batch_size
    cuda = torch.cuda.is_available()
    # Linux counts in KiB, and counts file-backed pages of the store in
    memory = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    values = {
        "images_seen": plan.steps * plan.batch_size,
        "steps": plan.steps,
        "seconds": trained.seconds,
        "seconds_preparing": material.seconds,
        "images_per_second": images / (trained.seconds + material.seconds),
        "peak_memory_bytes": memory,
        "parameters": sum(p.numel() for p in method.encoder.parameters()),
        "loss": trained.loss,
        "feature_spread": trained.feature_spread,
        "effective_rank": trained.effective_rank,
    }
    if not np.isfinite(trained.loss):
        raise RunError(f"the loss became {trained.loss}: lower --learning_rate")
    return [{"metric": name, "value": float(value), "split": "train"} for name, value in values.items()]


@torch.no_grad()
def figures(run: Run, method: Method, material: Material, positions: np.ndarray) -> None:
    """What the method saw of a few training pictures, and what it made of them."""
    from scotoma.drawing import picture_grid

    chosen = positions[np.linspace(0, len(positions) - 1, min(PICTURES, len(positions))).astype(int)]
    rows = material.rows[chosen]
    rng = Draws(run.config["seed"], 0, torch.from_numpy(rows))
    shown = method.pictures(torch.from_numpy(material.store.batch(rows)), rng)
    inputs = method.inputs
    columns = {"picture": material.store.batch(rows).transpose(0, 2, 3, 1) / 255.0}
    for name, tensor in shown.items():
        x = tensor.float() * torch.tensor(inputs.std).view(1, -1, 1, 1) + torch.tensor(inputs.mean).view(1, -1, 1, 1)
        columns[name] = x.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    title = f"What {type(method).__name__} sees"
    caption = (
        f"{len(rows)} training pictures (rows {', '.join(str(r) for r in rows)} of the store) and what the method made of them: "
        f"{', '.join(shown)}. Augmentations that would hide or invent a finding would show here."
    )
    run.figure("views", picture_grid(columns), title, caption, "pretraining")
