"""Weights under transformers' names: the same network in timm gives the same features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.headers import info_of

from scotoma.models import encoders, pretrained_weights, transformers_names

SHAPE = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}


def scramble(network: torch.nn.Module) -> None:
    torch.manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("running_var") else torch.randn_like(tensor) * 0.2)


@pytest.mark.parametrize("form", ["model", "file", "mae"])
def test_a_vision_transformer(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    kinds = {"mae": transformers.ViTMAEForPreTraining, "file": transformers.ViTForImageClassification}
    config = (transformers.ViTMAEConfig if form == "mae" else transformers.ViTConfig)(**SHAPE, intermediate_size=768)
    theirs = kinds[form](config) if form in kinds else transformers.ViTModel(config, add_pooling_layer=False)
    scramble(theirs)
    path = tmp_path / "model.safetensors"
    if form == "model":
        path = tmp_path / "model.pth"
        torch.save(theirs.state_dict(), path)
    else:
        theirs.save_pretrained(tmp_path)
    info = info_of("vit_tiny_patch8", 3, 32)
    encoder = encoders.build(info, depth=2)
    pretrained_weights.start(encoder, info, str(path))
    said = capsys.readouterr().err
    assert "tensors, transformers' names mapped to timm's" in said and ("vit." in said) == (form != "model")
    images = torch.randn(2, 3, 32, 32)
    body: Any = theirs if form == "model" else theirs.vit
    with torch.no_grad():
        given = body.embeddings.patch_embeddings(images)
        wanted = body.layernorm(_blocks(body, given))[:, 0]
        torch.testing.assert_close(encoder.eval()(images), wanted, atol=2e-4, rtol=1e-3)


def _blocks(body: Any, patches: torch.Tensor) -> torch.Tensor:
    """Their embeddings without random masking, then their layers."""
    tokens = torch.cat([body.embeddings.cls_token.expand(len(patches), -1, -1), patches], 1) + body.embeddings.position_embeddings
    for layer in body.layers:
        found = layer(tokens)
        tokens = found[0] if isinstance(found, tuple) else found
    return tokens


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_residual_network(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name, sizes, depths = {
        "basic": ("resnet18", [64, 128, 256, 512], [2, 2, 2, 2]),
        "bottleneck": ("resnet50", [256, 512, 1024, 2048], [3, 4, 6, 3]),
    }[kind]
    theirs = transformers.ResNetModel(transformers.ResNetConfig(hidden_sizes=sizes, depths=depths, layer_type=kind))
    scramble(theirs)
    renamed = transformers_names.rename({f"resnet.{k}": v for k, v in theirs.state_dict().items()})
    assert renamed is not None
    ours = timm.create_model(name, num_classes=0)
    ours.load_state_dict({k.removeprefix("resnet."): v for k, v in renamed.items()}, strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs.eval()(images).pooler_output.flatten(1)
        torch.testing.assert_close(ours.eval()(images), wanted, atol=1e-3 * float(wanted.abs().max()), rtol=1e-3)


def test_layer_scale_and_what_is_of_no_transformers_network() -> None:
    names = ["embeddings.patch_embeddings.projection.weight", "encoder.layer.3.layer_scale1.lambda1", "encoder.layer.3.norm2.bias"]
    names += ["encoder.layer.3.attention.attention.value.bias", "encoder.layer.3.attention.attention.key.bias", "pooler.dense.bias"]
    table = {name: torch.full((2,), float(k)) for k, name in enumerate(names)}
    table["encoder.layer.3.attention.attention.query.bias"] = torch.full((2,), 9.0)
    found = transformers_names.rename(table)
    assert found is not None
    assert found.keys() == {"patch_embed.proj.weight", "blocks.3.ls1.gamma", "blocks.3.norm2.bias", "blocks.3.attn.qkv.bias",
                            "pooler.dense.bias"}  # fmt: skip
    assert found["blocks.3.attn.qkv.bias"].tolist() == [9.0, 9.0, 4.0, 4.0, 3.0, 3.0]
    assert transformers_names.rename({"blocks.0.norm1.weight": torch.ones(1), "layers.0.mlp.fc1.weight": torch.ones(1)}) is None
