"""Encoders: timm networks, token dropping for vision transformers, and the encoder file.

``encoder.safetensors`` holds weights under timm's own names, so that plain timm loads it strictly, and in its header, under the key
``scotoma``, what is needed to use them: the network's name and arguments, channels, size, pixel statistics, method, versions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma import files
from scotoma.data.encoder_header import DECODER, HEAD, HEADER, EncoderInfo, find, read_info, write_info
from scotoma.errors import RunError, UsageError
from scotoma.models import encoder_shapes
from scotoma.transforms.masking import patchify

BESIDE = (*HEAD, DECODER)


_PATCHED = re.compile(r"(vit_(?:tiny|small|base|large))_patch(\d+)(_avg)?")


def timm_name(name: str) -> str:
    """The name in timm of a network that a user names."""
    match = _PATCHED.fullmatch(name)
    return f"{match[1]}_patch16_224" if match else name


def resolve(name: str, image_size: int) -> tuple[str, dict[str, Any]]:
    """A user's name of a network -> timm's name and arguments.

    ``vit_tiny_patch8`` stands for timm's ``vit_tiny_patch16_224`` with patches of 8 pixels. Vision transformers get the image size
    and give their class token, as timm's do: the mean over patches forgets where in the image a thing was. With ``_avg`` at the
    end (``vit_tiny_patch8_avg``) the same network, with the same weights, gives that mean.

    Raises:
        UsageError: timm has no such network, or the patch does not divide the size; the message names the nearest.
    """
    import difflib

    import timm

    kwargs: dict[str, Any] = {}
    if match := _PATCHED.fullmatch(name):
        name, kwargs = timm_name(name), {"patch_size": int(match[2])}
        if match[3]:
            kwargs |= {"global_pool": "avg", "fc_norm": False}
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UsageError(
            f"unknown encoder {name!r}; " + (f"did you mean {', '.join(near)}?" if near else "see `scotoma list encoders`")
        )
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        patch = kwargs.get("patch_size") or int((re.search(r"patch(\d+)", name) or [0, 1])[1])
        if image_size % patch:
            raise UsageError(f"patches of {patch} pixels do not divide a size of {image_size}: choose a multiple, or another patch")
        kwargs["img_size"] = image_size
    return name, kwargs


def build(info: EncoderInfo, **overrides: Any) -> nn.Module:
    """The network of an ``EncoderInfo`` with random weights, without a classification head: (B, C, H, W) -> (B, features)."""
    import timm

    if not timm.is_model(info.timm_name):
        raise UsageError(f"this version of timm has no network {info.timm_name!r}: install that with which the file was written")
    return timm.create_model(info.timm_name, num_classes=0, in_chans=info.in_chans, **{**info.timm_kwargs, **overrides})


def width(encoder: nn.Module) -> int:
    """How many features the network gives; timm's ``num_features`` counts before a head's hidden layer, where there is one."""
    found: Any = encoder
    return int(getattr(found, "head_hidden_size", None) or found.num_features)


def is_vit(encoder: nn.Module) -> bool:
    """Whether the network is a plain vision transformer (no rotary or relative positions), whose tokens can be dropped."""
    from timm.models import VisionTransformer

    return isinstance(encoder, VisionTransformer) and encoder.pos_embed is not None


def embed(encoder: nn.Module, images: Tensor) -> Tensor:
    """Patches of images as tokens with their positions, before the first block; positions are resampled to other sizes.

    Args:
        encoder: a timm vision transformer.
        images: (B, C, H, W), sides multiples of the patch.

    Returns:
        (B, prefix + N, D): prefix tokens (the class token) first.
    """
    from timm.layers import resample_abs_pos_embed

    vit: Any = encoder
    kernel = vit.patch_embed.proj  # a convolution by steps of its own size, which is one matrix product
    side = kernel.stride[0]
    grid = [images.shape[2] // side, images.shape[3] // side]
    tokens = vit.patch_embed.norm(F.linear(patchify(images, side), kernel.weight.permute(0, 2, 3, 1).flatten(1), kernel.bias))
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions = vit.pos_embed
    if grid != list(vit.patch_embed.grid_size):
        positions = resample_abs_pos_embed(positions, grid, list(vit.patch_embed.grid_size), prefix)
    first = [t.expand(len(tokens), -1, -1) for t in (vit.cls_token, vit.reg_token) if t is not None]
    summed = torch.cat([*first, tokens + positions], 1) if vit.no_embed_class else torch.cat([*first, tokens], 1) + positions
    return vit.pos_drop(summed)


def small_side(encoder: nn.Module, image_size: int, requested: int, share: float) -> int:
    """The side of small crops: what was requested, ``--method.local_size``, or about a share of the image's.

    A multiple of a vision transformer's patch, else of 8; convolutional networks get no less than 32 pixels (of a 32nd of that is
    one cell left, over which bfloat16 convolutions on a CPU give NaN now and then).

    Raises:
        UsageError: the network does not take that size.
    """
    vit: Any = encoder if is_vit(encoder) else None
    if vit is None and getattr(encoder, "pretrained_cfg", {}).get("fixed_input_size", False):
        raise UsageError("this network takes images of one size alone: --method.local_views 0, or another --encoder")
    step = 8 if vit is None else int(vit.patch_embed.patch_size[0])
    if vit is not None and requested % step:
        raise UsageError(f"--method.local_size {requested}: must be a multiple of the patch, {step} pixels")
    side = max(1, round(image_size * share / step)) * step
    return requested or (side if vit is not None else max(side, min(32, image_size)))


def forward_visible(encoder: nn.Module, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """Run a vision transformer on some of its patches: the others are dropped, not zeroed.

    Args:
        encoder: a timm vision transformer.
        images: (B, C, H, W), of any size that is a multiple of the patch.
        keep: (B, V) int64, the patches to keep; None for all.

    Returns:
        (B, prefix + V, D): normed tokens, the class token first; ``encoder.forward_head`` makes features of them.
    """
    vit: Any = encoder
    return vit.norm(through_blocks(encoder, vit.norm_pre(keep_tokens(encoder, embed(encoder, images), keep))))


def through_blocks(encoder: nn.Module, tokens: Tensor) -> Tensor:
    """(B, T, D) tokens through a vision transformer's blocks, which compute activations again in the backward pass if told."""
    vit: Any = encoder
    if vit.grad_checkpointing and torch.is_grad_enabled():
        from timm.models import checkpoint_seq

        return checkpoint_seq(vit.blocks, tokens)
    return vit.blocks(tokens)


