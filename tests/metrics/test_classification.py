"""Every metric against scikit-learn, torchmetrics, closed forms and slow obvious versions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from helpers.labels import ROWS, auroc, average_precision, categorical, per_class
from sklearn import metrics as sk

from scotoma.metrics import bootstrap, classification

MULTILABEL_METRICS = [name for name in classification.METRICS if name != "mcc"]


def multilabel(labels: int = 4, seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """1 / 0 / NaN targets and tied probabilities; never exactly 0.5, where conventions differ."""
    rng = np.random.default_rng(seed)
    y = (rng.random((rows, labels)) < 0.4).astype(float)
    p = (np.clip(np.round((y * 0.3 + rng.random((rows, labels)) * 0.7) * 10), 0, 9) + 0.25) / 10
    y[rng.random((rows, labels)) < 0.2] = np.nan
    return y, p


def slow_ece(confidence: np.ndarray, outcome: np.ndarray) -> float:
    total = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & ((confidence < (b + 1) / 15) | ((b == 14) & (confidence == 1)))
        if inside.any():
            total += inside.mean() * abs(outcome[inside].mean() - confidence[inside].mean())
    return total


def sklearn_label(name: str, y: np.ndarray, p: np.ndarray) -> float:
    """One label's value, all rows known, from scikit-learn."""
    decision = (p > 0.5).astype(int)
    return {
        "auroc": lambda: sk.roc_auc_score(y, p),
        "average_precision": lambda: sk.average_precision_score(y, p),
        "accuracy": lambda: sk.accuracy_score(y, decision),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(y, decision),
        "f1": lambda: sk.f1_score(y, decision),
        "brier": lambda: sk.brier_score_loss(y, p),
        "ece": lambda: slow_ece(p, y),
        "sensitivity": lambda: sk.recall_score(y, decision),
        "specificity": lambda: sk.recall_score(y, decision, pos_label=0),
    }[name]()


def sklearn_categorical(name: str, y: np.ndarray, p: np.ndarray) -> float:
    classes = range(p.shape[1])
    binary, decision = len(classes) == 2, p.argmax(1)
    one_hot, decided = y[:, None] == np.array(classes), decision[:, None] == np.array(classes)
    columns = [1] if binary else list(classes)
    return {
        "auroc": lambda: sk.roc_auc_score(y, p[:, 1]) if binary else sk.roc_auc_score(y, p, multi_class="ovr"),
        "average_precision": lambda: np.mean([sk.average_precision_score(one_hot[:, k], p[:, k]) for k in columns]),
        "accuracy": lambda: sk.accuracy_score(y, decision),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(y, decision),
        "f1": lambda: sk.f1_score(y, decision, average="macro"),
        "mcc": lambda: sk.matthews_corrcoef(y, decision),
        "brier": lambda: sk.brier_score_loss(y, p[:, 1]) if binary else ((p - one_hot) ** 2).sum(1).mean(),
        "ece": lambda: slow_ece(p.max(1), (decision == y).astype(float)),
        "sensitivity": lambda: np.mean([sk.recall_score(one_hot[:, k], decided[:, k]) for k in columns]),
        "specificity": lambda: np.mean([sk.recall_score(~one_hot[:, k], ~decided[:, k]) for k in columns]),
    }[name]()


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", classification.METRICS)
def test_categorical_equals_sklearn(name, classes):
    for seed in range(3):
        y, p = categorical(classes, seed)
        assert classification.score(name, y, p) == pytest.approx(sklearn_categorical(name, y, p), abs=1e-12)


@pytest.mark.parametrize("name", MULTILABEL_METRICS)
def test_multilabel_equals_sklearn_on_each_labels_known_rows(name):
    y, p = multilabel()
    assert np.isnan(y).any(0).all()
    known = ~np.isnan(y)
    expected = [sklearn_label(name, y[known[:, k], k], p[known[:, k], k]) for k in range(y.shape[1])]
    assert classification.score(name, y, p) == pytest.approx(np.mean(expected), abs=1e-12)
    if name in classification.PER_CLASS_METRICS:
        np.testing.assert_allclose(per_class(name, y, p), expected, atol=1e-12)


