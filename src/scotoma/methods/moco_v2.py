"""MoCo v2: MoCo with SimCLR's deeper head and blurred views (Chen et al. 2020, arXiv 2003.04297)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import info_nce
from scotoma.models.encoders import width
from scotoma.models.heads import KeyQueue, follow, momentum_copy, normalise_in_groups
from scotoma.rng import KeyedRNG


class MoCoV2(Method):
    """Contrastive learning with a momentum encoder, a queue of negatives and a deeper head. Exports the online (query) encoder.

    Args:
        temperature: softmax temperature (section 3, "MLP head": 0.2 is best with this head).
        projection_dim: width of the projection that the loss sees.
        hidden_dim: width of the head's hidden layer; 0 for the encoder's own (section 3: "2-layer MLP head (hidden layer 2048-d,
            with ReLU)", which is ResNet-50's own).
        queue_size: keys kept as negatives (section 3: 65,536); never more than half the images.
        momentum: EMA momentum of the key encoder (as in MoCo v1, 0.999).
        groups: sub-batches with batch statistics of their own (MoCo v1, section 3.3, "Shuffling BN"; there 8 GPUs' batches).
        min_scale: smallest crop, as a fraction of the image area (the published code: 0.2).
        jitter: strength of brightness, contrast and gamma changes (section 3: stronger colour distortion does not help; 0.4).
        blur: probability of blurring a view (section 3 adds blur; published code: 50 %).
        positives: the key is of another image with the same value in this column: patient, study, or a band such as age:10.
            Earlier keys of that value stay negatives, as the method does not know them: they are few for patients (MICLe, Azizi
            et al. 2021, arXiv 2101.05224), many for bands, for which byol and simsiam, without negatives, are better.

    Queue, groups, and the small preset's momentum of 0.99 are as ``moco_v1`` explains them. The learning rate falls as a cosine,
    which section 3 adds to MoCo.
    """

    batch_size = 64
    own_statistics = True  # as in MoCo v1
    # AdamW; the paper has SGD at 0.03 and a decay of 1e-4: their product, what a step takes off the weights, is the same
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet50",
        "size": 224,
        "batch_size": 256,
        "learning_rate": 3e-4,
        "scaling": "linear",
        "warmup": 0.0,
        "weight_decay": 0.01,
        "epochs": 200,
        "method_args": {"queue_size": 65536, "momentum": 0.999, "groups": 8},
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, temperature: float = 0.2, projection_dim: int = 128,
                 hidden_dim: int = 0, queue_size: int = 4096, momentum: float = 0.99, groups: int = 4, min_scale: float = 0.2,
                 jitter: float = 0.4, blur: float = 0.5, positives: str = "") -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        self.temperature, self.momentum = temperature, momentum
        normalise_in_groups(encoder, groups)
        features = width(encoder)
        hidden = hidden_dim or features
        self.projector = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, projection_dim))
        self.key_encoder, self.key_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.queue = KeyQueue(max(1, min(queue_size, inputs.images // 2)) if inputs.images else queue_size, projection_dim)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter, blur=blur)

    def views(self, images: Tensor, rng: KeyedRNG, paired_images: Tensor | None = None) -> Views:
        """Two random views, drawn alike, the second of the paired images where there are any; and what shuffles the keys."""
        return {
            "query": self.augment(images, rng.of("query")),
            "key": self.augment(images if paired_images is None else paired_images, rng.of("key")),
            "shuffle": rng.uniform("shuffle"),
        }

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE (section 2, equation 1); the keys join the queue after it, so that none is its own negative."""
        queries = self.projector(self.encoder(views["query"]))  # (B, D)
        with torch.no_grad():
            order = views["shuffle"].argsort()
            keys = self.key_projector(self.key_encoder(views["key"][order]))[order.argsort()]
            keys = F.normalize(keys.float(), dim=1)
        owners, queue = batch["positions"], self.queue.keys.clone()  # the gradient needs the queue as it is now
        loss = info_nce(queries, keys, queue, self.temperature, self.queue.excluded(owners))
        if self.training:
            self.queue.enqueue(collectives.all_gather(keys), collectives.all_gather(owners))
        return {"loss": loss}

    def after_step(self, progress: float) -> None:
        """The key encoder follows after the optimiser's step (MoCo v1, equation 2 and algorithm 1)."""
        follow(self.key_encoder, self.encoder, self.momentum)
        follow(self.key_projector, self.projector, self.momentum)
