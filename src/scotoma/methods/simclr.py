"""SimCLR: two views of an image agree, views of different images do not (Chen et al. 2020, arXiv 2002.05709)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import nt_xent
from scotoma.models.encoders import width
from scotoma.models.heads import projector
from scotoma.rng import KeyedRNG


class SimCLR(Method):
    """Contrastive learning with in-batch negatives. Exports the online encoder.

    Args:
        temperature: softmax temperature (table 5: 0.1 best with long training and large batches; 0.2 suits small batches).
        projection_dim: width of the projection that the loss sees (section 4.2: "output dimensionality 128").
        hidden_dim: width of the projector's hidden layer; 0 for the encoder's own (section 3: "MLP with one hidden layer").
        min_scale: smallest crop, as a fraction of the image area (appendix A: 0.08; small lesions must stay inside).
        jitter: strength of brightness, contrast and gamma changes (section 3.3: strong intensity changes are needed; appendix A:
            0.8, of which gamma, that the paper has not, follows up to 0.4).
        blur: probability of blurring a view (appendix A: 50 %).
        positives: the second view is of another image with the same value in this column: patient, study, or a band such as
            age:10. Others of that value in the batch stay negatives, as the method does not know them: they are few for patients
            (MICLe, Azizi et al. 2021, arXiv 2101.05224), many for bands, for which byol and simsiam, without negatives, are better.

    The paper's batches of 4,096 are for a million images; on a few thousand, small batches take more steps in the same time and
    learn more.
    """

    batch_size = 64
    # AdamW; the paper has LARS at 4.8 (0.3 a batch of 256) with a decay of 1e-6
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet50",
        "size": 224,
        "batch_size": 4096,
        "learning_rate": 1e-3,
        "scaling": "linear",
        "warmup": 0.01,  # 10 epochs of 1,000
        "weight_decay": 1e-6,
        "epochs": 1000,
        "method_args": {"temperature": 0.1, "min_scale": 0.08, "jitter": 0.8},
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, temperature: float = 0.2, projection_dim: int = 128,
                 hidden_dim: int = 0, min_scale: float = 0.2, jitter: float = 0.4, blur: float = 0.5,
                 positives: str = "") -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        features = width(encoder)
        self.temperature = temperature
        self.projector = projector([features, hidden_dim or features, projection_dim])
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter, blur=blur)

    def views(self, images: Tensor, rng: KeyedRNG, paired_images: Tensor | None = None) -> Views:
        """Two random views, drawn alike (figure 2: t and t' from one family), the second of the paired images where given."""
        return {
            "first view": self.augment(images, rng.of("first")),
            "second view": self.augment(images if paired_images is None else paired_images, rng.of("second")),
        }

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 1 on the projections of both views, which pass the network together (one batch norm over 2B)."""
        z = self.projector(self.encoder(torch.cat([views["first view"], views["second view"]])))
        first, second = (collectives.all_gather(half.float()) for half in z.chunk(2))
        return {"loss": nt_xent(first, second, self.temperature)}
