"""Weights, gradients and moments sharded over processes, of which each otherwise has all.

Fully sharded data parallelism (FSDP: Zhao et al. 2023, arXiv 2304.11277), by torch.

A transformer's blocks are gathered one after the other while they are needed, everything else of a method for the whole step. Of a
vision transformer the last block belongs to what is gathered for the step: methods read its attention from within.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.models import encoders

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

M = TypeVar("M", bound=nn.Module)


def shard_copy(method: M, device: torch.device) -> M:
    """A copy of a method that is sharded over all processes; the method itself waits on the CPU for the weights."""
    from torch.distributed.device_mesh import init_device_mesh

    copied = copy.deepcopy(method)
    shard(copied, init_device_mesh(device.type, (collectives.world(),)))
    return copied


def shard(method: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a method's parameters over the processes of ``mesh``, in place; those of one already sharded stay as they are.

    Their gradients are then means over processes. Of a method only ``loss`` may be called; outside of it take ``gathered``. Its
    parameters must be contiguous (not channels-last). Buffers are left whole.
    """
    from timm.models.vision_transformer import Block
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if isinstance(method, FSDPModule):
        return
    vits: list[Any] = [module for module in method.modules() if encoders.is_vit(module)]
    within = {vit.blocks[-1] for vit in vits}
    blocks = [module for module in method.modules() if isinstance(module, Block) and module not in within]
    for module in (*blocks, method):
        fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(method, "loss")


@contextmanager
def gather(method: nn.Module) -> Iterator[None]:
    """Every process has all of a method's parameters, for a look; of one that is not sharded, it has them anyway."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(method, FSDPModule):
        yield
        return
    method.unshard()
    try:
        yield
    finally:
        method.reshard()


@torch.no_grad()
def state(method: nn.Module) -> dict[str, Tensor]:
    """The whole ``state_dict`` on the CPU, in process 0; empty in the others."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(method, options=StateDictOptions(full_state_dict=True, cpu_offload=True))  # type: ignore[return-value]


def states(method: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole state of a sharded method and of its optimiser on the CPU, in process 0; empty in the others."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    return get_state_dict(method, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_states(method: nn.Module, optimizer: torch.optim.Optimizer, model: dict[str, Any], moments: dict[str, Any]) -> None:
    """Shard what ``states`` gave, read by every process."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    set_state_dict(
        method, optimizer, model_state_dict=model, optim_state_dict=moments, options=StateDictOptions(full_state_dict=True)
    )
