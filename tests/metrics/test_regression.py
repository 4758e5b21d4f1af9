"""Errors of predicted numbers."""

from __future__ import annotations

import numpy as np
import pytest

from scotoma.metrics.regression import errors

ALL = np.ones((1, 40))


def test_r_squared_and_correlation_do_not_depend_on_the_unit() -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(50, 10, 40)
    found = truth + rng.normal(0, 4, 40)
    plain = errors(truth, found, ALL)
    for factor, shift in ((1e-9, 0.0), (1e9, 0.0), (1.0, 1e6)):
        scaled = errors(truth * factor + shift, found * factor + shift, ALL)
        for name in ("r2", "pearson"):
            assert scaled[name] == pytest.approx(plain[name])


def test_numbers_that_are_all_alike_have_neither() -> None:
    for number in (0.0, 50.1, 1e-9, 1e9 / 3):
        found = errors(np.full(40, number), np.linspace(0, 1, 40), ALL)
        assert np.isnan(found["r2"]).all() and np.isnan(found["pearson"]).all()
