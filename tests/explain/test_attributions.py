from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma import plugins
from scotoma.explain.attributions.base import Classifier, centre, find_attributions

TARGET = torch.tensor([2, 0])
MODULES = plugins.modules("attributions")
GENERIC = {"saliency", "integrated_gradients", "gradient_shap", "occlusion"}


class Convolutions(nn.Module):
    """Two convolutions, a ReLU between them, features that are means of the map."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        self.second = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.second(self.act(self.first(images)))

    def forward_head(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.manual_seed(seed)


def linear_model(channels: int, side: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier of three classes, two images, and the weights (2, C, H, W) of their targets."""
    seeded()
    layer = nn.Linear(channels * side * side, 3)
    weight = layer.weight.detach()[TARGET].view(2, channels, side, side)
    return nn.Sequential(nn.Flatten(), layer), torch.randn(2, channels, side, side), weight


def vit(**changes: object) -> Classifier:
    seeded(1)
    encoder = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1, num_classes=0, depth=2, **changes
    )  # fmt: skip
    for p in encoder.parameters():
        p.data += 0.1 * torch.randn_like(p)  # else attention is nearly even
    return Classifier(encoder, nn.Linear(192, 3)).eval()


def resnet() -> Classifier:
    seeded(2)
    encoder = timm.create_model("test_resnet", in_chans=1, num_classes=0, zero_init_last=False)
    return Classifier(encoder, nn.Linear(encoder.num_features, 3)).eval()


def enlarged(coarse: Tensor, side: int) -> Tensor:
    return F.interpolate(coarse[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]


def test_saliency_of_a_linear_model_is_its_largest_absolute_weight() -> None:
    model, images, weight = linear_model(2, 8)
    torch.testing.assert_close(MODULES["saliency"].attribute(model, images, TARGET), weight.abs().amax(1))


def test_integrated_gradients_of_a_linear_model_are_weight_times_image_and_complete() -> None:
    model, images, weight = linear_model(2, 8)
    found = MODULES["integrated_gradients"].attribute(model, images, TARGET)
    torch.testing.assert_close(found, (weight * images).sum(1), atol=1e-5, rtol=1e-5)
    logits = (model(images) - model(torch.zeros_like(images))).gather(1, TARGET[:, None])[:, 0]
    torch.testing.assert_close(found.sum((1, 2)), logits, atol=1e-4, rtol=1e-4)


def test_integrated_gradients_are_complete_for_a_network_with_curvature() -> None:
    model, images = vit(), torch.randn(2, 1, 32, 32, generator=seeded())
    with torch.no_grad():
        logits = (model(images) - model(torch.zeros_like(images))).gather(1, TARGET[:, None])[:, 0]
    found = MODULES["integrated_gradients"].attribute(model, images, TARGET).sum((1, 2))
    torch.testing.assert_close(found, logits, atol=0.02 * float(logits.abs().max()), rtol=0)


def test_gradient_shap_of_a_linear_model_is_weight_times_distance_from_the_mean_baseline() -> None:
    model, images, weight = linear_model(2, 8)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    found = MODULES["gradient_shap"].attribute(model, images, TARGET)
    level = ((weight * images).sum(1) - found) / weight.sum(1)  # the one grey level of the mean baseline
    middle = float(level.median())
    torch.testing.assert_close(found, (weight * (images - middle)).sum(1), atol=1e-4, rtol=1e-4)
    assert 0 < abs(middle) < 1
    assert (np.random.get_state()[1] == state).all()  # type: ignore[index]
    torch.testing.assert_close(found, MODULES["gradient_shap"].attribute(model, images, TARGET), atol=0, rtol=0)
    assert not torch.allclose(found, MODULES["gradient_shap"].attribute(model, images, TARGET, seed=1), atol=1e-3)


def test_occlusion_of_a_linear_model_is_the_mean_over_windows_of_what_they_hide() -> None:
    model, images, weight = linear_model(2, 24)
    window, step = 3, 1
    total, count = torch.zeros(2, 24, 24), torch.zeros(24, 24)
    for y in range(0, 24 - window + 1, step):
        for x in range(0, 24 - window + 1, step):
            here = (slice(y, y + window), slice(x, x + window))
            total[:, *here] += (weight * images)[:, :, *here].sum((1, 2, 3))[:, None, None]
            count[here] += 1
    torch.testing.assert_close(MODULES["occlusion"].attribute(model, images, TARGET), total / count, atol=1e-4, rtol=1e-4)


def test_grad_cam_of_a_network_that_averages_its_map_is_the_class_activation_map() -> None:
    seeded()
    model, images = Classifier(Convolutions(), nn.Linear(4, 3)), torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        maps = model.encoder.forward_features(images)  # type: ignore[operator]
        gradients = model.head.weight[TARGET] / 16  # of every cell alike: (2, 4)
        expected = torch.einsum("bc,bchw->bhw", gradients, maps).relu()
    torch.testing.assert_close(MODULES["grad_cam"].attribute(model, images, TARGET), enlarged(expected, 16))
    assert float(expected.max()) > 0


def test_guided_grad_cam_lets_only_positive_gradients_through_relus() -> None:
    seeded()
    model, images = Classifier(Convolutions(), nn.Linear(4, 3)), torch.randn(2, 1, 16, 16)
    net = model.encoder
    with torch.no_grad():
        before = net.first(images)
        gradient = (model.head.weight[TARGET] / 16)[:, :, None, None].expand(2, 4, 4, 4).contiguous()
        gradient = torch.nn.grad.conv2d_input(before.shape, net.second.weight, gradient, stride=2, padding=1)
        gradient = torch.where(before > 0, gradient, 0).clamp(min=0)
        guided = torch.nn.grad.conv2d_input(images.shape, net.first.weight, gradient, stride=2, padding=1)
    expected = guided[:, 0] * MODULES["grad_cam"].attribute(model, images, TARGET)
    torch.testing.assert_close(MODULES["guided_grad_cam"].attribute(model, images, TARGET), expected)
    assert float(expected.abs().max()) > 0


def test_grad_cam_of_a_vision_transformer_equals_one_written_out() -> None:
    model, images = vit(), torch.randn(2, 1, 32, 32, generator=seeded())
    net = model.encoder
    x = net.norm_pre(net._pos_embed(net.patch_embed(images)))
    x = net.blocks[0](x).detach()
    last = net.blocks[1]
    tokens = last.norm1(x).detach().requires_grad_()
    y = x + last.attn(tokens)
    y = y + last.mlp(last.norm2(y))
    logits = model.head(net.norm(y)[:, 0])
    gradients = torch.autograd.grad(logits[0, 2] + logits[1, 0], tokens)[0]
    expected = (gradients[:, 1:].mean(1, keepdim=True) * tokens[:, 1:]).sum(2).relu().detach().view(2, 4, 4)
    found = MODULES["grad_cam"].attribute(model, images, TARGET)
    torch.testing.assert_close(found, enlarged(expected, 32), atol=1e-6, rtol=1e-4)
    assert float(found.max()) > 0


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_attention_rollout_equals_the_product_of_all_matrices(pool: str) -> None:
    model, images = vit(global_pool=pool, fc_norm=False), torch.randn(2, 1, 32, 32, generator=seeded())
    matrices: list[Tensor] = []
    for block in model.encoder.blocks:
        block.attn.fused_attn = False  # timm then forms the matrix, and it passes this module
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: matrices.append(output.mean(1)))
    with torch.no_grad():
        model(images)
    identity = torch.eye(17)
    product = (0.5 * matrices[1] + 0.5 * identity) @ (0.5 * matrices[0] + 0.5 * identity)
    read = product[:, 0] if pool == "token" else product[:, 1:].mean(1)
    expected = read[:, 1:].reshape(2, 4, 4)
    torch.testing.assert_close(MODULES["attention_rollout"].attribute(model, images, TARGET), enlarged(expected, 32))
    assert float(expected.std() / expected.mean()) > 0.05
    if pool == "token":
        own = enlarged(matrices[1][:, 0, 1:].reshape(2, 4, 4), 32)
        torch.testing.assert_close(MODULES["class_attention"].attribute(model, images, TARGET), own)


