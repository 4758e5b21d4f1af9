"""Supervised: training on a target, the baseline that every pretraining must be weighed against, and what ``finetune`` runs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views, decay_groups
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import classification, one_hot, regression, soft_classification
from scotoma.models.attention_cache import AttentionMaps, patch_side
from scotoma.models.encoders import forward_visible, freeze, layer_groups, width
from scotoma.models.heads import momentum_copy
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import visible_count, weighted_scores
from scotoma.transforms.mixup import beta, cut, erase, mix, smooth

HEAD_SCALE = 10.0


class Supervised(Method):
    """Cross-entropy of a linear head on the encoder's features, under mild augmentation. Exports the online encoder.

    Args:
        min_scale: smallest crop, as a fraction of the image area.
        jitter: strength of brightness, contrast and gamma changes.
        drop_tokens: share of the patches of a vision transformer that training leaves out (MSMAE, arXiv 2305.05871, which
            fine-tunes as it pretrains: 0.45 masked + 0.30 thrown = 0.75); inference sees all.
        drop_by: how these patches are drawn: in proportion to the class token's attention (attention, as MSMAE), or all alike
            (random, the comparison that shows what the attention is worth).
        trained_stages: train only so many of the last stages (of a vision transformer: blocks) beside the head; 0 trains all.
        layer_decay: factor on the learning rate from each layer to the one before it (0.75 in MAE, table 9); 1 for none.
        mixup: alpha of mixup, 0 for none (MAE, table 9: 0.8).
        cutmix: alpha of CutMix, 0 for none (MAE, table 9: 1.0). Where both are given, each image gets one of the two.
        erasing: probability of random erasing (a rectangle of the image).
        smoothing: label smoothing: fraction of each label spread over all classes.
        focal: gamma of the focal loss, which down-weights easy examples; 0 for cross-entropy.

    The reference preset is the supervised baseline of MAE (He et al. 2021, arXiv 2111.06377, table 11), a vision transformer
    trained from scratch; without its RandAugment, which changes colours, drop path of 0.1 and average of the weights.
    """

    needs_labels = True
    batch_size = 32
    learning_rate = 5e-4
    weight_decay = 0.01
    warmup = 0.1
    # base rate 1e-4 a 256 images, 20 epochs of 300 warm-up; smallest crop as torchvision's
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "vit_base_patch16",
        "size": 224,
        "batch_size": 4096,
        "learning_rate": 1.6e-3,
        "scaling": "linear",
        "warmup": 0.067,
        "weight_decay": 0.3,
        "epochs": 300,
        "method_args": {"min_scale": 0.08, "jitter": 0.0, "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1},
    }
    class_weights: Tensor | None

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, min_scale: float = 0.5, jitter: float = 0.2,
                 drop_tokens: float = 0.0, drop_by: Literal["attention", "random"] = "attention",
                 trained_stages: int = 0, layer_decay: float = 1.0, mixup: float = 0.0,
                 cutmix: float = 0.0, erasing: float = 0.0, smoothing: float = 0.0, focal: float = 0.0) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        for name, value in (("drop_tokens", drop_tokens), ("smoothing", smoothing)):
            if not 0 <= value < 1:
                raise UsageError(f"--method.{name} {value}: must be at least 0 and below 1")
        for name, value in (("mixup", mixup), ("cutmix", cutmix), ("focal", focal), ("trained_stages", trained_stages)):
            if value < 0:
                raise UsageError(f"--method.{name} {value}: must be at least 0")
        if not 0 <= erasing <= 1 or not 0 < layer_decay <= 1:
            raise UsageError("--method.erasing must lie between 0 and 1, --method.layer_decay above 0 and at most 1")
        if drop_by not in ("attention", "random"):
            raise UsageError(f"--method.drop_by {drop_by}: attention or random")
        if drop_by == "random" and not drop_tokens:
            raise UsageError("--method.drop_by random: no patches are dropped; give their share with --method.drop_tokens 0.5")
        if drop_tokens and drop_by == "attention" and (mixup or cutmix):
            raise UsageError(
                "--method.drop_tokens drops by one image's attention: leave --method.mixup and --method.cutmix at 0, or use "
                "--method.drop_by random"
            )
        self.mixup, self.cutmix, self.erasing, self.smoothing, self.focal = mixup, cutmix, erasing, smoothing, focal
        self.layer_decay = layer_decay
        if trained_stages:
            freeze(encoder, trained_stages)
        self.head = nn.Linear(width(encoder), inputs.outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)
        weights = next(encoder.parameters()).new_tensor(inputs.class_weights) if inputs.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self.attention: AttentionMaps | None = None
        # The attention is that of a frozen copy of the network as given, taken once per image: with random weights it is nearly
        # uniform, and under mean pooling the class token of the trained network would not be trained.
        self.patches = self.visible = 0
        if drop_tokens:
            patch = patch_side(encoder, "drop_tokens")
            self.patches = (self.augment.size // patch) ** 2
            self.visible = visible_count(self.patches, drop_tokens)
            if drop_by == "attention":
                self.given = momentum_copy(encoder)
                self.attention = AttentionMaps(inputs.images, patch, self.augment)

    def param_groups(self) -> list[dict[str, Any]]:
        """The head starts at 0 beside an encoder that may be trained already: it learns ten times as fast."""
        encoder = decay_groups(self.encoder) if self.layer_decay == 1 else layer_groups(self.encoder, self.layer_decay)
        return [*encoder, *decay_groups(self.head, lr_scale=HEAD_SCALE)]

    def train(self, mode: bool = True) -> Supervised:
        """Training mode, but for the batch normalisation of stages that are left as they are: they keep their statistics."""
        super().train(mode)
        still(self.encoder)
        return self

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """One mildly changed view; where tokens are dropped, where it lies in the image and one random number per patch too."""
        sampled = self.augment.sample(rng)
        found = {"view": self.augment.apply(images, sampled)}
        if self.erasing:
            found["view"] = erase(found["view"], rng, self.erasing)
        if self.visible:
            found |= {"theta": sampled["theta"], "noise": rng.uniform("mask", self.patches)}
        if self.mixup or self.cutmix:
            found["mix"] = rng.uniform("mix", 4)
        return found

    def features(self, views: Views, batch: Batch) -> Tensor:
        """(B, D) of the view, or of those of its patches that are not drawn to be dropped."""
        if not self.visible:
            return self.encoder(views["view"])
        scores = views["noise"]
        if self.attention is not None:
            self.attention.refresh(self.given, batch["images"], batch["positions"], batch["epochs"])
            scores = weighted_scores(self.attention.weights(batch["positions"], views["theta"]), scores)
        order = scores.argsort(1)  # drawn first comes last
        encoder: Any = self.encoder
        return encoder.forward_head(forward_visible(encoder, views["view"], order[:, : self.visible]))

    def mix(self, views: Views, shares: Tensor) -> tuple[Views, Tensor]:
        """Mixup or CutMix of the views of a batch and their labels (B, K), each image by its own numbers."""
        which, weight, *centre = views["mix"].unbind(1)
        cuts = which < (0.5 if self.mixup and self.cutmix else float(bool(self.cutmix)))
        together = mix(views["view"], shares, beta(weight, self.mixup or 1.0))
        pasted = cut(views["view"], shares, beta(weight, self.cutmix or 1.0), torch.stack(centre, 1))
        view = torch.where(cuts.view(-1, 1, 1, 1), pasted[0], together[0])
        return views | {"view": view}, torch.where(cuts[:, None], pasted[1], together[1])

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over what is known of the targets, or the focal loss; of numbers (B,) float32 the squared error."""
        targets = batch["targets"]
        if targets.ndim == 1 and targets.is_floating_point():
            return {"loss": regression(self.head(self.features(views, batch)), targets)}
        categorical = self.inputs.soft or targets.ndim == 1
        if (self.smoothing or "mix" in views) and targets.ndim == 1:
            targets = one_hot(targets, self.inputs.outputs)
        if self.smoothing:
            targets = smooth(targets, self.smoothing, self.inputs.outputs if categorical else 2)
        if "mix" in views:
            views, targets = self.mix(views, targets)
        loss = soft_classification if categorical and targets.ndim == 2 else classification
        return {"loss": loss(self.head(self.features(views, batch)), targets, self.class_weights, self.focal)}


def still(encoder: nn.Module) -> None:
    """Let the batch normalisation of stages that are left as they are keep its statistics."""
    for module in encoder.modules():
        if isinstance(module, BatchNorm) and module.weight is not None and not module.weight.requires_grad:
            module.eval()
