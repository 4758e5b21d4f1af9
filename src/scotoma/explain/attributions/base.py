"""What attribution maps share: what of an image speaks for a class.

A module of this package is one: its docstring begins with its title and a colon, ``attribute(classifier, images, target)`` gives
the maps, ``is_available(classifier, images)`` states whether a network can be explained by it (every network can, where it is
missing), and ``ORDER`` is its place in tables. ``images`` are (B, C, H, W) and normalised, so that 0 is the mean colour; ``target``
(B,) int64 is the logit that is explained; maps are (B, H, W) float32 on the images' device, higher where more speaks for the
target. The classifier gives (B, K) logits, is in evaluation mode, and stays as it was: weights, gradients and hooks. An image's map
does not depend on the others of its batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma import plugins

AT_ONCE = 64  # images that pass the network together, where a method needs many for each


class Classifier(nn.Module):
    """An encoder and its head as one network: (B, C, H, W) -> (B, K) logits.

    What ``forward_features`` gives passes through ``map``, which changes nothing: there Grad-CAM reads a network's last feature
    map, whatever the network calls it.

    Args:
        encoder: a timm network without a head.
        head: (B, D) -> (B, K).
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head, self.map = encoder, head, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        encoder: Any = self.encoder
        return self.head(encoder.forward_head(self.map(encoder.forward_features(images))))


Attribution = Callable[[Classifier, Tensor, Tensor], Tensor]


def find_attributions(classifier: Classifier, images: Tensor) -> dict[str, Attribution]:
    """Name -> attribution that this network takes, in the order of the tables.

    Args:
        classifier: in evaluation mode.
        images: (B, C, H, W) normalised images like those to explain, B at least 1.
    """
    modules = plugins.modules("attributions")
    return {k: m.attribute for k, m in modules.items() if not hasattr(m, "is_available") or m.is_available(classifier, images)}


@torch.no_grad()
def centre(head: nn.Linear) -> nn.Linear:
    """The same probabilities under a softmax, by logits of mean 0 over classes; for several 0/1 targets use the head as it is.

    A constant added to all logits changes no probability but every map: where the logit of one of two classes is always 0, as in a
    logistic regression, nothing would speak for that class. With mean 0, two classes have maps of opposite sign.
    """
    found = copy.deepcopy(head)
    found.weight.sub_(head.weight.mean(0))
    if head.bias is not None:
        found.bias.sub_(head.bias.mean())
    return found


def has_plain_blocks(vit: Any) -> bool:
    """Whether all blocks of a vision transformer are timm's own, with plain attention."""
    from timm.models.vision_transformer import Attention, Block

    return all(isinstance(b, Block) and isinstance(b.attn, Attention) for b in vit.blocks)


def leaf(images: Tensor) -> Tensor:
    """A copy that gradients reach, so that none reaches the caller's images."""
    return images.detach().clone().requires_grad_()


def enlarge(coarse: Tensor, images: Tensor) -> Tensor:
    """(B, 1, h, w) -> (B, H, W), as large as the images."""
    return F.interpolate(coarse.float(), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def enlarge_patches(values: Tensor, vit: Any, images: Tensor) -> Tensor:
    """(B, N), one number per patch -> (B, H, W)."""
    height, width = (n // p for n, p in zip(images.shape[2:], vit.patch_embed.patch_size, strict=True))
    return enlarge(values.reshape(-1, 1, height, width), images)
