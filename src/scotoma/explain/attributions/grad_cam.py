"""Grad-CAM: channels of the last feature map, weighted by their mean gradient (Selvaraju et al. 2017, arXiv 1610.02391).

Non-negative; equations 1 and 2. Of a vision transformer the map is the patches' tokens behind the last block's first norm: of
what comes later only the class token is used, so that patches get no gradient there.
"""

from __future__ import annotations

from typing import Any

import torch
from captum.attr import LayerGradCam
from torch import Tensor

from scotoma.explain.attributions.base import Classifier, enlarge, enlarge_patches, has_plain_blocks, leaf
from scotoma.models import encoders

ORDER = 5


def attribute(classifier: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """(B, H, W) maps of ``target`` (B,)."""
    if not encoders.is_vit(classifier.encoder):
        coarse = LayerGradCam(classifier, classifier.map).attribute(leaf(images), target=target, relu_attributions=True)
        return enlarge(coarse.detach(), images)
    vit: Any = classifier.encoder
    kept: list[Tensor] = []
    handle = vit.blocks[-1].norm1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            score = classifier(leaf(images)).gather(1, target[:, None]).sum()
    finally:
        handle.remove()
    gradients = torch.autograd.grad(score, kept[0])[0][:, vit.num_prefix_tokens :]  # (B, N, D)
    tokens = kept[0].detach()[:, vit.num_prefix_tokens :]
    return enlarge_patches(torch.einsum("bd,bnd->bn", gradients.mean(1), tokens).relu(), vit, images)


@torch.no_grad()
def is_available(classifier: Classifier, images: Tensor) -> bool:
    """Whether the network has a feature map of more than one cell, or is a vision transformer of plain blocks."""
    encoder = classifier.encoder
    if encoders.is_vit(encoder):
        return has_plain_blocks(encoder)
    shape = encoders.feature_map(encoder, images[:1]).shape
    return len(shape) == 4 and shape[1] == encoder.num_features and shape[2] * shape[3] > 1
