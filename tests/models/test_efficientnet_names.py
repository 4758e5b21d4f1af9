"""EfficientNet-PyTorch's names: order, what stands before them, and tables of other networks."""

from __future__ import annotations

import torch

from scotoma.models import efficientnet_names

THEIRS = ["_conv_stem.weight", "_bn0.weight", "_blocks.0._depthwise_conv.weight", "_fc.weight", "_fc.bias"]
OURS = ["conv_stem.weight", "bn1.weight", "blocks.0.0.conv_dw.weight"]


def test_names_follow_the_order_and_the_head_keeps_its_own() -> None:
    for before in ("", "module."):
        table = {before + name: torch.tensor(float(k)) for k, name in enumerate(THEIRS)}
        for wanted in (OURS, [*OURS, "classifier.weight", "classifier.bias"]):
            found = efficientnet_names.rename(table, wanted)
            assert found is not None
            values = {name: int(tensor) for name, tensor in found.items()}
            assert values == dict(zip(OURS, range(3), strict=True)) | {before + "_fc.weight": 3, before + "_fc.bias": 4}


def test_other_programs_and_other_networks_are_left_alone() -> None:
    table = {name: torch.zeros(1) for name in THEIRS}
    assert efficientnet_names.rename({"conv_stem.weight": torch.zeros(1)}, OURS) is None
    assert efficientnet_names.rename(table, [*OURS, "bn2.weight"]) is None
