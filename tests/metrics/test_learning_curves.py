"""Learning curves continued, against made curves and scipy; the size of a test set against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.labels import auroc
from scipy.optimize import curve_fit
from scipy.stats import norm, rankdata

from scotoma.metrics.bootstrap import bootstrap_weights
from scotoma.metrics.learning_curves import (
    TIMES,
    WANTED,
    WIDTHS,
    Curve,
    curve_rows,
    extrapolate,
    fit,
    labels_for_width,
    labels_needed,
    width_rows,
)

COUNTS = np.array([10, 30, 100, 300, 1000])


@pytest.mark.parametrize("made", [Curve(0.9, 0.8, 0.5), Curve(1.0, 0.5, 0.2), Curve(0.75, 3.0, 1.5), Curve(0.97, 0.4, 0.05)])
@pytest.mark.parametrize("points", [3, 5])
def test_a_made_curve_is_found_again(made: Curve, points: int) -> None:
    found = fit(COUNTS[:points], made.at(COUNTS[:points]))
    assert (found.a, found.b, found.c) == pytest.approx((made.a, made.b, made.c), rel=1e-3)
    np.testing.assert_allclose(found.at(COUNTS), made.at(COUNTS), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_curve_lies_nearer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.minimum(Curve(0.92, 0.7, 0.4).at(COUNTS) + rng.normal(0, 0.02, 5), 0.99)
    w = rng.integers(1, 5, 5)
    found = fit(COUNTS, y, weights=w)

    def law(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
        return a - b * n**-c

    start, bounds = (0.9, 0.5, 0.3), ([-np.inf, 0, 1e-3], [1.0, np.inf, 10])
    other, _ = curve_fit(law, COUNTS.astype(float), y, p0=start, bounds=bounds, sigma=1 / np.sqrt(w), max_nfev=20000)
    reached, best = ((w * (y - values) ** 2).sum() for values in (found.at(COUNTS), law(COUNTS.astype(float), *other)))
    assert reached <= best * (1 + 1e-6) + 1e-12
    assert found.a <= 1 and found.b >= 0 and found.c >= 0
    repeated = fit(np.repeat(COUNTS, w), np.repeat(y, w))  # a weight of 2 is the point twice
    np.testing.assert_allclose(repeated.at(COUNTS), found.at(COUNTS), atol=1e-6)


def test_no_score_is_promised_above_the_bound() -> None:
    steep = 0.5 + 0.1 * np.log10(COUNTS)  # grows without end
    assert fit(COUNTS, steep).a <= 1
    assert fit(COUNTS, steep, bound=0.85).at(1e9) <= 0.85


def test_scores_that_do_not_grow_are_flat() -> None:
    for y in ([0.7, 0.7, 0.7, 0.7, 0.7], [0.8, 0.75, 0.7, 0.65, 0.6]):
        found = fit(COUNTS, y)
        assert (found.a, found.b) == pytest.approx((0.7, 0), abs=1e-9)
        assert (labels_needed(found, 0.69), labels_needed(found, 0.71)) == (1, None)


def test_labels_needed_are_the_fewest() -> None:
    curve = Curve(0.9, 0.8, 0.5)
    assert labels_needed(curve, 0.8) == 64  # 0.9 - 0.8 / 8
    assert labels_needed(curve, 0.7) == 16
    wanted = [0.2, 0.5, 0.75, 0.82, 0.88, 0.8999]
    found = [labels_needed(curve, w) for w in wanted]
    assert found == sorted(found)
    for w, n in zip(wanted, found, strict=True):
        assert curve.at(n) >= w - 1e-9 and (n == 1 or curve.at(n - 1) < w)


def test_what_lies_beyond_the_curve_is_never_reached() -> None:
    assert labels_needed(Curve(0.9, 0.8, 0.5), 0.9) is None
    assert labels_needed(Curve(0.9, 0.8, 0.5), 0.95) is None
    assert labels_needed(Curve(1.0, 0.9, 0.01), 0.9) is None  # 9^100 labels
    assert labels_needed(Curve(0.9, 0.8, 1e-3), 0.05) == 1  # where fewer than one would do


@pytest.mark.parametrize("labels", [[100], [10, 100], [10, 100, 100]])
def test_three_label_counts_are_needed(labels: list[int]) -> None:
    scores = np.linspace(0.6, 0.8, len(labels))
    with pytest.raises(ValueError, match=f"three different label counts are needed, not {len(set(labels))}"):
        fit(labels, scores)
    with pytest.raises(ValueError, match="three different label counts are needed"):
        extrapolate(labels, [[scores] * 3] * 2, [0.9])


def test_wrong_curves_are_refused() -> None:
    y = [0.6, 0.7, 0.8]
    for message, call in [
        ("one length", lambda: fit([1, 2, 3, 4], y)),
        ("one length", lambda: fit([1, 2, 3], y, weights=[1, 1])),
        ("three different label counts are needed, not 2", lambda: fit([1, 2, 3], y, weights=[1, 1, 0])),
        ("finite and at most 1", lambda: fit([1, 2, 3], [0.6, 0.7, math.nan])),
        ("finite and at most 0.75", lambda: fit([1, 2, 3], y, bound=0.75)),
        ("at least 1", lambda: fit([0, 2, 3], y)),
        ("3 or more draws", lambda: extrapolate([1, 2, 3], [[y, y]] * 2, [0.9])),
        ("resamples, draws, label counts", lambda: extrapolate([1, 2, 3], [y], [0.9])),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_draws_that_agree_leave_no_doubt() -> None:
    curve = Curve(0.95, 0.8, 0.5)
    found = extrapolate(COUNTS, [[curve.at(COUNTS)] * 3] * 20, [0.94])
    (needed,) = found["needed"]
    assert needed["value"] == needed["low"] == needed["high"] == pytest.approx(6400, abs=2)  # (0.8 / 0.01)^2
    assert (needed["wanted"], needed["never"]) == (0.94, 0)
    assert [row["labels"] for row in found["predicted"]] == [2000, 5000, 10000]
    for row in found["predicted"]:
        assert (row["low"], row["value"], row["high"]) == pytest.approx([float(curve.at(row["labels"]))] * 3, abs=1e-6)


def test_intervals_are_those_of_refitting_resampled_patients_and_draws() -> None:
    rng = np.random.default_rng(0)
    curves = Curve(0.95, 0.8, 0.4).at(COUNTS) + rng.normal(0, 0.015, (4, 5)) + rng.normal(0, 0.01, (61, 1, 1))
    found = extrapolate(COUNTS, curves, [0.9, 0.8], seed=3)
    first, draws = found["needed"][0], np.random.default_rng(3)
    refitted = [fit(COUNTS, of_patients[draws.integers(4, size=4)].mean(0)) for of_patients in curves[1:]]
    needed = sorted(labels_needed(curve, 0.9) or math.inf for curve in refitted)
    ends = [needed[1], needed[29], needed[58]]  # 60 * 0.025 = 1.5, the second smallest; the 30th; the 59th
    assert [first["low"], first["value"], first["high"]] == [None if math.isinf(n) else n for n in ends]
    assert first["never"] == np.isinf(needed).mean()
    for row in found["predicted"]:
        values = [curve.at(row["labels"]) for curve in refitted]
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(values, [0.025, 0.975]))
        assert row["value"] == pytest.approx(fit(COUNTS, curves[0].mean(0)).at(row["labels"]))
    values = [row["value"] for row in found["predicted"]]
    assert values == sorted(values) and found == extrapolate(COUNTS, curves, [0.9, 0.8], seed=3)
    curves[7] = np.nan  # a resample of patients without one of the classes
    assert extrapolate(COUNTS, curves, [0.9])["needed"][0]["value"] is not None


def test_more_doubt_the_more_is_wanted() -> None:
    # Two of four draws flatten out at 0.85: a mean of draws reaches 0.9 only where enough of the others are among them.
    curves = np.stack([[Curve(a, 0.8, 0.5).at(COUNTS) for a in (0.85, 0.85, 0.97, 0.97)]] * 401)
    found = extrapolate(COUNTS, curves, (0.8, 0.9, 0.99))["needed"]
    # At 0.9 the asymptote is above only with two good draws or more of four: 1 - 5/16 of the resamples.
    assert [f["never"] for f in found] == pytest.approx([0, 5 / 16, 1], abs=0.07)
    assert found[0]["low"] < found[0]["value"] < found[0]["high"]
    assert found[1]["low"] > found[0]["value"] and found[1]["high"] is None
    assert (found[2]["low"], found[2]["value"], found[2]["high"]) == (None, None, None)


@pytest.mark.long
def test_continued_curves_hold_the_truth() -> None:
    """The law is true, draws scatter, the patients are those of one test: 34 or more of 40 with a probability of 99.5 %."""
    law, counts, rng, held = Curve(0.95, 0.6, 0.4), [10, 100, 1000], np.random.default_rng(0), np.zeros(3)
    for _ in range(40):
        y, shared = (np.arange(100) < 40).astype(int), rng.normal(size=100)
        weights = np.pad(bootstrap_weights(np.arange(100), 100, int(rng.integers(1 << 30))), ((1, 0), (0, 0)), constant_values=1)
        areas = []
        for count in counts:
            true = np.clip(law.at(count) + 0.03 * np.sqrt(10 / count) * rng.normal(size=3), 0.51, 0.995)
            scores = [np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=100) + np.sqrt(2) * norm.ppf(a) * y for a in true]
            areas.append([auroc(y, score, weights) for score in scores])
        rows = [r for r in curve_rows(counts, np.transpose(areas, (2, 1, 0))) if r["metric"] == "auroc_predicted"]
        held += [r["low"] <= law.at(r["labels"]) <= r["high"] for r in rows]
    assert held.min() >= 34, held


def auroc_error(auroc: float, positives: float, negatives: float) -> float:
    """Standard error of an AUROC (Hanley and McNeil 1982, equation 1, Q1 and Q2 of negative exponential scores)."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    return math.sqrt(
        (auroc * (1 - auroc) + (positives - 1) * (q1 - auroc**2) + (negatives - 1) * (q2 - auroc**2)) / (positives * negatives)
    )


