"""Weights to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from scotoma import encoders, initial
from scotoma.encoders import EncoderInfo
from scotoma.errors import UsageError


def info_of(name: str, channels: int = 1, size: int = 32) -> EncoderInfo:
    timm_name, kwargs = encoders.resolve(name, size)
    return EncoderInfo(timm_name, kwargs, channels, size, (0.4,) * channels, (0.2,) * channels)


def test_a_run_of_the_same_network_is_taken_as_it_is(tmp_path: Path) -> None:
    info = info_of("resnet10t")
    source, encoder = encoders.build(info), encoders.build(info)
    encoders.save(tmp_path / encoders.FILE, source, info)
    initial.start(encoder, info, str(tmp_path))
    assert initial.network(str(tmp_path)) == "resnet10t"
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), encoder.state_dict().values(), strict=True))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_three_channels_become_one_by_their_sum_and_the_head_is_left_out(tmp_path: Path, suffix: str) -> None:
    source = timm.create_model("resnet10t", num_classes=7)
    weights = {k: v.contiguous() for k, v in source.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, path)
    else:
        save_file(weights, path)
    info = info_of("resnet10t")
    encoder = encoders.build(info)
    initial.start(encoder, info, str(path))
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        wanted = source.eval().forward_head(source.forward_features(grey.expand(-1, 3, -1, -1)), pre_logits=True)
        torch.testing.assert_close(encoder.eval()(grey), wanted)
    assert initial.network(str(path)) is None


def test_a_vision_transformer_takes_another_size_and_patch(tmp_path: Path) -> None:
    before = info_of("vit_tiny_patch8", 3, 64)
    source = timm.create_model(before.timm_name, num_classes=0, depth=1, **before.timm_kwargs)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    info = info_of("vit_tiny_patch8", 1, 32)
    encoder = encoders.build(info, depth=1)
    initial.start(encoder, info, str(tmp_path / "weights.safetensors"))
    assert encoder.pos_embed.shape == (1, 17, 192)
    torch.testing.assert_close(encoder.pos_embed[:, 0], source.pos_embed[:, 0])
    with torch.no_grad():  # a plain picture of the larger size shows nearly the same
        small, large = encoder(torch.full((1, 1, 32, 32), 0.5)), source(torch.full((1, 3, 64, 64), 0.5))
    assert torch.cosine_similarity(small, large) > 0.95
    other = info_of("vit_tiny_patch16", 1, 32)
    halved = encoders.build(other, depth=1)
    initial.start(halved, other, str(tmp_path / "weights.safetensors"))
    assert halved.patch_embed.proj.weight.shape[2:] == (16, 16)


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    info = info_of("resnet10t")
    encoder = encoders.build(info)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    save_file(encoders.build(info_of("resnet18")).state_dict(), tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    torch.save({"model": [1, 2]}, tmp_path / "list.pth")
    for name, message in (
        ("other.safetensors", "not weights of a resnet10t"),
        ("broken.safetensors", "no weights"),
        ("broken.pth", "no weights"),
        ("list.pth", "no table of weights"),
    ):
        with pytest.raises(UsageError, match=message):
            initial.start(encoder, info, str(tmp_path / name))
    with pytest.raises(UsageError, match="neither a run, nor a file"):
        initial.start(encoder, info, "no_such_network.of_anyone")
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_a_tag_whose_weights_cannot_be_had_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    info = info_of("resnet18")
    with pytest.raises(UsageError, match=r"cannot be had .no route to host.; fill timm's cache"):
        initial.start(torch.nn.Linear(1, 1), info, "resnet18.a1_in1k")
    assert initial.network("resnet18.a1_in1k") == "resnet18"


def test_a_tag_is_taken_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    source = timm.create_model("resnet10t")
    monkeypatch.setattr(
        timm, "create_model", lambda tag, pretrained: source if (tag, pretrained) == ("resnet10t.c3_in1k", True) else None
    )
    info = info_of("resnet10t", 3)
    encoder = timm.models.resnet10t(num_classes=0)
    initial.start(encoder, info, "resnet10t.c3_in1k")
    assert torch.equal(encoder.state_dict()["layer4.0.conv1.weight"], source.state_dict()["layer4.0.conv1.weight"])
