"""Supervised training on a target: the baseline that every pretraining must be weighed against, and what ``finetune`` runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from scotoma.attention import AttentionMaps, patch_side
from scotoma.encoders import forward_visible, width
from scotoma.errors import UsageError
from scotoma.losses import classification, soft_classification
from scotoma.masks import visible_count, weighted_scores
from scotoma.methods.base import Batch, Inputs, Method, Views, decay_groups
from scotoma.nets import momentum_copy
from scotoma.views import Draws

HEAD_SCALE = 10.0


class Supervised(Method):
    """Cross-entropy of a linear head on the encoder's features, under mild augmentation. Exports the online encoder.

    Args:
        min_scale: smallest share of the picture that a crop keeps.
        jitter: strength of brightness, contrast and gamma changes.
        drop_tokens: share of the patches of a vision transformer that training leaves out, drawn in proportion to the class token's
            attention (MSMAE, arXiv 2305.05871, which fine-tunes as it pretrains: 0.45 masked + 0.30 thrown = 0.75); in use it sees
            all. The attention is that of a frozen copy of the network as it was given, taken once a picture: of random weights it
            is next to uniform, and mean pooling would leave the class token of the trained network untaught.
    """

    needs_labels = True
    batch_size = 32
    learning_rate = 5e-4
    weight_decay = 0.01
    warmup = 0.1
    class_weights: Tensor | None

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, min_scale: float = 0.5, jitter: float = 0.2,
                 drop_tokens: float = 0.0) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        self.head = nn.Linear(width(encoder), inputs.outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)
        weights = next(encoder.parameters()).new_tensor(inputs.class_weights) if inputs.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self.attention: AttentionMaps | None = None
        if not 0 <= drop_tokens < 1:
            raise UsageError(f"drop_tokens {drop_tokens}: must be at least 0 and below 1")
        if drop_tokens:
            patch = patch_side(encoder, "drop_tokens")
            self.given = momentum_copy(encoder)
            self.attention = AttentionMaps(inputs.pictures, patch, self.augment)
            self.visible = visible_count(self.attention.grid**2, drop_tokens)

    def param_groups(self) -> list[dict[str, Any]]:
        """The head starts at 0 beside an encoder that may be trained already: it learns ten times as fast."""
        return [*decay_groups(self.encoder), *decay_groups(self.head, lr_scale=HEAD_SCALE)]

    def views(self, images: Tensor, rng: Draws) -> Views:
        """One mildly changed view; where tokens are dropped, where it lies in the picture and a random number a patch too."""
        if self.attention is None:
            return {"view": self.augment(images, rng)}
        sampled = self.augment.sample(rng)
        return {
            "view": self.augment.apply(images, sampled),
            "theta": sampled["theta"],
            "noise": rng.uniform("mask", self.attention.grid**2),
        }

    def features(self, views: Views, batch: Batch) -> Tensor:
        """(B, D) of the view, or of those of its patches that are not drawn to be dropped."""
        if self.attention is None:
            return self.encoder(views["view"])
        self.attention.refresh(self.given, batch["images"], batch["positions"], batch["epochs"])
        weights = self.attention.weights(batch["positions"], views["theta"])
        order = weighted_scores(weights, views["noise"]).argsort(1)  # drawn first comes last
        encoder: Any = self.encoder
        return encoder.forward_head(forward_visible(encoder, views["view"], order[:, : self.visible]))

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over what is known of the targets."""
        loss = soft_classification if self.inputs.soft else classification
        return {"loss": loss(self.head(self.features(views, batch)), batch["targets"], self.class_weights)}
