"""What a phantom is painted with, on a square grid: coordinates, smooth curves, soft steps, blurs and strokes.

Lengths are in the units of the grid's coordinates, which run from -1 to 1 along either side.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Field = NDArray[np.float32]
    Array = NDArray[np.float64]


@lru_cache(maxsize=16)
def axis(side: int) -> Field:
    """Centres of the pixels along one side, in [-1, 1]."""
    return ((np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1).astype(np.float32)


@lru_cache(maxsize=64)
def smooth(side: int, knots: int) -> Field:
    """(side, knots) matrix that lays a smooth curve through ``knots`` values: Gaussian weights that sum to 1."""
    centres = (np.arange(knots) + 0.5) * (2 / knots) - 1
    weights = np.exp(-0.5 * ((axis(side)[:, None] - centres) * (knots / 2 / 0.6)) ** 2)
    return np.ascontiguousarray(weights / weights.sum(1, keepdims=True), dtype=np.float32)


@lru_cache(maxsize=64)
def _kernel(side: int, sigma: float) -> tuple[float, ...]:
    """One half of a Gaussian blur, from its centre on, for ``sigma`` in the grid's units."""
    pixels = sigma * side / 2
    half = np.exp(-0.5 * (np.arange(math.ceil(2.5 * pixels) + 1) / pixels) ** 2)
    return tuple((half / (2 * half.sum() - half[0])).tolist())


def step(t: Field) -> Field:
    """Smooth step: 0 below 0, 1 above 1."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def blur(field: Field, sigma: float) -> Field:
    """A square field, (side, side), blurred by a Gaussian of ``sigma`` in the grid's units; beyond its edges lies 0."""
    half = _kernel(field.shape[0], sigma)
    for _ in range(2):
        out = field * half[0]
        for shift, weight in enumerate(half[1:], 1):
            part = field * weight
            out[shift:] += part[:-shift]
            out[:-shift] += part[shift:]
        field = out.T
    return field


class Strokes:
    """Points that carry attenuation (vessels, tubes, letters), gathered to be painted at once, blurred by ``sigma``."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        self.points: list[tuple[Array, Array, Array]] = []

    def line(self, x: Array, y: Array, peak: Array | float) -> None:
        """Lines (..., points) whose crests reach ``peak``."""
        dx, dy = np.diff(x, axis=-1), np.diff(y, axis=-1)
        weight = np.sqrt(dx * dx + dy * dy) * np.broadcast_to(peak, x.shape)[..., 1:]
        weight *= math.sqrt(2 * math.pi) * self.sigma
        self.points.append((x[..., 1:].ravel(), y[..., 1:].ravel(), weight.ravel()))

    def dots(self, x: Array, y: Array, peak: Array | float) -> None:
        """Round spots that reach ``peak``."""
        self.points.append((x, y, np.broadcast_to(peak, x.shape) * (2 * math.pi * self.sigma**2)))