def keep_tokens(encoder: nn.Module, tokens: Tensor, keep: Tensor | None) -> Tensor:
    """(B, prefix + N, D) tokens -> (B, prefix + V, D), those to keep behind the prefix."""
    vit: Any = encoder
    if keep is None:
        return tokens
    prefix = vit.num_prefix_tokens
    chosen = tokens[:, prefix:].gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
    return torch.cat([tokens[:, :prefix], chosen], 1)


def feature_map(encoder: nn.Module, images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, D, h, w): a CNN's last feature map, of which ``encoder.forward_head`` makes features."""
    cnn: Any = encoder
    return cnn.forward_features(images)


@torch.no_grad()
def map_shape(encoder: nn.Module, in_chans: int, size: int) -> tuple[int, int]:
    """Channels and side of a CNN's last feature map, for images of this size.

    Raises:
        UsageError: the network is no CNN.
    """
    found: Any = encoder
    training = encoder.training
    try:
        shape = feature_map(encoder.eval(), next(encoder.parameters()).new_zeros(1, in_chans, size, size)).shape
    finally:
        encoder.train(training)
    if len(shape) != 4 or shape[1] != found.num_features:
        raise UsageError("this method needs a convolutional network: --encoder resnet18, for example")
    return int(shape[1]), int(shape[2])


@torch.no_grad()
def class_attention(encoder: nn.Module, images: Tensor, rescaled: bool = False) -> Tensor:
    """How strongly the class token attends to each patch in the last block, mean over heads; only that one row is computed.

    Args:
        encoder: a timm vision transformer with a class token, in the mode that it has.
        images: (B, C, H, W).
        rescaled: scale each head's attention from its least, 0, to its most, 1, before the mean, as MSMAE's published code does; of
            a head that attends to all patches alike each is 1.

    Returns:
        (B, N) float32, non-negative; if not rescaled it sums to 1 less what the prefix tokens get.
    """
    vit: Any = encoder
    tokens = vit.norm_pre(embed(encoder, images))
    for block in vit.blocks[:-1]:
        tokens = block(tokens)
    attention, x = vit.blocks[-1].attn, vit.blocks[-1].norm1(tokens)
    batch, count, _ = x.shape
    qkv = attention.qkv(x).view(batch, count, 3, attention.num_heads, -1)
    q, k = attention.q_norm(qkv[:, 0, 0]), attention.k_norm(qkv[:, :, 1])  # (B, heads, d), (B, tokens, heads, d)
    logits = torch.einsum("bhd,bthd->bht", q, k).float() * attention.scale
    heads = logits.softmax(2)[:, :, vit.num_prefix_tokens :]
    if rescaled:
        least, most = heads.amin(2, keepdim=True), heads.amax(2, keepdim=True)
        heads = torch.where(most > least, (heads - least) / (most - least).clamp(min=torch.finfo(heads.dtype).tiny), 1.0)
    return heads.mean(1)


