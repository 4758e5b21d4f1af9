"""Every metric against scikit-learn, torchmetrics, closed forms and slow obvious versions."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from scotoma import metrics

ROWS = 157
MULTILABEL_METRICS = [name for name in metrics.METRICS if name != "mcc"]


def categorical(classes: int, seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and probabilities with many ties (multiples of 1/12), related but imperfect."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    y[:classes] = np.arange(classes)
    p = np.array([rng.multinomial(12, np.where(np.arange(classes) == c, 2.0, 1.0) / (classes + 1)) for c in y]) / 12
    return y, p


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
@pytest.mark.parametrize("name", metrics.METRICS)
def test_categorical_equals_sklearn(name, classes):
    for seed in range(3):
        y, p = categorical(classes, seed)
        assert metrics.score(name, y, p) == pytest.approx(sklearn_categorical(name, y, p), abs=1e-12)


@pytest.mark.parametrize("name", MULTILABEL_METRICS)
def test_multilabel_equals_sklearn_on_each_labels_known_rows(name):
    y, p = multilabel()
    assert np.isnan(y).any(0).all()
    known = ~np.isnan(y)
    expected = [sklearn_label(name, y[known[:, k], k], p[known[:, k], k]) for k in range(y.shape[1])]
    assert metrics.score(name, y, p) == pytest.approx(np.mean(expected), abs=1e-12)
    if name in metrics.PER_CLASS_METRICS:
        np.testing.assert_allclose(metrics.per_class(name, y, p), expected, atol=1e-12)
        np.testing.assert_array_equal(metrics.score(name, y, p, average=None), metrics.per_class(name, y, p))


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
        assert metrics.score(name, y, p) == pytest.approx(float(value), abs=1e-6), name
    y, p = (values[:, :1] for values in multilabel(rows=400))
    known = ~np.isnan(y[:, 0])
    label, probability = torch.from_numpy(y[known, 0]).int(), torch.from_numpy(p[known, 0])
    assert metrics.score("ece", y, p) == pytest.approx(
        float(tm.binary_calibration_error(probability, label, n_bins=15)), abs=1e-6
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in metrics.METRICS for kind in (2, 4)]
    + [(name, "multilabel") for name in MULTILABEL_METRICS],
)
def test_weights_equal_repeated_rows(name, kind):
    y, p = multilabel() if kind == "multilabel" else categorical(kind)
    # Many weights 0, so that several blocks of ties and whole runs of scores are empty.
    weights = np.random.default_rng(1).poisson(0.6, size=(6, ROWS)).astype(np.uint16)
    values = metrics.score(name, y, p, weights)
    repeated = [metrics.score(name, np.repeat(y, w, axis=0), np.repeat(p, w, axis=0)) for w in weights]
    assert values.shape == (6,)
    np.testing.assert_allclose(values, repeated, atol=1e-12)
    if name in metrics.PER_CLASS_METRICS:
        each = [metrics.per_class(name, np.repeat(y, w, axis=0), np.repeat(p, w, axis=0)) for w in weights]
        np.testing.assert_allclose(metrics.per_class(name, y, p, weights), each, atol=1e-12)


def test_more_resamples_than_a_block_holds():
    y, p = categorical(3)
    weights = metrics.bootstrap_weights(np.arange(ROWS), resamples=2100)
    assert weights.size > 2 * metrics._BLOCK
    for name in metrics.METRICS:
        whole = metrics.score(name, y, p, weights)
        np.testing.assert_allclose(
            whole[[0, 900, 2099]], metrics.score(name, y, p, weights[[0, 900, 2099]]), atol=1e-12
        )


@pytest.mark.parametrize("function", [metrics.auroc, metrics.average_precision])
def test_row_order_and_monotone_transforms_do_not_matter(function):
    y, p = categorical(2)
    order = np.random.default_rng(0).permutation(ROWS)
    expected = function(y, p[:, 1])
    assert function(y[order], p[order, 1]) == pytest.approx(expected, abs=1e-12)
    assert function(y, np.exp(3 * p[:, 1])) == pytest.approx(expected, abs=1e-12)


def test_auroc_closed_forms():
    y = np.array([0, 1, 0, 1, 1])
    assert metrics.auroc(y, y) == 1.0
    assert metrics.auroc(y, 1 - y) == 0.0
    assert metrics.auroc(y, np.full(5, 0.3)) == 0.5
    assert metrics.auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert metrics.auroc([0, 1, np.nan], [0.1, 0.2, 0.15]) == 1.0
    assert math.isnan(metrics.auroc([1, 1], [0.1, 0.2]))
    assert math.isnan(metrics.auroc([0, 0], [0.1, 0.2]))


def test_average_precision_closed_forms():
    assert metrics.average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.average_precision([0, 1, 0, 0], np.zeros(4)) == 0.25  # all tied: the prevalence
    assert metrics.average_precision([1, 1], [0.1, 0.2]) == 1.0
    assert math.isnan(metrics.average_precision([0, 0], [0.1, 0.2]))


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(3)
    y, s = rng.integers(2, size=40), rng.integers(6, size=40)
    weights = rng.integers(4, size=(3, 40)).astype(np.uint16)
    for w, value in zip(weights, metrics.auroc(y, s, weights), strict=True):
        wins = pairs = 0.0
        for i in np.flatnonzero(y == 1):
            for j in np.flatnonzero(y == 0):
                wins += int(w[i]) * int(w[j]) * (1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
                pairs += int(w[i]) * int(w[j])
        assert value == pytest.approx(wins / pairs, abs=1e-14)


def test_auroc_with_weights_is_fast():
    rng = np.random.default_rng(0)
    y, s = rng.integers(2, size=1400), np.round(rng.normal(size=1400), 2)
    weights = metrics.bootstrap_weights(np.arange(1400))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        metrics.auroc(y, s, weights)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.04


def test_absent_class_is_nan_and_left_out_of_the_mean():
    y, p = categorical(4)
    p = np.column_stack([p, np.full(ROWS, 0.01)])
    for name in metrics.PER_CLASS_METRICS:
        values = metrics.per_class(name, y, p)
        assert np.isnan(values[4]) and np.isfinite(values[:4]).all()
        assert metrics.score(name, y, p) == pytest.approx(values[:4].mean(), abs=1e-12)
    # A resample without class 3 has the value of the other classes.
    weights = np.ones((2, ROWS), dtype=np.uint16)
    weights[1, y == 3] = 0
    values = metrics.per_class("auroc", y, p, weights)
    assert np.isnan(values[1, 3])
    assert metrics.score("auroc", y, p, weights)[1] == pytest.approx(np.nanmean(values[1]), abs=1e-12)


def test_multilabel_without_any_positive_or_known_row():
    y, p = multilabel(3)
    y[:, 1] = np.where(np.isnan(y[:, 1]), np.nan, 0.0)
    y[:, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.score("auroc", y, p) == metrics.auroc(y[:, 0], p[:, 0])
        assert np.isnan(metrics.per_class("specificity", y, p)[1:]).all()
        expected = np.nanmean((p - y)[:, :2] ** 2, axis=0).mean()
        assert metrics.score("brier", y, p) == pytest.approx(expected, abs=1e-12)


def test_ece_bins_hold_their_lower_edge():
    # 0.2 = 3/15 shares its bin with 0.25: |(1 - 0.2) + (0 - 0.25)| / 2; apart they would give (0.8 + 0.25) / 2.
    assert metrics.score("ece", np.array([[1.0], [0.0]]), np.array([[0.2], [0.25]])) == pytest.approx(0.275)
    assert metrics.score("ece", np.array([0, 1]), np.array([[1.0, 0.0], [0.05, 0.95]])) == pytest.approx(0.025)


def test_mcc_of_constant_decisions_is_zero():
    assert metrics.score("mcc", np.array([0, 1, 1]), np.tile([0.9, 0.1], (3, 1))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_probabilities_are_refused(bad):
    y, p = categorical(3)
    p[3, 1] = bad
    calls = [
        lambda: metrics.score("accuracy", y, p),
        lambda: metrics.per_class("auroc", y, p),
        lambda: metrics.evaluate(y, p, np.arange(ROWS)),
        lambda: metrics.paired_difference("auroc", y, [p], [p], np.arange(ROWS)),
        lambda: metrics.auroc(y == 1, p[:, 1]),
        lambda: metrics.average_precision(y == 1, p[:, 1]),
        lambda: metrics.roc_curve(y == 1, p[:, 1], [0.5]),
        lambda: metrics.confusion(y, p),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must be finite, but 1 of"):
            call()


def test_wrong_input_is_refused():
    y, p = categorical(3)
    labels, q = multilabel()
    for message, call in [
        ("unknown metric 'auc'", lambda: metrics.score("auc", y, p)),
        ("class ids 0..2", lambda: metrics.score("accuracy", y + 1, p)),
        ("class ids", lambda: metrics.score("accuracy", np.where(y == 1, np.nan, y), p)),
        ("same rows", lambda: metrics.score("accuracy", y[:-1], p)),
        ("same rows", lambda: metrics.score("accuracy", y[:0], p[:0])),
        ("two or more columns", lambda: metrics.score("accuracy", np.zeros(ROWS, int), p[:, :1])),
        ("1, 0 or NaN", lambda: metrics.score("accuracy", labels * 2, q)),
        ("shaped as p", lambda: metrics.score("accuracy", labels[:, :2], q)),
        ("class ids only", lambda: metrics.score("mcc", labels, q)),
        ("between 0 and 1", lambda: metrics.score("brier", y, p * 5)),
        ("no value per class", lambda: metrics.per_class("accuracy", y, p)),
        ("cover each of the", lambda: metrics.score("accuracy", y, p, np.ones((5, ROWS - 1)))),
        ("cover each of the", lambda: metrics.evaluate(y, p, np.arange(ROWS - 1))),
        ("missing", lambda: metrics.bootstrap_weights(["a", None])),
        ("missing", lambda: metrics.bootstrap_weights([1.0, math.nan])),
        ("one prediction set per label draw", lambda: metrics.paired_difference("auroc", y, [p], [p, p], y)),
        ("one prediction set per label draw, not 0", lambda: metrics.mean_over_draws("auroc", y, [], y)),
        ("class ids", lambda: metrics.confusion(labels, q)),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert metrics.score("auroc", y, p * 5) == metrics.score("auroc", y, p)  # ranking needs no probabilities


def test_bootstrap_draws_whole_groups():
    groups = np.array(["b", "a", "b", "c", "a", "b", "d"], dtype=object)
    weights = metrics.bootstrap_weights(groups, resamples=4000, seed=1)
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
    weights = metrics.bootstrap_weights(groups, 50, seed=3)
    np.testing.assert_array_equal(weights, metrics.bootstrap_weights(groups, 50, seed=3))
    np.testing.assert_array_equal(weights, metrics.bootstrap_weights(np.array([5, 4, 5, 9]), 50, seed=3))
    assert (weights != metrics.bootstrap_weights(groups, 50, seed=4)).any()


def test_interval():
    assert metrics.interval(np.arange(101.0), level=0.9) == pytest.approx((5.0, 95.0))
    assert metrics.interval([np.nan, 1.0, np.nan, 3.0], level=1.0) == (1.0, 3.0)
    assert all(math.isnan(end) for end in metrics.interval([np.nan, np.nan]))


def test_tied_copies_do_not_narrow_the_interval():
    y, p = categorical(2, rows=120)
    many_y, many_p = np.tile(y, 5), np.tile(p, (5, 1))

    def ends(rows):
        return np.array([[row["low"], row["high"]] for row in rows])

    names = ["auroc", "average_precision", "accuracy", "ece"]
    original = ends(metrics.evaluate(y, p, np.arange(120), names))
    tied = ends(metrics.evaluate(many_y, many_p, np.tile(np.arange(120), 5), names))
    loose = ends(metrics.evaluate(many_y, many_p, np.arange(600), names))
    np.testing.assert_allclose(tied, original, atol=1e-12)
    ratio = np.diff(loose[[0, -2]]) / np.diff(original[[0, -2]])  # auroc and accuracy: 1 / sqrt(5) = 0.447
    assert ((ratio > 0.38) & (ratio < 0.52)).all()


def test_interval_of_accuracy_is_the_binomial_one():
    y = np.zeros(400, dtype=int)
    p = np.tile([0.9, 0.1], (400, 1))
    p[:100] = [0.1, 0.9]
    (row,) = metrics.evaluate(y, p, np.arange(400), ["accuracy"], resamples=4000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert row["value"] == 0.75
    assert (row["low"], row["high"]) == pytest.approx((0.75 - half, 0.75 + half), abs=0.006)


def test_evaluate_rows():
    y, p = categorical(3)
    groups = np.arange(ROWS) // 2
    rows = metrics.evaluate(y, p, groups, resamples=50, seed=2)
    weights = metrics.bootstrap_weights(groups, 50, seed=2)
    assert [row["metric"] for row in rows if "class" not in row] == list(metrics.METRICS)
    classwise = {(row["metric"], row["class"]) for row in rows if "class" in row}
    assert classwise == {(m, k) for m in ("auroc", "average_precision", "sensitivity", "specificity") for k in range(3)}
    for row in rows:
        samples, value = metrics.score(row["metric"], y, p, weights), metrics.score(row["metric"], y, p)
        if "class" in row:
            samples = metrics.per_class(row["metric"], y, p, weights)[:, row["class"]]
            value = metrics.per_class(row["metric"], y, p)[row["class"]]
        assert row["value"] == pytest.approx(value, abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx(metrics.interval(samples), abs=1e-12)
        assert row["low"] <= row["high"]
        assert (row["n"], row["patients"]) == (ROWS, 79)


def test_evaluate_counts_known_rows_of_a_label():
    y = np.array([[1, 0], [0, np.nan], [1, 1], [np.nan, np.nan], [0, 0]])
    rows = metrics.evaluate(y, np.full((5, 2), 0.4), ["a", "a", "b", "c", "b"], resamples=20)
    assert {row["metric"] for row in rows} == set(MULTILABEL_METRICS)
    counts = {row.get("class"): (row["n"], row["patients"]) for row in rows if row["metric"] == "auroc"}
    assert counts == {None: (4, 2), 0: (4, 2), 1: (3, 2)}


def test_model_against_itself():
    y, p = categorical(3)
    draws = [p, categorical(3, seed=0)[1][:, [1, 0, 2]]]
    result = metrics.paired_difference("auroc", y, draws, draws, np.arange(ROWS) // 3)
    assert result == {"value": 0.0, "low": 0.0, "high": 0.0, "n": ROWS, "draws": 2, "p_value": 1.0}


@pytest.mark.parametrize("name", metrics.METRICS)
def test_paired_difference_is_antisymmetric(name):
    y, good = categorical(3)
    rng = np.random.default_rng(0)
    a = [good, good[:, [0, 2, 1]], np.roll(good, 1, axis=0)]
    b = [rng.dirichlet(np.ones(3), size=ROWS) for _ in a]
    groups = np.arange(ROWS) // 2
    forth, back = (metrics.paired_difference(name, y, *pair, groups, resamples=200) for pair in ((a, b), (b, a)))
    assert forth["value"] == pytest.approx(-back["value"], abs=1e-12)
    assert (forth["low"], forth["high"]) == pytest.approx((-back["high"], -back["low"]), abs=1e-12)
    assert forth["p_value"] == back["p_value"]
    expected = np.mean([metrics.score(name, y, i) - metrics.score(name, y, j) for i, j in zip(a, b, strict=True)])
    assert forth["value"] == pytest.approx(expected, abs=1e-12)


def test_paired_difference_with_one_draw_is_the_plain_paired_bootstrap():
    y, p = categorical(2)
    worse = np.random.default_rng(5).dirichlet(np.ones(2), size=ROWS)
    groups = np.arange(ROWS) // 2
    result = metrics.paired_difference("auroc", y, [p], [worse], groups, resamples=300, seed=4)
    differences = []
    for w in metrics.bootstrap_weights(groups, 300, seed=4):
        rows = np.repeat(np.arange(ROWS), w)
        differences.append(sk.roc_auc_score(y[rows], p[rows, 1]) - sk.roc_auc_score(y[rows], worse[rows, 1]))
    low, high = np.percentile(differences, [2.5, 97.5])
    assert (result["low"], result["high"]) == pytest.approx((low, high), abs=1e-12)
    assert result["p_value"] == pytest.approx(max(1 / 300, 2 * np.mean(np.array(differences) <= 0)))


def test_pairing_removes_what_both_models_share():
    rng = np.random.default_rng(2)
    y = rng.integers(2, size=300)
    base = y + rng.normal(scale=1.2, size=300)
    a, b = (np.column_stack([1 - s, s]) for s in (1 / (1 + np.exp(-base - d)) for d in rng.normal(0, 0.1, (2, 300))))
    paired = metrics.paired_difference("auroc", y, [a], [b], np.arange(300))
    alone = metrics.mean_over_draws("auroc", y, [a], np.arange(300))
    assert paired["high"] - paired["low"] < 0.5 * (alone["high"] - alone["low"])


def test_draws_are_the_second_level():
    # Accuracy is 1 or 0 for any patients, so only the label draws vary: of 4 draws with replacement from
    # {1, 1, 1, 0} a share of 0 has probability 1/256, of at most 1/4 13/256, around the 2.5 % of the lower end.
    y = np.zeros(30, dtype=int)
    right, wrong = np.tile([0.9, 0.1], (30, 1)), np.tile([0.1, 0.9], (30, 1))
    draws = [right, right, right, wrong]
    result = metrics.mean_over_draws("accuracy", y, draws, np.arange(30), resamples=4000)
    assert result == {"value": 0.75, "low": 0.25, "high": 1.0, "n": 30, "draws": 4}
    paired = metrics.paired_difference("accuracy", y, draws, [wrong] * 4, np.arange(30), resamples=20000)
    assert (paired["value"], paired["low"], paired["high"]) == (0.75, 0.25, 1.0)
    assert paired["p_value"] == pytest.approx(2 / 256, abs=0.0025)
    # Draws in which both models go wrong together leave no difference to resample.
    together = metrics.paired_difference("accuracy", y, draws, draws, np.arange(30))
    assert (together["low"], together["high"]) == (0.0, 0.0)


def test_p_value_of_a_clear_difference_is_the_smallest_there_is():
    y = np.arange(60) % 2
    right = np.eye(2)[y]
    result = metrics.paired_difference("auroc", y, [right], [1 - right], np.arange(60), resamples=500)
    assert (result["value"], result["low"], result["high"], result["p_value"]) == (1.0, 1.0, 1.0, 1 / 500)


def test_roc_curve_is_the_exact_roc():
    y, p = categorical(2)
    fpr, tpr, _ = sk.roc_curve(y, p[:, 1], drop_intermediate=False)
    last = np.append(np.diff(fpr) > 0, True)
    np.testing.assert_allclose(metrics.roc_curve(y, p[:, 1], fpr[last]), tpr[last], atol=1e-12)
    middle = (fpr[1:] + fpr[:-1]) / 2
    rising = np.diff(fpr) > 0
    np.testing.assert_allclose(
        metrics.roc_curve(y, p[:, 1], middle[rising]), ((tpr[1:] + tpr[:-1]) / 2)[rising], atol=1e-12
    )
    grid = np.linspace(0, 1, 20001)
    area = np.trapezoid(metrics.roc_curve(y, p[:, 1], grid), grid)
    assert area == pytest.approx(metrics.auroc(y, p[:, 1]), abs=1e-4)


def test_roc_curve_closed_forms():
    grid = [0.0, 0.25, 1.0]
    np.testing.assert_array_equal(metrics.roc_curve([0, 0, 1, 1], [1, 2, 3, 4], grid), [1, 1, 1])
    np.testing.assert_array_equal(metrics.roc_curve([1, 1, 0, 0], [1, 2, 3, 4], grid), [0, 0, 1])
    np.testing.assert_array_equal(metrics.roc_curve([0, 1, np.nan], [1, 1, 5], grid), grid)
    assert np.isnan(metrics.roc_curve([1, 1], [0.1, 0.2], grid)).all()


def test_confusion_equals_sklearn():
    y, p = categorical(4)
    np.testing.assert_array_equal(metrics.confusion(y, p), sk.confusion_matrix(y, p.argmax(1)))
    assert metrics.confusion(np.array([0, 0]), np.array([[0.1, 0.9], [0.8, 0.2]])).tolist() == [[1, 1], [0, 0]]


def test_holm():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 raised to its predecessor's 0.06.
    np.testing.assert_allclose(metrics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(metrics.holm([0.6, np.nan, 0.7]), [1.0, np.nan, 1.0])
    assert metrics.holm([]).shape == (0,)


def test_coverage_of_the_auroc_interval():
    # 400 data sets of 200 rows, binormal with d' = 1: AUROC = Phi(1 / sqrt 2) = 0.7602. The share of intervals that
    # hold it has a standard error of 1.1 %.
    truth = 0.5 * (1 + math.erf(0.5))
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    weights = metrics.bootstrap_weights(np.arange(200), resamples=500)
    held = 0
    for _ in range(400):
        low, high = metrics.interval(metrics.auroc(y, rng.normal(size=200) + y, weights))
        held += low <= truth <= high
    assert 0.92 <= held / 400 <= 0.975
