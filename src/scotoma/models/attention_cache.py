"""Attention maps: how strongly the class token attends to each patch of each image, kept as weights to draw patches by."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.errors import UsageError
from scotoma.models.encoders import class_attention, is_vit
from scotoma.transforms.augmentation import Augmentation, places, plain


class AttentionMaps(nn.Module):
    """A map of every image, renewed when the image comes by and its map is missing or too old.

    MSMAE (arXiv 2305.05871) stops every so many epochs and takes the maps of all images at once. Here each is taken when it is
    needed: as many forwards, none for an image that is not met again, and each map at most as old. Every process sends the others
    the maps of its part of a batch, so all have the same ones. Maps and stamps are buffers, so a resumed run goes on with the very
    same.

    Args:
        images: how many there are; ``positions`` number them from 0.
        patch: side of a patch, pixels.
        augment: the views on which the maps will be laid; size and statistics of the whole image are its own.
        interval: epochs after which a map is taken anew; 0 for never.
    """

    maps: Tensor
    stamps: Tensor

    def __init__(self, images: int, patch: int, augment: Augmentation, interval: int = 0) -> None:
        super().__init__()
        self.patch, self.augment, self.interval = patch, augment, interval
        self.grid = augment.size // patch
        self.register_buffer("maps", torch.ones(images, self.grid**2, dtype=torch.float16))
        self.register_buffer("stamps", torch.full((images,), -1))  # the epoch in which each was taken, -1 for never

    def refresh(self, encoder: nn.Module, images: Tensor, positions: Tensor, epochs: Tensor) -> None:
        """Take the maps of those images of a batch whose map is missing or too old.

        Args:
            encoder: whose attention is taken.
            images: (B, C, H, W) uint8, uncropped.
            positions: (B,) int64, which images they are.
            epochs: (B,) int64, the epoch in which each is seen.
        """
        stamps = self.stamps[positions]
        stale = stamps < 0
        if self.interval:
            stale |= epochs - stamps >= self.interval
        if stale.any():
            self.maps[positions[stale]] = self.take(encoder, images[stale]).to(self.maps.dtype)
            self.stamps[positions[stale]] = epochs[stale]
        if collectives.world() > 1:
            at = collectives.all_gather(positions)
            self.maps[at], self.stamps[at] = (
                collectives.all_gather(self.maps[positions]),
                collectives.all_gather(self.stamps[positions]),
            )

    def take(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 uncropped -> (B, N) float32 of mean 1, from the encoder in eval mode.

        Each head counts from its least to its most attended patch, as published, so that a head that looks at one place does not
        drown the others.
        """
        training = encoder.training
        encoder.eval()
        seen = plain(images, self.augment.size, self.augment.mean, self.augment.std)
        found = class_attention(encoder, seen, rescaled=True)
        encoder.train(training)
        return found / found.mean(1, keepdim=True)  # in units of the mean: float16 has its digits there

    def weights(self, positions: Tensor, theta: Tensor) -> Tensor:
        """(B, N) float32: the maps of these images, seen as their views are; see ``warp``."""
        return self.warp(self.maps[positions].float(), theta)

    def warp(self, maps: Tensor, theta: Tensor) -> Tensor:
        """Crop, turn and mirror maps exactly as their images.

        A map is constant over each patch of the whole image, so every pixel of the view takes the value of the patch it comes
        from (``nearest``; ``bilinear`` would smear a map over its neighbours even where nothing moves), and a patch of the view
        takes the mean over its pixels. What comes from outside the image weighs nothing.

        Args:
            maps: (B, N) of uncropped images.
            theta: (B, 2, 3), as ``Augmentation.sample`` gives.

        Returns:
            (B, N), of the view's patches.
        """
        count, size = len(maps), self.augment.size
        with torch.autocast(maps.device.type, enabled=False):  # bfloat16 has no digits for coordinates
            at = places(theta, size)
            seen = F.grid_sample(
                maps.view(count, 1, self.grid, self.grid), at, mode="nearest", padding_mode="zeros", align_corners=False
            )
        return F.avg_pool2d(seen, self.patch).flatten(1)


def patch_side(encoder: nn.Module, asked: str) -> int:
    """The side of an encoder's patches, pixels, where it is a vision transformer with a class token.

    Args:
        encoder: a timm network.
        asked: what needs one, for the message.

    Raises:
        UsageError: it is none.
    """
    vit: Any = encoder
    if not is_vit(encoder) or vit.cls_token is None:
        raise UsageError(f"{asked} needs a vision transformer with a class token: --encoder vit_tiny_patch8, for example")
    return int(vit.patch_embed.patch_size[0])