def stages(encoder: nn.Module) -> dict[str, int]:
    """Parameter -> number of its stage: 0 for the stem, then the stages of a CNN or the blocks of a vision transformer."""
    from timm.models import group_parameters

    network: Any = encoder
    return dict(group_parameters(encoder, network.group_matcher(coarse=True), reverse=True))


def freeze(encoder: nn.Module, trained: int) -> None:
    """Leave all but the last ``trained`` stages as they are: those parameters get no gradient."""
    of = stages(encoder)
    first = max(of.values()) + 1 - trained
    for name, parameter in encoder.named_parameters():
        if of[name] < first:
            parameter.requires_grad_(False)


def layer_groups(encoder: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameter groups whose ``lr_scale`` falls by ``decay`` from layer to layer, from the last to the first (BEiT, MAE)."""
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(encoder, weight_decay=1.0, layer_decay=decay)
    plain = [{"params": g["params"], "lr_scale": g["lr_scale"]} for g in groups]
    return [g if old["weight_decay"] else g | {"weight_decay": 0.0} for g, old in zip(plain, groups, strict=True)]


def save(path: Path, encoder: nn.Module, info: EncoderInfo, head: nn.Module | None = None) -> None:
    """Write an encoder file, or with a head (a linear layer, or a decoder) a model file.

    Under a temporary name first, so that none is ever half-written. The same network and header give the same bytes.

    Raises:
        RunError: a weight is not finite, or the file cannot be written.
    """
    from safetensors.torch import save_file

    weights = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    if head is not None:
        names = dict(zip(("weight", "bias"), HEAD, strict=True)) if isinstance(head, nn.Linear) else {}
        weights |= {names.get(k, DECODER + k): v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
    damaged = _not_finite(weights)
    if damaged:
        raise RunError(
            f"{path} is not written: {damaged} is not finite, the training failed; try a lower learning rate "
            "(--learning_rate of pretrain and finetune)"
        )
    with files.replacing(path) as temporary:  # one key: safetensors writes several in an order of chance
        save_file(weights, temporary, metadata={HEADER: write_info(info, head is not None)})


def _not_finite(weights: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that is not finite."""
    return next((k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()), None)


def load(source: str | Path, **overrides: Any) -> tuple[nn.Module, EncoderInfo, nn.Linear | None]:
    """Read an encoder or model file, strictly: the network, what its header states, and the head of a classifier.

    Args:
        source: a run folder or a file.
        **overrides: timm arguments that change training, not weights (``drop_path_rate``).

    Raises:
        UsageError: no such file, or its weights are not finite, or not exactly those of the network that its header names.
    """
    from safetensors.torch import load_file

    info = read_info(path := find(source))
    encoder_shapes.require(path, info.name, lambda: build(info), BESIDE)
    everything = load_file(path)
    if damaged := _not_finite(everything):
        raise UsageError(f"{path}: {damaged} is not finite: these weights are damaged, or their training failed")
    weights = {name: tensor for name, tensor in everything.items() if not name.startswith(DECODER)}
    weight, bias = (weights.pop(name, None) for name in HEAD)
    try:
        encoder = build(info, **overrides)
        encoder.load_state_dict(weights, strict=True)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError, AttributeError, KeyError) as error:
        raise UsageError(f"{path}: timm makes no {info.name} of what its header states ({error!r:.200})") from error
    head: nn.Linear | None = None
    if weight is not None and bias is not None:
        head = nn.Linear(weight.shape[1], weight.shape[0])
        head.load_state_dict({"weight": weight, "bias": bias}, strict=True)
    return encoder, info, head
