"""MSMAE: a masked autoencoder and classifier that hides what its class token attends to (Mao et al. 2023, arXiv 2305.05871)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs, Requirements
from scotoma.methods.parts.losses import classification, soft_classification
from scotoma.models.attention_cache import AttentionMaps, patch_side
from scotoma.models.encoders import forward_visible
from scotoma.models.heads import TokenDecoder, sincos_positions
from scotoma.rng import KeyedRNG
from scotoma.transforms.augmentation import normalise_
from scotoma.transforms.masking import paint, patchify, unpatchify, visible_count, weighted_scores


class MSMAE(Method):
    """Medical supervised masked autoencoder: MAE, a classifier on the class token, and masks drawn where that token looks.

    "Supervised attention-driven masking": labels teach the class token to look at lesions, and what it looks at is masked, so that
    the encoder has to learn the tissue there. An image's patches are drawn without replacement in proportion to the attention of
    the last block's class token on the whole image, each head's scaled from 0 to 1 before their mean, and seen as the view is: the
    first are masked, to be predicted; the next are thrown, neither seen nor predicted, at no cost to encoder or decoder; the rest
    is visible. Exports the online encoder.

    Args:
        mask_ratio: share of the patches masked once attention drives (published command: 0.45).
        throw_ratio: share thrown (published command: 0.3); before the warm-up is over these are masked too, at random (0.75).
        warmup_epochs: epochs of random masking, in which the attention learns (40 of 300 in the published settings).
        attention_interval: epochs after which an image's map is taken anew (published code: 40 in pretraining).
        classification_weight: weight of the cross-entropy beside the reconstruction (0.1).
        label_free: leave out classifier and labels. The class token then learns only through what the decoder reads from it: its
            attention is that of a plain MAE, which need not be on lesions.
        decoder_dim: width of the decoder (512).
        decoder_depth: blocks of the decoder (8).
        decoder_heads: attention heads of the decoder (16).
        norm_pixels: predict pixels normalised within each patch; see ``mae``.
        norm_floor: added to a patch's variance before the root; see ``mae``.
        min_scale: smallest crop, as a fraction of the image area (published code: 0.2).

    Two things differ from the published code, by intention: the cross-entropy is of logits (there of probabilities, so that even a
    sure and right prediction keeps a loss and gradients fade), and maps are cropped, turned and mirrored with their images to the
    pixel.

    The small preset is that of ``mae``. Warm-up and interval are in epochs as in the paper, but 5 each, for runs of 20 to 60
    epochs: a map costs about what a training step costs for its image (all tokens, but forward only), so that an interval of 5
    adds a fifth to the time and one of 1 would double it.
    """

    default_encoder = "vit_tiny_patch{patch}"
    needs_labels = True
    needs_vit = True
    batch_size = 64
    learning_rate = 2.5e-4
    weight_decay = 0.05
    betas = (0.9, 0.95)
    class_weights: Tensor | None
    # published command and code: batch 64, 1e-3 x 64 / 256, 300 epochs; pixels normalised as in the paper
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "vit_base_patch16",
        "size": 224,
        "batch_size": 64,
        "learning_rate": 2.5e-4,
        "scaling": "linear",
        "warmup": 0.133,  # 40 epochs of 300
        "weight_decay": 0.05,
        "epochs": 300,
        "method_args": {
            "warmup_epochs": 40,
            "attention_interval": 40,
            "decoder_dim": 512,
            "decoder_depth": 8,
            "decoder_heads": 16,
            "norm_pixels": True,
            "norm_floor": 1e-6,
            "min_scale": 0.2,
        },
    }

    @classmethod
    def requirements(cls, settings: dict[str, Any]) -> Requirements:
        """Labels, unless ``label_free``; images without one are reconstructed all the same."""
        return Requirements(labels=not settings.get("label_free", False), unlabelled=True)

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, mask_ratio: float = 0.45, throw_ratio: float = 0.3,
                 warmup_epochs: int = 5, attention_interval: int = 5, classification_weight: float = 0.1, label_free: bool = False,
                 decoder_dim: int = 128, decoder_depth: int = 2, decoder_heads: int = 4, norm_pixels: bool = False,
                 norm_floor: float = 1e-2, min_scale: float = 0.5) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        self.patch = patch_side(encoder, "msmae")
        if not (mask_ratio > 0 and throw_ratio >= 0 and mask_ratio + throw_ratio < 1):
            raise UsageError(
                f"--method.mask_ratio {mask_ratio}, --method.throw_ratio {throw_ratio}: above 0, at least 0, together below 1"
            )
        if attention_interval < 1:
            raise UsageError(f"--method.attention_interval {attention_interval}: must be at least 1 epoch")
        if not label_free and not inputs.outputs:
            raise UsageError("msmae learns from labels: name a --target, or use --method.label_free true")
        vit: Any = encoder
        self.grid = inputs.image_size // self.patch
        count = self.grid**2
        if count < 2:
            raise UsageError(f"{inputs.image_size} pixels are one patch, of which nothing can be hidden: choose smaller patches")
        self.visible = visible_count(count, mask_ratio + throw_ratio)
        self.masked = min(max(1, round(count * mask_ratio)), count - self.visible)
        self.warmup_epochs, self.norm_pixels, self.norm_floor = warmup_epochs, norm_pixels, norm_floor
        if not inputs.trained:  # as in MAE, appendix A.1; trained weights keep their own, and train them
            vit.pos_embed.data.copy_(sincos_positions(vit.embed_dim, self.grid, vit.pos_embed.shape[1] - count))
            vit.pos_embed.requires_grad_(False)
            nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
        self.decoder = TokenDecoder(
            int(vit.embed_dim),
            self.grid,
            self.patch**2 * inputs.in_chans,
            decoder_dim,
            decoder_depth,
            decoder_heads,
            int(vit.num_prefix_tokens),
        )
        self.classification_weight = classification_weight
        self.classifier = None if label_free else nn.Linear(int(vit.embed_dim), inputs.outputs)
        weights = next(encoder.parameters()).new_tensor(inputs.class_weights) if inputs.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=0.0)
        self.attention = AttentionMaps(inputs.images, self.patch, self.augment, attention_interval)

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """One cropped view, where it lies in the image, and one random number per patch, by which the patches are drawn."""
        sampled = self.augment.sample(rng)
        return {
            "view": self.augment.apply(images, sampled),
            "theta": sampled["theta"],
            "noise": rng.uniform("mask", self.grid**2),
        }

    def draw(self, views: Views, batch: Batch) -> tuple[Tensor, Tensor]:
        """The patches to see (B, V) and those to predict (B, M): at random in the warm-up, then where the class token looks."""
        if (
            int(collectives.all_gather(batch["epochs"]).min()) < self.warmup_epochs
        ):  # a batch between two epochs goes with the earlier
            order = views["noise"].argsort(1)
            return order[:, : self.visible], order[:, self.visible :]
        self.attention.refresh(self.encoder, batch["images"], batch["positions"], batch["epochs"])
        return self.driven(self.attention.weights(batch["positions"], views["theta"]), views["noise"])

    def driven(self, weights: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw in proportion to weights: the first are to be predicted, the next thrown, and those never drawn seen."""
        order = weighted_scores(weights, noise).argsort(1)  # drawn first comes last
        return order[:, : self.visible], order[:, -self.masked :]

    def reconstruct(self, view: Tensor, keep: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted pixels of the masked patches (B, M, P), and the normed tokens of the visible ones, the class token first."""
        tokens = forward_visible(self.encoder, view, keep)
        return self.decoder.predict_some(tokens, keep, masked), tokens

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error on masked patches + 0.1 x the cross-entropy of the class token's logits over known labels."""
        keep, masked = self.draw(views, batch)
        prediction, tokens = self.reconstruct(views["view"], keep, masked)
        target = select(patchify(views["view"], self.patch), masked)
        if self.norm_pixels:
            variance, mean = torch.var_mean(target, 2, keepdim=True)
            target = (target - mean) / (variance + self.norm_floor).sqrt()
        reconstruction = (prediction.float() - target).square().mean()
        if self.classifier is None:
            return {"loss": reconstruction}
        entropy = soft_classification if self.inputs.soft else classification
        supervised = entropy(self.classifier(tokens[:, 0]), batch["targets"], self.class_weights)
        total = reconstruction + self.classification_weight * supervised
        return {"loss": total, "reconstruction": reconstruction, "classification": supervised}

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The view, where the class token looks now, what the encoder sees, and the reconstruction; what is thrown stays empty."""
        view, inputs = views["view"], self.inputs
        weights = self.attention.warp(self.attention.take(self.encoder, batch["images"]), views["theta"])
        keep, masked = self.driven(weights, views["noise"])
        prediction = self.reconstruct(view, keep, masked)[0].float()
        patches = patchify(view, self.patch)
        if self.norm_pixels:  # the prediction lacks each patch's own mean and contrast: lend it the true ones to be looked at
            variance, mean = torch.var_mean(select(patches, masked), 2, keepdim=True)
            prediction = prediction * (variance + self.norm_floor).sqrt() + mean
        filled = patches.scatter(1, masked[:, :, None].expand_as(prediction), prediction)
        hidden = torch.ones_like(weights).scatter(1, keep, 0.0)
        light = (weights / weights.amax(1, keepdim=True)).view(-1, 1, self.grid, self.grid)
        light = light.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3).repeat(1, inputs.in_chans, 1, 1)
        return {
            "view": view,
            "attention": normalise_(light, inputs.mean, inputs.std),
            "visible": paint(view, hidden, self.patch),
            "reconstruction": paint(unpatchify(filled, self.patch, inputs.in_chans), hidden.scatter(1, masked, 0.0), self.patch),
        }


def select(patches: Tensor, places: Tensor) -> Tensor:
    """(B, N, P) patches at (B, M) places: (B, M, P)."""
    return patches.gather(1, places[:, :, None].expand(-1, -1, patches.shape[2]))
