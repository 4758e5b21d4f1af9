"""Samples of values and of rows that no axis can be aligned with: an even stride through a volume may hit one slice alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SAMPLE = 2**16  # values of one array


def spread(n: int, count: int) -> np.ndarray:
    """``count`` of ``n`` places, ascending, one at random in each of ``count`` equal stretches; all of them where ``n`` is no more.

    The same places for the same numbers, whatever the process.
    """
    return _places(n, count).copy()


@lru_cache(maxsize=4)  # images of one size follow one another
def _places(n: int, count: int) -> np.ndarray:
    if n <= count:
        return np.arange(n)
    edges = np.arange(count + 1, dtype=np.int64) * n // count
    return edges[:-1] + (np.random.default_rng(0).random(count) * np.diff(edges)).astype(np.int64)


def some(values: np.ndarray, count: int = SAMPLE) -> np.ndarray:
    """(m,) values from all over an array, in its order; all of them where they are fewer than twice ``count``."""
    if values.size < 2 * count:
        return values.ravel()
    places = _places(values.size, count)
    if values.flags.c_contiguous:
        return values.ravel()[places]
    found: np.ndarray = values[np.unravel_index(places, values.shape)]
    return found
