"""Weights under the names of Hugging Face's transformers -> timm's: ViT, ViT-MAE, DeiT, DINOv2 and ResNet."""

from __future__ import annotations

import re

import torch
from torch import Tensor

# What a table of transformers holds, and no other program's.
KNOWN = re.compile(r"(^|\.)(embeddings\.patch_embeddings\.projection|embedder\.embedder\.convolution)\.weight$")
_LAYER = r"(?:encoder\.layer|layers)\.(\d+)"  # of files, and of their networks since version 5
_STAGE = r"encoder\.stages\.(\d+)\.layers\.(\d+)"
RULES = tuple(
    (re.compile(rf"(?<![^.]){old}(?=\.|$)"), new)
    for old, new in (
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.distillation_token", "dist_token"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (rf"{_LAYER}\.attention\.(?:attention\.)?q(?:uery|_proj)", r"blocks.\1.attn.q"),
        (rf"{_LAYER}\.attention\.(?:attention\.)?k(?:ey|_proj)", r"blocks.\1.attn.k"),
        (rf"{_LAYER}\.attention\.(?:attention\.)?v(?:alue|_proj)", r"blocks.\1.attn.v"),
        (rf"{_LAYER}\.attention\.(?:output\.dense|o_proj)", r"blocks.\1.attn.proj"),
        (rf"{_LAYER}\.intermediate\.dense", r"blocks.\1.mlp.fc1"),
        (rf"{_LAYER}\.output\.dense", r"blocks.\1.mlp.fc2"),
        (rf"{_LAYER}\.mlp\.(fc[12])", r"blocks.\1.mlp.\2"),
        (rf"{_LAYER}\.(?:layernorm_before|norm1)", r"blocks.\1.norm1"),
        (rf"{_LAYER}\.(?:layernorm_after|norm2)", r"blocks.\1.norm2"),
        (rf"{_LAYER}\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
        (r"layernorm", "norm"),
        (r"embedder\.embedder\.convolution", "conv1"),
        (r"embedder\.embedder\.normalization", "bn1"),
        (rf"{_STAGE}\.shortcut\.convolution", r"layer\1.\2.downsample.0"),
        (rf"{_STAGE}\.shortcut\.normalization", r"layer\1.\2.downsample.1"),
        (rf"{_STAGE}\.layer\.(\d+)\.convolution", r"layer\1.\2.conv\3"),
        (rf"{_STAGE}\.layer\.(\d+)\.normalization", r"layer\1.\2.bn\3"),
    )
)
_COUNTED = re.compile(r"(?<![^.])(layer)(\d+)(\.\d+\.(?:conv|bn|downsample))(\.?)(\d)")  # timm's stages and convolutions begin at 1


def rename(table: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """A table of transformers under timm's names, what stands before them unchanged; None for one of another program.

    A layer's query, key and value become the one matrix that timm has.
    """
    if not any(KNOWN.search(name) for name in table):
        return None
    found = {_rename(name): tensor for name, tensor in table.items()}
    fused: dict[str, Tensor] = {}
    for name, tensor in found.items():
        part = re.search(r"(.*\.attn\.)([qkv])(\.weight|\.bias)$", name)
        if part is None:
            fused[name] = tensor
            continue
        three = [found.get(f"{part[1]}{letter}{part[3]}") for letter in "qkv"]
        if part[2] == "q":
            fused[f"{part[1]}qkv{part[3]}"] = torch.cat([t for t in three if t is not None])
    return fused


def _rename(name: str) -> str:
    for old, new in RULES:
        name, count = old.subn(new, name, count=1)
        if count:
            return _COUNTED.sub(_from_one, name)
    return name


def _from_one(found: re.Match[str]) -> str:
    number = int(found[5]) + (found[4] == "")  # of a downsampling the parts are numbered alike
    return f"{found[1]}{int(found[2]) + 1}{found[3]}{found[4]}{number}"
