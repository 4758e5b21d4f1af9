from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F

from scotoma.models.heads import KeyQueue, TokenDecoder, normalise_in_groups, projector, sincos_positions


def original_mae(dim: int, grid: int) -> np.ndarray:
    """The published code's ``get_2d_sincos_pos_embed``: ``meshgrid(w, h)``, "here w goes first"."""

    def one_dimension(width: int, places: np.ndarray) -> np.ndarray:
        omega = 1.0 / 10000 ** (np.arange(width // 2) / (width / 2.0))
        out = np.einsum("m,d->md", places.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    both = np.stack(np.meshgrid(np.arange(grid, dtype=float), np.arange(grid, dtype=float)))
    return np.concatenate([one_dimension(dim // 2, both[0]), one_dimension(dim // 2, both[1])], axis=1)


def test_positions_equal_the_published_code() -> None:
    found = sincos_positions(24, 5, prefix=1)
    assert found.shape == (1, 26, 24) and found.dtype == torch.float32
    assert (found[0, 0] == 0).all()
    np.testing.assert_allclose(found[0, 1:].numpy(), original_mae(24, 5), atol=1e-6)


def test_the_first_half_of_a_position_is_the_column() -> None:
    table = sincos_positions(8, 4)[0].view(4, 4, 8)  # (row, column, width)
    assert torch.equal(table[0, :, :4], table[3, :, :4])  # does not change with the row
    assert torch.equal(table[:, 0, 4:], table[:, 3, 4:])  # does not change with the column
    assert table[1, 2, 0].item() == pytest.approx(math.sin(2))
    assert table[1, 2, 4].item() == pytest.approx(math.sin(1))


def test_a_projector_has_norms_between_its_layers_only() -> None:
    net = projector([6, 5, 4])
    assert [type(m).__name__ for m in net] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert net(torch.randn(3, 6)).shape == (3, 4)


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 4), (3, 4), (7, 7), (5, 1)])
def test_a_queue_holds_exactly_the_newest_keys(size: int, batch: int) -> None:
    queue, held = KeyQueue(size, 2), []
    for step in range(9):
        owners = torch.arange(batch) + batch * step
        queue.enqueue(torch.stack([owners, -owners], 1).float(), owners)
        held = [*held, *owners.tolist()][-size:]
        oldest_first = queue.owners.roll(-int(queue.pointer))
        assert oldest_first[size - len(held) :].tolist() == held and (oldest_first[: size - len(held)] == -1).all()
        full = queue.owners >= 0
        assert torch.equal(queue.keys[full], torch.stack([queue.owners, -queue.owners], 1)[full].float())
    assert set(queue.state_dict()) == {"keys", "owners", "pointer"}


def test_empty_slots_and_keys_of_the_same_image_are_no_negatives() -> None:
    queue = KeyQueue(4, 2)
    queue.enqueue(torch.ones(3, 2), torch.tensor([0, 7, 0]))
    expected = [[True, False, True, True], [False, False, False, True], [False, True, False, True]]
    assert queue.excluded(torch.tensor([0, 1, 7])).tolist() == expected


def test_a_queue_in_training_equals_lightlys_where_batches_divide_it() -> None:
    """Where they do not, lightly's memory bank throws away the rest of a batch at its end; and it begins with random keys."""
    from scotoma.methods.parts.losses import info_nce

    lightly = pytest.importorskip("lightly.loss")
    generator = torch.Generator().manual_seed(0)
    theirs, queue = lightly.NTXentLoss(0.2, memory_bank_size=(12, 5)), KeyQueue(12, 5)
    queue.enqueue(theirs.memory_bank.bank, torch.arange(12))
    for step in range(7):
        queries, keys = torch.randn(2, 4, 5, generator=generator)
        expected = theirs(queries.requires_grad_(), keys)  # its queue moves only in training
        assert abs(info_nce(queries, keys, queue.keys, 0.2).item() - expected.item()) < 1e-5, step
        queue.enqueue(F.normalize(keys, dim=1), torch.arange(4))
        torch.testing.assert_close(queue.keys, theirs.memory_bank.bank)


@pytest.mark.parametrize(("groups", "parts"), [(3, (4, 4, 3)), (100, (3, 2, 2, 2, 2)), (1, (11,))])  # at least two images in each
def test_images_in_groups_share_batch_statistics_within_their_group_only(groups: int, parts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, momentum=0.5), nn.Flatten())
    images = torch.randn(11, 1, 2, 2)
    alone = copy.deepcopy(net)
    expected = torch.cat([alone(part) for part in images.split(parts)])  # running statistics move once a group
    names = net.state_dict().keys()
    normalise_in_groups(net, groups)
    calls: list[int] = []
    net[0].register_forward_hook(lambda module, given, out: calls.append(len(out)))
    torch.testing.assert_close(net(images), expected)
    assert calls == [11]  # the rest of the network sees all images at once
    assert net.state_dict().keys() == names
    torch.testing.assert_close(net.state_dict(), alone.state_dict())
    torch.testing.assert_close(net.eval()(images), alone.eval()(images))


def test_norms_with_an_activation_keep_it_in_groups() -> None:
    torch.manual_seed(0)
    net, images = BatchNormAct2d(3), torch.randn(6, 3, 2, 2)
    expected = torch.cat([net(part) for part in images.split(3)])
    normalise_in_groups(net, 2)
    torch.testing.assert_close(net(images), expected)
    assert (expected >= 0).all() and (expected == 0).any()


def decoder(prefix: int = 1) -> TokenDecoder:
    torch.manual_seed(0)
    return TokenDecoder(encoder_dim=6, grid=3, patch_dim=4, dim=16, depth=2, heads=2, prefix=prefix)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_decoder_puts_tokens_at_their_places(prefix: int) -> None:
    """However the visible tokens are ordered, the same token at the same place gives the same image."""
    net = decoder(prefix)
    tokens = torch.randn(2, prefix + 4, 6)
    order = torch.stack([torch.randperm(9) for _ in range(2)])  # patches in the order visible-then-hidden
    found = net(tokens, order.argsort(1))
    assert found.shape == (2, 9, 4)
    swap = torch.tensor([2, 0, 3, 1])
    order[:, :4] = order[:, swap]
    moved = torch.cat([tokens[:, :prefix], tokens[:, prefix:][:, swap]], 1)
    torch.testing.assert_close(net(moved, order.argsort(1)), found, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(net(tokens, order.argsort(1)), found, atol=1e-3)  # the same tokens at exchanged places do not


def test_decoder_against_placing_by_hand() -> None:
    net = decoder()
    tokens = torch.randn(1, 1 + 2, 6)
    order = torch.tensor([[7, 2, 0, 1, 3, 4, 5, 6, 8]])
    x = net.mask_token.expand(1, 10, -1).clone()
    embedded = net.embed(tokens)
    x[:, 0], x[:, 1 + 7], x[:, 1 + 2] = embedded[:, 0], embedded[:, 1], embedded[:, 2]
    x = x + net.positions
    for block in net.blocks:
        x = block(x)
    torch.testing.assert_close(net(tokens, order.argsort(1)), net.predict(net.norm(x[:, 1:])), atol=1e-5, rtol=1e-5)
