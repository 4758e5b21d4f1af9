"""Integrated gradients: gradients along the way from the mean colour, times that way (Sundararajan et al. 2017, arXiv 1703.01365).

Signed. Equation 1. A map sums to the target's logit less that of an image of the mean colour.
"""

from __future__ import annotations

from captum.attr import IntegratedGradients
from torch import Tensor, nn

from scotoma.explain.attributions.base import AT_ONCE

ORDER = 2
STEPS = 16  # nodes of the Gauss-Legendre quadrature of integrated gradients


def attribute(classifier: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """(B, H, W) maps of ``target`` (B,)."""
    method, size = IntegratedGradients(classifier), max(AT_ONCE, len(images))
    return method.attribute(images.detach(), target=target, n_steps=STEPS, internal_batch_size=size).sum(1)
