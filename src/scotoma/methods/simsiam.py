"""SimSiam: one view's features predict the other's; a stop-gradient alone prevents collapse (Chen & He 2020, arXiv 2011.10566)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import negative_cosine
from scotoma.models.encoders import width
from scotoma.models.heads import projector
from scotoma.rng import KeyedRNG


class SimSiam(Method):
    """Agreement of two views without negatives, momentum encoder or large batches. Exports the online encoder.

    Args:
        projection_dim: width of the projector, hidden and output (section 3, "Baseline settings": 2048 for ResNet-50).
        bottleneck: width of the predictor's hidden layer (ibid.: 512, a quarter of its input and output).
        min_scale: smallest crop, as a fraction of the image area (appendix A: 0.2).
        jitter: strength of brightness, contrast and gamma changes (appendix A: 0.4).
        blur: probability of blurring a view (appendix A: 0.5).
        positives: the second view is of another image with the same value in this column: patient, study, or a band such as
            age:10.

    The widths of the small preset are a quarter of the paper's, as ResNet-18's features are of ResNet-50's. The predictor's
    learning rate falls with the others, as in the baseline of table 1; not to let it fall is worth 0.4 % there.
    """

    batch_size = 64
    # AdamW; the paper has SGD at 0.1 (0.05 a batch of 256) with a decay of 1e-4: learning rate times decay is the same
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet50",
        "size": 224,
        "batch_size": 512,
        "learning_rate": 1e-3,
        "scaling": "linear",
        "warmup": 0.0,
        "weight_decay": 0.01,
        "epochs": 100,
        "method_args": {"projection_dim": 2048, "bottleneck": 512},
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, projection_dim: int = 512, bottleneck: int = 128,
                 min_scale: float = 0.2, jitter: float = 0.4, blur: float = 0.5, positives: str = "") -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        dim = projection_dim
        # section 3: BN after every layer of the projector, the output too (there without scale and shift, as published), ReLU
        # after all but that; in the predictor both after the hidden layer only
        self.projector = nn.Sequential(projector([width(encoder), dim, dim, dim]), nn.BatchNorm1d(dim, affine=False))
        self.predictor = projector([dim, bottleneck, dim])
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter, blur=blur)

    def views(self, images: Tensor, rng: KeyedRNG, paired_images: Tensor | None = None) -> Views:
        """Two random views, drawn alike, the second of the paired images where there are any."""
        return {
            "first view": self.augment(images, rng.of("first")),
            "second view": self.augment(images if paired_images is None else paired_images, rng.of("second")),
        }

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 4: D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2; each view has its own batch statistics (algorithm 1)."""
        first, second = (self.projector(self.encoder(views[name])) for name in ("first view", "second view"))  # (B, D)
        return {"loss": (negative_cosine(self.predictor(first), second) + negative_cosine(self.predictor(second), first)) / 2}
