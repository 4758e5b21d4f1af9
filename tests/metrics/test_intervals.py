"""Intervals and paired comparisons against closed forms, slow obvious versions and simulated patients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import simulated_cohorts as cohorts
from helpers.labels import ROWS, auroc, categorical, per_class
from scipy.stats import binomtest, skew, t, ttest_1samp
from sklearn import metrics as sk

from scotoma.metrics import calibration, classification, intervals
from scotoma.metrics.support import Support


def of(rows: list[dict], metric: str, label: int | None = None) -> dict:
    return next(row for row in rows if row["metric"] == metric and row.get("class") == label)


def test_every_group_is_left_out_once() -> None:
    groups = np.array(["b", "a", "b", "c"], dtype=object)
    expected = [[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0]]
    np.testing.assert_array_equal(intervals.leave_out(groups, 4), expected)
    np.testing.assert_array_equal(intervals.leave_out([("p", 1), 7, ("p", 1), 9.5], 4), expected)
    np.testing.assert_array_equal(intervals.leave_out(["a", "a"], 2), [[1, 1]])
    many = np.repeat(np.arange(1234), 2)
    weights = intervals.leave_out(many, len(many))
    assert weights.shape == (1 + intervals.MOST_BLOCKS, 2468) and ((weights[1:] == 0).sum(0) == 1).all()
    assert (weights[:, ::2] == weights[:, 1::2]).all()  # both images of a patient
    assert set((weights[1:, ::2] == 0).sum(1)) == {2, 3}
    with pytest.raises(ValueError, match="cover each of the"):
        intervals.leave_out(groups, 5)


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = intervals.of_images("mean", values, np.arange(400))
    expected = ttest_1samp(values, 0).confidence_interval()
    assert found["value"] == pytest.approx(values.mean()) and found["n"] == 400
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=2e-3)  # normal: kurtosis near 3


def test_few_groups_and_unequal_ones_have_a_wider_quantile() -> None:
    """Degrees of freedom: those of the groups; 2 / (kurtosis - 1) of their number; those of the rarer side. The least counts."""
    even = np.array([-1.0, 1.0] * 4)  # kurtosis 1
    for values, fewest, freedom in ((even, 8, 7), (even, 3, 2), (np.array([0.0] * 7 + [8.0]), 8, 2 * 8 / (43 / 7 - 1))):
        lines = [values.mean(), *((values.sum() - v) / 7 for v in values)]
        found = intervals.estimate(lines, "mean", Support(8, 8, fewest, few=True))
        half = t.ppf(0.975, freedom) * values.std(ddof=1) / math.sqrt(8)
        assert (found["high"] - found["low"]) / 2 == pytest.approx(half)


def test_the_variance_over_patients_is_that_of_their_sums() -> None:
    """Of a mean over images the jackknife over patients is, but for G / (G - 1), the sandwich of patients' summed deviations."""
    rng = np.random.default_rng(1)
    groups = rng.integers(60, size=300)
    values = rng.normal(size=60)[groups] + rng.normal(size=300)
    found = intervals.of_images("mean", values, groups)
    sums = np.bincount(groups, values - values.mean())
    sandwich = (sums**2).sum() / 300**2 * 60 / 59
    kurtosis = 60 * (sums**4).sum() / (sums**2).sum() ** 2
    half = t.ppf(0.975, min(59, 2 * 60 / (kurtosis - 1))) * math.sqrt(sandwich)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.03)


def test_the_jackknife_of_an_auroc_is_delongs_variance() -> None:
    rng = np.random.default_rng(2)
    y = (rng.random(300) < 0.3).astype(int)
    score = y + rng.normal(size=300)
    values = np.asarray(auroc(y, score, intervals.leave_out(np.arange(300), 300)))
    variance = intervals._jackknife(values, "auroc", Support(300, 300, 90, few=False))[0]
    beats = (score[y == 1][:, None] > score[y == 0]).astype(float)
    delong = beats.mean(1).var(ddof=1) / (y == 1).sum() + beats.mean(0).var(ddof=1) / (y == 0).sum()
    assert variance == pytest.approx(delong, rel=0.02)


