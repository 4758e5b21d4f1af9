"""Attribution maps: what of an image speaks for a class, one function a method, all of one signature.

``(classifier, images, target) -> maps``: ``images`` (B, C, H, W) normalised, so that 0 is the mean colour; ``target`` (B,) int64,
the logit that is explained; maps (B, H, W) float32 on the images' device, higher where more speaks for the target. The classifier
gives (B, K) logits, is in evaluation mode, and stays as it was: weights, gradients and hooks. An image's map does not depend on
the others of its batch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import GradientShap, GuidedGradCam, IntegratedGradients, LayerGradCam, Occlusion, Saliency
from torch import Tensor, nn

from scotoma.models import encoders

STEPS = 16  # nodes of the Gauss-Legendre quadrature of integrated gradients
SAMPLES = 16  # baselines that gradient SHAP draws for each image
WINDOWS = 8  # occluding windows side by side; they move by half their side
AT_ONCE = 64  # images that pass the network together, where a method needs many for each
NOT_RELU = (nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Hardswish, nn.ReLU6, nn.Softplus, nn.Tanh)


class Classifier(nn.Module):
    """An encoder and its head as one network: (B, C, H, W) -> (B, K) logits.

    What ``forward_features`` gives passes through ``map``, which changes nothing: there Grad-CAM reads a network's last feature
    map, whatever the network calls it.

    Args:
        encoder: a timm network without a head.
        head: (B, D) -> (B, K).
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head, self.map = encoder, head, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        encoder: Any = self.encoder
        return self.head(encoder.forward_head(self.map(encoder.forward_features(images))))


Attribution = Callable[[Classifier, Tensor, Tensor], Tensor]


@torch.no_grad()
def centred(head: nn.Linear) -> nn.Linear:
    """The same probabilities under a softmax, by logits of mean 0 over classes; for several 0/1 targets use the head as it is.

    A constant added to all logits changes no probability but every map: where the logit of one of two classes is always 0, as in a
    logistic regression, nothing would speak for that class. With mean 0, two classes have maps of opposite sign.
    """
    found = copy.deepcopy(head)
    found.weight.sub_(head.weight.mean(0))
    if head.bias is not None:
        found.bias.sub_(head.bias.mean())
    return found


