"""What a method is: an encoder, views of a batch, and a loss of those views. It knows nothing of trainers."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, ClassVar

from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Inputs, Requirements
from scotoma.rng import KeyedRNG

PATCHES = ((16, 128), (8, 64), (4, 32), (2, 0))  # side of a patch, from which input size on: at least 8 x 8 tokens
Views = dict[str, Tensor]
Batch = dict[str, Tensor]


class Method(nn.Module):
    """Base of all methods.

    A subclass documents the typed keyword arguments of its ``__init__``: they are its configuration, and the command line and
    YAML are read off them. All state (queues, centres, maps) lies in the ``state_dict``. The defaults are the preset for small
    data (a few thousand images, two cores); ``reference`` is the paper's: fields of ``training.presets.Preset``, which are
    arguments of ``pretrain``, those of the method under ``method_args``.

    Args:
        encoder: the network that is exported; the subclass's docstring states whether it is the online or the EMA network.
        inputs: what the images are.
    """

    default_encoder: ClassVar[str] = "resnet18"  # in a vision transformer's name, {patch} stands for the patch at the input size
    needs_labels: ClassVar[bool] = False
    needs_vit: ClassVar[bool] = False
    needs_cnn: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-3
    weight_decay: ClassVar[float] = 1e-4
    batch_size: ClassVar[int] = 128
    warmup: ClassVar[float] = 0.05  # share of the steps
    own_statistics: ClassVar[bool] = False  # of several processes, each keeps the batch statistics of its own images
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    reference: ClassVar[dict[str, Any]] = {}
    old_names: ClassVar[dict[str, str]] = {}  # arguments as encoders and configurations of earlier versions name them

    @classmethod
    def requirements(cls, settings: dict[str, Any]) -> Requirements:
        """What a batch must bring, with these arguments; ``columns`` and ``positives`` mean the same in every method."""
        if settings.get("positives", "").startswith("next:"):
            raise UsageError("--method.positives: what follows an image need not look alike; name a column, such as patient")
        return Requirements(cls.needs_labels, columns=tuple(settings.get("columns", ())), pairs=settings.get("positives", ""))

    @classmethod
    def encoder_at(cls, size: int) -> str:
        """The default network at an input size, pixels."""
        return cls.default_encoder.format(patch=next(patch for patch, least in PATCHES if size >= least))

    @classmethod
    def settings(cls, given: dict[str, Any]) -> dict[str, Any]:
        """All arguments of the method: those given, else their defaults.

        Raises:
            UsageError: it has no argument of that name.
        """
        given = {cls.old_names.get(name, name): value for name, value in given.items()}
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
        for name, text in ((cls.old_names.get(name, name), text) for name, text in texts.items()):
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

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """Make the views of a batch: (B, C, H, W) uint8 on the device -> named tensors.

        A method that requires pairs or masks takes them as further arguments, ``paired_images`` and ``masks``, by default None.
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

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
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