def test_torchmetrics_agrees():
    import torch
    from torchmetrics.functional import classification as tm

    y, p = categorical(3, rows=400)
    p = (p + 0.01) / 1.03  # no probability of exactly 1, which torchmetrics gives a sixteenth bin
    t, q = torch.from_numpy(y), torch.from_numpy(p)
    expected = {
        "auroc": tm.multiclass_auroc(q, t, 3),
        "average_precision": tm.multiclass_average_precision(q, t, 3),
        "ece": tm.multiclass_calibration_error(q, t, 3, n_bins=15),
        "mcc": tm.multiclass_matthews_corrcoef(q, t, 3),
        "specificity": tm.multiclass_specificity(q, t, 3),
    }
    for name, value in expected.items():
        assert classification.score(name, y, p) == pytest.approx(float(value), abs=1e-6), name
    y, p = (values[:, :1] for values in multilabel(rows=400))
    known = ~np.isnan(y[:, 0])
    label, probability = torch.from_numpy(y[known, 0]).int(), torch.from_numpy(p[known, 0])
    assert classification.score("ece", y, p) == pytest.approx(
        float(tm.binary_calibration_error(probability, label, n_bins=15)), abs=1e-6
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in classification.METRICS for kind in (2, 4)] + [(name, "multilabel") for name in MULTILABEL_METRICS],
)
def test_weights_equal_repeated_rows(name, kind):
    y, p = multilabel() if kind == "multilabel" else categorical(kind)
    # Many weights 0, so that several blocks of ties and whole runs of scores are empty.
    weights = np.random.default_rng(1).poisson(0.6, size=(6, ROWS)).astype(np.uint16)
    values = classification.score(name, y, p, weights)
    repeated = [classification.score(name, np.repeat(y, w, axis=0), np.repeat(p, w, axis=0)) for w in weights]
    assert values.shape == (6,)
    np.testing.assert_allclose(values, repeated, atol=1e-12)
    if name in classification.PER_CLASS_METRICS:
        each = [per_class(name, np.repeat(y, w, axis=0), np.repeat(p, w, axis=0)) for w in weights]
        np.testing.assert_allclose(per_class(name, y, p, weights), each, atol=1e-12)


def test_more_resamples_than_a_block_holds():
    y, p = categorical(3)
    weights = bootstrap.bootstrap_weights(np.arange(ROWS), resamples=2100)
    assert weights.size > 2 * classification._BLOCK
    for name in classification.METRICS:
        whole = classification.score(name, y, p, weights)
        np.testing.assert_allclose(whole[[0, 900, 2099]], classification.score(name, y, p, weights[[0, 900, 2099]]), atol=1e-12)


@pytest.mark.parametrize("function", [auroc, average_precision])
def test_row_order_and_monotone_transforms_do_not_matter(function):
    y, p = categorical(2)
    order = np.random.default_rng(0).permutation(ROWS)
    expected = function(y, p[:, 1])
    assert function(y[order], p[order, 1]) == pytest.approx(expected, abs=1e-12)
    assert function(y, np.exp(3 * p[:, 1])) == pytest.approx(expected, abs=1e-12)


def test_auroc_closed_forms():
    y = np.array([0, 1, 0, 1, 1])
    assert auroc(y, y) == 1.0
    assert auroc(y, 1 - y) == 0.0
    assert auroc(y, np.full(5, 0.3)) == 0.5
    assert auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert auroc([0, 1, np.nan], [0.1, 0.2, 0.15]) == 1.0
    assert math.isnan(auroc([1, 1], [0.1, 0.2]))
    assert math.isnan(auroc([0, 0], [0.1, 0.2]))


