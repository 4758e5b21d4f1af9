"""Temperature, recalibration, reliability and log loss against scikit-learn, closed forms and slow obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.labels import NAN, classes, one_label, with_unknown
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax
from sklearn import metrics as sk

from scotoma.metrics import bootstrap, calibration, classification


def test_temperature_equals_scikit_learns():
    pytest.importorskip("sklearn", minversion="1.8")
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Given(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

    y, logits = classes()
    reference = CalibratedClassifierCV(FrozenEstimator(Given().fit(logits, y)), method="temperature", ensemble=False)
    expected = reference.fit(logits, y).predict_proba(logits)
    found = calibration.apply_temperature(softmax(logits, 1), calibration.temperature(y, logits), multilabel=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_temperature_undoes_a_stretch():
    y, logits = classes()
    found = calibration.temperature(y, logits)
    assert found == pytest.approx(2.5, rel=0.15)
    assert calibration.temperature(y, logits * 3) == pytest.approx(3 * found, rel=1e-5)
    label, z = (y == 1).astype(float), logits[:, [1]]
    # One label is two classes, of which one has the logit 0; rows whose label is unknown change nothing.
    of_label = calibration.temperature(label[:, None], z)
    assert calibration.temperature(label.astype(int), np.column_stack([np.zeros(400), z])) == pytest.approx(of_label, rel=1e-5)
    more = calibration.temperature(np.append(label, [NAN, NAN])[:, None], np.append(z[:, 0], [50.0, -50.0])[:, None])
    assert more == pytest.approx(of_label, rel=1e-6)
    losses = [sk.log_loss(label, expit(z[:, 0] / (of_label * factor))) for factor in (0.98, 1, 1.02)]
    assert losses[1] == min(losses)


def test_tempered_probabilities_are_those_of_the_logits():
    _, logits = classes()
    np.testing.assert_allclose(calibration.apply_temperature(softmax(logits, 1), 2.5, False), softmax(logits / 2.5, 1), atol=1e-12)
    np.testing.assert_allclose(calibration.apply_temperature(expit(logits), 2.5, True), expit(logits / 2.5), atol=1e-9)
    np.testing.assert_allclose(calibration.apply_temperature([[1.0, 0, 0], [0.5, 0.5, 0]], 3, False), [[1, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_allclose(calibration.apply_temperature([[0.0, 1.0]], 3, True), [[0, 1]])


def test_temperatures_and_logits_in_place_of_probabilities_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        calibration.apply_temperature([[0.5, 0.5]], 0.0, False)
    with pytest.raises(ValueError, match="apply softmax or sigmoid"):
        calibration.apply_temperature([[2.0, 0.5]], 1.0, False)
    with pytest.raises(ValueError, match="no label is known"):
        calibration.temperature(np.full((3, 1), NAN), np.zeros((3, 1)))


def test_recalibration_solves_the_equations_of_its_likelihood():
    y, p = one_label()
    found = calibration.recalibration(*with_unknown(y, p))
    rest = y - calibration.recalibrate(p, found["intercept"], found["slope"])
    assert abs(rest.sum()) < 1e-5 and abs((rest * logit(p)).sum()) < 1e-5
    assert calibration.recalibrate(p, found["in_the_large"], 1).mean() == pytest.approx(y.mean(), abs=1e-9)
    again = calibration.recalibration(y, calibration.recalibrate(p, found["intercept"], found["slope"]))
    assert (again["intercept"], again["slope"], again["in_the_large"]) == pytest.approx((0, 1, 0), abs=1e-5)


def test_recalibration_names_what_is_wrong_with_probabilities():
    rng = np.random.default_rng(1)
    z = rng.normal(size=20000)
    y = rng.random(20000) < expit(0.5 + 0.4 * z)  # said: z; true: 0.5 + 0.4 z
    found = calibration.recalibration(y, expit(z))
    assert (found["intercept"], found["slope"]) == pytest.approx((0.5, 0.4), abs=0.06)  # standard errors 0.015
    assert calibration.recalibration(y, expit(z - 3))["in_the_large"] == pytest.approx(found["in_the_large"] + 3, abs=1e-6)


@pytest.mark.parametrize("p", [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.2, 0.4], [0.5] * 4])
def test_probabilities_that_part_the_classes_have_no_slope(p):
    with pytest.raises(ValueError, match="no finite calibration slope"):
        calibration.recalibration([0, 0, 1, 1], p)


def test_reliability_adds_up_to_the_calibration_error():
    def error(points):
        gap = np.abs(points["frequency"] - points["confidence"])
        return np.nansum(gap * points["count"]) / points["count"].sum()

    y, logits = classes()
    p = softmax(logits, 1)
    assert error(calibration.reliability(y, p)) == pytest.approx(classification.score("ece", y, p), abs=1e-12)
    truth, q = with_unknown(*one_label())
    points = calibration.reliability(truth, q)
    assert error(points) == pytest.approx(classification.score("ece", truth[:, None], q[:, None]), abs=1e-12)
    assert points["count"].sum() == 200


def test_reliability_by_hand():
    points = calibration.reliability([1, 0, 1, NAN, 1], [0.1, 0.3, 0.5, 0.6, 1.0], bins=4)
    np.testing.assert_allclose(points["count"], [1, 1, 1, 1])
    np.testing.assert_allclose(points["confidence"], [0.1, 0.3, 0.5, 1.0])
    np.testing.assert_allclose(points["frequency"], [1, 0, 1, 1])
    top = calibration.reliability([0, 1], [[0.8, 0.2], [0.7, 0.3]], bins=2)
    np.testing.assert_allclose(top["confidence"], [NAN, 0.75])
    np.testing.assert_allclose(top["frequency"], [NAN, 0.5])
    with pytest.raises(ValueError, match="one after the other"):
        calibration.reliability(np.zeros((3, 2)), np.zeros((3, 2)))


def test_the_log_loss_is_scikit_learns():
    y, p = one_label(rows=40)
    assert calibration.log_loss(*with_unknown(y, p)) == pytest.approx(sk.log_loss(y, p))
    weights = bootstrap.bootstrap_weights(np.arange(40), 5)
    expected = [sk.log_loss(y, p, sample_weight=counts) for counts in weights]
    np.testing.assert_allclose(calibration.log_loss(y, p, weights), expected)
    assert calibration.log_loss([1, 0], [0.0, 1.0]) == pytest.approx(-np.log(calibration.SURE))


def test_local_recalibration_is_fitted_on_other_patients():
    rng = np.random.default_rng(2)
    z = rng.normal(size=3000)
    y, p, patients = (rng.random(3000) < expit(0.5 + 0.4 * z)).astype(float), expit(z), np.arange(3000) // 3
    y[:30] = NAN
    found = calibration.cross_recalibrate(y, p, patients)
    apart = logit(found) - (0.5 + 0.4 * z)
    assert np.abs(apart).max() < 0.4  # said: z; true: 0.5 + 0.4 z; standard errors of intercept and slope 0.04
    assert calibration.log_loss(y, found) < calibration.log_loss(y, p)
    # each of the five fits gives one line of logit(p), alike for all rows of a patient; none of them is the fit to all rows
    slopes = np.diff(logit(found).reshape(-1, 3)) / np.diff(z.reshape(-1, 3))
    assert len(np.unique(np.round(slopes, 6))) == 5 and np.ptp(slopes, axis=1).max() < 1e-6
    whole = calibration.recalibration(y, p)["slope"]
    assert np.abs(slopes - whole).min() > 1e-6
    # a patient's own labels do not touch its answer (one with both labels, who stays in the same fold when they are turned)
    mixed = next(k for k in range(10, 1000) if len(set(y[patients == k])) == 2)
    again = calibration.cross_recalibrate(np.where(patients == mixed, 1 - y, y), p, patients)
    assert np.array_equal(again[patients == mixed], found[patients == mixed]) and not np.array_equal(again, found)
    with pytest.raises(ValueError, match="no finite calibration slope"):
        calibration.cross_recalibrate([0.0] * 10 + [1.0] * 10, np.linspace(0.1, 0.9, 20), np.arange(20))


def test_a_diagram_of_a_resample_is_that_of_its_rows():
    y, p = with_unknown(*one_label(rows=40))
    weights = bootstrap.bootstrap_weights(np.arange(len(y)), 6)
    found = calibration.reliability(y, p, weights=weights)
    for r, counts in enumerate(weights):
        rows = np.repeat(np.arange(len(y)), counts)
        for name, values in calibration.reliability(y[rows], p[rows]).items():
            np.testing.assert_allclose(found[name][r], values)


def test_offsets_bring_mean_probabilities_to_their_shares() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 3))
    y = (softmax(z, 1).cumsum(1) < rng.random((3000, 1))).sum(1)
    added = calibration.offsets(y, z + np.array([0.8, 0.0, -0.4]))
    assert added - added.mean() == pytest.approx(np.array([-0.8, 0.0, 0.4]) + 0.4 / 3, abs=0.12)
    few = calibration.offsets(y[:60], z[:60])
    slow = minimize(
        lambda free: (
            -np.log(softmax(z[:60] + free, 1)[np.arange(60), y[:60]]).sum() + (free**2).sum() / (2 * calibration.OFFSET**2)
        ),
        np.zeros(3),
        bounds=[(None, None) if (y[:60] == k).sum() >= calibration.FEWEST_FOR_OFFSET else (0, 0) for k in range(3)],
    ).x
    assert few == pytest.approx(slow, abs=1e-3)
    assert (calibration.offsets(np.repeat([0, 1, 2], 19), rng.normal(size=(57, 3))) == 0).all()
    labels = np.stack([rng.random(400) < 0.7, rng.random(400) < 0.01], 1).astype(float)
    first, second = calibration.offsets(labels, np.zeros((400, 2)))
    assert first == pytest.approx(np.log(0.7 / 0.3), abs=0.25) and second == 0


def test_recalibrations_under_weights_are_those_of_the_rows_left() -> None:
    y, p = with_unknown(*one_label(rows=60))
    codes = np.arange(len(y)) // 7
    weights = (codes != np.arange(-1, codes.max() + 1)[:, None]).astype(np.uint8)
    found = calibration.recalibrations(y, p, weights)
    for line, kept in enumerate(weights == 1):
        expected = calibration.recalibration(y[kept], p[kept])
        assert {k: v[line] for k, v in found.items()} == pytest.approx(expected, abs=1e-4)
