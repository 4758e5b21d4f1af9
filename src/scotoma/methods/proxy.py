"""Proxy tasks: predict what the table knows of every image, such as age and sex, before the finding that few have."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Column, Inputs
from scotoma.methods.parts.losses import classification
from scotoma.models.encoders import width
from scotoma.rng import KeyedRNG


class Proxy(Method):
    """Supervised training on columns that cost nothing to have: numbers by regression, words by classification.

    Exports the online encoder.

    Age and sex show in nearly every organ, headers state both: an encoder that predicts them has seen the anatomy. All columns are
    learned together by one linear head; their losses (cross-entropy; squared error of standardised numbers, so that a guess of the
    mean costs 1) are added. A missing value is left out of its column's loss.

    Args:
        columns: the table's columns to predict: those of DICOM headers (age, sex, view, ...) or the user's own.
        min_scale: smallest crop, as a fraction of the image area: a larger crop than contrastive methods take, since the size of
            the heart in the chest must be seen.
        jitter: strength of brightness, contrast and gamma changes.

    The published system starts from ImageNet's weights: name those of its ResNet-101 with ``--init resnet101.tv_in1k``; the
    preset itself starts from random ones, as weights of timm's may have to be downloaded. It trains by SGD, here by AdamW as
    every method does.
    """

    batch_size = 32
    learning_rate = 1e-3
    weight_decay = 0.01
    # cardiomegaly on NIH chest X-rays: batches of 166, 15 epochs; the rate, which the finder chose there, is one for AdamW
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet101",
        "size": 224,
        "batch_size": 166,
        "learning_rate": 1e-3,
        "scaling": "sqrt",
        "weight_decay": 0.01,
        "epochs": 15,
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, columns: tuple[str, ...] = ("age", "sex"), min_scale: float = 0.5,
                 jitter: float = 0.2) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        if not inputs.columns:
            raise UsageError("proxy has nothing to predict: name columns with --method.columns")
        self.outputs = [len(column.classes) or 1 for column in inputs.columns]
        self.head = nn.Linear(width(encoder), sum(self.outputs))
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """One mildly changed view."""
        return {"view": self.augment(images, rng)}

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The sum of the columns' losses; each under its column's name too."""
        logits = self.head(self.encoder(views["view"])).float().split(self.outputs, 1)
        values = batch["columns"].unbind(1)
        losses = {
            f"loss of {column.name}": _loss(column, found, wanted)
            for column, found, wanted in zip(self.inputs.columns, logits, values, strict=True)
        }
        return {"loss": sum(losses.values(), values[0].new_zeros(())), **losses}


def _loss(column: Column, found: Tensor, wanted: Tensor) -> Tensor:
    """The loss of one column: (B, outputs) against (B,) class ids or standardised numbers, NaN where missing."""
    known = ~wanted.isnan()
    if column.classes:
        return classification(found, wanted.nan_to_num(nan=-1).long())
    error = F.mse_loss(found[:, 0], wanted.nan_to_num(), reduction="none")
    return collectives.share((error * known).sum(), known.sum())
