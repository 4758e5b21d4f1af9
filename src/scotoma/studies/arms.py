"""The arms of a study: encoders and controls, each used one way; where their files lie."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scotoma import plugins
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw
from scotoma.models import pretrained_weights
from scotoma.run_folder import Run
from scotoma.tasks.base import FineTuning
from scotoma.training import label_columns

RANDOM = "random"  # the method of untrained networks


@dataclass(frozen=True)
class Arm:
    """One line of the study: an encoder used one way, or a control that needs none.

    Args:
        evaluator: ``linear``, ``finetune``, or the control's evaluator.
        method: that made the encoder; ``random``; ``control``.
        encoder: name of the network; "" for none.
        control_of: of random weights: the methods (or weights) whose network before its first step this is.
    """

    evaluator: str
    method: str
    encoder: str = ""
    control_of: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f"(control of {', '.join(self.control_of)})" if self.control_of else ""
        return " ".join(part for part in (self.evaluator, self.method, self.encoder, of) if part)

    def file(self, run: Run, drawn: Draw) -> Path:
        """Where the outputs of one model lie, or their scores."""
        of = slug(self.control_of[0]) if self.control_of else ""
        parts = (self.evaluator, slug(self.method), of, slug(self.encoder), f"f{drawn.fraction:g}", f"s{drawn.seed}")
        return run.path / "predictions" / ("-".join(p for p in parts if p) + ".npy")


def tuning_of(config: dict[str, Any], seed: int = 0) -> FineTuning:
    """The configuration of a study's fine-tunings."""
    length, images, rate = config["finetune_steps"], config["finetune_batch_size"], config["finetune_learning_rate"]
    return FineTuning(length, images, rate, seed=seed, decoder=config["decoder"])


def slug(method: str) -> str:
    """A method with its arguments as a name for files."""
    return re.sub(r"[^\w.=-]", "_", method)


def reads_labels(method: str, target: Target) -> bool:
    """Whether a method sees the target: then it is trained anew on the labels of each draw alone."""
    chosen, given = plugins.variant(method)
    return label_columns.reads_target(chosen.requirements(chosen.settings(given)), target.columns)


def weights_of(config: dict[str, Any]) -> dict[str, str]:
    """The weights that stand as controls: the name under which each is shown -> where they come from.

    That is the last part of a path, unless a method or other weights are called so; then the path.
    """
    own = (RANDOM, "control", *plugins.names("evaluators"))
    sources = [c for c in dict.fromkeys(config["controls"]) if c not in own]
    short = {c: Path(c).resolve().name if Path(c).exists() else c for c in sources}
    taken = Counter([*short.values(), *config["methods"], *own])
    paths = {c: c if c not in taken else str(Path(c).resolve()) for c in sources}
    return {short[c] if taken[short[c]] == 1 else paths[c]: c for c in sources}


def pretraining_of(config: dict[str, Any], method: str, number: int = 0) -> dict[str, Any]:
    """The configuration of a pretraining by a study's method.

    Args:
        config: of the study.
        method: with its arguments.
        number: of the pretraining, by which its seed differs from the others'.
    """
    shared = ["data", "labels", "on", "annotators", "target", "classes", "size", "channels", "modality", "minutes", "epochs"]
    shared += ["missing", "separator", "strict", "allow_leakage", "encoder"]
    steps = config["steps"].get(method) if isinstance(config["steps"], dict) else config["steps"]
    automatic = ("init", "batch_size", "learning_rate", "weight_decay", "precision")
    arguments: dict[str, Any] = {k: config.get(k) for k in shared} | dict.fromkeys(automatic)
    arguments |= {"method": method.partition("?")[0], "method_args": plugins.variant(method)[1], "steps": steps}
    arguments["seed"] = config["seed"] + number
    return arguments | {"variant": method}  # by which rows and curves tell it from others of the same method


def arms_of(config: dict[str, Any], networks: Mapping[str, str], shared: Mapping[str, str]) -> Iterator[Arm]:
    """Controls first, then each mode's random weights, methods and other weights.

    Args:
        config: of the study.
        networks: method -> name of its network.
        shared: method or weights -> the first of them that has the same untrained network; empty for a study without these.
    """
    of_weights = {name: pretrained_weights.network(source) or str(config["encoder"]) for name, source in weights_of(config).items()}
    every = {**networks, **of_weights}
    for control in ("majority", "header", "pixels"):
        if control in config["controls"]:
            yield Arm(control, "control")
    for mode in config["modes"]:
        for first in dict.fromkeys(shared.values()):
            yield Arm(mode, RANDOM, every[first], tuple(name for name in every if shared[name] == first))
        for name, network in every.items():
            yield Arm(mode, name, network)


def folder_of_control(run: Run, name: str, draw: int) -> Path:
    """The folder of the untrained network of a method, or of weights, for the label draws of one number."""
    return run.path / "pretrain" / f"{RANDOM}-{slug(name)}-s{draw}"


def folder_of_weights(run: Run, name: str, encoder: str) -> Path:
    """The folder of weights that were given as a control."""
    return run.path / "pretrain" / f"{slug(name)}-{encoder}"


def folder_of(run: Run, target: Target, arm: Arm, drawn: Draw) -> Path:
    """The folder of an arm's network for a draw: untrained, given weights, or of the method's pretraining that the draw takes.

    A method that reads labels is pretrained on the draw's alone; all labels can be drawn in one way only.
    """
    if arm.method == RANDOM:
        return folder_of_control(run, arm.control_of[0], drawn.seed)
    if arm.method in weights_of(run.config):
        return folder_of_weights(run, arm.method, arm.encoder)
    name, number = slug(arm.method), number_of(run.config, drawn)
    if reads_labels(arm.method, target):
        name += f"-f{drawn.fraction:g}-s{number if drawn.fraction >= 1 else drawn.seed}"
    elif number:
        name += f"-p{number}"
    return run.path / "pretrain" / name


def number_of(config: dict[str, Any], drawn: Draw) -> int:
    """Which of a method's pretrainings a draw takes."""
    return drawn.seed % int(config.get("pretrainings") or 1)
