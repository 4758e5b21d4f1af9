"""Autoencoder: an image through a few hundred numbers and back, alone or beside a classifier (Hinton & Salakhutdinov 2006)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs, Wants
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
        classifier_weight: of the cross-entropy of a linear classifier on the bottleneck, added to the reconstruction error; 0 for
            no classifier. Above 0 it reads labels; images without one count for the reconstruction alone.
        region_weight: the squared error inside an image's region (``mask_path``) counts 1 + region_weight times, and the sum is
            divided by the sum of the weights; an image without region counts alike everywhere. 0 reads no regions.
        decoder_dim: channels of the decoder's first maps, halved with every doubling of the side.
        min_scale: smallest share of the image that a crop keeps.
        jitter: strength of brightness, contrast and gamma changes.
    """

    needs_cnn = True
    batch_size = 64
    learning_rate = 1e-3
    weight_decay = 0.01
    class_weights: Tensor | None

    @classmethod
    def wants(cls, settings: dict[str, Any]) -> Wants:
        """Labels where there is a classifier, regions where they weigh."""
        labels = settings.get("classifier_weight", 0) > 0
        return Wants(labels, unlabelled=True, regions=settings.get("region_weight", 0) > 0)

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, classifier_weight: float = 0.0, region_weight: float = 0.0,
                 decoder_dim: int = 128, min_scale: float = 0.5, jitter: float = 0.1) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        for name, weight in (("classifier_weight", classifier_weight), ("region_weight", region_weight)):
            if weight < 0:
                raise UsageError(f"--method.{name} {weight}: must be at least 0")
        self.classifier_weight, self.region_weight = classifier_weight, region_weight
        self.decoder = CodeDecoder(encoder, inputs.in_chans, inputs.image_size, decoder_dim)
        self.head = nn.Linear(width(encoder), inputs.outputs) if classifier_weight else None
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)
        weights = next(encoder.parameters()).new_tensor(inputs.class_weights) if inputs.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)

    def views(self, images: Tensor, rng: KeyedRNG, regions: Tensor | None = None) -> Views:
        """One mildly changed view, and its region under the same warp, without interpolation."""
        drawn = self.augment.sample(rng)
        views = {"view": self.augment.apply(images, drawn)}
        if regions is not None:
            views["region"] = (self.augment.apply_to_labels(regions, drawn) > 0).float()
        return views

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The weighted squared error, mean over images, plus ``classifier_weight`` times the cross-entropy where it is known."""
        features = self.encoder(views["view"])
        error = (self.decoder(features).float() - views["view"]).square().mean(1)  # (B, H, W)
        if self.region_weight and "region" in views:
            weight = 1 + self.region_weight * views["region"].squeeze(1)
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
        """The view, its region where regions weigh, and the reconstruction."""
        shown = {"view": views["view"]}
        if "region" in views:
            shown["region"] = views["region"].expand_as(views["view"])
        return {**shown, "reconstruction": self.decoder(self.encoder(views["view"])).float()}
