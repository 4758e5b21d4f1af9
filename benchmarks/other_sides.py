"""Sides of ``peers.py`` beside lightly's: transformers' ViTMAE, and the published MSMAE step rebuilt from its description."""

from __future__ import annotations

from typing import Any

import torch
from lightly_side import NORMALIZE, Example
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from scotoma.transforms.masking import patchify

MASKED, THROWN = 0.45, 0.30  # arXiv 2305.05871


def pixels(size: int) -> Any:
    """The pixels of MAE's published views: a crop of at least a fifth, a mirror image at times."""
    steps = [v2.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=3), v2.RandomHorizontalFlip()]
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**NORMALIZE)])


class ViTMAE(Example):
    """``ViTMAEForPreTraining`` with the sizes of a timm network; views as in its ``run_mae.py``."""

    def __init__(self, encoder: Any, size: int, decoder: dict[str, int]) -> None:
        super().__init__()
        width = encoder.embed_dim
        self.model = ViTMAEForPreTraining(
            ViTMAEConfig(
                hidden_size=width, num_hidden_layers=len(encoder.blocks), num_attention_heads=encoder.blocks[0].attn.num_heads,
                intermediate_size=4 * width, image_size=size, patch_size=encoder.patch_embed.patch_size[0],
                decoder_hidden_size=decoder["decoder_dim"], decoder_num_hidden_layers=decoder["decoder_depth"],
                decoder_num_attention_heads=decoder["decoder_heads"], decoder_intermediate_size=4 * decoder["decoder_dim"],
                norm_pix_loss=True,
            )
        )  # fmt: skip
        crop = pixels(size)
        self.transform = lambda image: [crop(image)]

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss."""
        loss: Tensor = self.model(pixel_values=views[0]).loss
        return loss


class PublishedMSMAE(Example):
    """A step of MSMAE as published: float32, the attention of every block as a whole matrix, a classifier beside the decoder.

    Each image's weights over patches come with it from the workers, as its map would; taking the maps anew is left out, in its
    favour.
    """

    def __init__(self, encoder: Any, size: int, decoder: dict[str, int]) -> None:
        from timm.layers import set_fused_attn
        from timm.models.vision_transformer import Block

        super().__init__()
        set_fused_attn(False)
        for block in encoder.blocks:
            block.attn.fused_attn = False
        self.backbone, width, dim = encoder, encoder.embed_dim, decoder["decoder_dim"]
        self.patch = encoder.patch_embed.patch_size[0]
        self.count = (size // self.patch) ** 2
        self.embed, self.token = nn.Linear(width, dim), nn.Parameter(torch.zeros(1, 1, dim))
        self.places = nn.Parameter(torch.randn(1, 1 + self.count, dim) * 0.02, requires_grad=False)
        self.blocks = nn.Sequential(
            *(Block(dim, decoder["decoder_heads"], qkv_bias=True) for _ in range(decoder["decoder_depth"])), nn.LayerNorm(dim)
        )
        self.predict, self.head = nn.Linear(dim, 3 * self.patch**2), nn.Linear(width, 4)
        self.masked, self.thrown = round(MASKED * self.count), round(THROWN * self.count)
        crop, count = pixels(size), self.count

        def transform(image: Image.Image) -> list[Tensor]:
            return [crop(image), torch.rand(count)]

        self.transform = transform

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """Reconstruction of the masked patches plus a tenth of the cross-entropy."""
        images, weights = views
        n, width = len(images), self.backbone.embed_dim
        drawn = torch.multinomial(weights, self.masked + self.thrown)
        masked = drawn[:, : self.masked]
        visible = torch.ones_like(weights).scatter_(1, drawn, 0).nonzero()[:, 1].view(n, -1)
        vit = self.backbone
        tokens = vit.patch_embed(images).flatten(1, -2) + vit.pos_embed[:, 1:]
        tokens = tokens.gather(1, visible[..., None].expand(-1, -1, width))
        tokens = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(n, -1, -1), tokens], 1)
        for block in vit.blocks:
            tokens = block(tokens)
        tokens = vit.norm(tokens)
        seen = torch.cat([self.embed(tokens), self.token.expand(n, self.masked, -1)], 1)
        at = torch.cat([torch.zeros_like(visible[:, :1]), 1 + visible, 1 + masked], 1)
        decoded = self.blocks(seen + self.places.expand(n, -1, -1).gather(1, at[..., None].expand(-1, -1, seen.shape[2])))
        target = patchify(images, self.patch).gather(1, masked[..., None].expand(-1, -1, 3 * self.patch**2))
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
        error = (self.predict(decoded[:, -self.masked :]) - target).square().mean()
        labels = torch.arange(n) % 4
        return error + 0.1 * nn.functional.cross_entropy(self.head(tokens[:, 0]), labels)


SIDES: dict[str, Any] = {"transformers": ViTMAE, "published": PublishedMSMAE}
