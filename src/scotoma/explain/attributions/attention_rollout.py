"""Attention rollout: attention through all blocks, half of it kept for the residual (Abnar & Zuidema 2020, arXiv 2005.00928).

Equation 1. Non-negative and the same for every target. What the head reads (the class token, or the mean over patches) is
followed back from the last block to the first, v <- v (A + I) / 2 with A the mean over heads: the product of all matrices is
never formed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scotoma.explain.attributions.base import Classifier, enlarge_patches, has_plain_blocks
from scotoma.models import encoders

ORDER = 7


@torch.no_grad()
def attribute(classifier: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """(B, H, W) maps of ``target`` (B,)."""
    vit: Any = classifier.encoder
    tokens, inputs = vit.norm_pre(encoders.embed(vit, images)), []
    for block in vit.blocks:
        inputs.append(tokens)
        tokens = block(tokens)
    read, prefix = tokens.new_zeros(tokens.shape[:2]), vit.num_prefix_tokens
    if vit.global_pool == "token":
        read[:, 0] = 1
    else:
        read[:, prefix:] = 1 / (tokens.shape[1] - prefix)
    for block, x in zip(reversed(list(vit.blocks)), reversed(inputs), strict=True):
        read = (_attend(block, x, read) + read) / 2
    return enlarge_patches(read[:, prefix:], vit, images)


def is_available(classifier: Classifier, images: Tensor) -> bool:
    """Whether the head reads the class token or the mean over patches of a vision transformer of plain blocks."""
    vit: Any = classifier.encoder
    return encoders.is_vit(vit) and has_plain_blocks(vit) and vit.global_pool in ("token", "avg")


def _attend(block: Any, tokens: Tensor, weights: Tensor) -> Tensor:
    """The row vectors ``weights`` (B, T) times a block's attention, mean over heads: (B, T). One head at a time, to save memory."""
    attention, x = block.attn, block.norm1(tokens)
    qkv = attention.qkv(x).view(*x.shape[:2], 3, attention.num_heads, -1)
    q, k = attention.q_norm(qkv[:, :, 0]), attention.k_norm(qkv[:, :, 1])  # (B, T, heads, d)
    found = torch.zeros_like(weights)
    for head in range(attention.num_heads):
        logits = torch.einsum("btd,bsd->bts", q[:, :, head], k[:, :, head]).float() * attention.scale
        found += torch.einsum("bt,bts->bs", weights, logits.softmax(2))
    return found / attention.num_heads
