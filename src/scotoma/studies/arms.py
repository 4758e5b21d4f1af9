"""The arms of a study: encoders and controls, each used one way; where their files lie."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
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

    def __str__(self) -> str:
        return " ".join(part for part in (self.evaluator, self.method, self.encoder) if part)

    def file(self, run: Run, drawn: Draw) -> Path:
        """Where the outputs of one model lie, or their scores."""
        parts = (self.evaluator, slug(self.method), slug(self.encoder), f"f{drawn.fraction:g}", f"s{drawn.seed}")
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
    own = ("random", "control", *plugins.names("evaluators"))
    sources = [c for c in dict.fromkeys(config["controls"]) if c not in own]
    short = {c: Path(c).resolve().name if Path(c).exists() else c for c in sources}
    taken = Counter([*short.values(), *config["methods"], *own])
    paths = {c: c if c not in taken else str(Path(c).resolve()) for c in sources}
    return {short[c] if taken[short[c]] == 1 else paths[c]: c for c in sources}


def arms_of(config: dict[str, Any], networks: dict[str, str]) -> Iterator[Arm]:
    """Controls first, then each mode's random weights, methods and other weights.

    Args:
        config: of the study.
        networks: method -> name of its network.
    """
    of_weights = {name: pretrained_weights.network(source) or str(config["encoder"]) for name, source in weights_of(config).items()}
    for control in ("majority", "header", "pixels"):
        if control in config["controls"]:
            yield Arm(control, "control")
    for mode in config["modes"]:
        if "random" in config["controls"]:
            for network in dict.fromkeys([*networks.values(), *of_weights.values()]):
                yield Arm(mode, "random", network)
        for name, network in {**networks, **of_weights}.items():
            yield Arm(mode, name, network)


def folder_of(run: Run, target: Target, arm: Arm, drawn: Draw) -> Path:
    """The folder of an arm's network: of a method's, of that on the draw's labels, or of random or given weights."""
    name = slug(arm.method)
    if arm.method == "random" or arm.method in weights_of(run.config):
        name = f"{name}-{arm.encoder}"
    elif reads_labels(arm.method, target):  # all labels can be drawn in one way only
        name = f"{name}-f{drawn.fraction:g}-s{0 if drawn.fraction >= 1 else drawn.seed}"
    return run.path / "pretrain" / name
