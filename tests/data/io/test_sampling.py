"""Samples that no axis is aligned with."""

from __future__ import annotations

import numpy as np
import pytest

from scotoma.data.io.sampling import some, spread


@pytest.mark.parametrize(("n", "count"), [(1, 1), (5, 9), (64, 64), (1000, 64), (2**31, 16), (2 * 10**9, 1000)])
def test_places_are_spread_over_all_ascending_and_always_the_same(n: int, count: int) -> None:
    places = spread(n, count)
    assert len(places) == min(n, count)
    assert places[0] >= 0 and places[-1] < n
    assert (np.diff(places) > 0).all()
    edges = np.arange(len(places) + 1) * n // len(places)
    assert (edges[:-1] <= places).all() and (places < edges[1:]).all()  # one in each stretch
    np.testing.assert_array_equal(places, spread(n, count))


@pytest.mark.parametrize(
    "shape", [(256, 256, 40), (512, 512, 24), (128, 128, 128), (250, 250, 41), (40, 256, 256), (64, 64, 16, 16)]
)
def test_every_slice_along_every_axis_gets_its_share(shape: tuple[int, ...]) -> None:
    for axis, size in enumerate(shape):
        places = np.broadcast_to(np.arange(size).reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape)
        chosen = some(places)
        share = np.bincount(chosen, minlength=size) / len(chosen) * size
        assert share.min() > 0.7 and share.max() < 1.3


def test_rows_of_a_table_of_volumes_hit_all_slice_positions() -> None:
    for slices in (16, 32, 64, 155):  # rows 0, slices, 2 slices, ... are the lowest slices
        assert len(np.unique(spread(2048 * slices, 2048) % slices)) == slices


def test_few_values_are_all_taken_in_their_order() -> None:
    values = np.random.default_rng(0).normal(size=(30, 40, 5))
    np.testing.assert_array_equal(some(values), values.ravel())
