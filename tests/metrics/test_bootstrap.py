"""Groups and bootstraps over them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scotoma.metrics import bootstrap


def test_bootstrap_draws_whole_groups():
    groups = np.array(["b", "a", "b", "c", "a", "b", "d"], dtype=object)
    weights = bootstrap.bootstrap_weights(groups, resamples=4000, seed=1)
    assert weights.shape == (4000, 7) and weights.dtype == np.uint16
    for name in "abcd":
        rows = weights[:, groups == name]
        assert (rows == rows[:, :1]).all()
    per_group = weights[:, [0, 1, 3, 6]]
    assert (per_group.sum(1) == 4).all()
    # The count of a group is binomial(4, 1/4): mean 1, variance 3/4.
    np.testing.assert_allclose(per_group.mean(0), 1.0, atol=0.06)
    np.testing.assert_allclose(per_group.var(0), 0.75, atol=0.06)


def test_bootstrap_is_repeatable_and_ignores_how_groups_are_named():
    groups = [("p", 1), ("p", 2), ("p", 1), 7]
    weights = bootstrap.bootstrap_weights(groups, 50, seed=3)
    np.testing.assert_array_equal(weights, bootstrap.bootstrap_weights(groups, 50, seed=3))
    np.testing.assert_array_equal(weights, bootstrap.bootstrap_weights(np.array([5, 4, 5, 9]), 50, seed=3))
    assert (weights != bootstrap.bootstrap_weights(groups, 50, seed=4)).any()


def test_groups_are_numbered_by_first_appearance():
    names, codes = bootstrap.number_groups(["b", ("a", 1), "b", 7])
    assert names == ["b", ("a", 1), 7] and codes.tolist() == [0, 1, 0, 2]
    names, codes = bootstrap.number_groups(np.array([5, 4, 5]))
    assert names == [5, 4] and codes.tolist() == [0, 1, 0]


def test_a_missing_group_is_refused_and_one_alone_has_no_resample() -> None:
    for groups in (["a", None], [1.0, math.nan]):
        with pytest.raises(ValueError, match="missing"):
            bootstrap.bootstrap_weights(groups)
    assert not bootstrap.bootstrap_weights(["a", "a"], 5).any()