def saliency(classifier: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Largest absolute gradient over channels (Simonyan et al. 2013, arXiv 1312.6034, section 3.1); non-negative."""
    return Saliency(classifier).attribute(_leaf(images), target=target, abs=True).amax(1)


def integrated_gradients(classifier: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Gradients along the way from the mean colour, times that way (Sundararajan et al. 2017, arXiv 1703.01365); signed.

    Equation 1. A map sums to the target's logit less that of an image of the mean colour.
    """
    method, size = IntegratedGradients(classifier), max(AT_ONCE, len(images))
    return method.attribute(images.detach(), target=target, n_steps=STEPS, internal_batch_size=size).sum(1)


def gradient_shap(classifier: nn.Module, images: Tensor, target: Tensor, seed: int = 0) -> Tensor:
    """Expected gradients over random baselines (Lundberg & Lee 2017, arXiv 1705.07874; as in captum); signed.

    Baselines are images of one grey level, drawn from the normal distribution with the data's mean and deviation: an image of
    noise is like none that the classifier saw, and one colour alone is blind to structures of that colour. The levels and the
    points on the way are drawn from ``seed`` and alike for all images.
    """
    levels = np.random.default_rng(seed).standard_normal(SAMPLES)
    baselines = torch.tensor(levels, dtype=images.dtype, device=images.device).view(-1, 1, 1, 1).expand(-1, *images.shape[1:])
    method, found = GradientShap(classifier), []
    for image, k in zip(images.detach().split(1), target.tolist(), strict=True):
        with _drawn_from(seed, images.device):
            found.append(method.attribute(image, baselines, n_samples=SAMPLES, target=k).sum(1))
    return torch.cat(found)


def occlusion(classifier: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """How far the logit falls when a window takes the mean colour (Zeiler & Fergus 2014, arXiv 1311.2901, section 4.2); signed.

    The window is an eighth of the image wide and moves by half of that; a pixel gets the mean over the windows that hide it.
    """
    channels, height, width = images.shape[1:]
    window = [max(1, n // WINDOWS) for n in (height, width)]
    steps = [max(1, n // 2) for n in window]
    found = Occlusion(classifier).attribute(
        images.detach(),
        sliding_window_shapes=(channels, *window),
        strides=(channels, *steps),
        baselines=0,
        target=target,
        perturbations_per_eval=max(1, AT_ONCE // len(images)),
    )
    return found[:, 0]  # a window hides all channels, which therefore have one value


def grad_cam(classifier: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """Channels of the last feature map, weighted by their mean gradient (Selvaraju et al. 2017, arXiv 1610.02391); non-negative.

    Equations 1 and 2. Of a vision transformer the map is the patches' tokens behind the last block's first norm: of what comes
    later only the class token is used, so that patches get no gradient there.
    """
    if not encoders.is_vit(classifier.encoder):
        coarse = LayerGradCam(classifier, classifier.map).attribute(_leaf(images), target=target, relu_attributions=True)
        return _enlarged(coarse.detach(), images)
    vit: Any = classifier.encoder
    kept: list[Tensor] = []
    handle = vit.blocks[-1].norm1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            score = classifier(_leaf(images)).gather(1, target[:, None]).sum()
    finally:
        handle.remove()
    gradients = torch.autograd.grad(score, kept[0])[0][:, vit.num_prefix_tokens :]  # (B, N, D)
    tokens = kept[0].detach()[:, vit.num_prefix_tokens :]
    return _grid(torch.einsum("bd,bnd->bn", gradients.mean(1), tokens).relu(), vit, images)


def guided_grad_cam(classifier: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM times guided backpropagation (Selvaraju et al. 2017, section 3.2); signed.

    Guided backpropagation is Springenberg et al.'s (2014, arXiv 1412.6806). For convolutional networks whose nonlinearities are
    ReLU modules.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks")  # captum's, which it takes off again
        found = GuidedGradCam(classifier, classifier.map).attribute(_leaf(images), target=target, interpolate_mode="bilinear")
    return found.detach().sum(1)


@torch.no_grad()
def attention_rollout(classifier: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """Attention through all blocks, half of it kept for the residual (Abnar & Zuidema 2020, arXiv 2005.00928, equation 1).

    Non-negative and the same for every target. What the head reads (the class token, or the mean over patches) is followed back
    from the last block to the first, v <- v (A + I) / 2 with A the mean over heads: the product of all matrices is never formed.
    """
    vit: Any = classifier.encoder
    tokens, inputs = vit.norm_pre(encoders.embed(vit, images)), []
    for block in vit.blocks:
        inputs.append(tokens)
        tokens = block(tokens)
    read, prefix = tokens.new_zeros(tokens.shape[:2]), vit.num_prefix_tokens
    if vit.global_pool == "token":
        read[:, 0] = 1
    else:
        read[:, prefix:] = 1 / (tokens.shape[1] - prefix)
    for block, x in zip(reversed(list(vit.blocks)), reversed(inputs), strict=True):
        read = (_attended(block, x, read) + read) / 2
    return _grid(read[:, prefix:], vit, images)


def class_attention(classifier: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """The class token's attention in the last block, mean over heads; non-negative and the same for every target."""
    return _grid(encoders.class_attention(classifier.encoder, images), classifier.encoder, images)


METHODS: dict[str, Attribution] = {
    "saliency": saliency, "integrated_gradients": integrated_gradients, "gradient_shap": gradient_shap, "occlusion": occlusion,
    "grad_cam": grad_cam, "guided_grad_cam": guided_grad_cam, "attention_rollout": attention_rollout,
    "class_attention": class_attention,
}  # fmt: skip


@torch.no_grad()
def available(classifier: Classifier, images: Tensor) -> dict[str, Attribution]:
    """Those of ``METHODS`` that this network takes.

    Grad-CAM needs a feature map of more than one cell, or a vision transformer of plain blocks; its guided form ReLUs alone;
    rollout a head that reads the class token or the mean over patches; class attention one that reads the class token.

    Args:
        classifier: in evaluation mode.
        images: (B, C, H, W) normalised images like those to explain, B at least 1.
    """
    from timm.models.vision_transformer import Attention, Block

    names, encoder = {"saliency", "integrated_gradients", "gradient_shap", "occlusion"}, classifier.encoder
    if encoders.is_vit(encoder):
        vit: Any = encoder
        if all(isinstance(b, Block) and isinstance(b.attn, Attention) for b in vit.blocks):
            read = {"token": {"attention_rollout", "class_attention"}, "avg": {"attention_rollout"}}
            names |= {"grad_cam"} | read.get(vit.global_pool, set())
    else:
        shape = encoders.feature_map(encoder, images[:1]).shape
        if len(shape) == 4 and shape[1] == encoder.num_features and shape[2] * shape[3] > 1:
            kinds = [type(m) for m in encoder.modules()]
            names |= {"grad_cam"} | ({"guided_grad_cam"} if nn.ReLU in kinds and not set(kinds) & set(NOT_RELU) else set())
    return {name: method for name, method in METHODS.items() if name in names}


def _leaf(images: Tensor) -> Tensor:
    """A copy that gradients reach, so that none reaches the caller's images."""
    return images.detach().clone().requires_grad_()


def _enlarged(coarse: Tensor, images: Tensor) -> Tensor:
    """(B, 1, h, w) -> (B, H, W), as large as the images."""
    return F.interpolate(coarse.float(), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _grid(values: Tensor, vit: Any, images: Tensor) -> Tensor:
    """(B, N), one number a patch -> (B, H, W)."""
    height, width = (n // p for n, p in zip(images.shape[2:], vit.patch_embed.patch_size, strict=True))
    return _enlarged(values.reshape(-1, 1, height, width), images)


def _attended(block: Any, tokens: Tensor, weights: Tensor) -> Tensor:
    """The row vectors ``weights`` (B, T) times a block's attention, mean over heads: (B, T). One head at a time, to save memory."""
    attention, x = block.attn, block.norm1(tokens)
    qkv = attention.qkv(x).view(*x.shape[:2], 3, attention.num_heads, -1)
    q, k = attention.q_norm(qkv[:, :, 0]), attention.k_norm(qkv[:, :, 1])  # (B, T, heads, d)
    found = torch.zeros_like(weights)
    for head in range(attention.num_heads):
        logits = torch.einsum("btd,bsd->bts", q[:, :, head], k[:, :, head]).float() * attention.scale
        found += torch.einsum("bt,bts->bs", weights, logits.softmax(2))
    return found / attention.num_heads


@contextmanager
def _drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    """What captum draws from the global generators is drawn from ``seed``; these are left as they were."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(state)
