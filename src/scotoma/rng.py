"""Keyed random numbers: the same image gets the same numbers in whatever batch, order or process it comes."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as signed 64 bits
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _to_signed(number: int) -> int:
    """A Python integer modulo 2**64, as torch's int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): a bijection of 64 bits, every output bit hangs on all input bits."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


class KeyedRNG:
    """Random numbers of a batch, keyed by (seed, epoch, row): a counter-based hash, no generator and no state.

    Args:
        seed: the run's seed.
        epoch: how often the data have been gone through; or (B,) int64, where a batch reaches into the next epoch.
        rows: (B,) int64 row ids, on the device where the numbers are wanted.
    """

    def __init__(self, seed: int, epoch: int | Tensor, rows: Tensor) -> None:
        turn = torch.as_tensor(epoch, dtype=torch.int64, device=rows.device)
        start = _mix(torch.tensor(_to_signed(seed + 1), dtype=torch.int64, device=rows.device))
        self._state = _mix(_mix(start + turn * _GOLDEN) + rows.to(torch.int64) * _GOLDEN)
        self._still = _mix(_mix(start) + rows.to(torch.int64) * _GOLDEN)

    def still(self) -> KeyedRNG:
        """The stream of the same images that is alike in every epoch."""
        other = object.__new__(KeyedRNG)
        other._state = other._still = self._still
        return other

    def of(self, name: str) -> KeyedRNG:
        """An independent stream of the same images: one for each view."""
        other = object.__new__(KeyedRNG)
        other._state = _mix(self._state + _to_signed(zlib.crc32(name.encode()) * _GOLDEN))
        other._still = _mix(self._still + _to_signed(zlib.crc32(name.encode()) * _GOLDEN))
        return other

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B, *shape) float32, uniform in [low, high); the same name gives the same numbers."""
        count = math.prod(shape)
        counters = torch.arange(1, count + 1, device=self._state.device) * _GOLDEN
        bits = _mix(self.of(name)._state[:, None] + counters)
        unit = _shift(bits, 40).to(torch.float32) / 2**24
        return (low + (high - low) * unit).view(-1, *shape)

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal (Box and Muller 1958)."""
        radius = torch.sqrt(-2 * torch.log1p(-self.uniform(name + " radius", *shape)))
        return radius * torch.cos(2 * math.pi * self.uniform(name + " angle", *shape))
