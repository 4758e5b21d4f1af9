"""The control of a study: each method's own network before its first step, in several initialisations.

It is built by the method's constructor, as a method may change a network before it trains it (MAE its positions and its patch
embedding), and exported as ``pretrain`` exports it, online or EMA network. Methods whose untrained networks are the same bit by bit
share their control; that is found by comparing them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from scotoma import files
from scotoma.data import encoder_header, provenance
from scotoma.data.datamodule import DataModule
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.io import sampling
from scotoma.models import encoders, pretrained_weights
from scotoma.models.precision import automatic_precision
from scotoma.run_folder import Run
from scotoma.studies.arms import RANDOM, folder_of_control, pretraining_of, weights_of
from scotoma.training import cpu_kernels
from scotoma.training.pretraining import Parts, assemble, describe
from scotoma.training.schedule import Schedule
from scotoma.training.trainer import Order, step_loss, tune_for_cpu
from scotoma.transforms.augmentation import plain

FIRST_SEED = 1000  # beyond the study's seed, so that no control starts where a pretraining does
IMAGES = 1000  # by which batch statistics are estimated


def share(run: Run, data_module: DataModule) -> dict[str, str]:
    """Method or weights -> the first of them that has the very same control; nothing of a study without this control.

    Weights come without a method: their control is that of a method on the same network where its parameters are the same, else the
    network as timm makes it. What was found is kept in ``pretrain/controls.json``: a study that is taken up again keeps to it.
    """
    if RANDOM not in run.config["controls"]:
        return {}
    place = run.path / "pretrain" / "controls.json"
    if place.exists():
        return dict(json.loads(place.read_text()))
    found: dict[str, str] = {}
    first: dict[str, str] = {}  # digest -> method or weights
    for name in (*run.config["methods"], *weights_of(run.config)):
        network, info = build(run, data_module, name, 0)
        whole, parameters = digest(network.state_dict()), digest(dict(network.named_parameters()))
        found[name] = first.get(whole if name in run.config["methods"] else parameters, name)
        if found[name] == name:
            first = {parameters: name} | first | {whole: name}
            write(folder_of_control(run, name, 0), name, network, info)
    files.write(place, json.dumps(found))
    return found


def save(run: Run, data_module: DataModule, name: str, draw: int) -> None:
    """Write the control of a method, or of weights, for the label draws of this number, unless it is there."""
    folder = folder_of_control(run, name, draw)
    if not (folder / encoder_header.FILE).exists():
        write(folder, name, *build(run, data_module, name, draw))


def build(run: Run, data_module: DataModule, name: str, draw: int) -> tuple[nn.Module, EncoderInfo]:
    """The untrained network of a method, or that of weights without them, and its header.

    Its seed is the study's plus ``FIRST_SEED`` plus the number of the draw. Batch norm's running statistics are estimated on
    training images, as those of the method's were: without them it would not be the network before its first step.
    """
    seed = run.config["seed"] + FIRST_SEED + draw
    if name in run.config["methods"]:
        return build_untrained(pretraining_of(run.config, name) | {"seed": seed}, data_module)
    encoder = pretrained_weights.network(weights_of(run.config)[name]) or run.config["encoder"]
    info = describe({"size": run.config["size"], "seed": seed}, data_module, encoder)
    torch.manual_seed(seed)
    network = encoders.build(info)
    estimate_statistics(network, partial(_plain_images, network, info, data_module))
    return network.cpu().eval(), info


def build_untrained(config: dict[str, Any], data_module: DataModule) -> tuple[nn.Module, EncoderInfo]:
    """The network of a pretraining before its first step, and its header.

    Args:
        config: of the pretraining, as its run folder has it.
        data_module: its images.
    """
    parts = assemble(config, data_module)
    estimate_statistics(parts.method.encoder, partial(_views_of_method, parts, config["seed"]))
    return parts.method.encoder.cpu().eval(), parts.info


@torch.no_grad()
def estimate_statistics(network: nn.Module, passes: Callable[[], object]) -> None:
    """Let batch norm's running statistics be the means over the batches of some forward passes; nothing without batch norm.

    Each batch counts alike: a momentum would leave a part of the start, 0 and 1, in them.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    passes()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _views_of_method(parts: Parts, seed: int) -> None:
    """The method's own forward passes over its own views of training images, without a step."""
    device, count = _device(), len(parts.batches.rows)
    size = max(2, min(parts.method.batch_size, count // 2))
    precision = automatic_precision(parts.info.image_size)
    schedule = Schedule(-(-min(count, IMAGES) // size), size, 0.0, 0.0, precision, seed)
    method = parts.method.to(memory_format=torch.channels_last).to(device).train()
    tune_for_cpu(method, precision)
    torch.manual_seed(seed)
    for key in Order(count, schedule):
        batch = {name: tensor.to(device) for name, tensor in parts.batches[key].items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            step_loss(method, batch, seed)
    cpu_kernels.restore(method)


def _plain_images(network: nn.Module, info: EncoderInfo, data_module: DataModule) -> None:
    """Forward passes over training images as they are, of a network without a method."""
    device, rows = _device(), data_module.rows[data_module.pretraining]
    network.to(device).train()
    rows = rows[sampling.spread(len(rows), IMAGES)]
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        images = torch.from_numpy(data_module.store.batch(part)).to(device)
        network(plain(images, info.image_size, info.mean, info.std))


def digest(weights: dict[str, Tensor]) -> str:
    """By which equal weights are known."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in weights.items():
        found.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write(folder: Path, name: str, network: nn.Module, info: EncoderInfo) -> None:
    """Write an untrained network as what its header then states: random weights, of the method of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    header = replace(info, method={"name": RANDOM, "of": name}, trained_on=provenance.Record().header())
    encoders.save(folder / encoder_header.FILE, network, header)
