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
class Column:
    """A column of the table that a method predicts or is told.

    Args:
        name: of the column.
        classes: of a categorical one, whose values are class ids; empty for numbers, which are standardised.
        mean: what was subtracted of numbers.
        std: what they were divided by.
    """

    name: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Wants:
    """What a batch must bring beside the pictures.

    Args:
        labels: ``batch["targets"]``, the target's classes or 0/1 labels.
        unlabelled: with labels, pictures without one too.
        columns: ``batch["columns"]`` (B, K) float32, NaN where missing: these columns, described by ``Inputs.columns``.
        pairs: ``partners``, to ``views``: for each picture another that has the same value in this column (``patient``), or lies in
            the same band of so many units (``age:10``); itself where there is none. ``next:study``: the one that follows it in its
            study or, half the time, one that does not; ``batch["follows"]`` (B,) says which by 1 and 0.
        regions: ``regions``, to ``views``: (B, 1, H, W) uint8, above 0 in the region of ``mask_path``; all 0 where there is none.
    """

    labels: bool = False
    unlabelled: bool = False
    columns: tuple[str, ...] = ()
    pairs: str = ""
    regions: bool = False


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
        pictures: how many different ones there are to train on; ``batch["positions"]`` (B,) numbers them from 0.
        columns: those that the method ``wants``.
        trained: whether the encoder starts from trained weights (``--init``), which a method must not initialise anew.
    """

    image_size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    modality: str = "grey"
    outputs: int = 0
    class_weights: tuple[float, ...] = ()
    soft: bool = False
    pictures: int = 0
    columns: tuple[Column, ...] = ()
    trained: bool = False

    def augmentation(self, **changes: Any) -> Augmentation:
        """A random view of these pictures, as its modality allows."""
        return Augmentation(self.image_size, self.mean, self.std, modality(self.modality), **changes)


class Method(nn.Module):
    """Base of all methods.

    A subclass documents the typed keyword arguments of its ``__init__``: they are its configuration, and the command line and
    YAML are read off them. All state (queues, centres, maps) lies in the ``state_dict``. The defaults are the preset for small
    data (a few thousand pictures, two cores); ``reference`` is the paper's: arguments of ``pretrain``, those of the method under
    ``method_args``.

    Args:
        encoder: the network that is exported; the subclass's docstring says whether it is the online or the EMA network.
        inputs: what the pictures are.
    """

    default_encoder: ClassVar[str] = "resnet18"
    needs_labels: ClassVar[bool] = False
    needs_vit: ClassVar[bool] = False
    needs_cnn: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-3
    weight_decay: ClassVar[float] = 1e-4
    batch_size: ClassVar[int] = 128
    warmup: ClassVar[float] = 0.05  # share of the steps
    own_statistics: ClassVar[bool] = False  # of several processes, each keeps the batch statistics of its own pictures
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    reference: ClassVar[dict[str, Any]] = {}

    @classmethod
    def wants(cls, settings: dict[str, Any]) -> Wants:
        """What a batch must bring, with these arguments; ``columns`` and ``positives`` mean the same in every method."""
        if settings.get("positives", "").startswith("next:"):
            raise UsageError("--method.positives: what follows a picture need not look alike; name a column, such as patient")
        return Wants(
            cls.needs_labels, columns=tuple(settings.get("columns", ())), pairs=settings.get("positives", "")
        )  # fmt: skip

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

    @classmethod
    def parse(cls, texts: dict[str, str]) -> dict[str, Any]:
        """Arguments as they are written in ``mae?masking=block&mask_ratio=0.6``, in the types of their defaults.

        Raises:
            UsageError: it has no such argument, or the value is none of its type.
        """
        cls.settings(dict(texts))
        defaults = cls.settings({})
        found: dict[str, Any] = {}
        for name, text in texts.items():
            kind = type(defaults[name])
            try:
                if kind is bool:
                    found[name] = {"true": True, "false": False}[text]
                else:
                    found[name] = tuple(text.split("+")) if kind is tuple else kind(text)
            except (KeyError, ValueError):
                raise UsageError(f"{cls.__name__}'s {name} is {defaults[name]!r} by default: {text!r} will not do") from None
        return found

    def __init__(self, encoder: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.encoder = encoder
        self.inputs = inputs

    def views(self, images: Tensor, rng: Draws) -> Views:
        """Make the views of a batch: (B, C, H, W) uint8 on the device -> named tensors.

        A method that ``wants`` pairs or regions takes them as further arguments, ``partners`` and ``regions``, by default None.
        """
        raise NotImplementedError

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The loss of these views under ``"loss"``, and anything to log under other names."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, for EMA and queues; ``progress`` in [0, 1]."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for AdamW; a group may have its own ``weight_decay``, and ``lr_scale`` on the learning rate."""
        return decay_groups(self)

    def pictures(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """What a person should see of this method, of the views of a batch: name -> (B, C, size, size) normalised, as columns."""
        size = self.inputs.image_size
        return {name: view for name, view in views.items() if view.ndim == 4 and view.shape[-1] == size}


def decay_groups(module: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """The trained parameters of a module in two groups: matrices, and vectors (biases, norms), which are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], **options},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, **options},
    ]