def test_the_error_of_an_auroc_is_that_of_exponential_scores() -> None:
    # Positives are exponential of mean 4, negatives of mean 1: AUROC 4 / 5, the model behind the formula.
    rng = np.random.default_rng(0)
    scores = rng.exponential(1, (6000, 50)) * np.where(np.arange(50) < 20, 4, 1)
    areas = (rankdata(scores, axis=1)[:, :20].sum(1) - 20 * 21 / 2) / (20 * 30)
    assert areas.mean() == pytest.approx(0.8, abs=0.004)
    assert areas.std() == pytest.approx(auroc_error(0.8, 20, 30), rel=0.04)
    assert auroc_error(0.5, 20, 30) == pytest.approx(math.sqrt((20 + 30 + 1) / (12 * 20 * 30)))  # Mann and Whitney's


@pytest.mark.parametrize("auroc", [0.55, 0.8, 0.97])
@pytest.mark.parametrize("prevalence", [0.03, 0.5, 0.8])
@pytest.mark.parametrize("width", [0.02, 0.1])
def test_so_many_patients_make_the_interval_so_wide(auroc: float, prevalence: float, width: float) -> None:
    n = labels_for_width(auroc, width, prevalence)

    def wide(patients: int) -> float:
        return 2 * 1.959964 * auroc_error(auroc, prevalence * patients, (1 - prevalence) * patients)

    assert wide(n) <= width * (1 + 1e-6) < wide(n - 1) * (1 + 2e-6)
    assert labels_for_width(auroc, width / 2, prevalence) == pytest.approx(4 * n, rel=0.1)
    assert labels_for_width(auroc, width, prevalence, level=0.99) > n


