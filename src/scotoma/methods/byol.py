"""BYOL: predict what a slowly following copy of the network makes of another view (Grill et al. 2020, arXiv 2006.07733)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import negative_cosine
from scotoma.models.encoders import width
from scotoma.models.heads import follow, momentum_at, momentum_copy, projector
from scotoma.rng import KeyedRNG


class BYOL(Method):
    """An online network with a predictor learns from an EMA of itself, without negatives. Exports the online encoder.

    Args:
        momentum: EMA momentum of the target network at the start (section 3.2: 0.996); it rises to 1 as a cosine.
        projection_dim: width of projection and prediction (section 3.2: 256).
        hidden_dim: width of the hidden layer of projector and predictor (section 3.2: 4096).
        min_scale: smallest crop, as a fraction of the image area (appendix B: 0.08; small lesions must stay inside).
        jitter: strength of brightness, contrast and gamma changes (table 6: 0.4).
        blur: probability of blurring a view (table 6: all of the one, a tenth of the other; here the same for both).
        positives: the second view is of another image with the same value in this column: patient, study, or a band such as
            age:10.

    The small preset's heads are narrower, and its momentum starts at 0.97: at 0.996 the target lags 250 steps behind, a good part
    of a few thousand. There is no solarisation: it means nothing for these images.
    """

    batch_size = 64
    # AdamW; the paper has LARS at 3.2 (0.2 a batch of 256) with a decay of 1.5e-6
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet50",
        "size": 224,
        "batch_size": 4096,
        "learning_rate": 1e-3,
        "scaling": "linear",
        "warmup": 0.01,  # 10 epochs of 1,000
        "weight_decay": 1.5e-6,
        "epochs": 1000,
        "method_args": {"momentum": 0.996, "projection_dim": 256, "hidden_dim": 4096, "min_scale": 0.08},
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, momentum: float = 0.97, projection_dim: int = 128,
                 hidden_dim: int = 512, min_scale: float = 0.2, jitter: float = 0.4, blur: float = 0.5,
                 positives: str = "") -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        self.momentum = momentum
        # "a linear layer with output size 4096 followed by batch normalization, ReLU, and a final linear layer" (section 3.2)
        self.projector = projector([width(encoder), hidden_dim, projection_dim])
        self.predictor = projector([projection_dim, hidden_dim, projection_dim])
        self.target_encoder, self.target_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter, blur=blur)

    def views(self, images: Tensor, rng: KeyedRNG, paired_images: Tensor | None = None) -> Views:
        """Two random views, drawn alike, the second of the paired images where there are any."""
        return {
            "first view": self.augment(images, rng.of("first")),
            "second view": self.augment(images if paired_images is None else paired_images, rng.of("second")),
        }

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 2 both ways, summed (section 3.1): squared distances 2 - 2 cos; each view has its own batch statistics."""
        pair = views["first view"], views["second view"]
        first, second = (self.predictor(self.projector(self.encoder(view))) for view in pair)  # (B, D)
        with torch.no_grad():
            first_target, second_target = (self.target_projector(self.target_encoder(view)) for view in pair)
        return {"loss": 4 + 2 * (negative_cosine(first, second_target) + negative_cosine(second, first_target))}

    def after_step(self, progress: float) -> None:
        """The target follows after the optimiser's step (equation 1 and section 3.2)."""
        momentum = momentum_at(self.momentum, progress)
        follow(self.target_encoder, self.encoder, momentum)
        follow(self.target_projector, self.projector, momentum)
