from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scotoma.nets import TokenDecoder, projector, sincos_positions


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


def decoder(prefix: int = 1) -> TokenDecoder:
    torch.manual_seed(0)
    return TokenDecoder(encoder_dim=6, grid=3, patch_dim=4, dim=16, depth=2, heads=2, prefix=prefix)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_decoder_puts_tokens_at_their_places(prefix: int) -> None:
    """However the visible tokens are ordered, the same token at the same place gives the same picture."""
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
