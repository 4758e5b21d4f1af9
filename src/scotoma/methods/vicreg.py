"""VICReg: views agree, and each coordinate varies on its own (Bardes et al. 2021, arXiv 2105.04906)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.encoders import width
from scotoma.models.heads import projector
from scotoma.rng import KeyedRNG

EPSILON = 1e-4  # section 4.2: "epsilon is 0.0001 in Eq. (1)"


class VICReg(Method):
    """Two views agree while variance and covariance of the embeddings are held up; no negatives. Exports the online encoder.

    Args:
        invariance: weight of the distance between views (section 4.2: lambda = 25).
        variance: weight of the hinge that keeps each coordinate's standard deviation at 1 (section 4.2: mu = 25).
        covariance: weight of the squared covariances between coordinates (section 4.2: nu = 1).
        hidden_dim: width of the expander's two hidden layers (section 4.2: 8,192).
        expander_dim: width of the embeddings that the loss sees (section 4.2: 8,192).
        min_scale: smallest crop, as a fraction of the image area (appendix C: 0.08; small lesions must stay inside).
        jitter: strength of brightness, contrast and gamma changes.
        blur: probability of blurring a view (appendix C: 50 %).
        positives: the second view is of another image that has the same value in this column (``patient``), or lies in the same
            band (``age:10``); of the same image where that is empty.

    Small data: batches of 64 as for the other contrastive methods. From B images, covariances of unrelated coordinates come out
    as noise that adds about D / B to the loss and can only be fought by shrinking the embeddings; 256 coordinates keep the paper's
    D / B of 4. Left out: solarisation, which makes no sense for grey medical images.
    """

    batch_size = 64
    learning_rate = 1e-3
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet50",
        "size": 224,
        "batch_size": 2048,
        "learning_rate": 1e-3,  # section 4.2: LARS at 1.6; a rate for AdamW
        "scaling": "linear",
        "warmup": 0.01,  # 10 epochs of 1,000
        "final_learning_rate": 1e-6,  # published code: a thousandth of the peak
        "weight_decay": 1e-6,
        "epochs": 1000,
        "method_args": {"hidden_dim": 8192, "expander_dim": 8192, "min_scale": 0.08},
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, invariance: float = 25.0, variance: float = 25.0,
                 covariance: float = 1.0, hidden_dim: int = 512, expander_dim: int = 256, min_scale: float = 0.2,
                 jitter: float = 0.4, blur: float = 0.5, positives: str = "") -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        # section 4.2: two fully connected layers "with batch normalization and ReLU, and a third linear layer"
        self.expander = projector([width(encoder), hidden_dim, hidden_dim, expander_dim])
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter, blur=blur)

    def views(self, images: Tensor, rng: KeyedRNG, paired_images: Tensor | None = None) -> Views:
        """Two random views, drawn alike (figure 1: t and t' from one family); the second of the paired image where there is one."""
        other = images if paired_images is None else paired_images
        return {"first view": self.augment(images, rng.of("first")), "second view": self.augment(other, rng.of("second"))}

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 6. Both views pass the network together: drawn alike, their batch statistics are the same in expectation."""
        both = self.expander(self.encoder(torch.cat([views["first view"], views["second view"]])))
        terms = vicreg_terms(*(collectives.all_gather(half.float()) for half in both.chunk(2)))
        return {"loss": torch.stack([self.weights[name] * term for name, term in terms.items()]).sum(), **terms}


def vicreg_terms(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """The three terms of VICReg (equations 1 to 5), scaled as in the published code, where 25, 25 and 1 belong.

    There the distance is a mean over coordinates too, where equation 5 has a sum, and the variance a mean over both views, where
    equation 6 has a sum.

    Args:
        first: (B, D) embeddings of one view of each image.
        second: (B, D) embeddings of the other.

    Returns:
        ``invariance``, ``variance`` and ``covariance``, float32.
    """
    first, second = first.float(), second.float()
    count, dim = first.shape
    variance, covariance = first.new_zeros(()), first.new_zeros(())
    with torch.autocast(first.device.type, enabled=False):  # covariances are small differences of products
        for z in (first, second):
            centred = z - z.mean(0)
            cov = centred.T @ centred / (count - 1)  # (D, D), equation 3
            own = cov.diagonal()
            variance = variance + F.relu(1 - (own + EPSILON).sqrt()).mean() / 2  # equations 1 and 2, gamma = 1
            covariance = covariance + (cov.square().sum() - own.square().sum()) / dim  # equation 4
    return {"invariance": F.mse_loss(first, second), "variance": variance, "covariance": covariance}
