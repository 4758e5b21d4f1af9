"""Thresholds, rates, predictive values and answers a patient against scikit-learn and slow obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.labels import NAN, SCORES, TRUTH, one_label, with_unknown
from scipy.special import softmax
from sklearn import metrics as sk

from scotoma.metrics import bootstrap, operating_points


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_are_those_of_trying_every_score(seed):
    y, p = one_label(seed)
    tried = [(t, (p[y == 1] >= t).mean(), (p[y == 0] < t).mean()) for t in np.unique(p)[::-1]]
    best = max(sens + spec for _, sens, spec in tried)
    youden = next(t for t, sens, spec in tried if sens + spec > best - 1e-12)
    assert operating_points.threshold(*with_unknown(y, p), "youden") == youden
    for wanted in (0.1, 0.5, 0.9, 0.95, 1.0):
        assert operating_points.threshold(*with_unknown(y, p), wanted) == next(t for t, sens, _ in tried if sens >= wanted)


def test_of_equally_good_thresholds_the_highest_is_taken():
    # 0.9: 1/4 + 4/4, 0.8: 2/4 + 3/4, 0.7: 3/4 + 3/4, 0.4: 4/4 + 1/4
    assert operating_points.threshold(TRUTH, SCORES, "youden") == 0.7
    assert operating_points.threshold([1, 0, 1, 0], [0.4, 0.3, 0.2, 0.1], "youden") == 0.4
    assert [operating_points.threshold(TRUTH, SCORES, s) for s in (0.25, 0.26, 0.75, 1)] == [0.9, 0.8, 0.7, 0.4]


def test_thresholds_need_both_classes_and_a_rule():
    for y in ([1, 1, NAN], [0, 0, NAN], [NAN, NAN, NAN]):
        with pytest.raises(ValueError, match="positive and negative rows are needed"):
            operating_points.threshold(y, [0.1, 0.2, 0.3], "youden")
    for rule in (0.0, 1.1, "best"):
        with pytest.raises(ValueError, match="rule must be"):
            operating_points.threshold(TRUTH, SCORES, rule)


def test_rates_equal_scikit_learns():
    y, p = one_label()
    called = (p >= 0.6).astype(int)
    expected = {
        "sensitivity": sk.recall_score(y, called),
        "specificity": sk.recall_score(y, called, pos_label=0),
        "ppv": sk.precision_score(y, called),
        "npv": sk.precision_score(y, called, pos_label=0),
        "f1": sk.f1_score(y, called),
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
    }
    assert operating_points.rates(*with_unknown(y, p), 0.6) == pytest.approx(expected, abs=1e-12)


def test_rates_of_a_resample_are_those_of_its_rows():
    y, p = with_unknown(*one_label(rows=40))
    weights = bootstrap.bootstrap_weights(np.arange(len(y)) // 2, 20)
    found = operating_points.rates(y, p, 0.6, weights)
    for r, counts in enumerate(weights):
        rows = np.repeat(np.arange(len(y)), counts)
        assert {k: v[r] for k, v in found.items()} == pytest.approx(operating_points.rates(y[rows], p[rows], 0.6), nan_ok=True)


def test_rates_without_a_denominator_are_missing():
    nobody = operating_points.rates(TRUTH, SCORES, 2.0)
    assert np.isnan(nobody["ppv"]) and (nobody["sensitivity"], nobody["specificity"], nobody["npv"]) == (0, 1, 0.5)
    assert np.isnan(operating_points.rates([1, 1], [0.2, 0.9], 0.5)["specificity"])


def test_predictive_values_follow_bayes():
    ppv, npv = operating_points.predictive_values(0.9, 0.9, [0.01, 0.5])
    np.testing.assert_allclose(ppv, [0.009 / (0.009 + 0.099), 0.9])
    np.testing.assert_allclose(npv, [0.891 / 0.892, 0.9])
    y, p = one_label()
    found = operating_points.rates(y, p, 0.6)
    here = operating_points.predictive_values(found["sensitivity"], found["specificity"], y.mean())
    assert here == pytest.approx((found["ppv"], found["npv"]))
    assert np.isnan(operating_points.predictive_values(0.0, 1.0, 0.3)[0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        operating_points.predictive_values(0.9, 0.9, 1.2)


def test_patients_have_the_mean_the_highest_or_any_of_their_images():
    p = np.array([[0.2, 0.5], [0.9, 0.1], [0.4, 0.5], [0.6, 0.0]])
    groups = ["b", ("a", 1), "b", "b"]
    for how, of_b in {"mean": [0.4, 1 / 3], "max": [0.6, 0.5], "noisy_or": [1 - 0.8 * 0.6 * 0.4, 1 - 0.5 * 0.5]}.items():
        names, found = operating_points.aggregate(p, groups, how, multilabel=True)
        assert names == ["b", ("a", 1)]
        np.testing.assert_allclose(found, [of_b, [0.9, 0.1]])


def test_classes_are_averaged_only():
    p = softmax(np.random.default_rng(0).normal(size=(10, 3)), 1)
    names, found = operating_points.aggregate(p, np.arange(10) % 4, "mean")
    assert names == [0, 1, 2, 3]
    np.testing.assert_allclose(found.sum(1), 1)
    for how in ("max", "noisy_or"):
        with pytest.raises(ValueError, match="for labels, not for classes"):
            operating_points.aggregate(p, np.arange(10), how)
    with pytest.raises(ValueError, match="how must be"):
        operating_points.aggregate(p, np.arange(10), "median", multilabel=True)
    with pytest.raises(ValueError, match="cover its rows"):
        operating_points.aggregate(p, np.arange(9), "mean")
    with pytest.raises(ValueError, match="missing"):
        operating_points.aggregate(p, [None] * 10, "mean")


def test_a_patient_is_positive_where_any_image_is():
    y = np.array([[0, NAN, 1], [1, NAN, 0], [NAN, NAN, NAN], [0, 0, NAN]])
    np.testing.assert_array_equal(operating_points.group_labels(y, [5, 5, 3, 3]), [[1, NAN, 1], [0, 0, NAN]])


def test_a_patient_has_the_class_on_which_its_images_agree():
    found = operating_points.group_labels(np.array([2, 0, -1, 2, 1, -1, 0]), ["c", "a", "a", "c", "b", "d", "b"])
    assert found.tolist() == [2, 0, -1, -1]
