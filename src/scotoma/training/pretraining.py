"""What ``pretrain`` and ``study`` do once table, store and run folder stand: choose, train, save, look."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scotoma import plugins
from scotoma.data import encoder_header
from scotoma.data.datamodule import DataModule
from scotoma.data.store.store import statistics
from scotoma.distributed import collectives
from scotoma.errors import UsageError, notice
from scotoma.methods.base import Method
from scotoma.methods.parts.inputs import Inputs
from scotoma.models import encoders, pretrained_weights
from scotoma.models.precision import automatic_precision
from scotoma.run_folder import Onlooker, Row, Run, versions
from scotoma.training import resuming
from scotoma.training.batches import make_batches
from scotoma.training.lr_finder import fits, largest, measure_rate
from scotoma.training.presets import describe_scaling, preset
from scotoma.training.schedule import Schedule
from scotoma.training.trainer import Batches, cost_rows, fit, make_views

IMAGES = 6


@dataclass(frozen=True)
class Parts:
    """What a pretraining is put together from; made before anything is written, so that a wrong request leaves nothing.

    Args:
        info: the header of the encoder to be.
        method: around a network of random weights, or of those that ``init`` names.
        positions: the rows of the data_module that it sees.
        batches: of them.
    """

    info: encoder_header.EncoderInfo
    method: Method
    positions: np.ndarray
    batches: Batches


def assemble(config: dict[str, Any], data_module: DataModule) -> Parts:
    """Put the method together as a configuration states.

    Raises:
        UsageError: the method has no such argument, or does not take this network; timm has no such network.
    """
    chosen = plugins.method(config["method"])
    init = config.get("init")
    name = config["encoder"] or (init and pretrained_weights.network(init)) or preset(chosen, config.get("preset")).encoder
    name = name or chosen.encoder_at(config["size"])
    info = describe(config, data_module, name)
    settings = chosen.settings(config["method_args"])
    requirements = chosen.requirements(settings)
    positions, outputs = data_module.pretraining, 0
    weights: tuple[float, ...] = ()
    soft = False
    if requirements.labels and data_module.target is not None:
        if not requirements.unlabelled:
            positions = positions[(data_module.target.known | data_module.target.tied)[positions]]
        soft = data_module.target.shares is not None and not data_module.target.multilabel
        outputs, weights = len(data_module.target.classes), data_module.target.weights(positions)
    batches, columns = make_batches(data_module, positions, requirements, config["seed"])
    inputs = Inputs(
        info.image_size, info.in_chans, info.mean, info.std, info.modality, outputs, weights, soft, images=len(positions),
        columns=columns, trained=init is not None,
    )  # fmt: skip
    torch.manual_seed(config["seed"])
    encoder = encoders.build(info)
    if init is not None:
        pretrained_weights.start(encoder, info, init)
    method = chosen(encoder, inputs, **settings)
    if config.get("checkpointing"):
        checkpoint_activations(method)
    if config.get("compile"):
        method.loss = torch.compile(method.loss)
    return Parts(info, method, positions, batches)


def checkpoint_activations(method: Method) -> None:
    """Let all networks of a method compute their activations again in the backward pass.

    Raises:
        UsageError: one has batch norm, whose running statistics would see each batch twice; or cannot do it.
    """
    networks = [m for m in method.modules() if type(m) is type(method.encoder)]
    if any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for n in networks for m in n.modules()):
        raise UsageError("--checkpointing is not for networks with batch norm: take a vision transformer or a ConvNeXt")
    network: Any
    for network in networks:
        if not hasattr(network, "set_grad_checkpointing"):
            raise UsageError(f"--checkpointing: timm cannot do it with {type(network).__name__}")
        network.set_grad_checkpointing(True)


def open_run(out: Path, arguments: dict[str, Any], overwrite: bool, resume: bool) -> Run:
    """The run folder of a pretraining, into which of several processes the first alone writes."""
    run = None if collectives.rank() else Run.open(out, "pretrain", arguments, overwrite, resume)
    config, resumed = collectives.broadcast(run and (run.config, run.resumed))
    return run or Onlooker(out, config, resumed)


def train(run: Run, data_module: DataModule, parts: Parts, quiet: bool = False) -> list[Row]:
    """Pretrain as ``run.config`` states; leaves the encoder, rows and figures in the run folder and returns the rows."""
    config, info, method, positions = run.config, parts.info, parts.method, parts.positions
    batches = parts.batches
    requirements = plugins.method(config["method"]).requirements(method.settings(config["method_args"]))
    resuming.check(run, data_module, requirements.masks, [config["init"]] if config.get("init") else [])
    if not collectives.rank():
        data_module.save_used(run.path)  # before the first step: what an interrupted run holds is found, too
    _require_same(run, info)
    schedule = make_schedule(config, method, batches)
    resolved = {
        "encoder": info.name, "steps": schedule.steps, "minutes": None, "epochs": None, "batch_size": schedule.batch_size,
        "learning_rate": schedule.learning_rate, "weight_decay": schedule.weight_decay, "warmup": schedule.warmup,
        "final_learning_rate": schedule.final_learning_rate, "precision": schedule.precision, "channels": info.in_chans,
        "modality": info.modality, "method_args": method.settings(config["method_args"]),
    }  # fmt: skip
    by_size = method.encoder_at(config["size"])
    if info.name == by_size != method.default_encoder and not (config["encoder"] or config.get("init") or run.resumed):
        notice(data_module.dataset.name, f"--encoder {by_size}: the default at {config['size']} pixels")
    given = [name for name in ("batch_size", "learning_rate") if config[name] not in (None, "auto")]
    chosen = preset(method, config.get("preset"))
    scaled = describe_scaling(chosen, schedule.batch_size, schedule.learning_rate, len(positions), given)
    if scaled and not run.resumed:  # of a resumed run, whose configuration has both, the record stands
        notice(data_module.dataset.name, scaled)
    run.save_config(**resolved, resolved=list(resolved), **({"scaled": scaled} if scaled else {}))
    trained = fit(method, schedule, batches, run.path, resume=run.resumed, quiet=quiet)
    if collectives.rank():
        return []
    method.cpu().eval()
    encoders.save(run.path / encoder_header.FILE, method.encoder, replace(info, trained_on=data_module.record(positions)))
    figures(run, method, batches)
    run.replace_rows([])  # without those of a run that was killed between its rows and its end
    rows = cost_rows(trained, schedule, method, len(positions), data_module.seconds)
    return run.add_rows(rows, evaluator="pretrain", method=config.get("variant", config["method"]), encoder=info.name)


def _require_same(run: Run, info: encoder_header.EncoderInfo) -> None:
    """Refuse to go on with a run as another network or method, which an argument that is left out would make it.

    Raises:
        UsageError: naming the argument.
    """
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in info.method.items() if k != "name"}
    now = {"encoder": info.name, "channels": info.in_chans, "modality": info.modality, "method_args": settings}
    known: dict[str, Any] = run.config if run.resumed else {}
    for name in (n for n in known.get("resolved", []) if n in now and known[n] != now[n]):
        flag, was = name, known[name]
        if name == "method_args":
            flag, was = next(((f"method.{k}", v) for k, v in was.items() if v != settings.get(k)), (name, was))
        raise UsageError(f"--resume: the interrupted run had {flag} {was}: name it again (--{flag} {was}), or use --overwrite")


def describe(config: dict[str, Any], data_module: DataModule, name: str) -> encoder_header.EncoderInfo:
    """The header of the encoder to be: its network, the statistics of the training pixels, and how it came about."""
    timm_name, kwargs = encoders.resolve(name, config["size"])
    positions = data_module.pretraining
    mean, std = statistics(data_module.store, data_module.rows[positions])
    method = {"name": "random"}
    if "method" in config:
        method = {"name": config["method"], **plugins.method(config["method"]).settings(config["method_args"])}
    store = data_module.store
    return encoder_header.EncoderInfo(
        timm_name, kwargs, store.channels, config["size"], mean, std, store.preparation, data_module.modality, method,
        config["seed"], versions(), data_module.fingerprint(positions),
    )  # fmt: skip


def make_schedule(config: dict[str, Any], method: Method, batches: Batches) -> Schedule:
    """Everything automatic, decided: batch size, learning rate, precision, and the steps that a budget of minutes allows.

    Raises:
        UsageError: the batch is no multiple of its parts, or the final learning rate is above the peak learning rate.
    """
    count, chosen = len(batches.rows), preset(method, config.get("preset"))
    parts = collectives.world() * config.get("accumulate", 1)
    usual = max(2, min(chosen.batch_size, count // 2) // parts) * parts
    automatic = config["batch_size"] == "auto"
    if automatic and collectives.world() > 1:  # one that ran out of memory would leave the others waiting
        raise UsageError("--batch_size auto tries batches on one device: try it there, then name the number for all of them")
    batch_size = usual if automatic else config["batch_size"] or usual
    if batch_size % parts:
        raise UsageError(f"--batch_size {batch_size}: must be a multiple of {parts}, its parts (--devices times --accumulate)")
    schedule = Schedule(
        config["steps"] or 10**6,
        batch_size,
        chosen.learning_rate,
        chosen.weight_decay if config["weight_decay"] is None else config["weight_decay"],
        config["precision"] or automatic_precision(config["size"]),
        config["seed"],
        accumulate=config.get("accumulate", 1),
        shard=config.get("shard", False),
        warmup=chosen.warmup if config.get("warmup") is None else config["warmup"],
    )
    if automatic and torch.cuda.is_available():
        size = largest(lambda n: fits(method, replace(schedule, batch_size=n), batches), 2 * parts, max(2 * parts, count // 2))
        schedule = replace(schedule, batch_size=size)
    peak, final = config["learning_rate"] or chosen.rate(schedule.batch_size), config.get("final_learning_rate")
    if final is not None and final > peak:
        raise UsageError(f"--final_learning_rate {final:g}: must be at most the peak learning rate, {peak:g}")
    final = min(chosen.final_learning_rate, peak) if final is None else final
    schedule = replace(schedule, learning_rate=peak, final_learning_rate=final)
    steps = config["steps"]
    if config["epochs"]:
        steps = max(1, round(config["epochs"] * count / schedule.batch_size))
    elif config["minutes"]:
        began = time.perf_counter()
        rate = measure_rate(method, schedule, batches)
        steps = collectives.broadcast(max(1, int((60 * config["minutes"] - (time.perf_counter() - began)) / rate)))
    return replace(schedule, steps=steps)


@torch.no_grad()
def figures(run: Run, method: Method, batches: Batches) -> None:
    """What the method saw of a few training images, and what it made of them."""
    from scotoma.visualization.plots import image_grid

    chosen = np.linspace(0, len(batches.rows) - 1, min(IMAGES, len(batches.rows))).astype(int)
    batch = batches[np.zeros(len(chosen), np.int64), chosen]
    rows = batches.rows[chosen]
    shown = method.example_images(make_views(method, batch, run.config["seed"]), batch)
    inputs = method.inputs
    columns = {"image": batches.store.batch(rows).transpose(0, 2, 3, 1) / 255.0}
    for name, tensor in shown.items():
        x = tensor.float() * torch.tensor(inputs.std).view(1, -1, 1, 1) + torch.tensor(inputs.mean).view(1, -1, 1, 1)
        columns[name] = x.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    title = f"What {type(method).__name__} sees"
    caption = (
        f"{len(rows)} training images (rows {', '.join(str(r) for r in rows)} of the store) and what the method made of them: "
        f"{', '.join(shown)}. Augmentations that would hide or invent a finding would show here."
    )
    run.figure("views", image_grid(columns), title, caption, "pretraining")
