"""Supervised training on a target: the baseline that every pretraining must be weighed against, and what ``finetune`` runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from scotoma.encoders import width
from scotoma.losses import classification, soft_classification
from scotoma.methods.base import Batch, Inputs, Method, Views, decay_groups
from scotoma.views import Draws

HEAD_SCALE = 10.0


class Supervised(Method):
    """Cross-entropy of a linear head on the encoder's features, under mild augmentation. Exports the online encoder.

    Args:
        min_scale: smallest share of the picture that a crop keeps.
        jitter: strength of brightness, contrast and gamma changes.
    """

    needs_labels = True
    batch_size = 32
    learning_rate = 5e-4
    weight_decay = 0.01
    warmup = 0.1
    class_weights: Tensor | None

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, min_scale: float = 0.5, jitter: float = 0.2) -> None:
        super().__init__(encoder, inputs)
        self.head = nn.Linear(width(encoder), inputs.outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)
        weights = next(encoder.parameters()).new_tensor(inputs.class_weights) if inputs.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)

    def param_groups(self) -> list[dict[str, Any]]:
        """The head starts at 0 beside an encoder that may be trained already: it learns ten times as fast."""
        return [*decay_groups(self.encoder), *decay_groups(self.head, lr_scale=HEAD_SCALE)]

    def views(self, images: Tensor, rng: Draws) -> Views:
        """One mildly changed view."""
        return {"view": self.augment(images, rng)}

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over what is known of the targets."""
        loss = soft_classification if self.inputs.soft else classification
        return {"loss": loss(self.head(self.encoder(views["view"])), batch["targets"], self.class_weights)}
