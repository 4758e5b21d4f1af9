"""Heads and decoders that methods put behind an encoder."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from scotoma.distributed import collectives


def projector(widths: list[int]) -> nn.Sequential:
    """A multilayer perceptron: linear layers without bias, batch norm and ReLU between them.

    Args:
        widths: input, hidden and output widths.
    """
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(a, b, bias=False))
        if i < len(widths) - 2:
            layers += [nn.BatchNorm1d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def momentum_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches: a momentum (EMA) network at its start."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move a momentum network: target = momentum x target + (1 - momentum) x online; buffers (batch statistics) are copied."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)
    for mine, other in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(other)


def momentum_at(start: float, progress: float, end: float = 1.0) -> float:
    """The momentum of an EMA, rising as a cosine from ``start`` at progress 0 to ``end`` at 1 (BYOL, section 3.2, "tau")."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2


def transformer(dim: int, depth: int, heads: int) -> nn.Sequential:
    """Blocks of a vision transformer: norms first, the hidden layer four times as wide; attention starts as torch's own does."""
    from timm.models.vision_transformer import Block

    blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(depth)))
    for name, parameter in blocks.named_parameters():
        if name.endswith("attn.qkv.weight"):
            nn.init.xavier_uniform_(parameter)
        elif name.endswith(("attn.qkv.bias", "attn.proj.bias")):
            nn.init.zeros_(parameter)
    return blocks


class _InGroups:
    """Mixed into a class of batch norm: in training each of several parts of a batch is normalised by itself."""

    groups = 1

    def forward(self, x: Tensor) -> Tensor:
        count = max(1, min(self.groups // collectives.world(), len(x) // 2)) if self.training else 1  # type: ignore[attr-defined]
        parts = [super(_InGroups, self).forward(part) for part in x.tensor_split(count)]  # type: ignore[misc]
        return torch.cat(parts) if count > 1 else parts[0]


def normalise_in_groups(network: nn.Module, groups: int) -> None:
    """Let batch norm take its statistics over parts of each batch, as on so many devices.

    Everything else of the network sees the whole batch, and weights and running statistics keep their names.

    Args:
        network: any; one without batch norm stays as it is.
        groups: how many over all processes, of nearly the same size; fewer where a group would have less than two images.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            kind = type(module)
            module.__class__ = type(f"{kind.__name__}InGroups", (_InGroups, kind), {})
            module.groups = groups  # type: ignore[assignment]


class KeyQueue(nn.Module):
    """The newest keys, first in, first out (MoCo, section 3.2, "Dictionary as a queue"), and the image that each is of.

    Args:
        size: how many keys; batches need not divide it.
        dim: their width.
    """

    keys: Tensor
    owners: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("owners", torch.full((size,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, owners: Tensor) -> None:
        """Put keys in the place of the oldest.

        Args:
            keys: (B, D), oldest first; of more than ``size`` the last are kept.
            owners: (B,) int64, the number of each key's image, from 0.
        """
        size = len(self.keys)
        keys, owners = keys[-size:], owners[-size:]
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(0, slots, keys.to(self.keys.dtype))
        self.owners.index_copy_(0, slots, owners)
        self.pointer.add_(len(keys)).remainder_(size)

    def excluded(self, owners: Tensor) -> Tensor:
        """(B, K): the slots that are no negatives of images of these numbers: empty ones, and older keys of the same image."""
        return (self.owners < 0) | (self.owners == owners[:, None])


def sincos_positions(dim: int, grid: int, prefix: int = 0) -> Tensor:
    """Fixed two-dimensional sine-cosine positions (MAE, section "Appendix A.1"; the first half of the width encodes the column).

    Args:
        dim: width, a multiple of 4.
        grid: patches along a side.
        prefix: tokens before the patches, which get zeros.

    Returns:
        (1, prefix + grid * grid, dim).
    """
    omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    y, x = torch.meshgrid(torch.arange(grid, dtype=torch.float64), torch.arange(grid, dtype=torch.float64), indexing="ij")
    parts = [axis.reshape(-1, 1) * omega for axis in (x, y)]
    table = torch.cat([f(part) for part in parts for f in (torch.sin, torch.cos)], 1)
    return torch.cat([torch.zeros(prefix, dim, dtype=torch.float64), table]).float()[None]


class TokenDecoder(nn.Module):
    """MAE's decoder: a narrower transformer that sees the visible tokens and mask tokens at their places, and predicts pixels.

    Args:
        encoder_dim: width of the encoder's tokens.
        grid: patches along a side.
        patch_dim: numbers to predict for a patch (patch * patch * channels).
        dim: width.
        depth: blocks.
        heads: attention heads.
        prefix: the encoder's tokens before the patches (class token).
    """

    positions: Tensor

    def __init__(self, encoder_dim: int, grid: int, patch_dim: int, dim: int, depth: int, heads: int, prefix: int = 1) -> None:
        super().__init__()
        self.prefix = prefix
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sincos_positions(dim, grid, prefix))
        self.blocks = transformer(dim, depth, heads)
        self.norm = nn.LayerNorm(dim)
        self.predict = nn.Linear(dim, patch_dim)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Predict every patch.

        Args:
            tokens: (B, prefix + V, encoder_dim), the visible tokens.
            restore: (B, N): where patch i stands in the order visible-then-hidden.

        Returns:
            (B, N, patch_dim).
        """
        x = self.embed(tokens)
        batch, count = restore.shape
        hidden = self.mask_token.to(x.dtype).expand(batch, count + self.prefix - x.shape[1], -1)
        patches = torch.cat([x[:, self.prefix :], hidden], 1).gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, : self.prefix], patches], 1) + self.positions
        x = self.blocks(x)
        return self.predict(self.norm(x[:, self.prefix :]))

    def predict_some(self, tokens: Tensor, keep: Tensor, wanted: Tensor) -> Tensor:
        """Predict some patches; those that are neither visible nor wanted are left out and cost nothing.

        Args:
            tokens: (B, prefix + V, encoder_dim), the visible tokens.
            keep: (B, V), which patches they are.
            wanted: (B, M), the patches to predict.

        Returns:
            (B, M, patch_dim).
        """
        x = self.embed(tokens)
        x = torch.cat([x, self.mask_token.to(x.dtype).expand(len(x), wanted.shape[1], -1)], 1)
        prefix = torch.arange(self.prefix, device=keep.device).expand(len(x), -1)
        x = x + self.positions[0, torch.cat([prefix, keep + self.prefix, wanted + self.prefix], 1)]
        x = self.blocks(x)
        return self.predict(self.norm(x[:, -wanted.shape[1] :]))
