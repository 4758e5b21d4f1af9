"""Ways round what torch does slowly on a CPU. Weights, names and results stay (to rounding); on a GPU nothing is changed.

Measured with torch 2.15 on two cores with AMX (``benchmarks/limits.py``, docs/decisions.md); each is a few lines that can go when
the library no longer needs it.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scotoma import processes

FEW_TOKENS = {torch.bfloat16: 600, torch.float32: 64}  # up to which plain attention is faster, gradients included
SMALL_MAP, MANY_CHANNELS = 4, 384  # where a 3 x 3 convolution is faster as a matrix product
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def tune(network: nn.Module, dtype: torch.dtype, tokens: int) -> None:
    """Let a network train faster on this machine's CPU, where it has no GPU, until ``restore``.

    Args:
        network: with everything that is trained.
        dtype: in which it multiplies, torch.bfloat16 or torch.float32.
        tokens: patches of an image; 0 for a network without.
    """
    if torch.cuda.is_available():
        return
    if processes.is_command:
        keep_memory()
    for module in network.modules():
        if hasattr(module, "fused_attn"):  # timm's attention: fused, or as plain products
            module.fused_attn = tokens > FEW_TOKENS[dtype]  # type: ignore[assignment]
        if type(module) is nn.Conv2d and _could_be_product(module):
            module.__class__ = _SmallMapConvolution
        if type(module) is nn.MaxPool2d and not module.return_indices:
            module.__class__ = _ForgetfulMaxPool


def restore(network: nn.Module) -> None:
    """Give a network's modules torch's own classes back."""
    for module in network.modules():
        if isinstance(module, (_SmallMapConvolution, _ForgetfulMaxPool)):
            module.__class__ = type(module).__bases__[0]


@cache
def keep_memory() -> None:
    """Let glibc keep what a step frees for the next step, all but tensors of 32 MiB and more; for the rest of the process.

    Else what is free at the end of the heap goes back to the system and comes anew, page by page. The largest tensors still do:
    kept, the holes that they leave seldom fit again, and a part of the memory lies idle.
    """
    if sys.platform == "linux":
        libc: Any = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(M_TOP_PAD, 2**26)


def _could_be_product(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and layer.padding == (1, 1)
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= MANY_CHANNELS
    )


class _SmallMapConvolution(nn.Conv2d):
    """A 3 x 3 convolution that goes over small maps as one product of matrices.

    oneDNN's weight gradients in bfloat16 are made for large maps: on one of 3 x 3 cells they take four times as long.
    """

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[2:]
        if max(height, width) > SMALL_MAP or not (self.training and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        x = F.pad(input, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (B, h + 2, w + 2, C), contiguous where channels come last
        columns = torch.cat([x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], 3).flatten(0, 2)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (D, 9 C)
        return F.linear(columns, weight, self.bias).view(-1, height, width, self.out_channels).permute(0, 3, 1, 2)


class _ForgetfulMaxPool(nn.MaxPool2d):
    """A max pool that finds its maxima anew in the backward pass.

    torch keeps their places as int64, which after a ResNet's stem is as much as the largest activation in bfloat16.
    """

    def forward(self, input: Tensor) -> Tensor:
        pooled: Tensor = checkpoint(super().forward, input, use_reentrant=False, preserve_rng_state=False)
        return pooled
