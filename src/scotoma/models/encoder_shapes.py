"""Whether the weights in a file have the names and shapes of a network's, found before that network takes any memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from scotoma.errors import UsageError


def require(path: Path, network: str, make: Callable[[], nn.Module], beside: tuple[str, ...]) -> None:
    """Refuse a file whose weights are not this network's.

    Nothing is reported of a network that cannot be made without memory, of which timm has none now: it is looked at as it is built.

    Args:
        path: a safetensors file, of which names and shapes alone are read.
        network: its name.
        make: the network.
        beside: how names start that are not the network's.

    Raises:
        UsageError: naming what does not fit.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if not name.startswith(beside)]  # noqa: SIM118 (it is no mapping)
        there = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    try:
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
    except Exception:  # of whatever a network does as it is made: what is wrong is reported where it is made in earnest
        return
    for what, names in (
        ("is missing", sorted(wanted.keys() - there.keys())),
        ("is not in it", sorted(there.keys() - wanted.keys())),
    ):
        if names:
            raise UsageError(f"{path}: not the weights of a {network} ({names[0]} {what}, {len(names)} in all)")
    if unlike := next((name for name in wanted if wanted[name] != there[name]), None):
        raise UsageError(f"{path}: not the weights of a {network} ({unlike} is {there[unlike]}, not {wanted[unlike]})")
