from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import Tensor, nn

from scotoma.data.modalities import Modality
from scotoma.errors import UsageError
from scotoma.models.attention_cache import AttentionMaps, patch_side
from scotoma.rng import KeyedRNG
from scotoma.transforms.augmentation import Augmentation, plain

SIZE, PATCH, GRID = 48, 8, 6
EVERY_WAY = Modality(mirror=True, flip=True, rotation=180)


def vit(**arguments: object) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {"img_size": SIZE, "patch_size": PATCH, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 0, **arguments}
    return timm.create_model("vit_tiny_patch16_224", in_chans=1, **kwargs)


def augmentation(**changes: object) -> Augmentation:
    return Augmentation(SIZE, (0.4,), (0.2,), EVERY_WAY, **{"jitter": 0.0, **changes})


def maps_of(images: int = 8, interval: int = 0) -> AttentionMaps:
    return AttentionMaps(images, PATCH, augmentation(), interval)


def draw_images(n: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, 1, 60, 60), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def theta_of(rows: list[list[float]], n: int = 1) -> Tensor:
    return torch.tensor(rows)[None].expand(n, -1, -1)


def test_a_map_is_the_class_tokens_row_of_the_whole_attention_matrix() -> None:
    """Against every row of every head of the last block, in eval mode, of the uncropped image."""
    encoder, images = vit(drop_path_rate=0.5).train(), draw_images(3)
    found = maps_of().take(encoder, images)
    assert encoder.training and all(block.training for block in encoder.blocks)
    seen: list[Tensor] = []
    attention = encoder.blocks[-1].attn
    attention.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        encoder.eval()(plain(images, SIZE, (0.4,), (0.2,)))
    q, k, _ = seen[0].view(3, 1 + GRID**2, 3, 3, 16).permute(2, 0, 3, 1, 4)
    matrix = (q @ k.transpose(2, 3) / math.sqrt(16)).softmax(3)  # (B, heads, tokens, tokens)
    heads = matrix[:, :, 0, 1:].reshape(9, -1)  # each head from 0 to 1, as published
    expected = torch.stack([(row - min(row)) / (max(row) - min(row)) for row in heads]).view(3, 3, -1).mean(1)
    torch.testing.assert_close(found, expected / expected.mean(1, keepdim=True), atol=1e-5, rtol=1e-5)
    assert found.std() > 1e-3


def test_a_head_that_attends_to_all_patches_alike_weighs_them_alike() -> None:
    encoder = vit()
    attention = encoder.blocks[-1].attn
    with torch.no_grad():
        attention.qkv.weight.zero_()
        attention.qkv.bias.zero_()
    torch.testing.assert_close(maps_of().take(encoder, draw_images(2)), torch.ones(2, GRID**2))


def test_the_whole_image_gives_the_map_back() -> None:
    maps = maps_of(3)
    maps.maps.copy_(torch.rand(3, GRID**2))
    positions = torch.tensor([2, 0])
    assert torch.equal(maps.weights(positions, theta_of([[1.0, 0, 0], [0, 1, 0]], 2)), maps.maps[positions].float())


def test_mirror_flip_turn_and_crop_against_moving_the_patches() -> None:
    maps, square = maps_of(), torch.rand(1, GRID, GRID)
    flat = square.flatten(1)
    for theta, moved in {
        ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)): square.flip(2),
        ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0)): square.flip(1),
        ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0)): square.rot90(1, (1, 2)),
        # the lower right quarter, of which each patch fills four of the view
        ((0.5, 0.0, 0.5), (0.0, 0.5, 0.5)): square[:, 3:, 3:].repeat_interleave(2, 1).repeat_interleave(2, 2),
        # moved right by a patch: the last column comes from outside, where nothing is
        ((1.0, 0.0, 2 / GRID), (0.0, 1.0, 0.0)): torch.cat([square[:, :, 1:], torch.zeros(1, GRID, 1)], 2),
        # half a patch: the mean of two neighbours
        ((1.0, 0.0, -1 / GRID), (0.0, 1.0, 0.0)): (square + torch.cat([torch.zeros(1, GRID, 1), square[:, :, :-1]], 2)) / 2,
    }.items():
        found = maps.warp(flat, theta_of([list(row) for row in theta]))
        torch.testing.assert_close(found, moved.flatten(1), msg=lambda text, theta=theta: f"{theta}: {text}")


