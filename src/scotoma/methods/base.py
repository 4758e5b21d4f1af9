"""What a method is: an encoder, views of a batch, and a loss of those views. It knows nothing of trainers."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.views import Augmentation, Draws, modality

Views = dict[str, Tensor]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Inputs:
    """What a method is told about its pictures.

    Args:
        image_size: side of what the encoder sees, pixels.
        in_chans: channels.
        mean: mean a channel of the training pixels in [0, 1].
        std: standard deviation a channel.
        modality: a key of ``scotoma.views.MODALITIES``.
        outputs: classes of a categorical target, or number of 0/1 targets; 0 without targets.
        class_weights: weight of each class (or of the positives of each 0/1 target) in the loss; empty for none.
        soft: whether a categorical target comes as (B, C) shares of readers, not as (B,) class ids.
    """

    image_size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    modality: str = "grey"
    outputs: int = 0
    class_weights: tuple[float, ...] = ()
    soft: bool = False

    def augmentation(self, **changes: Any) -> Augmentation:
        """A random view of these pictures, as its modality allows."""
        return Augmentation(self.image_size, self.mean, self.std, modality(self.modality), **changes)


class Method(nn.Module):
    """Base of all methods.

    A subclass documents the typed keyword arguments of its ``__init__``: they are its configuration, and the command line and
    YAML are read off them. All state (queues, centres, maps) lies in the ``state_dict``.

    Args:
        encoder: the network that is exported; the subclass's docstring says whether it is the online or the EMA network.
        inputs: what the pictures are.
    """

    default_encoder: ClassVar[str] = "resnet18"
    needs_labels: ClassVar[bool] = False
    needs_vit: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-3
    weight_decay: ClassVar[float] = 1e-4
    batch_size: ClassVar[int] = 128
    warmup: ClassVar[float] = 0.05  # share of the steps
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)

    @classmethod
    def settings(cls, given: dict[str, Any]) -> dict[str, Any]:
        """All arguments of the method: those given, else their defaults.

        Raises:
            UsageError: it has no argument of that name.
        """
        defaults = {p.name: p.default for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY}
        for name in given:
            if name not in defaults:
                near = difflib.get_close_matches(name, defaults, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(defaults) or 'none'}"
                raise UsageError(f"{cls.__name__} has no argument {name!r}; {hint}")
        return defaults | given

    def __init__(self, encoder: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.encoder = encoder
        self.inputs = inputs

    def views(self, images: Tensor, rng: Draws) -> Views:
        """Make the views of a batch: (B, C, H, W) uint8 on the device -> named tensors."""
        raise NotImplementedError

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The loss of these views under ``"loss"``, and anything to log under other names."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, for EMA and queues; ``progress`` in [0, 1]."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for AdamW; a group may have its own ``weight_decay``, and ``lr_scale`` on the learning rate."""
        return decay_groups(self)

    def pictures(self, images: Tensor, rng: Draws) -> dict[str, Tensor]:
        """What a person should see of this method: name -> (B, C, size, size) normalised pictures, in columns for the report."""
        return {name: view for name, view in self.views(images, rng).items() if view.ndim == 4}


def decay_groups(module: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """The trained parameters of a module in two groups: matrices, and vectors (biases, norms), which are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], **options},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, **options},
    ]
