"""Bootstraps, intervals and paired comparisons against closed forms, slow obvious versions and simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.labels import auroc, per_class
from sklearn import metrics as sk

from scotoma.metrics import bootstrap, classification

ROWS = 157


def categorical(classes: int, seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and probabilities with many ties (multiples of 1/12), related but imperfect."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    y[:classes] = np.arange(classes)
    p = np.array([rng.multinomial(12, np.where(np.arange(classes) == c, 2.0, 1.0) / (classes + 1)) for c in y]) / 12
    return y, p


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


def test_interval():
    assert bootstrap.interval(np.arange(101.0), level=0.9) == pytest.approx((5.0, 95.0))
    assert bootstrap.interval([np.nan, 1.0, np.nan, 3.0], level=1.0) == (1.0, 3.0)
    assert all(math.isnan(end) for end in bootstrap.interval([np.nan, np.nan]))


def test_tied_copies_do_not_narrow_the_interval():
    y, p = categorical(2, rows=120)
    many_y, many_p = np.tile(y, 5), np.tile(p, (5, 1))

    def ends(rows):
        return np.array([[row["low"], row["high"]] for row in rows])

    names = ["auroc", "average_precision", "accuracy", "ece"]
    original = ends(bootstrap.evaluate(y, p, np.arange(120), names))
    tied = ends(bootstrap.evaluate(many_y, many_p, np.tile(np.arange(120), 5), names))
    loose = ends(bootstrap.evaluate(many_y, many_p, np.arange(600), names))
    np.testing.assert_allclose(tied, original, atol=1e-12)
    ratio = np.diff(loose[[0, -2]]) / np.diff(original[[0, -2]])  # auroc and accuracy: 1 / sqrt(5) = 0.447
    assert ((ratio > 0.38) & (ratio < 0.52)).all()


def test_interval_of_accuracy_is_the_binomial_one():
    y = np.zeros(400, dtype=int)
    p = np.tile([0.9, 0.1], (400, 1))
    p[:100] = [0.1, 0.9]
    (row,) = bootstrap.evaluate(y, p, np.arange(400), ["accuracy"], resamples=4000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert row["value"] == 0.75
    assert (row["low"], row["high"]) == pytest.approx((0.75 - half, 0.75 + half), abs=0.006)


def test_evaluate_rows():
    y, p = categorical(3)
    groups = np.arange(ROWS) // 2
    rows = bootstrap.evaluate(y, p, groups, resamples=50, seed=2)
    weights = bootstrap.bootstrap_weights(groups, 50, seed=2)
    assert [row["metric"] for row in rows if "class" not in row] == list(classification.METRICS)
    classwise = {(row["metric"], row["class"]) for row in rows if "class" in row}
    assert classwise == {(m, k) for m in ("auroc", "average_precision", "sensitivity", "specificity") for k in range(3)}
    for row in rows:
        samples, value = classification.score(row["metric"], y, p, weights), classification.score(row["metric"], y, p)
        if "class" in row:
            samples = per_class(row["metric"], y, p, weights)[:, row["class"]]
            value = per_class(row["metric"], y, p)[row["class"]]
        assert row["value"] == pytest.approx(value, abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx(bootstrap.interval(samples), abs=1e-12)
        assert row["low"] <= row["high"]
        assert (row["n"], row["patients"]) == (ROWS, 79)


def test_evaluate_counts_known_rows_of_a_label():
    y = np.array([[1, 0], [0, np.nan], [1, 1], [np.nan, np.nan], [0, 0]])
    rows = bootstrap.evaluate(y, np.full((5, 2), 0.4), ["a", "a", "b", "c", "b"], resamples=20)
    assert {row["metric"] for row in rows} == set(classification.METRICS) - {"mcc"}
    counts = {row.get("class"): (row["n"], row["patients"]) for row in rows if row["metric"] == "auroc"}
    assert counts == {None: (4, 2), 0: (4, 2), 1: (3, 2)}


def test_wrong_input_is_refused():
    y, p = categorical(3)
    broken = p.copy()
    broken[3, 1] = np.nan
    for message, call in [
        ("must be finite, but 1 of", lambda: bootstrap.evaluate(y, broken, np.arange(ROWS))),
        ("must be finite, but 1 of", lambda: bootstrap.paired_difference("auroc", y, [broken], [broken], np.arange(ROWS))),
        ("cover each of the", lambda: bootstrap.evaluate(y, p, np.arange(ROWS - 1))),
        ("missing", lambda: bootstrap.bootstrap_weights(["a", None])),
        ("missing", lambda: bootstrap.bootstrap_weights([1.0, math.nan])),
        ("one prediction set per label draw", lambda: bootstrap.paired_difference("auroc", y, [p], [p, p], y)),
        ("one prediction set per label draw, not 0", lambda: bootstrap.mean_over_draws("auroc", y, [], y)),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_model_against_itself():
    y, p = categorical(3)
    draws = [p, categorical(3, seed=0)[1][:, [1, 0, 2]]]
    result = bootstrap.paired_difference("auroc", y, draws, draws, np.arange(ROWS) // 3)
    assert result == {"value": 0.0, "low": 0.0, "high": 0.0, "n": ROWS, "draws": 2, "p_value": 1.0}


@pytest.mark.parametrize("name", classification.METRICS)
def test_paired_difference_is_antisymmetric(name):
    y, good = categorical(3)
    rng = np.random.default_rng(0)
    a = [good, good[:, [0, 2, 1]], np.roll(good, 1, axis=0)]
    b = [rng.dirichlet(np.ones(3), size=ROWS) for _ in a]
    groups = np.arange(ROWS) // 2
    forth, back = (bootstrap.paired_difference(name, y, *pair, groups, resamples=200) for pair in ((a, b), (b, a)))
    assert forth["value"] == pytest.approx(-back["value"], abs=1e-12)
    assert (forth["low"], forth["high"]) == pytest.approx((-back["high"], -back["low"]), abs=1e-12)
    assert forth["p_value"] == back["p_value"]
    expected = np.mean([classification.score(name, y, i) - classification.score(name, y, j) for i, j in zip(a, b, strict=True)])
    assert forth["value"] == pytest.approx(expected, abs=1e-12)


def test_paired_difference_with_one_draw_is_the_plain_paired_bootstrap():
    y, p = categorical(2)
    worse = np.random.default_rng(5).dirichlet(np.ones(2), size=ROWS)
    groups = np.arange(ROWS) // 2
    result = bootstrap.paired_difference("auroc", y, [p], [worse], groups, resamples=300, seed=4)
    differences = []
    for w in bootstrap.bootstrap_weights(groups, 300, seed=4):
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
    paired = bootstrap.paired_difference("auroc", y, [a], [b], np.arange(300))
    alone = bootstrap.mean_over_draws("auroc", y, [a], np.arange(300))
    assert paired["high"] - paired["low"] < 0.5 * (alone["high"] - alone["low"])


def test_draws_are_the_second_level():
    # Accuracy is 1 or 0 for any patients, so only the label draws vary: of 4 draws with replacement from
    # {1, 1, 1, 0} a share of 0 has probability 1/256, of at most 1/4 13/256, around the 2.5 % of the lower end.
    y = np.zeros(30, dtype=int)
    right, wrong = np.tile([0.9, 0.1], (30, 1)), np.tile([0.1, 0.9], (30, 1))
    draws = [right, right, right, wrong]
    result = bootstrap.mean_over_draws("accuracy", y, draws, np.arange(30), resamples=4000)
    assert result == {"value": 0.75, "low": 0.25, "high": 1.0, "n": 30, "draws": 4}
    paired = bootstrap.paired_difference("accuracy", y, draws, [wrong] * 4, np.arange(30), resamples=20000)
    assert (paired["value"], paired["low"], paired["high"]) == (0.75, 0.25, 1.0)
    assert paired["p_value"] == pytest.approx(2 / 256, abs=0.0025)
    # Draws in which both models go wrong together leave no difference to resample.
    together = bootstrap.paired_difference("accuracy", y, draws, draws, np.arange(30))
    assert (together["low"], together["high"]) == (0.0, 0.0)


def test_p_value_of_a_clear_difference_is_the_smallest_there_is():
    y = np.arange(60) % 2
    right = np.eye(2)[y]
    result = bootstrap.paired_difference("auroc", y, [right], [1 - right], np.arange(60), resamples=500)
    assert (result["value"], result["low"], result["high"], result["p_value"]) == (1.0, 1.0, 1.0, 1 / 500)


def test_holm():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 raised to its predecessor's 0.06.
    np.testing.assert_allclose(bootstrap.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(bootstrap.holm([0.6, np.nan, 0.7]), [1.0, np.nan, 1.0])
    assert bootstrap.holm([]).shape == (0,)


def test_coverage_of_the_auroc_interval():
    # 400 data sets of 200 rows, binormal with d' = 1: AUROC = Phi(1 / sqrt 2) = 0.7602. The share of intervals that
    # hold it has a standard error of 1.1 %.
    truth = 0.5 * (1 + math.erf(0.5))
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    weights = bootstrap.bootstrap_weights(np.arange(200), resamples=500)
    held = 0
    for _ in range(400):
        low, high = bootstrap.interval(auroc(y, rng.normal(size=200) + y, weights))
        held += low <= truth <= high
    assert 0.92 <= held / 400 <= 0.975


def test_groups_are_numbered_by_first_appearance():
    names, codes = bootstrap.number_groups(["b", ("a", 1), "b", 7])
    assert names == ["b", ("a", 1), 7] and codes.tolist() == [0, 1, 0, 2]
    names, codes = bootstrap.number_groups(np.array([5, 4, 5]))
    assert names == [5, 4] and codes.tolist() == [0, 1, 0]


@pytest.mark.long
def test_coverage_of_intervals_over_patients():
    """Of 300 made studies the share whose 95 % interval holds the truth is 95 %, with a standard error of 1.3 %.

    200 patients, 30 % of them positive, with two images each, alike in four fifths of their variance; binormal with d' = 1.
    """
    truth = 0.5 * (1 + math.erf(0.5))
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(200), 2)
    held = {"over patients": 0, "evaluated": 0, "over images": 0}
    for _ in range(300):
        y = (rng.random(200) < 0.3).astype(int)[patients]
        score = y + math.sqrt(0.8) * rng.normal(size=200)[patients] + math.sqrt(0.2) * rng.normal(size=400)
        p = np.column_stack([-score, score])
        found = {
            "over patients": bootstrap.mean_over_draws("auroc", y, [p], patients, resamples=300),
            "evaluated": bootstrap.evaluate(y, p, patients, ["auroc"], resamples=300)[0],
            "over images": bootstrap.mean_over_draws("auroc", y, [p], np.arange(400), resamples=300),
        }
        for name, row in found.items():
            held[name] += row["low"] <= truth <= row["high"]
    assert held["over patients"] / 300 == pytest.approx(0.95, abs=0.03)
    assert held["evaluated"] / 300 == pytest.approx(0.95, abs=0.03)
    assert held["over images"] / 300 < 0.9  # what the groups are for


def test_numbers_of_images_are_averaged_and_compared_as_metrics_are() -> None:
    rng = np.random.default_rng(0)
    groups, a, b = np.repeat(np.arange(15), 2), rng.random((3, 30)), rng.random((3, 30))
    a[0, 4] = np.nan  # nothing to find in it
    weights = bootstrap.bootstrap_weights(groups)
    slow = [np.nansum(a[0] * w) / w[~np.isnan(a[0])].sum() for w in weights.astype(float)]
    np.testing.assert_allclose(bootstrap.image_means(a[0], weights), slow)
    assert np.isnan(bootstrap.image_means(np.full(30, np.nan), weights[:1]))
    one = bootstrap.mean_over_draws(None, groups, [a[0]], groups)
    assert one["value"] == pytest.approx(np.nanmean(a[0]))
    assert (one["low"], one["high"]) == pytest.approx(bootstrap.interval(slow))
    both = bootstrap.paired_difference(None, groups, list(a), list(b), groups)
    assert both["value"] == pytest.approx(np.nanmean(a, 1).mean() - b.mean()) and both["draws"] == 3
    same = bootstrap.paired_difference(None, groups, list(a), list(a), groups)
    assert (same["value"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)


def test_one_group_gives_no_interval_and_no_p() -> None:
    rng = np.random.default_rng(3)
    y, p, q = np.arange(24) % 2, *(rng.dirichlet((1, 1), 24) for _ in range(2))
    for groups, some in ((np.full(24, 5), False), (np.arange(24) // 12, True)):
        rows = bootstrap.evaluate(y, p, groups)
        assert {r["metric"]: r["value"] for r in rows if "class" not in r}["auroc"] == pytest.approx(sk.roc_auc_score(y, p[:, 1]))
        draws = bootstrap.mean_over_draws("auroc", y, [p, q], groups)
        difference = bootstrap.paired_difference("auroc", y, [p], [q], groups)
        assert difference["value"] == pytest.approx(sk.roc_auc_score(y, p[:, 1]) - sk.roc_auc_score(y, q[:, 1]))
        for row in (*rows, draws, difference):
            assert np.isfinite([row["low"], row["high"]]).all() == some
        assert np.isfinite(difference["p_value"]) == some
    regions = np.where(np.arange(24) < 6, rng.random(24), np.nan)  # of four groups one alone has a value
    found = bootstrap.mean_over_draws(None, np.zeros(24), [regions[:, None]], np.arange(24) // 6)
    assert found["value"] == pytest.approx(np.nanmean(regions)) and np.isnan([found["low"], found["high"]]).all()
    assert (
        np.isnan(bootstrap.estimate([1.0, 0.5, 0.7], ["a", "a"])["low"])
        and bootstrap.estimate([1.0, 0.5, 0.7], ["a", "b"])["low"] == 0.505
    )


def test_few_groups_are_said() -> None:
    assert bootstrap.caution(1, "patient", "patients") == "all test images are of one patient, which gives no interval"
    assert bootstrap.caution(4, "study", "studies") == "intervals over 4 studies are unreliable, mostly too narrow"
    assert bootstrap.caution(10, "patient", "patients") == ""