def test_a_centred_head_gives_the_same_probabilities_and_two_classes_opposite_maps() -> None:
    seeded()
    head, features, images = nn.Linear(64, 2), torch.randn(5, 64), torch.randn(1, 1, 8, 8)
    before = copy.deepcopy(head.state_dict())
    found = centre(head)
    torch.testing.assert_close(found(features).softmax(1), head(features).softmax(1))
    torch.testing.assert_close(found(features).sum(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(head.state_dict(), before, atol=0, rtol=0)
    model = nn.Sequential(nn.Flatten(), found)
    maps = [MODULES["integrated_gradients"].attribute(model, images, torch.tensor([k])) for k in (0, 1)]
    torch.testing.assert_close(maps[0], -maps[1], atol=1e-6, rtol=1e-5)


def test_a_network_is_given_the_methods_that_it_takes() -> None:
    image = torch.zeros(1, 1, 32, 32)
    assert set(find_attributions(resnet(), torch.zeros(1, 1, 64, 64))) == GENERIC | {"grad_cam", "guided_grad_cam"}
    assert set(find_attributions(resnet(), image)) == GENERIC  # its map is of one cell
    assert set(find_attributions(vit(), image)) == GENERIC | {"grad_cam", "attention_rollout", "class_attention"}
    averaged = vit(global_pool="avg", fc_norm=False)
    assert set(find_attributions(averaged, image)) == GENERIC | {"grad_cam", "attention_rollout"}
    gelu = timm.create_model("test_convnext", in_chans=1, num_classes=0)
    model = Classifier(gelu, nn.Linear(gelu.num_features, 3)).eval()
    assert set(find_attributions(model, torch.zeros(1, 1, 64, 64))) == GENERIC | {"grad_cam"}


@pytest.mark.parametrize(("build", "side"), [(resnet, 64), (vit, 32)])
def test_methods_leave_the_model_as_it_was_and_see_each_image_alone(build, side: int) -> None:
    model, images = build(), torch.randn(2, 1, side, side, generator=seeded())
    before, weights = model(images).detach(), copy.deepcopy(model.state_dict())
    methods = find_attributions(model, images)
    for name, method in methods.items():
        found = method(model, images, TARGET)
        assert found.shape == (2, side, side) and found.dtype == torch.float32 and not found.requires_grad, name
        assert bool(found.isfinite().all()) and float(found.std()) > 0, name
        if name in ("saliency", "grad_cam", "attention_rollout", "class_attention"):
            assert float(found.min()) >= 0, name
        alone = method(model, images[1:], TARGET[1:])
        torch.testing.assert_close(alone[0], found[1], atol=1e-3 * float(found.abs().max()), rtol=0, msg=name)
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)
    assert all(p.grad is None and p.requires_grad for p in model.parameters()) and not images.requires_grad
    assert not model.training
    torch.testing.assert_close(model(images).detach(), before, atol=0, rtol=0)
    torch.testing.assert_close(model.state_dict(), weights, atol=0, rtol=0)


def test_every_method_is_available_to_some_network() -> None:
    some = set(find_attributions(resnet(), torch.zeros(1, 1, 64, 64))) | set(find_attributions(vit(), torch.zeros(1, 1, 32, 32)))
    assert some == set(plugins.names("attributions"))
