"""A file's weights are compared with its header's network before that is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.headers import info_of

from scotoma.data import encoder_header
from scotoma.errors import UsageError
from scotoma.models import encoders, pretrained_weights


@pytest.mark.parametrize("start", ["load", "adapted", "network"])
def test_a_network_that_the_weights_are_not_of_takes_no_memory(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header may name any network: its names and shapes are compared before it is built."""
    real, built = encoders.build, []

    def build(info: encoder_header.EncoderInfo, **more: object) -> torch.nn.Module:
        built.append(str(torch.get_default_device()))
        return real(info, **more)

    small = info_of("vit_tiny_patch8")
    encoders.save(tmp_path / encoder_header.FILE, real(small), replace(small, timm_name="vit_large_patch16_224"))
    monkeypatch.setattr(encoders, "build", build)
    before = torch.get_rng_state()
    what = r"not the weights of a vit_large_patch8 \(blocks.12.attn.proj.bias is missing, 144 in all\)"
    with pytest.raises(UsageError, match=what):
        {
            "load": lambda: encoders.load(tmp_path),
            "adapted": lambda: pretrained_weights.adapt(tmp_path, 64),
            "network": lambda: pretrained_weights.network(str(tmp_path)),
        }[start]()
    assert built == ["meta"] and torch.equal(before, torch.get_rng_state())
