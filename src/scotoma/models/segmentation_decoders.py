"""Decoders of segmentation: an encoder's maps -> a score of every class at every pixel, whatever the encoder was trained by.

U-Net, DeepLabV3+ and UPerNet are segmentation-models-pytorch's. A vision transformer's maps all have the side of its patches, so
before UPerNet they are laid out as a pyramid; SETR-PUP takes its last map alone.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.data.encoder_header import EncoderInfo, find
from scotoma.errors import UsageError
from scotoma.models.encoders import DECODER, embed, is_vit

OF_CNNS = ("unet", "deeplabv3plus", "upernet")
OF_VITS = ("upernet", "setr_pup")
DECODERS = tuple(dict.fromkeys((*OF_CNNS, *OF_VITS)))
UNET_WIDTHS = (256, 128, 64, 32, 16)  # from the deepest block up, as segmentation-models-pytorch has them
WIDTH = 128  # of the other decoders; their papers' 256 to 512 are for thousands of masks
BLOCKS = 4  # of a vision transformer, evenly spaced, whose maps are decoded
STRIDE = 16  # of the deepest map that DeepLabV3+ sees: the last stage is dilated instead of halving the side again


def choose(name: str, encoder: nn.Module) -> str:
    """The decoder meant by a name: ``auto`` is the first that goes with the network.

    Raises:
        UsageError: there is none of that name, or it does not go with this kind of network.
    """
    vit = is_vit(encoder)
    known = OF_VITS if vit else OF_CNNS
    if name == "auto":
        return known[0]
    if name not in DECODERS:
        raise UsageError(f"--decoder {name}: one of auto, {', '.join(DECODERS)}")
    if name not in known:
        kind = "a vision transformer" if vit else "a convolutional network"
        raise UsageError(f"--decoder {name} does not go with {kind}: one of auto, {', '.join(known)}")
    return name


def maps(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    """What a decoder sees of a network: (B, D, h, w) each, finest first.

    Of a convolutional network the last map of each stage; of a vision transformer those of four evenly spaced blocks, the last
    one normed. Images may have any side that the network's strides or patches divide.

    Raises:
        UsageError: the network gives no maps.
    """
    if is_vit(encoder):
        return _of_blocks(encoder, images)
    network: Any = encoder
    try:
        found = list(network.forward_intermediates(images, intermediates_only=True))
    except (AttributeError, AssertionError, RuntimeError) as error:
        raise UsageError(
            f"this network gives no maps of its stages to segment by ({error}): pretrain resnet18, for example"
        ) from error
    if len(found) < 3 or any(x.ndim != 4 for x in found):
        raise UsageError("this network gives no maps of its stages to segment by: pretrain another, resnet18 for example")
    return found


def _of_blocks(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    vit: Any = encoder
    patch, depth = vit.patch_embed.patch_size[0], len(vit.blocks)
    height, width = (side // patch for side in images.shape[2:])
    wanted = {(k + 1) * depth // BLOCKS - 1 for k in range(BLOCKS)}
    tokens, found = vit.norm_pre(embed(encoder, images)), []
    for i, block in enumerate(vit.blocks):
        tokens = block(tokens)
        if i in wanted:
            patches = (vit.norm(tokens) if i == depth - 1 else tokens)[:, vit.num_prefix_tokens :]
            found.append(patches.transpose(1, 2).reshape(len(images), -1, height, width).contiguous())
    return found


class SegmentationDecoder(nn.Module):
    """Maps of an encoder -> (B, classes, H, W) logits.

    Args:
        name: one of ``DECODERS``.
        encoder: of whose maps; in images of ``side``.
        info: of the encoder, for channels and side of the images.
        classes: how many, the background included.

    Raises:
        UsageError: the network gives no maps, or none that this decoder can take.
    """

    def __init__(self, name: str, encoder: nn.Module, info: EncoderInfo, classes: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        shapes = _shapes(encoder, info)
        channels = [shape[1] for shape in shapes]
        self.name = name
        self.pyramid = Pyramid(channels) if is_vit(encoder) and name == "upernet" else None
        self.body: nn.Module
        last = WIDTH
        if name == "unet":
            widths = UNET_WIDTHS[-len(channels) :]
            self.body, last = UnetDecoder([0, *channels], widths, len(channels)), widths[-1]
        elif name == "deeplabv3plus":
            if shapes[-1][2] * STRIDE != info.image_size or len(shapes) < BLOCKS:
                raise UsageError(f"deeplabv3plus needs a dilated network and a --size that is a multiple of {STRIDE}: try unet")
            self.body = DeepLabV3PlusDecoder([0, 0, channels[-4], channels[-1]], 5, WIDTH, (6, 12, 18), STRIDE, True, 0.1)
        elif name == "upernet":
            self.body = UPerNetDecoder([0, 0, *channels[-4:]], 5, WIDTH)
        else:
            self.body = ProgressiveUpsampling(channels[-1], WIDTH, round(math.log2(info.image_size / shapes[-1][2])))
        self.head = nn.Conv2d(last, classes, 3, padding=1)

    def forward(self, found: list[Tensor], images: Tensor) -> Tensor:
        """(B, classes, H, W) logits, float32, interpolated bilinearly where the decoder ends before the images' side.

        Args:
            found: what `maps` gives.
            images: (B, C, H, W) of which; a decoder sees their side alone.
        """
        if self.pyramid is not None:
            found = self.pyramid(found)
        finer = {"unet": [images, *found], "deeplabv3plus": [images, images, found[-4], found[-1]], "setr_pup": found[-1]}
        x = self.body(finer[self.name] if self.name in finer else [images, images, *found[-4:]])
        return F.interpolate(self.head(x).float(), images.shape[2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def _shapes(encoder: nn.Module, info: EncoderInfo) -> list[tuple[int, ...]]:
    training = encoder.training
    try:
        side, weight = info.image_size, next(encoder.parameters())
        return [tuple(x.shape) for x in maps(encoder.eval(), weight.new_zeros(1, info.in_chans, side, side))]
    finally:
        encoder.train(training)


def load(source: str | Path, encoder: nn.Module, info: EncoderInfo) -> SegmentationDecoder | None:
    """The decoder of a model file; None where it is an encoder or a classifier.

    Raises:
        UsageError: its weights are not exactly those of the decoder that the header names.
    """
    from safetensors import safe_open

    if not info.decoder:
        return None
    with safe_open(find(source), "pt") as file:
        names = file.keys()
        weights = {name.removeprefix(DECODER): file.get_tensor(name) for name in names if name.startswith(DECODER)}
    decoder = SegmentationDecoder(info.decoder, encoder, info, len(info.classes))
    try:
        decoder.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UsageError(f"{source}: not the weights of a {info.decoder} decoder ({' '.join(str(error).split())[:200]})") from error
    return decoder


class Pyramid(nn.Module):
    """Four maps of one side -> four times, twice, once and half that side (BEiT, arXiv 2106.08254, appendix, for UPerNet)."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        a, b = channels[:2]
        twice = nn.Sequential(nn.ConvTranspose2d(a, a, 2, 2), nn.GroupNorm(1, a), nn.GELU(), nn.ConvTranspose2d(a, a, 2, 2))
        self.levels = nn.ModuleList([twice, nn.ConvTranspose2d(b, b, 2, 2), nn.Identity(), nn.MaxPool2d(2)])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Lay out."""
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


class ProgressiveUpsampling(nn.Sequential):
    """SETR-PUP (Zheng et al. 2020, arXiv 2012.15840, section 3.3): convolutions and doublings in turn, up to the image's side."""

    def __init__(self, channels: int, width: int, doublings: int) -> None:
        layers: list[nn.Module] = []
        for k in range(doublings):
            layers += [nn.Conv2d(channels if k == 0 else width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        super().__init__(*layers)
