"""MAE: hide most patches, predict their pixels from the rest (He et al. 2021, arXiv 2111.06377)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import masked_patch_loss
from scotoma.methods.parts.mask_strategies import MaskStrategy
from scotoma.models.encoders import forward_visible, is_vit
from scotoma.models.heads import TokenDecoder, sincos_positions
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import paint, patchify, unpatchify


class MAE(Method):
    """Masked autoencoding with a vision transformer that sees visible patches alone. Exports the encoder; the decoder is dropped.

    Args:
        mask_ratio: share of the patches hidden (figure 5: 75 % best for both fine-tuning and linear probing).
        masking: which patches: random (table 1f: best), block, fixed, attention, agent, entropy, saliency; see
            ``parts.mask_strategies``.
        decoder_dim: width of the decoder (table 1b: 512 for ViT-L; narrower suits a small encoder).
        decoder_depth: blocks of the decoder (table 1a: 8; one block fine-tunes as well).
        decoder_heads: attention heads of the decoder.
        norm_pixels: predict pixels normalised within each patch (table 1d: better after long training). The default predicts
            pixels as they are: a few minutes of training learn the layout of the body first, which normalised patches hide.
        norm_floor: added to a patch's variance (of normalised pixels) before the root, so that the noise of an empty background
            is not blown up to the contrast of tissue; the published code has 1e-6.
        min_scale: smallest crop, as a fraction of the image area (table 1e: random resized crops, no colour change).

    Weights to start from keep their own positions, which are then trained, and their patch embedding. The small preset was chosen
    on validation rows (``docs/decisions.md``); the paper's is for a million images.
    """

    default_encoder = "vit_tiny_patch{patch}"
    needs_vit = True
    batch_size = 64
    learning_rate = 2.5e-4
    weight_decay = 0.05
    betas = (0.9, 0.95)
    # table 8: base rate 1.5e-4 a 256 images; "1600-epoch" for the results of section 4.1 on
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "vit_base_patch16",
        "size": 224,
        "batch_size": 4096,
        "learning_rate": 2.4e-3,
        "scaling": "linear",
        "warmup": 0.025,  # 40 epochs of 1,600
        "weight_decay": 0.05,
        "epochs": 1600,
        "method_args": {
            "mask_ratio": 0.75,
            "decoder_dim": 512,
            "decoder_depth": 8,
            "decoder_heads": 16,
            "norm_pixels": True,
            "norm_floor": 1e-6,
            "min_scale": 0.2,
        },
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, mask_ratio: float = 0.75, masking: str = "random",
                 decoder_dim: int = 128, decoder_depth: int = 2, decoder_heads: int = 4, norm_pixels: bool = False,
                 norm_floor: float = 1e-2, min_scale: float = 0.5) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        if not is_vit(encoder):
            raise UsageError("mae needs a vision transformer: --encoder vit_tiny_patch8, for example")
        vit: Any = encoder
        self.patch = int(vit.patch_embed.patch_size[0])
        self.grid = inputs.image_size // self.patch
        self.norm_pixels, self.norm_floor = norm_pixels, norm_floor
        self.mask_strategy = MaskStrategy(masking, mask_ratio, self.grid, inputs, encoder)
        prefix = int(vit.num_prefix_tokens)
        if not inputs.trained:
            # appendix A.1: "We use the sine-cosine version" of positional embeddings, in encoder and decoder
            vit.pos_embed.data.copy_(sincos_positions(vit.embed_dim, self.grid, vit.pos_embed.shape[1] - self.grid**2))
            vit.pos_embed.requires_grad_(False)
            # appendix A.1: xavier_uniform; in the blocks timm's learns as fast
            nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
        self.decoder = TokenDecoder(
            int(vit.embed_dim), self.grid, self.patch**2 * inputs.in_chans, decoder_dim, decoder_depth, decoder_heads, prefix
        )
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=0.0)

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """One cropped view and the random numbers by which patches are hidden."""
        return {"view": self.augment(images, rng), "noise": self.mask_strategy.draw(rng)}

    def reconstruct(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted patches (B, N, P), the patches to be predicted, and the mask (B, N)."""
        keep, restore, mask = self.mask_strategy.order(views["view"], views["noise"], self.encoder)
        tokens = forward_visible(self.encoder, views["view"], keep)
        prediction = self.decoder(tokens, restore)
        return prediction, patchify(views["view"], self.patch), mask

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error on hidden patches, of pixels as they are or normalised within the patch; and the agent's own loss."""
        prediction, target, mask = self.reconstruct(views)
        if self.norm_pixels:
            variance, mean = torch.var_mean(target, 2, keepdim=True)
            target = (target - mean) / (variance + self.norm_floor).sqrt()
        loss = masked_patch_loss(prediction, target, mask)
        if self.mask_strategy.agent is None:
            return {"loss": loss}
        errors = (prediction.detach().float() - target).square().mean(2)
        agent = self.mask_strategy.loss(views["view"], errors, mask)
        return {"loss": loss + agent, "reconstruction": loss, "agent": agent}

    def after_step(self, progress: float) -> None:
        """The agent, where there is one, trusts itself more as training goes on."""
        self.mask_strategy.after_step(progress)

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The view, what the encoder saw of it, and the reconstruction beside the visible patches."""
        prediction, target, mask = self.reconstruct(views)
        if self.norm_pixels:  # the prediction lacks each patch's own mean and contrast: lend it the true ones to be looked at
            variance, mean = torch.var_mean(target, 2, keepdim=True)
            prediction = prediction.float() * (variance + self.norm_floor).sqrt() + mean
        filled = torch.where(mask[:, :, None].bool(), prediction.float(), target)
        return {
            "view": views["view"],
            "visible": paint(views["view"], mask, self.patch),
            "reconstruction": unpatchify(filled, self.patch, self.inputs.in_chans),
        }