def test_tied_copies_do_not_narrow_the_interval() -> None:
    y, p = categorical(2, rows=120)
    many_y, many_p = np.tile(y, 5), np.tile(p, (5, 1))

    def widths(*arguments: np.ndarray) -> np.ndarray:
        rows = intervals.evaluate(*arguments, ["auroc", "average_precision", "accuracy", "mcc"])
        return np.array([row["high"] - row["low"] for row in rows])

    original = widths(y, p, np.arange(120))
    np.testing.assert_allclose(widths(many_y, many_p, np.tile(np.arange(120), 5)), original, rtol=0.12)
    ratio = (widths(many_y, many_p, np.arange(600)) / original)[[0, -2]]  # of auroc and accuracy: 1 / sqrt(5) = 0.447
    assert ((ratio > 0.38) & (ratio < 0.52)).all()


@pytest.mark.parametrize("right", [0, 1, 13, 30, 40])
def test_the_interval_of_a_proportion_is_clopper_pearsons(right: int) -> None:
    y, p = np.zeros(40, int), np.tile([0.9, 0.1], (40, 1))
    p[right:] = [0.1, 0.9]
    (row,) = intervals.evaluate(y, p, np.arange(40), ["accuracy"])
    exact = binomtest(right, 40).proportion_ci(method="exact")
    assert row["value"] == right / 40
    # wider than of 40 images, as the quantile is t's and the variance the unbiased one
    assert -0.012 < row["low"] - exact.low <= 1e-9 and -1e-9 <= row["high"] - exact.high < 0.012


