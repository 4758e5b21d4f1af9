"""SimMIM: hide large patches behind a token, predict their pixels with one linear layer (Xie et al. 2021, arXiv 2111.09886)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs, Requirements
from scotoma.methods.parts.mask_strategies import MaskStrategy
from scotoma.models.encoders import embed, is_vit, through_blocks, width
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import finer, paint, patchify, unpatchify


class SimMIM(Method):
    """Masked image modelling where hidden patches pass the encoder as mask tokens. Exports the online encoder, without the token.

    With ``next_task`` it is BERT's pretraining on images (Devlin et al. 2018, arXiv 1810.04805): both images of a pair are
    partly hidden and reconstructed, and the encoder's features of both say whether the second follows the first in its study.

    Args:
        mask_ratio: share of the pixels hidden (section 4.1.2: 0.6 by default).
        mask_unit: side of what is hidden at once, pixels; a multiple of the encoder's patch that divides the size (section 3.2:
            "we adopt 32 x 32 by default", of 192 or 224 pixels).
        masking: which units: random, drawn anew each time ("dynamic"), fixed (once for each image), block, attention, agent,
            entropy or saliency; see ``scotoma.methods.parts.mask_strategies``.
        next_task: also predict whether the paired image is the next one of the same study.
        next_column: column of the table within which images follow one another, such as study or patient.
        next_weight: weight of that task's cross-entropy beside the reconstruction loss (BERT, section A.2: the plain sum).
        min_scale: smallest crop, as a fraction of the image area (section 4.1.2: "scale range of [0.67, 1]").

    The small preset hides 16 pixels of 96 at once, as coarse to the image as 32 of 192. The paper's vision transformer has shared
    relative positions; here it is timm's plain one, whose learned positions tell hidden patches apart. Left out in both presets:
    of the published configuration the drop path of 0.1 and the clipping of gradients at 5, which steady hundreds of epochs of large
    networks.
    """

    default_encoder = "vit_tiny_patch{patch}"
    needs_vit = True
    batch_size = 64
    learning_rate = 5e-4
    weight_decay = 0.05
    # the published configuration of ViT-B: base rate 1e-4 a 512 images; its rate falls once, at epoch 700, ours as a cosine
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "vit_base_patch16",
        "size": 224,
        "batch_size": 2048,
        "learning_rate": 4e-4,
        "scaling": "linear",
        "warmup": 0.0125,  # 10 epochs of 800
        "final_learning_rate": 4e-5,  # a tenth, to which the published rate falls at epoch 700
        "weight_decay": 0.05,
        "epochs": 800,
        "method_args": {"mask_ratio": 0.6, "mask_unit": 32, "min_scale": 0.67},
    }

    @classmethod
    def requirements(cls, settings: dict[str, Any]) -> Requirements:
        """Pairs of images that follow one another in a study, for the next task."""
        if (column := settings.get("next_column", "study")) != "study" and not settings.get("next_task"):
            raise UsageError(f"--method.next_column {column}: the next task is off; switch it on with --method.next_task")
        return Requirements(pairs=f"next:{settings.get('next_column', 'study')}" if settings.get("next_task") else "")

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, mask_ratio: float = 0.6, mask_unit: int = 16,
                 masking: str = "random", next_task: bool = False, next_column: str = "study", next_weight: float = 1.0,
                 min_scale: float = 0.67) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        if not is_vit(encoder):
            raise UsageError("simmim needs a vision transformer: --encoder vit_tiny_patch8, for example")
        vit: Any = encoder
        self.patch = int(vit.patch_embed.patch_size[0])
        if mask_unit < 1 or mask_unit % self.patch or inputs.image_size % mask_unit:
            raise UsageError(
                f"--method.mask_unit {mask_unit}: must be a multiple of the patch ({self.patch}) that divides the size "
                f"({inputs.image_size})"
            )
        self.prefix, self.next_weight = int(vit.num_prefix_tokens), next_weight
        self.times = mask_unit // self.patch  # patches along the side of a unit
        self.mask_strategy = MaskStrategy(masking, mask_ratio, inputs.image_size // mask_unit, inputs, encoder)
        # section 3.2: "a learnable mask token vector to replace each masked patch", of the width of the patch embedding
        self.mask_token = nn.Parameter(torch.zeros(1, 1, vit.embed_dim))
        nn.init.normal_(self.mask_token, std=0.02)
        self.predict = nn.Linear(vit.embed_dim, self.patch**2 * inputs.in_chans)  # section 3.3: "as light as a linear layer"
        features = width(encoder)
        # BERT's pooler and classifier; a single linear layer would add up what it thinks of each image and never compare them
        self.next = nn.Sequential(nn.Linear(2 * features, features), nn.Tanh(), nn.Linear(features, 1)) if next_task else None
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=0.0)

    def views(self, images: Tensor, rng: KeyedRNG, paired_images: Tensor | None = None) -> Views:
        """One cropped view and its random numbers; another crop of the paired image, whose random numbers go by the image, too."""
        views = {"view": self.augment(images, rng), "noise": self.mask_strategy.draw(rng)}
        if paired_images is not None:
            other = rng.of("partner")
            views |= {"paired view": self.augment(paired_images, other), "paired noise": self.mask_strategy.draw(other)}
        return views

    def encode(self, view: Tensor, mask: Tensor) -> Tensor:
        """(B, prefix + N, D) normed tokens; those of hidden patches (B, N) enter as mask token plus position (section 3.2)."""
        vit: Any = self.encoder
        tokens = embed(vit, view)
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        hidden = self.mask_token + vit.pos_embed[:, -patches.shape[1] :]
        patches = torch.where(mask[:, :, None].bool(), hidden, patches)
        return vit.norm(through_blocks(vit, vit.norm_pre(torch.cat([prefix, patches], 1))))

    def reconstruct(self, view: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed tokens, predicted patches (B, N, P), and the mask of the units (B, U)."""
        units = self.mask_strategy.order(view, noise, self.encoder)[2]
        tokens = self.encode(view, finer(units, self.times))
        return tokens, self.predict(tokens[:, self.prefix :]), units

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Mean absolute error of the hidden pixels (section 3.4); with an agent or the next task their losses on top."""
        view, noise = views["view"], views["noise"]
        if self.next is not None:
            view, noise = torch.cat([view, views["paired view"]]), torch.cat([noise, views["paired noise"]])
        tokens, prediction, units = self.reconstruct(view, noise)
        errors = (prediction.float() - patchify(view, self.patch)).abs().mean(2)  # (B, N)
        errors = F.avg_pool2d(errors.view(len(view), 1, -1, self.mask_strategy.grid * self.times), self.times).flatten(1)  # (B, U)
        reconstruction = (errors * units).sum() / units.sum()
        parts = {"reconstruction": reconstruction}
        if self.mask_strategy.agent is not None:
            parts["agent"] = self.mask_strategy.loss(view, errors, units)
        if self.next is not None:
            vit: Any = self.encoder
            first, second = vit.forward_head(tokens).chunk(2)
            logits = self.next(torch.cat([first, second], 1)).squeeze(1).float()
            parts["next"] = self.next_weight * F.binary_cross_entropy_with_logits(logits, batch["follows"])
        return {"loss": torch.stack(list(parts.values())).sum(), **parts} if len(parts) > 1 else {"loss": reconstruction}

    def after_step(self, progress: float) -> None:
        """The agent, where there is one, trusts itself more as training goes on."""
        self.mask_strategy.after_step(progress)

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The view, what the encoder saw of it, and the reconstruction beside the visible patches."""
        view = views["view"]
        _, prediction, units = self.reconstruct(view, views["noise"])
        mask = finer(units, self.times)
        filled = torch.where(mask[:, :, None].bool(), prediction.float(), patchify(view, self.patch))
        return {
            "view": view,
            "visible": paint(view, mask, self.patch),
            "reconstruction": unpatchify(filled, self.patch, self.inputs.in_chans),
        }
