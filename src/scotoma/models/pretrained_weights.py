"""Weights to start from: a run, a weights file, or a pretrained network of timm; fitted to other channels and sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scotoma import packaged_weights, preflight
from scotoma.data import encoder_header
from scotoma.data.encoder_header import EncoderInfo, info_or_none, warn_unlike
from scotoma.errors import UsageError, notice
from scotoma.models import checkpoints, encoder_shapes, encoders

MOST_NAMED = 5  # tags in a message


def network(source: str) -> str | None:
    """The name of the network that these weights are of; None where they do not state (a file of another program)."""
    if not Path(source).exists():
        name = source.removeprefix("hf-hub:").rpartition("/")[2].split(".")[0]
        return packaged_weights.NETWORKS.get(name, name)
    info = info_or_none(source)
    if info is not None:
        _require_own(source, info)
    return info.name if info else None


def network_of(source: str, name: str | None = None) -> str:
    """The network of weights from elsewhere: the one that was named, else theirs.

    Args:
        source: a weights file or a tag.
        name: of the network, where it was given.

    Raises:
        UsageError: no such file or tag; a file does not state its network, and nobody named it.
    """
    import timm

    preflight.require(source)
    found = name or network(source)
    if found is None:
        raise UsageError(f"{source}: it does not state of which network its weights are: name that with --encoder")
    if not Path(source).exists() and not timm.is_model(network(source) or ""):
        raise UsageError(f"{source}: neither a run, nor a file, nor one of timm's pretrained networks")
    if not Path(source).exists() and ":" not in source:
        try:
            timm.get_pretrained_cfg(source)
        except RuntimeError as error:
            tags = timm.list_pretrained(f"{network(source)}.*")
            there = f"; it has {', '.join(tags[:MOST_NAMED])}" if tags else ""
            raise UsageError(f"{source}: timm has no weights of this tag{there}") from error
    return found


def image_size(source: str, name: str) -> int:
    """The input size that weights from elsewhere were trained at, pixels: a tag's own, else the usual one of the network."""
    import timm

    tag = source if not Path(source).exists() and timm.is_model(source.split(".")[0]) else encoders.timm_name(name)
    usual: Any = timm.get_pretrained_cfg(tag)
    return int(usual.input_size[1])


def header(source: str, name: str | None = None) -> EncoderInfo:
    """The header of weights: their own, or for weights from elsewhere one of timm's input size, channels and statistics.

    Raises:
        UsageError: as ``network_of``.
    """
    import timm

    if Path(source).exists() and (info := info_or_none(source)) is not None:
        return info
    name = network_of(source, name)
    size = image_size(source, name)
    timm_name, kwargs = encoders.resolve(name, size)
    usual: Any = timm.get_pretrained_cfg(timm_name)
    return EncoderInfo(
        timm_name, kwargs, 3, size, tuple(usual.mean), tuple(usual.std), modality="colour", method={"name": Path(source).name}
    )


def _require_own(source: str | Path, info: EncoderInfo) -> None:
    """Refuse a file of Scotoma's whose weights are not of the network that is about to be built."""
    encoder_shapes.require(encoder_header.find(source), info.name, lambda: encoders.build(info), encoders.BESIDE)


def start(encoder: nn.Module, info: EncoderInfo, source: str) -> None:
    """Put weights into a network, in place.

    The first layer's weights are summed or spread over channels, a vision transformer's positions and patches resampled, a
    classifier's head left out (all timm's own ways); everything else must fit exactly. Files of other programs are read as
    ``checkpoints`` states.

    Args:
        encoder: the network.
        info: its description.
        source: a run folder, a ``.safetensors`` file or checkpoint with timm's names, packaged weights (``lite0``), or a tag
            (``resnet18.a1_in1k``) whose weights timm takes from its cache or downloads.

    Raises:
        UsageError: no such weights, they cannot be had, they are another network's, or not finite.
    """
    if packaged_weights.is_packaged(source):
        weights = _of_file(packaged_weights.find(source), encoder, info)
    else:
        weights = _of_file(encoder_header.find(source), encoder, info) if Path(source).exists() else _of_tag(source)
    if Path(source).exists():
        warn_unlike(source, Path(source).name, info.pixels)
    encoder.load_state_dict(_fit_shapes(weights, encoder, info, source), strict=True)


