"""Saliency: largest absolute gradient over channels (Simonyan et al. 2013, arXiv 1312.6034, section 3.1); non-negative."""

from __future__ import annotations

from captum.attr import Saliency
from torch import Tensor, nn

from scotoma.explain.attributions.base import leaf

ORDER = 1


def attribute(classifier: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """(B, H, W) maps of ``target`` (B,)."""
    return Saliency(classifier).attribute(leaf(images), target=target, abs=True).amax(1)