@pytest.mark.parametrize("kind", [Modality(False, False, 0), Modality(True, False, 0), Modality(False, True, 0), EVERY_WAY])
def test_weights_move_with_the_image(kind: Modality) -> None:
    """A square that is bright in the image and in its map: what the view shows of it is where its weights are."""
    n = 24
    square = torch.zeros(n, GRID, GRID)
    for i in range(n):
        square[i, i % 4 : i % 4 + 2, i % 3 : i % 3 + 2] = 1
    images = (200 * square.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2))[:, None].to(torch.uint8)
    augment = Augmentation(SIZE, (0.0,), (200 / 255,), kind, scale=(0.3, 1.0), jitter=0.0)
    sampled = augment.sample(KeyedRNG(0, 0, torch.arange(n)))
    view = nn.functional.avg_pool2d(augment.apply(images, sampled), PATCH).flatten(1)
    found = AttentionMaps(n, PATCH, augment).warp(square.flatten(1), sampled["theta"])
    assert (view - found).abs().max() < 0.15  # bilinear pixels against nearest ones differ on the square's edges alone
    assert torch.corrcoef(torch.stack([view.flatten(), found.flatten()]))[0, 1] > 0.99


def test_coordinates_keep_their_digits_under_autocast() -> None:
    maps, sampled = maps_of(), augmentation().sample(KeyedRNG(0, 0, torch.arange(8)))
    maps.maps.copy_(torch.rand(8, GRID**2))
    expected = maps.weights(torch.arange(8), sampled["theta"])
    with torch.autocast("cpu", torch.bfloat16):
        found = maps.weights(torch.arange(8), sampled["theta"])
    assert found.dtype == torch.float32 and torch.equal(found, expected)


class Counted:
    """A network, and how many images it has been asked about since last looked."""

    def __init__(self) -> None:
        self.encoder, self.count = vit(), 0
        self.encoder.patch_embed.norm.register_forward_pre_hook(self.add)

    def add(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.count += len(inputs[0])

    def asked(self) -> int:
        count, self.count = self.count, 0
        return count


def refresh(maps: AttentionMaps, encoder: nn.Module, positions: list[int], epoch: int) -> None:
    at = torch.tensor(positions)
    maps.refresh(encoder, draw_images()[at], at, torch.full_like(at, epoch))


def test_only_stale_maps_are_taken_anew() -> None:
    network, maps = Counted(), maps_of(interval=3)
    refresh(maps, network.encoder, [4, 1, 6], 5)
    assert network.asked() == 3
    assert maps.stamps.tolist() == [-1, 5, -1, -1, 5, -1, 5, -1]
    refresh(maps, network.encoder, [1, 0, 4], 7)  # one is new, two are two epochs old
    assert network.asked() == 1
    refresh(maps, network.encoder, [1, 0], 8)  # one has come of age
    assert network.asked() == 1 and maps.stamps[[0, 1]].tolist() == [7, 8]
    expected = maps.take(network.encoder, draw_images())
    known = maps.stamps >= 0
    torch.testing.assert_close(maps.maps[known].float(), expected[known], atol=1e-3, rtol=1e-3)
    assert (maps.maps[~known] == 1).all()
    once = maps_of()
    refresh(once, network.encoder, [2], 0)
    network.asked()
    refresh(once, network.encoder, [2], 1000)
    assert network.asked() == 0


def test_processes_need_not_speak_to_each_other() -> None:
    """Each takes what it lacks, whichever images it gets; one that is resumed goes on with what it had."""
    network = Counted()
    first, second = maps_of(interval=9), maps_of(interval=9)
    theta = augmentation().sample(KeyedRNG(0, 0, torch.arange(8)))["theta"]
    refresh(first, network.encoder, [0, 1, 2, 3], 0)
    refresh(second, network.encoder, [4, 5, 6, 7], 0)
    resumed = maps_of(interval=9)
    resumed.load_state_dict(first.state_dict(), strict=True)
    network.asked()
    refresh(resumed, network.encoder, [0, 1, 2, 3], 8)
    assert network.asked() == 0
    assert torch.equal(resumed.weights(torch.arange(8), theta), first.weights(torch.arange(8), theta))
    refresh(first, network.encoder, [2, 3, 4, 5], 1)
    refresh(second, network.encoder, [0, 1, 2, 3], 1)
    assert network.asked() == 2 + 4
    for at in ([0, 1, 2, 3], [4, 5]):
        torch.testing.assert_close(first.maps[at], second.maps[at], atol=2e-3, rtol=2e-3)


def test_who_has_patches_and_a_class_token() -> None:
    assert patch_side(vit(), "x") == PATCH
    for network in (timm.create_model("resnet10t", num_classes=0), vit(class_token=False, global_pool="avg")):
        with pytest.raises(UsageError, match="dropping needs a vision transformer with a class token"):
            patch_side(network, "dropping")
