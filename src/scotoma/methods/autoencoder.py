"""Autoencoder: an image through a few hundred numbers and back, alone or beside a classifier (Hinton & Salakhutdinov 2006)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs, Requirements
from scotoma.methods.parts.losses import classification, soft_classification
from scotoma.models.encoders import width
from scotoma.models.inpainting_decoders import CodeDecoder
from scotoma.rng import KeyedRNG


class Autoencoder(Method):
    """A convolutional autoencoder on any CNN, with or without a classifier on its bottleneck. Exports the online encoder.

    The bottleneck is the feature vector that the encoder exports, not its last map: a decoder that sees the map can copy places
    one by one, and their mean, which is what a probe sees, need say nothing; through the vector alone the layout of the whole
    image must pass. There are no skip connections, by which an image passes without being understood.

    Args:
        classifier_weight: weight of the cross-entropy of a linear classifier on the bottleneck, added to the reconstruction error;
            0 for no classifier. Above 0 it reads labels; images without one count for the reconstruction alone.
        mask_weight: the squared error inside an image's mask (``mask_path``) counts 1 + mask_weight times, and the sum is
            divided by the sum of the weights; an image without mask counts alike everywhere. 0 reads no masks.
        decoder_dim: channels of the decoder's first maps, halved with every doubling of the side.
        min_scale: smallest crop, as a fraction of the image area.
        jitter: strength of brightness, contrast and gamma changes.

    The reference preset is the reconstruction of the system that ``proxy`` is of, with its network and length, on whole images;
    its sum of both losses is ``--method.classifier_weight 1``.
    """

    needs_cnn = True
    batch_size = 64
    learning_rate = 1e-3
    weight_decay = 0.01
    # by SGD there; the rate is one for AdamW
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet101",
        "size": 224,
        "batch_size": 166,
        "learning_rate": 1e-3,
        "scaling": "sqrt",
        "weight_decay": 0.01,
        "epochs": 15,
        "method_args": {"min_scale": 1.0, "jitter": 0.0},
    }
    class_weights: Tensor | None
    old_names: ClassVar[dict[str, str]] = {"region_weight": "mask_weight"}

    @classmethod
    def requirements(cls, settings: dict[str, Any]) -> Requirements:
        """Labels where there is a classifier, masks where they weigh."""
        labels = settings.get("classifier_weight", 0) > 0
        return Requirements(labels, unlabelled=True, masks=settings.get("mask_weight", 0) > 0)

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, classifier_weight: float = 0.0, mask_weight: float = 0.0,
                 decoder_dim: int = 128, min_scale: float = 0.5, jitter: float = 0.1) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        for name, weight in (("classifier_weight", classifier_weight), ("mask_weight", mask_weight)):
            if weight < 0:
                raise UsageError(f"--method.{name} {weight}: must be at least 0")
        self.classifier_weight, self.mask_weight = classifier_weight, mask_weight
        self.decoder = CodeDecoder(encoder, inputs.in_chans, inputs.image_size, decoder_dim)
        self.head = nn.Linear(width(encoder), inputs.outputs) if classifier_weight else None
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)
        weights = next(encoder.parameters()).new_tensor(inputs.class_weights) if inputs.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)

    def views(self, images: Tensor, rng: KeyedRNG, masks: Tensor | None = None) -> Views:
        """One mildly changed view, and its mask under the same warp, without interpolation."""
        drawn = self.augment.sample(rng)
        views = {"view": self.augment.apply(images, drawn)}
        if masks is not None:
            views["mask"] = (self.augment.apply_to_labels(masks, drawn) > 0).float()
        return views

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The weighted squared error, mean over images, plus ``classifier_weight`` times the cross-entropy where it is known."""
        features = self.encoder(views["view"])
        error = (self.decoder(features).float() - views["view"]).square().mean(1)  # (B, H, W)
        if self.mask_weight and "mask" in views:
            weight = 1 + self.mask_weight * views["mask"].squeeze(1)
            reconstruction = ((error * weight).sum((1, 2)) / weight.sum((1, 2))).mean()
        else:
            reconstruction = error.mean()
        if self.head is None:
            return {"loss": reconstruction}
        supervised = soft_classification if self.inputs.soft else classification
        with torch.autocast(features.device.type, enabled=False):
            cross_entropy = supervised(self.head(features.float()), batch["targets"], self.class_weights)
        loss = reconstruction + self.classifier_weight * cross_entropy
        return {"loss": loss, "reconstruction": reconstruction.detach(), "cross_entropy": cross_entropy.detach()}

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The view, its mask where masks weigh, and the reconstruction."""
        shown = {"view": views["view"]}
        if "mask" in views:
            shown["mask"] = views["mask"].expand_as(views["view"])
        return {**shown, "reconstruction": self.decoder(self.encoder(views["view"])).float()}
