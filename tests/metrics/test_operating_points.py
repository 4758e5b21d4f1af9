"""Thresholds, calibration, net benefit and aggregation against scikit-learn, closed forms and slow obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from sklearn import metrics as sk

from scotoma.metrics import bootstrap, classification, operating_points

NAN = float("nan")
SCORES = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.4, 0.4, 0.2])
TRUTH = np.array([1.0, 1, 0, 1, 0, 1, 0, 0])


def one_label(seed: int = 0, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Known labels and tied probabilities, the label likelier the higher they are."""
    rng = np.random.default_rng(seed)
    p = rng.integers(1, 20, rows) / 20
    return (rng.random(rows) < p**2).astype(float), p


def with_unknown(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same rows among others whose label is unknown."""
    return np.concatenate([[NAN], y, [NAN, NAN]]), np.concatenate([[0.99], p, [0.01, 0.5]])


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


def classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Class ids drawn from softmax(z), and 2.5 z: logits too sure by that factor."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(400, 3)) * 1.5
    return (softmax(z, 1).cumsum(1) < rng.random((400, 1))).sum(1), 2.5 * z


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
    found = operating_points.tempered(softmax(logits, 1), operating_points.temperature(y, logits), multilabel=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_temperature_undoes_a_stretch():
    y, logits = classes()
    found = operating_points.temperature(y, logits)
    assert found == pytest.approx(2.5, rel=0.15)
    assert operating_points.temperature(y, logits * 3) == pytest.approx(3 * found, rel=1e-5)
    label, z = (y == 1).astype(float), logits[:, [1]]
    # One label is two classes, of which one has the logit 0; rows whose label is unknown change nothing.
    of_label = operating_points.temperature(label[:, None], z)
    assert operating_points.temperature(label.astype(int), np.column_stack([np.zeros(400), z])) == pytest.approx(of_label, rel=1e-5)
    more = operating_points.temperature(np.append(label, [NAN, NAN])[:, None], np.append(z[:, 0], [50.0, -50.0])[:, None])
    assert more == pytest.approx(of_label, rel=1e-6)
    losses = [sk.log_loss(label, expit(z[:, 0] / (of_label * factor))) for factor in (0.98, 1, 1.02)]
    assert losses[1] == min(losses)


def test_tempered_probabilities_are_those_of_the_logits():
    _, logits = classes()
    np.testing.assert_allclose(operating_points.tempered(softmax(logits, 1), 2.5, False), softmax(logits / 2.5, 1), atol=1e-12)
    np.testing.assert_allclose(operating_points.tempered(expit(logits), 2.5, True), expit(logits / 2.5), atol=1e-9)
    np.testing.assert_allclose(operating_points.tempered([[1.0, 0, 0], [0.5, 0.5, 0]], 3, False), [[1, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_allclose(operating_points.tempered([[0.0, 1.0]], 3, True), [[0, 1]])


def test_temperatures_and_logits_in_place_of_probabilities_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        operating_points.tempered([[0.5, 0.5]], 0.0, False)
    with pytest.raises(ValueError, match="apply softmax or sigmoid"):
        operating_points.tempered([[2.0, 0.5]], 1.0, False)
    with pytest.raises(ValueError, match="no label is known"):
        operating_points.temperature(np.full((3, 1), NAN), np.zeros((3, 1)))


def test_recalibration_solves_the_equations_of_its_likelihood():
    y, p = one_label()
    found = operating_points.recalibration(*with_unknown(y, p))
    rest = y - operating_points.recalibrated(p, found["intercept"], found["slope"])
    assert abs(rest.sum()) < 1e-5 and abs((rest * logit(p)).sum()) < 1e-5
    assert operating_points.recalibrated(p, found["in_the_large"], 1).mean() == pytest.approx(y.mean(), abs=1e-9)
    again = operating_points.recalibration(y, operating_points.recalibrated(p, found["intercept"], found["slope"]))
    assert (again["intercept"], again["slope"], again["in_the_large"]) == pytest.approx((0, 1, 0), abs=1e-5)


def test_recalibration_names_what_is_wrong_with_probabilities():
    rng = np.random.default_rng(1)
    z = rng.normal(size=20000)
    y = rng.random(20000) < expit(0.5 + 0.4 * z)  # said: z; true: 0.5 + 0.4 z
    found = operating_points.recalibration(y, expit(z))
    assert (found["intercept"], found["slope"]) == pytest.approx((0.5, 0.4), abs=0.06)  # standard errors 0.015
    assert operating_points.recalibration(y, expit(z - 3))["in_the_large"] == pytest.approx(found["in_the_large"] + 3, abs=1e-6)


@pytest.mark.parametrize("p", [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.2, 0.4], [0.5] * 4])
def test_probabilities_that_part_the_classes_have_no_slope(p):
    with pytest.raises(ValueError, match="no finite calibration slope"):
        operating_points.recalibration([0, 0, 1, 1], p)


def test_reliability_adds_up_to_the_calibration_error():
    def error(points):
        gap = np.abs(points["frequency"] - points["confidence"])
        return np.nansum(gap * points["count"]) / points["count"].sum()

    y, logits = classes()
    p = softmax(logits, 1)
    assert error(operating_points.reliability(y, p)) == pytest.approx(classification.score("ece", y, p), abs=1e-12)
    truth, q = with_unknown(*one_label())
    points = operating_points.reliability(truth, q)
    assert error(points) == pytest.approx(classification.score("ece", truth[:, None], q[:, None]), abs=1e-12)
    assert points["count"].sum() == 200


def test_reliability_by_hand():
    points = operating_points.reliability([1, 0, 1, NAN, 1], [0.1, 0.3, 0.5, 0.6, 1.0], bins=4)
    np.testing.assert_allclose(points["count"], [1, 1, 1, 1])
    np.testing.assert_allclose(points["confidence"], [0.1, 0.3, 0.5, 1.0])
    np.testing.assert_allclose(points["frequency"], [1, 0, 1, 1])
    top = operating_points.reliability([0, 1], [[0.8, 0.2], [0.7, 0.3]], bins=2)
    np.testing.assert_allclose(top["confidence"], [NAN, 0.75])
    np.testing.assert_allclose(top["frequency"], [NAN, 0.5])
    with pytest.raises(ValueError, match="one after the other"):
        operating_points.reliability(np.zeros((3, 2)), np.zeros((3, 2)))


def test_net_benefit_weighs_true_against_false_positives():
    y, p = one_label()
    at = np.array([0.05, 0.2, 0.5, 0.9])
    found = operating_points.net_benefit(*with_unknown(y, p), at)
    slow = [((p >= t) & (y == 1)).mean() - ((p >= t) & (y == 0)).mean() * t / (1 - t) for t in at]
    np.testing.assert_allclose(found["model"], slow)
    everyone = operating_points.net_benefit(y, np.ones(200), at)
    np.testing.assert_allclose(everyone["model"], found["treat_all"])
    np.testing.assert_allclose(operating_points.net_benefit(y, y, at)["model"], y.mean())  # without an error: the prevalence
    np.testing.assert_allclose(operating_points.net_benefit(y, p, [y.mean()])["treat_all"], 0, atol=1e-12)
    assert not found["treat_none"].any()


def test_net_benefit_of_a_resample_is_that_of_its_rows():
    y, p = with_unknown(*one_label(rows=30))
    weights = bootstrap.bootstrap_weights(np.arange(len(y)), 10)
    found = operating_points.net_benefit(y, p, [0.1, 0.6], weights)
    for r, counts in enumerate(weights):
        rows = np.repeat(np.arange(len(y)), counts)
        for name, values in operating_points.net_benefit(y[rows], p[rows], [0.1, 0.6]).items():
            np.testing.assert_allclose(found[name][r], values)
    with pytest.raises(ValueError, match="thresholds"):
        operating_points.net_benefit(y, p, [0.5, 1.0])


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


@pytest.mark.parametrize("count", [2, 4])
def test_micro_averages_equal_scikit_learns(count):
    rng = np.random.default_rng(0)
    y, p = rng.integers(count, size=90), np.round(rng.dirichlet(np.ones(count), 90), 2)
    one_hot = np.eye(count)[y]
    assert operating_points.micro("auroc", y, p) == pytest.approx(sk.roc_auc_score(one_hot, p, average="micro"))
    assert operating_points.micro("average_precision", y, p) == pytest.approx(
        sk.average_precision_score(one_hot, p, average="micro")
    )
    labels = np.where(rng.random((90, count)) < 0.2, NAN, (rng.random((90, count)) < 0.4).astype(float))
    known = ~np.isnan(labels)
    assert operating_points.micro("auroc", labels, p) == pytest.approx(sk.roc_auc_score(labels[known], p[known]))
    expected = sk.average_precision_score(labels[known], p[known])
    assert operating_points.micro("average_precision", labels, p) == pytest.approx(expected)


def test_micro_averages_of_a_resample_are_those_of_its_rows():
    rng = np.random.default_rng(0)
    y, p = rng.integers(3, size=40), rng.dirichlet(np.ones(3), 40)
    weights = bootstrap.bootstrap_weights(np.arange(40), operating_points.MICRO_BLOCK + 3)
    for name in operating_points.MICRO:
        rows = [np.repeat(np.arange(40), counts) for counts in weights]
        np.testing.assert_allclose(
            operating_points.micro(name, y, p, weights), [operating_points.micro(name, y[r], p[r]) for r in rows]
        )
    with pytest.raises(ValueError, match="no micro average"):
        operating_points.micro("brier", y, p)


def test_the_log_loss_is_scikit_learns():
    y, p = one_label(rows=40)
    assert operating_points.log_loss(*with_unknown(y, p)) == pytest.approx(sk.log_loss(y, p))
    weights = bootstrap.bootstrap_weights(np.arange(40), 5)
    expected = [sk.log_loss(y, p, sample_weight=counts) for counts in weights]
    np.testing.assert_allclose(operating_points.log_loss(y, p, weights), expected)
    assert operating_points.log_loss([1, 0], [0.0, 1.0]) == pytest.approx(-np.log(operating_points.SURE))


def test_local_recalibration_is_fitted_on_other_patients():
    rng = np.random.default_rng(2)
    z = rng.normal(size=3000)
    y, p, patients = (rng.random(3000) < expit(0.5 + 0.4 * z)).astype(float), expit(z), np.arange(3000) // 3
    y[:30] = NAN
    found = operating_points.cross_recalibrated(y, p, patients)
    apart = logit(found) - (0.5 + 0.4 * z)
    assert np.abs(apart).max() < 0.4  # said: z; true: 0.5 + 0.4 z; standard errors of intercept and slope 0.04
    assert operating_points.log_loss(y, found) < operating_points.log_loss(y, p)
    # each of the five fits gives one line of logit(p), alike for all rows of a patient; none of them is the fit to all rows
    slopes = np.diff(logit(found).reshape(-1, 3)) / np.diff(z.reshape(-1, 3))
    assert len(np.unique(np.round(slopes, 6))) == 5 and np.ptp(slopes, axis=1).max() < 1e-6
    whole = operating_points.recalibration(y, p)["slope"]
    assert np.abs(slopes - whole).min() > 1e-6
    # a patient's own labels do not touch its answer (one with both labels, who stays in the same fold when they are turned)
    mixed = next(k for k in range(10, 1000) if len(set(y[patients == k])) == 2)
    again = operating_points.cross_recalibrated(np.where(patients == mixed, 1 - y, y), p, patients)
    assert np.array_equal(again[patients == mixed], found[patients == mixed]) and not np.array_equal(again, found)
    with pytest.raises(ValueError, match="no finite calibration slope"):
        operating_points.cross_recalibrated([0.0] * 10 + [1.0] * 10, np.linspace(0.1, 0.9, 20), np.arange(20))


def test_a_diagram_of_a_resample_is_that_of_its_rows():
    y, p = with_unknown(*one_label(rows=40))
    weights = bootstrap.bootstrap_weights(np.arange(len(y)), 6)
    found = operating_points.reliability(y, p, weights=weights)
    for r, counts in enumerate(weights):
        rows = np.repeat(np.arange(len(y)), counts)
        for name, values in operating_points.reliability(y[rows], p[rows]).items():
            np.testing.assert_allclose(found[name][r], values)