def test_average_precision_closed_forms():
    assert average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([0, 1, 0, 0], np.zeros(4)) == 0.25  # all tied: the prevalence
    assert average_precision([1, 1], [0.1, 0.2]) == 1.0
    assert math.isnan(average_precision([0, 0], [0.1, 0.2]))


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(3)
    y, s = rng.integers(2, size=40), rng.integers(6, size=40)
    weights = rng.integers(4, size=(3, 40)).astype(np.uint16)
    for w, value in zip(weights, auroc(y, s, weights), strict=True):
        wins = pairs = 0.0
        for i in np.flatnonzero(y == 1):
            for j in np.flatnonzero(y == 0):
                wins += int(w[i]) * int(w[j]) * (1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
                pairs += int(w[i]) * int(w[j])
        assert value == pytest.approx(wins / pairs, abs=1e-14)


def test_absent_class_is_nan_and_left_out_of_the_mean():
    y, p = categorical(4)
    p = np.column_stack([p, np.full(ROWS, 0.01)])
    for name in classification.PER_CLASS_METRICS:
        values = per_class(name, y, p)
        assert np.isnan(values[4]) and np.isfinite(values[:4]).all()
        assert classification.score(name, y, p) == pytest.approx(values[:4].mean(), abs=1e-12)
    # A resample without class 3 has the value of the other classes.
    weights = np.ones((2, ROWS), dtype=np.uint16)
    weights[1, y == 3] = 0
    values = per_class("auroc", y, p, weights)
    assert np.isnan(values[1, 3])
    assert classification.score("auroc", y, p, weights)[1] == pytest.approx(np.nanmean(values[1]), abs=1e-12)


def test_multilabel_without_any_positive_or_known_row():
    y, p = multilabel(3)
    y[:, 1] = np.where(np.isnan(y[:, 1]), np.nan, 0.0)
    y[:, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert classification.score("auroc", y, p) == auroc(y[:, 0], p[:, 0])
        assert np.isnan(per_class("specificity", y, p)[1:]).all()
        expected = np.nanmean((p - y)[:, :2] ** 2, axis=0).mean()
        assert classification.score("brier", y, p) == pytest.approx(expected, abs=1e-12)


def test_ece_bins_hold_their_lower_edge():
    # 0.2 = 3/15 shares its bin with 0.25: |(1 - 0.2) + (0 - 0.25)| / 2; apart they would give (0.8 + 0.25) / 2.
    assert classification.score("ece", np.array([[1.0], [0.0]]), np.array([[0.2], [0.25]])) == pytest.approx(0.275)
    assert classification.score("ece", np.array([0, 1]), np.array([[1.0, 0.0], [0.05, 0.95]])) == pytest.approx(0.025)


def test_mcc_of_constant_decisions_is_zero():
    assert classification.score("mcc", np.array([0, 1, 1]), np.tile([0.9, 0.1], (3, 1))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_probabilities_are_refused(bad):
    y, p = categorical(3)
    p[3, 1] = bad
    calls = [
        lambda: classification.score("accuracy", y, p),
        lambda: per_class("auroc", y, p),
        lambda: auroc(y == 1, p[:, 1]),
        lambda: average_precision(y == 1, p[:, 1]),
        lambda: classification.roc_curve(y == 1, p[:, 1], [0.5]),
        lambda: classification.confusion(y, p),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must be finite, but 1 of"):
            call()


def test_wrong_input_is_refused():
    y, p = categorical(3)
    labels, q = multilabel()
    for message, call in [
        ("unknown metric 'auc'", lambda: classification.score("auc", y, p)),
        ("class ids 0..2", lambda: classification.score("accuracy", y + 1, p)),
        ("class ids", lambda: classification.score("accuracy", np.where(y == 1, np.nan, y), p)),
        ("same rows", lambda: classification.score("accuracy", y[:-1], p)),
        ("same rows", lambda: classification.score("accuracy", y[:0], p[:0])),
        ("two or more columns", lambda: classification.score("accuracy", np.zeros(ROWS, int), p[:, :1])),
        ("1, 0 or NaN", lambda: classification.score("accuracy", labels * 2, q)),
        ("shaped as p", lambda: classification.score("accuracy", labels[:, :2], q)),
        ("class ids only", lambda: classification.score("mcc", labels, q)),
        ("between 0 and 1", lambda: classification.score("brier", y, p * 5)),
        ("cover each of the", lambda: classification.score("accuracy", y, p, np.ones((5, ROWS - 1)))),
        ("class ids", lambda: classification.confusion(labels, q)),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert classification.score("auroc", y, p * 5) == classification.score("auroc", y, p)  # ranking needs no probabilities


def test_roc_curve_is_the_exact_roc():
    y, p = categorical(2)
    fpr, tpr, _ = sk.roc_curve(y, p[:, 1], drop_intermediate=False)
    last = np.append(np.diff(fpr) > 0, True)
    np.testing.assert_allclose(classification.roc_curve(y, p[:, 1], fpr[last]), tpr[last], atol=1e-12)
    middle = (fpr[1:] + fpr[:-1]) / 2
    rising = np.diff(fpr) > 0
    np.testing.assert_allclose(classification.roc_curve(y, p[:, 1], middle[rising]), ((tpr[1:] + tpr[:-1]) / 2)[rising], atol=1e-12)
    grid = np.linspace(0, 1, 20001)
    area = np.trapezoid(classification.roc_curve(y, p[:, 1], grid), grid)
    assert area == pytest.approx(auroc(y, p[:, 1]), abs=1e-4)


def test_roc_curve_closed_forms():
    grid = [0.0, 0.25, 1.0]
    np.testing.assert_array_equal(classification.roc_curve([0, 0, 1, 1], [1, 2, 3, 4], grid), [1, 1, 1])
    np.testing.assert_array_equal(classification.roc_curve([1, 1, 0, 0], [1, 2, 3, 4], grid), [0, 0, 1])
    np.testing.assert_array_equal(classification.roc_curve([0, 1, np.nan], [1, 1, 5], grid), grid)
    assert np.isnan(classification.roc_curve([1, 1], [0.1, 0.2], grid)).all()


def test_confusion_equals_sklearn():
    y, p = categorical(4)
    np.testing.assert_array_equal(classification.confusion(y, p), sk.confusion_matrix(y, p.argmax(1)))
    assert classification.confusion(np.array([0, 0]), np.array([[0.1, 0.9], [0.8, 0.2]])).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("count", [2, 4])
def test_micro_averages_equal_scikit_learns(count):
    rng = np.random.default_rng(0)
    y, p = rng.integers(count, size=90), np.round(rng.dirichlet(np.ones(count), 90), 2)
    one_hot = np.eye(count)[y]
    assert classification.micro("auroc", y, p) == pytest.approx(sk.roc_auc_score(one_hot, p, average="micro"))
    assert classification.micro("average_precision", y, p) == pytest.approx(sk.average_precision_score(one_hot, p, average="micro"))
    labels = np.where(rng.random((90, count)) < 0.2, np.nan, (rng.random((90, count)) < 0.4).astype(float))
    known = ~np.isnan(labels)
    assert classification.micro("auroc", labels, p) == pytest.approx(sk.roc_auc_score(labels[known], p[known]))
    expected = sk.average_precision_score(labels[known], p[known])
    assert classification.micro("average_precision", labels, p) == pytest.approx(expected)


def test_micro_averages_of_a_resample_are_those_of_its_rows():
    rng = np.random.default_rng(0)
    y, p = rng.integers(3, size=40), rng.dirichlet(np.ones(3), 40)
    weights = bootstrap.bootstrap_weights(np.arange(40), classification.MICRO_BLOCK + 3)
    for name in classification.MICRO:
        rows = [np.repeat(np.arange(40), counts) for counts in weights]
        np.testing.assert_allclose(
            classification.micro(name, y, p, weights), [classification.micro(name, y[r], p[r]) for r in rows]
        )
    with pytest.raises(ValueError, match="no micro average"):
        classification.micro("brier", y, p)
