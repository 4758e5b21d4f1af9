"""Collectives over the processes that train together, on torch's own with gradients. One process alone passes straight through.

A step's images are sharded one by one: process r of W has the images r, r + W, ... of the batch. The gradient of a step is
the mean over processes (DDP). A loss that is a mean over images is therefore right as it stands, each process taking it over its
own; whatever else a loss knows of the batch comes from here, so that W processes do what one with the same batch does:

- ``all_gather``: the tensors of the whole batch, of which every process then takes the same loss (NT-Xent, VICReg, SIGReg);
- ``all_reduce_mean``: a mean over processes inside of a loss (MSN's mean entropy, DINO's centre);
- ``share``: a sum over an uneven count (labels that are known, pixels that are hidden).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0; 0 alone writes and talks."""
    return dist.get_rank() if world() > 1 else 0


def all_reduce_mean(x: Tensor) -> Tensor:
    """The mean of ``x`` over processes; its gradient reaches all of them."""
    if world() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x) / world()


def all_gather(x: Tensor) -> Tensor:
    """(B, ...) of each process -> (W B, ...) of all, in the order of the batch; the gradient of every process's loss comes back."""
    if world() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    parts = all_gather(x)
    for part in parts:  # over gloo, torch's backward pass silently permutes gradients that are not contiguous
        if part.requires_grad:
            part.register_hook(Tensor.contiguous)
    return torch.stack(parts, 1).flatten(0, 1)


def local_shard(x: Tensor) -> Tensor:
    """(W B, ...) of all -> (B, ...) of this process: the inverse of ``all_gather``."""
    return x[rank() :: world()]


def share(total: Tensor, count: Tensor, least: float = 1.0) -> Tensor:
    """This process's part of a mean: the mean over processes is the sum of all totals over the sum of all counts.

    Args:
        total: a sum over what this process has.
        count: over how many (or how much weight); no gradient reaches it.
        least: the count is taken to be at least so much, so that nothing at all gives 0.
    """
    return total / all_reduce_mean(count.detach().to(total.dtype)).clamp(min=least / world())


def broadcast(value: Any) -> Any:
    """The value that process 0 has."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


class _SharedNorm(_BatchNorm):
    """Batch normalisation over the batches of all processes, where torch's own (SyncBatchNorm) is for GPUs alone."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any."""

    def forward(self, input: Tensor) -> Tensor:
        """As torch's, but mean and variance are of all processes; all have equally many images."""
        if not self.training:
            return super().forward(input)
        x, dims = input.float(), [0, *range(2, input.ndim)]
        centre = all_reduce_mean(x.mean(dims, keepdim=True))
        variance = all_reduce_mean((x - centre).square().mean(dims, keepdim=True))
        count = world() * x.numel() // x.shape[1]
        with torch.no_grad():
            if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
                rate = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(centre.flatten(), rate)
                self.running_var.lerp_(variance.flatten() * count / max(1, count - 1), rate)
        shape = centre.shape
        x = (x - centre) * (variance + self.eps).rsqrt()
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)


def share_norms(module: nn.Module) -> nn.Module:
    """Let all batch norm of a network take its statistics over all processes.

    On a CPU that is done for torch's own classes; those of timm with a built-in activation keep each process's own statistics.
    """
    if world() == 1:
        return module
    if torch.cuda.is_available():
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module)
    for child in module.children():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d):
            child.__class__ = _SharedNorm
        else:
            share_norms(child)
    return module