def adapt(
    source: str | Path, size: int | None = None, dilated: int = 0, info: EncoderInfo | None = None, **overrides: Any
) -> tuple[nn.Module, EncoderInfo]:
    """A pretrained network and its header, for images of another side or with a finer last map.

    Args:
        source: a run folder, an encoder file, or weights from elsewhere: a file of another program, a tag of timm's.
        size: side of the images; by default as it was pretrained.
        dilated: of how many pixels a cell of the last map is to be; 0 leaves the network as it is.
        info: header of the network to be; required for weights from elsewhere.
        **overrides: timm arguments that change training, not weights (``drop_path_rate``).

    Raises:
        UsageError: as ``encoders.load``; the network takes no other size, or cannot be dilated.
    """
    if info is None:
        info = encoder_header.read_info(source)
        if size in (None, info.image_size) and not dilated:
            encoder, info, _ = encoders.load(source, **overrides)
            return encoder, info
        _require_own(source, info)
    _, kwargs = encoders.resolve(info.name, size or info.image_size)
    kwargs = info.timm_kwargs | kwargs | ({"output_stride": dilated} if dilated else {})
    info = replace(info, image_size=size or info.image_size, timm_kwargs=kwargs)
    try:
        encoder = encoders.build(info, **overrides)
    except (TypeError, NotImplementedError) as error:
        raise UsageError(f"{info.name} cannot be dilated ({error}): use another --decoder") from error
    start(encoder, info, str(source))
    return encoder, info


def open_network(source: str, info: EncoderInfo) -> nn.Module:
    """The network of weights, their own or from elsewhere, as ``header`` describes it."""
    is_own = Path(source).exists() and info_or_none(source) is not None
    return encoders.load(source)[0] if is_own else adapt(source, info=info)[0]


def _of_file(path: Path, encoder: nn.Module, info: EncoderInfo) -> dict[str, Tensor]:
    """The network's weights out of a file; where another program wrote it, what was taken of it is reported."""
    content, own = checkpoints.read(path), encoder.state_dict()
    found = checkpoints.pick(content, own, str(path), info.name)
    absent = [name for name in own if name not in found.weights]
    if info_or_none(path) is None:
        counters = f"; {len(absent)} {checkpoints.COUNTER} of batch norm, which it lacks, are 0" if absent else ""
        notice(path.name, found.sentence() + counters)
    return {name: torch.zeros_like(own[name]) for name in absent} | found.weights


def _of_tag(tag: str) -> dict[str, Tensor]:
    import timm

    name = tag.removeprefix("hf-hub:")
    known = tag != name or tag in timm.list_models(pretrained=True) or timm.is_model(tag)
    if not known:
        raise UsageError(f"{tag}: neither a run, nor a file, nor one of timm's pretrained networks")
    try:
        return timm.create_model(tag, pretrained=True).state_dict()
    except Exception as error:  # whatever the hub, the network or the cache raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{tag}: its weights cannot be had ({reason}); fill timm's cache, or name a file") from error


def _fit_shapes(weights: dict[str, Tensor], encoder: nn.Module, info: EncoderInfo, source: str) -> dict[str, Tensor]:
    """The weights that the network has, in the shapes that it has."""
    from timm.layers import resample_abs_pos_embed, resample_patch_embed
    from timm.models import adapt_input_conv

    wanted, found = encoder.state_dict(), {}
    anything: Any = encoder
    first = anything.pretrained_cfg["first_conv"] + ".weight"
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise UsageError(f"{source}: not weights of a {info.name} ({missing[0]} is missing, {len(missing)} in all)")
    for name, like in wanted.items():
        tensor = weights[name]
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            raise UsageError(f"{source}: {name} is no plain tensor of real numbers: save it as one (sparse: `to_dense()`)")
        if like.is_floating_point():
            tensor = tensor.float()
            if not tensor.isfinite().all() or (name.endswith("running_var") and (tensor < 0).any()):
                raise UsageError(f"{source}: {name} is not finite, or a variance below 0: these weights are damaged")
        if name == first and tensor.ndim == 4:
            if tensor.shape[1] != like.shape[1]:
                tensor = adapt_input_conv(like.shape[1], tensor)
            if tensor.shape[2:] != like.shape[2:] and "patch_embed" in name:
                tensor = resample_patch_embed(tensor, list(like.shape[2:]))
        elif name == "pos_embed" and tensor.shape != like.shape:
            prefix = 0 if anything.no_embed_class else anything.num_prefix_tokens
            tensor = resample_abs_pos_embed(tensor, list(anything.patch_embed.grid_size), num_prefix_tokens=prefix)
        if tensor.shape != like.shape:
            raise UsageError(f"{source}: not weights of a {info.name} ({name} is {tuple(tensor.shape)}, not {tuple(like.shape)})")
        found[name] = tensor
    return found
