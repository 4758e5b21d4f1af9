"""The presets of a method: its defaults for small data, or the paper's values; and the paper's rates at other batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

SIZE = 96  # pixels
SMALL, REFERENCE = "small", "reference"
SCALINGS: dict[str, Callable[[float], float]] = {"linear": lambda ratio: ratio, "sqrt": math.sqrt}


@dataclass(frozen=True)
class Preset:
    """What a pretraining is where nothing else is asked for.

    Args:
        batch_size: images per step.
        learning_rate: peak learning rate at that batch.
        weight_decay: of AdamW.
        warmup: share of the steps over which the learning rate rises.
        final_learning_rate: at the last step.
        size: input size, pixels.
        encoder: name of the network; None for the method's default at the input size.
        epochs: length; None where the preset states none.
        method_args: of the method.
        scaling: how the learning rate follows the batch, a key of ``SCALINGS``; "" for a rate that stays.
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    final_learning_rate: float = 0.0
    size: int = SIZE
    encoder: str | None = None
    epochs: int | None = None
    method_args: dict[str, Any] = field(default_factory=dict)
    scaling: str = ""

    def rate(self, batch_size: int) -> float:
        """The learning rate at another batch."""
        factor = batch_size / self.batch_size
        return self.learning_rate * (SCALINGS[self.scaling](factor) if self.scaling else 1.0)


def preset(method: Any, name: str | None) -> Preset:
    """The preset of a method.

    Args:
        method: the class, or an object of it.
        name: ``small``, also where None, or ``reference``.
    """
    defaults = {key: getattr(method, key) for key in ("batch_size", "learning_rate", "weight_decay", "warmup")}
    return Preset(**{**defaults, **(method.reference if name == REFERENCE else {})})


def describe_scaling(chosen: Preset, batch_size: int, learning_rate: float, images: int, given: Collection[str] = ()) -> str | None:
    """What became of a paper's batch and rate without the user's word, in a line; None where nothing did.

    Args:
        chosen: the preset.
        batch_size: of the run.
        learning_rate: of the run.
        images: on which it trains.
        given: those of ``batch_size`` and ``learning_rate`` that the user chose.
    """
    if not chosen.scaling or batch_size == chosen.batch_size:
        return None
    batch = f"of {images} images, --batch_size {chosen.batch_size} of the paper's preset became {batch_size}"
    rate = f"--learning_rate {chosen.learning_rate:g} became {learning_rate:.3g} by its {chosen.scaling} scaling rule"
    if "batch_size" in given:
        batch, rate = "", f"the paper's preset at --batch_size {batch_size}: {rate}"
    return ", ".join(filter(None, (batch, "" if "learning_rate" in given else rate))) or None
