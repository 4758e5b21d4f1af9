"""Class attention: the class token's attention in the last block, mean over heads; non-negative and the same for every target."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scotoma.explain.attributions.base import Classifier, enlarge_patches, has_plain_blocks
from scotoma.models import encoders

ORDER = 8


def attribute(classifier: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """(B, H, W) maps of ``target`` (B,)."""
    return enlarge_patches(encoders.class_attention(classifier.encoder, images), classifier.encoder, images)


def is_available(classifier: Classifier, images: Tensor) -> bool:
    """Whether the head reads the class token of a vision transformer of plain blocks."""
    vit: Any = classifier.encoder
    return encoders.is_vit(vit) and has_plain_blocks(vit) and vit.global_pool == "token"
