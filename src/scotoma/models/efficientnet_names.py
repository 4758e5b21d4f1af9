"""Weights under the names of EfficientNet-PyTorch -> timm's: EfficientNet and EfficientNet-Lite."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

FIRST, HEADS = "_conv_stem.weight", ("_fc.", "classifier.")


def rename(table: dict[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor] | None:
    """A table of EfficientNet-PyTorch under timm's names; None for one of another program, or of another network.

    Both build the same layers in the same order, so that their tensors correspond one to one. The classifier keeps its name.

    Args:
        table: name -> tensor, in the order of the file.
        wanted: names of the network's tensors, in its order.
    """
    before = next((name.removesuffix(FIRST) for name in table if name.endswith(FIRST)), None)
    if before is None:
        return None
    theirs = [name for name in table if name.startswith(before) and not name.removeprefix(before).startswith(HEADS)]
    own = [name for name in wanted if not name.startswith(HEADS)]
    if len(theirs) != len(own):
        return None
    return dict(zip(own, (table[name] for name in theirs), strict=True)) | {n: t for n, t in table.items() if n not in set(theirs)}
