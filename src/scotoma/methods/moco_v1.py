"""MoCo v1: an image's query must find its own key among those of earlier images (He et al. 2019, arXiv 1911.05722)."""

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


class MoCoV1(Method):
    """Contrastive learning with a momentum encoder and a queue of negatives. Exports the online (query) encoder.

    Args:
        temperature: softmax temperature (section 3.3: 0.07).
        projection_dim: width of the projection (section 3.3: "fixed-dimensional output (128-D)"), by one linear layer.
        queue_size: keys kept as negatives (section 4.1: 65,536); never more than half the images.
        momentum: EMA momentum of the key encoder (equation 2; section 4.1: 0.999).
        groups: sub-batches with batch statistics of their own (section 3.3, "Shuffling BN", where they are the batches of 8 GPUs).
        min_scale: smallest crop, as a fraction of the image area (the published code: 0.2).
        jitter: strength of brightness, contrast and gamma changes (the published code: 0.4). There is no blur before MoCo v2.
        positives: the key is of another image with the same value in this column: patient, study, or a band such as age:10.
            Earlier keys of that value stay negatives, as the method does not know them: they are few for patients (MICLe, Azizi
            et al. 2021, arXiv 2101.05224), many for bands, for which byol and simsiam, without negatives, are better.

    Both networks take the batch in groups, the key encoder in shuffled ones, as the authors' demo on one device does (without it
    they lose 4 % on CIFAR). The published code fills the queue with random vectors at first; here a slot that has had no key is no
    negative (so the very first loss is 0), and nor is an older key of the query's own image, which a small data set meets again
    soon. The small preset's momentum is 0.99: a queue of 1,000 keys is 16 batches old at most, over which that encoder moves by
    15 %; the paper's 256 batches at 0.999 are 23 %. The paper divides the learning rate by 10 twice; here it falls as a cosine.
    """

    batch_size = 64
    own_statistics = True  # section 3.3: keys must not be told from the statistics they share with their queries
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

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, temperature: float = 0.07, projection_dim: int = 128,
                 queue_size: int = 4096, momentum: float = 0.99, groups: int = 4, min_scale: float = 0.2, jitter: float = 0.4,
                 positives: str = "") -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        self.temperature, self.momentum = temperature, momentum
        normalise_in_groups(encoder, groups)
        self.projector = nn.Linear(width(encoder), projection_dim)
        self.key_encoder, self.key_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.queue = KeyQueue(max(1, min(queue_size, inputs.images // 2)) if inputs.images else queue_size, projection_dim)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)

    def views(self, images: Tensor, rng: KeyedRNG, paired_images: Tensor | None = None) -> Views:
        """Two random views, drawn alike, the second of the paired images where there are any; and what shuffles the keys."""
        return {
            "query": self.augment(images, rng.of("query")),
            "key": self.augment(images if paired_images is None else paired_images, rng.of("key")),
            "shuffle": rng.uniform("shuffle"),
        }

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 1; the keys join the queue after it, so that none is its own negative (algorithm 1)."""
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
        """Equation 2, after the optimiser's step (algorithm 1)."""
        follow(self.key_encoder, self.encoder, self.momentum)
        follow(self.key_projector, self.projector, self.momentum)