def test_no_error_at_all_has_a_width_and_patients_are_counted() -> None:
    y, p = np.arange(40) % 2, np.eye(2)[np.arange(40) % 2] * 0.8 + 0.1
    alone, together = (
        {r["metric"]: r for r in intervals.evaluate(y, p, g) if r.get("class") in (None, 1)}
        for g in (np.arange(40), np.arange(40) // 8)
    )
    for name in ("auroc", "average_precision", "sensitivity", "specificity", "accuracy", "mcc", "f1", "balanced_accuracy"):
        assert alone[name]["value"] == alone[name]["high"] == 1 and 0.5 < alone[name]["low"] < 0.95, name
        assert together[name]["low"] < alone[name]["low"] - 0.1 and together[name]["few"], name
    assert "few" not in alone["auroc"]


def test_evaluate_rows() -> None:
    y, p = categorical(3)
    groups = np.arange(ROWS) // 2
    rows = intervals.evaluate(y, p, groups)
    assert [row["metric"] for row in rows if "class" not in row] == list(classification.METRICS)
    classwise = {(row["metric"], row["class"]) for row in rows if "class" in row}
    assert classwise == {(m, k) for m in ("auroc", "average_precision", "sensitivity", "specificity") for k in range(3)}
    for row in rows:
        value = classification.score(row["metric"], y, p)
        if "class" in row:
            value = per_class(row["metric"], y, p)[row["class"]]
        assert row["value"] == pytest.approx(value, abs=1e-12)
        assert np.isnan(row["low"]) if row["metric"] == "ece" else row["low"] < row["value"] < row["high"]
        assert (row["n"], row["patients"]) == (ROWS, 79)


def test_other_decisions_change_the_metrics_of_decisions_alone() -> None:
    y, p = categorical(2)
    called = p[:, 1] >= 0.6
    names = ["auroc", "sensitivity", "accuracy"]
    plain, other = (intervals.evaluate(y, p, np.arange(ROWS), names, d) for d in (None, np.stack([~called, called], 1)))
    assert of(plain, "auroc") == of(other, "auroc")
    assert of(other, "sensitivity", 1)["value"] == pytest.approx(called[y == 1].mean())
    assert of(other, "accuracy")["value"] == pytest.approx((called == y).mean()) != of(plain, "accuracy")["value"]
    with pytest.raises(ValueError, match="shaped as p"):
        intervals.evaluate(y, p, np.arange(ROWS), names, called)


def test_evaluate_counts_known_rows_of_a_label() -> None:
    y = np.array([[1, 0], [0, np.nan], [1, 1], [np.nan, np.nan], [0, 0]])
    rows = intervals.evaluate(y, np.full((5, 2), 0.4), ["a", "a", "b", "c", "b"])
    assert {row["metric"] for row in rows} == set(classification.METRICS) - {"mcc"}
    counts = {row.get("class"): (row["n"], row["patients"]) for row in rows if row["metric"] == "auroc"}
    assert counts == {None: (4, 2), 0: (4, 2), 1: (3, 2)}


def test_wrong_input_is_refused() -> None:
    y, p = categorical(3)
    broken = p.copy()
    broken[3, 1] = np.nan
    for message, call in [
        ("must be finite, but 1 of", lambda: intervals.evaluate(y, broken, np.arange(ROWS))),
        ("must be finite, but 1 of", lambda: intervals.paired_difference("auroc", y, [broken], [broken], np.arange(ROWS))),
        ("cover each of the", lambda: intervals.evaluate(y, p, np.arange(ROWS - 1))),
        ("missing", lambda: intervals.leave_out(["a", None], 2)),
        ("one prediction set per label draw", lambda: intervals.paired_difference("auroc", y, [p], [p, p], y)),
        ("one prediction set per label draw, not 0", lambda: intervals.mean_over_draws("auroc", y, [], y)),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", [m for m in classification.METRICS if m != "ece"])
def test_paired_difference_is_antisymmetric(name: str) -> None:
    y, good = categorical(3)
    rng = np.random.default_rng(0)
    a = [good, good[:, [0, 2, 1]], np.roll(good, 1, axis=0)]
    b = [rng.dirichlet(np.ones(3), size=ROWS) for _ in a]
    groups = np.arange(ROWS) // 2
    forth, back = (intervals.paired_difference(name, y, *pair, groups) for pair in ((a, b), (b, a)))
    assert forth["value"] == pytest.approx(-back["value"], abs=1e-12)
    assert (forth["low"], forth["high"]) == pytest.approx((-back["high"], -back["low"]), abs=1e-12)
    assert forth["p_value"] == pytest.approx(back["p_value"])
    expected = np.mean([classification.score(name, y, i) - classification.score(name, y, j) for i, j in zip(a, b, strict=True)])
    assert forth["value"] == pytest.approx(expected, abs=1e-12)


def test_p_is_the_level_at_which_the_interval_touches_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    y, a, b = cohorts.null_draws(np.random.default_rng(3), 80, 4, 0.4, 0.8)
    found = intervals.paired_difference("auroc", y, a, b, np.arange(80))
    assert 0 < found["p_value"] < 1 and found["over"] == "patients and draws"
    monkeypatch.setattr(intervals, "LEVEL", 1 - found["p_value"])
    ends = intervals.paired_difference("auroc", y, a, b, np.arange(80))
    assert min(abs(ends["low"]), abs(ends["high"])) == pytest.approx(0, abs=1e-9)


def test_fewer_than_three_draws_give_a_difference_without_interval() -> None:
    y, a, b = cohorts.null_draws(np.random.default_rng(4), 80, 3, 0.4, 0.8)
    for draws in (1, 2):
        found = intervals.paired_difference("auroc", y, a[:draws], b[:draws], np.arange(80))
        assert np.isfinite(found["value"]) and np.isnan([found["low"], found["high"], found["p_value"]]).all()
        mean = intervals.mean_over_draws("auroc", y, a[:draws], np.arange(80))
        assert mean["low"] < mean["value"] < mean["high"] and mean["over"] == "patients"
    three = intervals.paired_difference("auroc", y, a, b, np.arange(80))
    assert three["low"] < three["value"] < three["high"] and three["draws"] == 3
    # the same two models in every draw: nothing but the patients varies
    same = intervals.paired_difference("auroc", y, [a[0]] * 3, [b[0]] * 3, np.arange(80))
    assert same["over"] == "patients" and 0 < same["p_value"] <= 1


def test_model_against_itself() -> None:
    y, p = categorical(3)
    draws = [p, p[:, [1, 0, 2]], p[:, [2, 1, 0]]]
    result = intervals.paired_difference("auroc", y, draws, draws, np.arange(ROWS) // 3)
    assert (result["value"], result["low"], result["high"], result["p_value"]) == (0, 0, 0, 1)


def test_a_difference_without_any_spread_is_no_certainty() -> None:
    """All 12 images ranked rightly, beside a constant: 0.5 without any patient, too, which is no interval of width 0."""
    y = np.arange(12) % 2
    right, constant = np.eye(2)[y], np.full((12, 2), 0.5)
    found = intervals.paired_difference("auroc", y, [right] * 3, [constant] * 3, np.arange(12))
    assert found["value"] == 0.5 and np.isnan([found["low"], found["high"], found["p_value"]]).all()

    # two that rank all 12 rightly, by other numbers: both may err next time; one beside itself cannot differ
    surer = np.abs(right - 0.1)
    found = intervals.paired_difference("auroc", y, [right] * 3, [surer] * 3, np.arange(12))
    assert found["value"] == 0 and np.isnan([found["low"], found["high"], found["p_value"]]).all()
    same = intervals.paired_difference("auroc", y, [right] * 3, [right] * 3, np.arange(12))
    assert (same["value"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)


def test_an_error_that_is_the_same_in_all_patients_has_no_interval() -> None:
    from scotoma.metrics import regression

    groups, truth = np.arange(40), np.random.default_rng(0).normal(size=40)
    for name, value in (("hausdorff95", 0.0), ("hausdorff95", 3.0), ("mae", 0.1)):
        found = intervals.of_images(name, np.full(40, value), groups)
        assert found["value"] == pytest.approx(value) and np.isnan([found["low"], found["high"]]).all(), name
    for found_numbers in (truth, truth + 1, -truth):
        of_numbers = {row["metric"]: row for row in regression.rows_of(truth, found_numbers, groups)}
        assert np.isnan([of_numbers["pearson"]["low"], of_numbers["pearson"]["high"]]).all()
    exact = {row["metric"]: row for row in regression.rows_of(truth, truth + 1, groups)}
    assert np.isnan([exact[name]["low"] for name in ("mae", "rmse", "bias")]).all() and np.isfinite(exact["r2"]["low"])
    hard = np.eye(2)[np.arange(40) % 2]
    rows = {row["metric"]: row for row in intervals.evaluate(np.arange(40) % 2, hard, groups, ["brier", "accuracy"])}
    assert rows["brier"]["value"] == 0 and np.isnan([rows["brier"]["low"], rows["brier"]["high"]]).all()
    assert 0.8 < rows["accuracy"]["low"] < rows["accuracy"]["high"] == 1  # a fraction has a width without any spread
    assert intervals.of_images("dice", np.ones(40), groups)["low"] < 0.95
    drop = intervals.estimate(np.zeros(41), "difference", Support.of(groups))  # of an AUROC of 1 that a corruption leaves at 1
    assert drop["value"] == 0 and np.isnan([drop["low"], drop["high"]]).all()


def test_a_constant_predictor_has_no_interval_but_for_its_proportions() -> None:
    """Its AUROC is 0.5 in every sample; how often it is right is measured all the same."""
    y, groups = np.arange(40) % 2, np.arange(40)
    constant = np.tile([0.6, 0.4], (40, 1))
    rows = {r["metric"]: r for r in intervals.evaluate(y, constant, groups) if "class" not in r}
    for name, value in (("auroc", 0.5), ("balanced_accuracy", 0.5), ("mcc", 0.0)):
        assert rows[name]["value"] == value and np.isnan([rows[name]["low"], rows[name]["high"]]).all(), name
    assert rows["accuracy"]["low"] < 0.5 < rows["accuracy"]["high"]
    for draws in (1, 3):
        assert np.isnan(intervals.mean_over_draws("auroc", y, [constant] * draws, groups)["low"])
    better = np.stack([1 - y, y], 1) * 0.5 + np.random.default_rng(0).random((40, 1)) * 0.4
    found = intervals.paired_difference("auroc", y, [better] * 3, [constant] * 3, groups)
    assert found["low"] < found["value"] < found["high"] or found["value"] == 0.5


def test_the_low_end_of_a_share_near_zero_is_zero() -> None:
    """SciPy's quantile of so small a share is the smallest number there is."""
    values = np.r_[np.full(13, 1e-6), 1e-3]
    found = intervals.of_images("sensitivity", values, np.arange(14))
    assert found["low"] == 0.0 < found["value"] < found["high"]


def test_a_brier_score_reaches_to_its_highest_value_at_most() -> None:
    y = np.array([1, 0])
    (row,) = intervals.evaluate(y, np.array([[0.5, 0.5], [0.8, 0.2]]), y, ["brier"])
    assert row["high"] == 1.0 and row["low"] > 0  # of the logarithm: 1,437
    p = np.array([[0.98, 0.01, 0.01], [0.4, 0.3, 0.3], [0.0, 0.1, 0.9]])
    (row,) = intervals.evaluate(np.array([1, 0, 2]), p, np.arange(3), ["brier"])
    assert row["high"] == 2.0  # summed over three classes


def test_the_upper_end_of_an_error_removes_skewness_as_hall_does() -> None:
    error = np.random.default_rng(5).exponential(size=40) ** 2
    found = intervals.of_images("mae", error, np.arange(40))
    n, se = 40, error.std(ddof=1) / np.sqrt(40)
    a = skew(error, bias=False) / np.sqrt(n)
    kurtosis = ((error - error.mean()) ** 4).mean() / error.var() ** 2
    reach = t.ppf(0.975, 2 * n / (kurtosis - 1))
    end = (error.mean() - found["high"]) / se
    assert end + a * end**2 / 3 + a**2 * end**3 / 27 + a / 6 == pytest.approx(-reach)  # Hall 1992, equation 2.2
    assert found["high"] > error.mean() * np.exp(reach * se / error.mean())
    assert found["low"] == pytest.approx(error.mean() * np.exp(-reach * se / error.mean()))


def test_errors_as_small_as_numbers_can_be_have_the_interval_of_large_ones() -> None:
    error = np.random.default_rng(5).exponential(size=40) ** 2
    large = intervals.of_images("mae", error, np.arange(40))
    for factor in (1e-82, 1e-120, 1e100):
        small = intervals.of_images("mae", error * factor, np.arange(40))
        assert [small[k] / factor for k in ("value", "low", "high")] == pytest.approx([large[k] for k in ("value", "low", "high")])
    least = intervals.of_images("mae", error * 1e-200, np.arange(40))
    assert least["value"] > 0 and np.isnan(least["low"])  # no spread that a number can hold


def test_log_loss_of_a_good_classifier_is_not_missed_on_its_better_side() -> None:
    rng, missed = np.random.default_rng(2), 0
    y, p, _ = cohorts.binary(rng, 200_000, 1, 0.5, 0.98)
    truth = -np.log(p[np.arange(len(y)), y]).mean()
    for _ in range(500):
        y, p, patients = cohorts.binary(rng, 30, 1, 0.5, 0.98)
        missed += intervals.of_images("log_loss", -np.log(p[np.arange(30), y]), patients)["high"] < truth
    assert missed <= 26  # 5.2 %: two standard errors above 3.5 %; of the logarithm alone 7 to 9 %


def test_the_two_variances_add() -> None:
    """Of accuracy: patients' variance that of the mean over draws, draws' that of their mean; Satterthwaite's freedom."""
    rng = np.random.default_rng(5)
    right = rng.random((4, 60)) < np.array([0.5, 0.6, 0.8, 0.9])[:, None]
    y, draws = np.zeros(60, int), [np.where(r[:, None], [0.9, 0.1], [0.1, 0.9]) for r in right]
    wrong = [np.tile([0.1, 0.9], (60, 1))] * 4
    found = intervals.paired_difference("accuracy", y, draws, wrong, np.arange(60))
    of_patients = right.mean(0).var(ddof=1) / 60
    of_draws = right.mean(1).var(ddof=1) / 4
    se = math.sqrt(of_patients + of_draws)
    kurtosis = 60 * ((right.mean(0) - right.mean()) ** 4).sum() / ((right.mean(0) - right.mean()) ** 2).sum() ** 2
    first = min(59, 2 * 60 / (kurtosis - 1))
    freedom = se**4 / (of_patients**2 / first + of_draws**2 / 3)
    assert found["value"] == pytest.approx(right.mean())
    assert (found["high"] - found["low"]) / 2 == pytest.approx(t.ppf(0.975, freedom) * se, rel=0.01)
    assert found["p_value"] == pytest.approx(2 * t.sf(right.mean() / se, freedom), rel=0.2)


def test_pairing_removes_what_both_models_share() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(2, size=300)
    base = y + rng.normal(scale=1.2, size=300)
    a, b = (np.column_stack([1 - s, s]) for s in (1 / (1 + np.exp(-base - d)) for d in rng.normal(0, 0.1, (2, 300))))
    paired = intervals.paired_difference("auroc", y, [a] * 3, [b] * 3, np.arange(300))
    alone = intervals.mean_over_draws("auroc", y, [a], np.arange(300))
    assert paired["high"] - paired["low"] < 0.5 * (alone["high"] - alone["low"])


def test_holm() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 raised to its predecessor's 0.06.
    np.testing.assert_allclose(intervals.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(intervals.holm([0.6, np.nan, 0.7]), [1.0, np.nan, 1.0])
    assert intervals.holm([]).shape == (0,)


def test_numbers_of_images_are_averaged_and_compared_as_metrics_are() -> None:
    rng = np.random.default_rng(0)
    groups, a, b = np.repeat(np.arange(15), 2), rng.random((3, 30)), rng.random((3, 30))
    a[0, 4] = np.nan  # nothing to find in it
    weights = intervals.leave_out(groups, 30)
    slow = [np.nansum(a[0] * w) / w[~np.isnan(a[0])].sum() for w in weights.astype(float)]
    np.testing.assert_allclose(intervals.image_means(a[0], weights), slow)
    assert np.isnan(intervals.image_means(np.full(30, np.nan), weights[:1]))
    one = intervals.mean_over_draws(None, groups, [a[0]], groups)
    assert one["value"] == pytest.approx(np.nanmean(a[0])) and one["low"] < one["value"] < one["high"]
    both = intervals.paired_difference(None, groups, list(a), list(b), groups)
    assert both["value"] == pytest.approx(np.nanmean(a, 1).mean() - b.mean()) and both["draws"] == 3
    same = intervals.paired_difference(None, groups, list(a), list(a), groups)
    assert (same["value"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)
    assert np.isnan(intervals.of_images("dice", np.full(4, np.nan), np.arange(4))["value"])


def test_one_group_gives_no_interval_and_no_p() -> None:
    rng = np.random.default_rng(3)
    y, p, q = np.arange(24) % 2, *(rng.dirichlet((1, 1), 24) for _ in range(2))
    for groups, some in ((np.full(24, 5), False), (np.arange(24) // 8, True)):
        rows = intervals.evaluate(y, p, groups)
        assert of(rows, "auroc")["value"] == pytest.approx(sk.roc_auc_score(y, p[:, 1]))
        draws = intervals.mean_over_draws("auroc", y, [p, q], groups)
        difference = intervals.paired_difference("auroc", y, [p] * 3, [q] * 3, groups)
        assert difference["value"] == pytest.approx(sk.roc_auc_score(y, p[:, 1]) - sk.roc_auc_score(y, q[:, 1]))
        for row in (*(r for r in rows if r["metric"] != "ece"), draws, difference):
            assert np.isfinite([row["low"], row["high"]]).all() == some and row.get("few")
        assert np.isfinite(difference["p_value"]) == some
    regions = np.where(np.arange(24) < 6, rng.random(24), np.nan)  # of four groups one alone has a value
    found = intervals.mean_over_draws(None, np.zeros(24), [regions[:, None]], np.arange(24) // 6)
    assert found["value"] == pytest.approx(np.nanmean(regions)) and np.isnan([found["low"], found["high"]]).all()


def test_few_groups_are_said() -> None:
    assert intervals.caution(1, "patient", "patients") == "all test images are of one patient, which gives no interval"
    assert intervals.caution(4, "study", "studies") == "intervals over 4 studies are unreliable"
    assert intervals.caution(10, "patient", "patients") == ""


CELLS = [("binary", 60, 5, 0.3, 0.7), ("binary", 200, 1, 0.1, 0.9), ("binary", 60, 1, 0.5, 0.98), ("numbers", 60, 5, 0.3, 0.9)]


@pytest.mark.parametrize(("kind", "patients", "images", "prevalence", "area"), CELLS)
def test_coverage(kind: str, patients: int, images: int, prevalence: float, area: float) -> None:
    """Of 200 samples 95 % of the intervals hold the truth: 186 or more with a probability of 93 %, 180 or more with 99.9 %.

    ``benchmarks/coverage.py`` measures many more cells and metrics with 2,000 samples.
    """
    from scotoma.metrics import regression

    simulate = {"binary": cohorts.binary, "numbers": cohorts.numbers}[kind]
    rng = np.random.default_rng(0)
    y, p, _ = simulate(np.random.default_rng(1), 200_000, 1, prevalence, area)
    names = ["auroc", "average_precision", "sensitivity", "balanced_accuracy", "mcc", "brier"]
    if kind == "numbers":
        truth = {k: float(v[0]) for k, v in regression.errors(y, p, np.ones((1, len(y)))).items()}
    else:
        truth = {name: float(classification.score(name, y, p)) for name in names}
    held, by_images = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(200):
        y, p, groups = simulate(rng, patients, images, prevalence, area)
        for count, of_whom in ((held, groups), (by_images, np.arange(len(y)))):
            rows = regression.rows_of(y, p, of_whom) if kind == "numbers" else intervals.evaluate(y, p, of_whom, names)
            for row in rows:
                if "class" not in row or row["class"] == 1:
                    count[row["metric"]] += row["low"] <= truth[row["metric"]] <= row["high"]
    assert min(held.values()) >= 180, held
    if images > 1:  # images of a patient are no independent evidence: without groups the same intervals are far too narrow
        assert min(by_images.values()) < 175, by_images


def test_null_differences_exclude_zero_in_one_of_twenty() -> None:
    rng = np.random.default_rng(0)
    out = 0
    for _ in range(200):
        y, a, b = cohorts.null_draws(rng, 60, 3, 0.4, 0.8)
        found = intervals.paired_difference("auroc", y, a, b, np.arange(60))
        out += not found["low"] <= 0 <= found["high"]
        assert (found["p_value"] < 0.05) == (not found["low"] <= 0 <= found["high"])
    assert out <= 17  # 95 % of binomial(200, 0.06)


def test_an_expected_calibration_error_has_no_interval_but_its_slope_has() -> None:
    y, p, groups = cohorts.binary(np.random.default_rng(0), 100, 2, 0.4, 0.8)
    assert np.isnan(of(intervals.evaluate(y, p, groups, ["ece"]), "ece")["low"])
    values = calibration.recalibrations(y, p[:, 1], intervals.leave_out(groups, len(y)))
    found = {name: intervals.estimate(v, "difference", Support.of(groups)) for name, v in values.items()}
    assert found["slope"]["low"] < 1 < found["slope"]["high"] and found["in_the_large"]["low"] < 0 < found["in_the_large"]["high"]
