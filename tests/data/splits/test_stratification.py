"""Dealing units out: whole, near the shares of every label, repeatable, and old units where they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotoma.data.splits import stratification
from scotoma.data.splits.stratification import assign

SHARES = (0.7, 0.1, 0.2)


def labels(units: np.ndarray, rates: list[float], unknown: float, seed: int) -> np.ndarray:
    """0/1/missing labels of rows, alike within a unit more often than not."""
    rng = np.random.default_rng(seed)
    lean = rng.random((units.max() + 1, len(rates)))[units]
    y = ((lean + rng.random(lean.shape)) / 2 < np.sqrt(np.array(rates) / 2)).astype(np.float32)
    y[rng.random(y.shape) < unknown] = np.nan
    return y


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 25), st.integers(0, 1000), st.integers(2, 5))
def test_a_unit_is_never_divided_and_a_seed_repeats(n: int, count: int, seed: int, sides: int) -> None:
    rng = np.random.default_rng(seed)
    units = rng.integers(0, count, n)
    y = labels(units, [0.4, 0.1], 0.3, seed)
    side = assign(units, y, [1 / sides] * sides, seed)
    assert all(len(set(side[units == u])) == 1 for u in np.unique(units))
    assert set(side) <= set(range(sides))
    assert np.array_equal(side, assign(units, y, [1 / sides] * sides, seed))


def test_single_rows_of_classes_are_dealt_out_to_the_row() -> None:
    y = np.repeat([0, 1, 2, -1], [500, 100, 30, 70])
    side = assign(np.arange(700), y, SHARES, 0)
    counts = [[int((side[y == c] == k).sum()) for k in range(3)] for c in range(3)]
    assert counts == [[350, 50, 100], [70, 10, 20], [21, 3, 6]]
    assert np.bincount(side).tolist() == [490, 70, 140]


def test_every_label_comes_near_its_share_where_chance_does_not() -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(0, 900, 3000)
    rates = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01]
    y = labels(units, rates, 0.2, 1)

    def worst(side: np.ndarray) -> float:
        """The largest error, in rows, of any label's count on any side."""
        return max(
            abs((y[side == k, c] == 1).sum() - share * (y[:, c] == 1).sum()) for c in range(6) for k, share in enumerate(SHARES)
        )

    drawn = [worst(assign(units, y, SHARES, seed)) for seed in range(5)]
    chance = [worst(np.random.default_rng(s).choice(3, 900, p=SHARES)[units]) for s in range(5)]
    assert max(drawn) <= 2.5
    assert min(chance) > 10
    side = assign(units, y, SHARES, 0)
    assert np.abs(np.bincount(side) - 3000 * np.array(SHARES)).max() <= 10
    folds = assign(units, y, [0.2] * 5, 0)
    assert max(np.ptp([(y[folds == k, c] == 1).sum() for k in range(5)]) for c in range(6)) <= 4


def test_rare_labels_reach_every_side() -> None:
    """Ten positives of a thousand, one patient each: 7, 1 and 2 of them."""
    y = np.zeros((1000, 2), np.float32)
    y[:10, 1] = 1
    y[::3, 0] = 1
    for seed in range(5):
        side = assign(np.arange(1000), y, SHARES, seed)
        assert np.bincount(side[:10], minlength=3).tolist() == [7, 1, 2]


def test_given_units_stay_and_new_ones_make_up_for_them() -> None:
    y = np.tile([0, 0, 0, 1], 100)
    old = np.where(np.arange(400) < 200, 0, -1)  # the older half all trains
    side = assign(np.arange(400), y, SHARES, 0, old)
    assert (side[:200] == 0).all()
    assert np.bincount(side) == pytest.approx([280, 40, 80], abs=2)
    assert np.bincount(side[y == 1]) == pytest.approx([70, 10, 20], abs=2)


def test_a_side_without_a_share_gets_nothing() -> None:
    assert set(assign(np.arange(50), None, (0.8, 0.0, 0.2), 3)) == {0, 2}


def test_large_units_are_placed_before_small_ones() -> None:
    units = np.repeat(np.arange(31), [100, *[10] * 30])
    side = assign(units, None, (0.5, 0.25, 0.25), 0)
    assert np.bincount(side).tolist() == [200, 100, 100]


def test_nothing_is_dealt_out_of_nothing() -> None:
    assert assign(np.zeros(0, int), None, SHARES, 0).tolist() == []


def test_the_seed_changes_who_goes_where() -> None:
    first, second = (assign(np.arange(200), None, SHARES, seed) for seed in (0, 1))
    assert (first != second).mean() > 0.3
    assert np.bincount(first) == pytest.approx(np.bincount(second))


def test_work_grows_with_kinds_of_units_not_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """200,000 units of a few hundred kinds: at most two of a kind are left to be dealt one by one."""
    left: list[int] = []
    one_by_one = stratification._one_by_one

    def counted(sides: np.ndarray, counts: np.ndarray, chosen: np.ndarray, shares: np.ndarray) -> None:
        left.append(len(chosen))
        one_by_one(sides, counts, chosen, shares)

    monkeypatch.setattr(stratification, "_one_by_one", counted)
    y = (np.random.default_rng(0).random((200_000, 8)) < 0.3).astype(np.float32)
    stratification.assign(np.arange(200_000), y, SHARES, 0)
    assert 0 < sum(left) <= 2 * 2**8
