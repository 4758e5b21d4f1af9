"""Net benefit against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.labels import one_label, with_unknown

from scotoma.metrics import bootstrap, net_benefit


def test_net_benefit_weighs_true_against_false_positives():
    y, p = one_label()
    at = np.array([0.05, 0.2, 0.5, 0.9])
    found = net_benefit.net_benefit(*with_unknown(y, p), at)
    slow = [((p >= t) & (y == 1)).mean() - ((p >= t) & (y == 0)).mean() * t / (1 - t) for t in at]
    np.testing.assert_allclose(found["model"], slow)
    everyone = net_benefit.net_benefit(y, np.ones(200), at)
    np.testing.assert_allclose(everyone["model"], found["treat_all"])
    np.testing.assert_allclose(net_benefit.net_benefit(y, y, at)["model"], y.mean())  # without an error: the prevalence
    np.testing.assert_allclose(net_benefit.net_benefit(y, p, [y.mean()])["treat_all"], 0, atol=1e-12)
    assert not found["treat_none"].any()


def test_net_benefit_of_a_resample_is_that_of_its_rows():
    y, p = with_unknown(*one_label(rows=30))
    weights = bootstrap.bootstrap_weights(np.arange(len(y)), 10)
    found = net_benefit.net_benefit(y, p, [0.1, 0.6], weights)
    for r, counts in enumerate(weights):
        rows = np.repeat(np.arange(len(y)), counts)
        for name, values in net_benefit.net_benefit(y[rows], p[rows], [0.1, 0.6]).items():
            np.testing.assert_allclose(found[name][r], values)
    with pytest.raises(ValueError, match="thresholds"):
        net_benefit.net_benefit(y, p, [0.5, 1.0])
