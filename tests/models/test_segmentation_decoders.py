from __future__ import annotations

import pytest
import torch
from timm.models import create_model

from scotoma.data import encoder_header
from scotoma.data.encoder_header import EncoderInfo
from scotoma.errors import UsageError
from scotoma.models import encoders, pretrained_weights, segmentation_decoders
from scotoma.models.segmentation_decoders import SegmentationDecoder

CASES = [("resnet10t", {}, "unet"), ("resnet10t", {"output_stride": 16}, "deeplabv3plus"), ("resnet10t", {}, "upernet")]
CASES += [("convnext_atto", {}, "unet"), ("efficientnet_b0", {}, "unet")]
VIT = {"patch_size": 8, "img_size": 64, "depth": 4, "embed_dim": 24, "num_heads": 2}
CASES += [("vit_tiny_patch16_224", VIT, "upernet"), ("vit_tiny_patch16_224", VIT, "setr_pup")]


def made(name: str, kwargs: dict[str, object]) -> tuple[torch.nn.Module, EncoderInfo]:
    torch.manual_seed(0)
    info = EncoderInfo(name, kwargs, 1, 64, (0.3,), (0.25,))
    return encoders.build(info), info


@pytest.mark.parametrize(("name", "kwargs", "decoder"), CASES)
def test_logits_have_the_images_side_and_every_weight_a_gradient(name: str, kwargs: dict[str, object], decoder: str) -> None:
    encoder, info = made(name, kwargs)
    assert segmentation_decoders.choose(decoder, encoder) == decoder
    built = SegmentationDecoder(decoder, encoder, info, 3)
    x = torch.randn(2, 1, 64, 64)
    logits = built(segmentation_decoders.maps(encoder, x), x)
    assert logits.shape == (2, 3, 64, 64) and logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_a_shifted_image_gives_shifted_logits() -> None:
    """By a whole stride: what a decoder finds lies where it was found."""
    for name, kwargs, decoder in (("resnet10t", {}, "unet"), ("vit_tiny_patch16_224", VIT, "setr_pup")):
        encoder, info = made(name, {**kwargs})
        built = SegmentationDecoder(decoder, encoder, info, 2).eval()
        encoder.eval()
        x = torch.zeros(2, 1, 64, 64)
        x[0, 0, 16:24, 16:24] = 4
        x[1, 0, 32:40, 32:40] = 4
        with torch.no_grad():
            blank = built(segmentation_decoders.maps(encoder, x[:1] * 0), x[:1] * 0)
            changed = (built(segmentation_decoders.maps(encoder, x), x) - blank).abs().mean(1)
        places = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))
        weights = changed.pow(2)
        centres = (places[None] * weights[:, None]).sum((2, 3)) / weights.sum((1, 2))[:, None]
        assert (centres[1] - centres[0] > 4).all(), (name, centres)


def test_maps_of_a_vision_transformer_are_its_blocks_outputs() -> None:
    encoder, _ = made("vit_tiny_patch16_224", VIT | {"depth": 9})
    encoder.eval()
    x = torch.randn(2, 1, 64, 64)
    expected = encoder.forward_intermediates(x, indices=[1, 3, 5, 8], intermediates_only=True)
    found = segmentation_decoders.maps(encoder, x)
    for k in range(3):
        torch.testing.assert_close(found[k], expected[k])
    normed = encoder.forward_intermediates(x, indices=[8], intermediates_only=True, norm=True)[0]
    torch.testing.assert_close(found[3], normed)
    assert [tuple(m.shape[2:]) for m in segmentation_decoders.maps(encoder, torch.randn(1, 1, 96, 96))] == [(12, 12)] * 4


def test_names_are_checked() -> None:
    cnn, info = made("resnet10t", {})
    vit, _ = made("vit_tiny_patch16_224", VIT)
    assert segmentation_decoders.choose("auto", cnn) == "unet" and segmentation_decoders.choose("auto", vit) == "upernet"
    with pytest.raises(UsageError, match="--decoder unet does not go with a vision transformer: one of auto, upernet, setr_pup"):
        segmentation_decoders.choose("unet", vit)
    with pytest.raises(UsageError, match="--decoder pspnet: one of auto, unet"):
        segmentation_decoders.choose("pspnet", cnn)
    with pytest.raises(UsageError, match="deeplabv3plus needs a dilated network"):
        SegmentationDecoder("deeplabv3plus", cnn, info, 2)


def test_a_segmenters_file_is_read_back_and_its_encoder_is_plain_timm(tmp_path) -> None:
    for name, kwargs, decoder in (CASES[0], CASES[1], CASES[5]):
        encoder, info = made(name, kwargs)
        built = SegmentationDecoder(decoder, encoder, info, 3)
        info.targets, info.classes, info.decoder = ("mask_path",), ("background", "1", "2"), decoder
        encoders.save(tmp_path / "model.safetensors", encoder, info, built)
        again, read, head = encoders.load(tmp_path)
        assert head is None and read == info
        loaded = segmentation_decoders.load(tmp_path, again, read)
        assert loaded is not None
        x = torch.randn(1, 1, 64, 64)
        for module in (encoder, built, again, loaded):
            module.eval()
        torch.testing.assert_close(
            loaded(segmentation_decoders.maps(again, x), x), built(segmentation_decoders.maps(encoder, x), x)
        )
        plain = create_model(info.timm_name, num_classes=0, in_chans=1, **kwargs)
        plain.load_state_dict(again.state_dict(), strict=True)
    encoders.save(tmp_path / "model.safetensors", encoder, info, torch.nn.Linear(24, 3))
    with pytest.raises(UsageError, match="not the weights of a upernet decoder"):
        segmentation_decoders.load(tmp_path, encoder, info)


def test_an_encoder_is_adapted_to_another_side_or_dilated(tmp_path) -> None:
    encoder, info = made("resnet10t", {})
    encoders.save(tmp_path / encoder_header.FILE, encoder, info)
    same, _ = pretrained_weights.adapt(tmp_path)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in encoder.state_dict().items())
    dilated, of_dilated = pretrained_weights.adapt(tmp_path, 96, segmentation_decoders.STRIDE)
    assert of_dilated.image_size == 96 and of_dilated.timm_kwargs == {"output_stride": 16}
    assert segmentation_decoders.maps(dilated.eval(), torch.zeros(1, 1, 96, 96))[-1].shape[2:] == (6, 6)
    assert all(torch.equal(v, dilated.state_dict()[k]) for k, v in encoder.state_dict().items())
    vit = EncoderInfo("vit_tiny_patch16_224", {"patch_size": 8, "img_size": 64}, 1, 64, (0.3,), (0.25,))
    network = encoders.build(vit)
    encoders.save(tmp_path / encoder_header.FILE, network, vit)
    larger, of_larger = pretrained_weights.adapt(tmp_path, 96)
    assert of_larger.timm_kwargs["img_size"] == 96 and larger.pos_embed.shape[1] == 145
    torch.testing.assert_close(larger.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)
    with pytest.raises(UsageError, match="cannot be dilated"):
        pretrained_weights.adapt(tmp_path, 64, segmentation_decoders.STRIDE)