def test_rare_findings_need_more_patients() -> None:
    found = [labels_for_width(0.85, 0.1, prevalence) for prevalence in (0.5, 0.2, 0.05, 0.01)]
    assert found == sorted(found) and found[-1] > 10 * found[0]
    for arguments in ((1.0, 0.1, 0.5), (0.8, 0.0, 0.5), (0.8, 0.1, 0.0)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            labels_for_width(*arguments)


def test_the_rows_of_a_study_are_those_of_its_curves() -> None:
    curves = Curve(0.95, 0.8, 0.4).at(COUNTS) + np.random.default_rng(0).normal(0, 0.015, (4, 5))
    curves = np.stack([curves, curves - 0.01, curves + 0.01])
    rows, found = curve_rows(COUNTS.tolist(), curves), extrapolate(COUNTS, curves, WANTED)
    by = {m: [r for r in rows if r["metric"] == m] for m in ("labels_for_auroc", "auroc_predicted", "misfit")}
    for row, expected in zip(by["labels_for_auroc"], found["needed"], strict=True):
        assert expected.items() <= row.items() and row["labels"] == 1000
    assert [r["labels"] for r in by["auroc_predicted"]] == [t * 1000 for t in TIMES]
    assert by["misfit"][0]["value"] == pytest.approx(np.abs(found["curve"].at(COUNTS) - curves[0].mean(0)).max())
    assert all((r["points"], r["draws"]) == (5, 4) for r in rows)
    assert curve_rows([10, 10, 100], curves[:, :, :3]) == [] == curve_rows(COUNTS.tolist(), curves[:, :2])


def test_the_rows_of_a_class_are_those_of_its_prevalence() -> None:
    rows = width_rows("effusion", 0.1)
    assert len(rows) == len(WANTED) * len(WIDTHS) and {(r["class"], r["prevalence"]) for r in rows} == {("effusion", 0.1)}
    assert all(r["value"] == labels_for_width(r["wanted"], r["width"], 0.1) for r in rows)
