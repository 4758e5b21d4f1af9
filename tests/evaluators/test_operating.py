"""Decisions, predictive values, calibration and one answer a patient, from a classifier whose probabilities are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.contexts import context, head
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, roc_auc_score

from scotoma.evaluators import metrics, operating
from scotoma.evaluators.base import Context
from scotoma.metrics import calibration
from scotoma.metrics.intervals import leave_out


def made(folder: Path, thresholds: tuple[float, ...] = (), temperature: float = 1.0, **more: object) -> Context:
    found = context(folder, n=200, head=head(2), **more)  # type: ignore[arg-type]
    return replace(found, info=replace(found.info, thresholds=thresholds, temperature=temperature))


def only(rows: list[dict[str, object]], **keys: object) -> dict[str, object]:
    found = [r for r in rows if all(r.get(k) == v for k, v in keys.items())]
    assert len(found) == 1, (keys, len(found))
    return found[0]


def test_rates_are_those_of_the_models_own_threshold(tmp_path: Path) -> None:
    start = made(tmp_path)
    p = metrics.probabilities(start)[start.test][:, 1]
    y = start.target.y[start.test]
    threshold = float(np.median(p[y == 1]))
    rows = operating.evaluate(replace(start, info=replace(start.info, thresholds=(0.5, threshold))))
    (tn, fp), (fn, tp) = confusion_matrix(y, p >= threshold)
    expected = {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "ppv": tp / (tp + fp), "npv": tn / (tn + fn)}
    for name, value in expected.items():
        row = only(rows, metric=name, threshold=threshold, prevalence=None)
        assert row["value"] == pytest.approx(value) and row["low"] <= row["value"] <= row["high"] > row["low"]  # type: ignore[operator]
        assert [row[k] for k in ("tp", "fp", "fn", "tn")] == [tp, fp, fn, tn]
    sens, spec = expected["sensitivity"], expected["specificity"]
    at_tenth = only(rows, metric="ppv", prevalence=0.1)["value"]
    assert at_tenth == pytest.approx(0.1 * sens / (0.1 * sens + 0.9 * (1 - spec)))
    assert {r["class"] for r in rows if "class" in r} == {"class 1"}
    assert {r["threshold"] for r in operating.evaluate(start) if r["metric"] == "sensitivity"} == {0.5}


def test_two_classes_have_one_interval_of_each_accuracy(tmp_path: Path) -> None:
    start = made(tmp_path)
    start = replace(start, info=replace(start.info, thresholds=(0.5, 0.4)))
    rows, others = operating.evaluate(start), metrics.evaluate(start)
    for name in ("accuracy", "balanced_accuracy"):
        mine, other = only(rows, metric=name), only(others, metric=name, decision="threshold")
        assert [mine.get(k) for k in ("value", "low", "high", "few")] == [other.get(k) for k in ("value", "low", "high", "few")]


def test_a_class_that_all_have_is_there_with_its_count(tmp_path: Path) -> None:
    start = made(tmp_path, multilabel=True)
    y = start.target.y.copy()
    y[start.test, 0] = 1
    start = replace(start, target=replace(start.target, y=y), info=replace(start.info, thresholds=(0.6, 0.5)))
    rows = [r for r in operating.evaluate(start) if r.get("class") == "bright"]
    assert [r["metric"] for r in rows] == ["sensitivity", "specificity"]
    assert all(r["n"] == len(start.test) and r["threshold"] == 0.6 for r in rows)
    assert rows[1]["few"] and np.isnan(rows[1]["low"]) and rows[0]["low"] < rows[0]["high"]
    p = metrics.probabilities(start)[start.test][:, 0]
    assert rows[0]["value"] == pytest.approx((p >= 0.6).mean()) and np.isnan(rows[1]["value"])


def test_few_test_rows_of_which_some_resamples_have_one_class_only(tmp_path: Path) -> None:
    start = made(tmp_path)
    y = start.target.y[start.test]
    few = np.concatenate([start.test[y == k][:3] for k in (0, 1)])
    split = np.where(np.isin(np.arange(len(start.split.of)), few), start.split.of, "")
    threshold = float(np.median(metrics.probabilities(start)[few, 1]))
    start = replace(start, split=replace(start.split, of=split), info=replace(start.info, thresholds=(0.5, threshold)))
    rows = operating.evaluate(start)
    rates = {name: only(rows, metric=name, prevalence=None)["value"] for name in ("sensitivity", "specificity")}
    at_tenth = only(rows, metric="npv", prevalence=0.1)["value"]
    sens, spec = rates["sensitivity"], rates["specificity"]
    assert at_tenth == pytest.approx(0.9 * spec / (0.9 * spec + 0.1 * (1 - sens)))  # type: ignore[operator]


def test_the_decision_curve_and_calibration_in_closed_form(tmp_path: Path) -> None:
    start = made(tmp_path)
    p, y = metrics.probabilities(start)[start.test][:, 1], start.target.y[start.test]
    rows = operating.evaluate(start)
    t = 0.3
    treated = p >= t
    expected = (treated & (y == 1)).mean() - (treated & (y == 0)).mean() * t / (1 - t)
    assert only(rows, metric="net_benefit", threshold=t)["value"] == pytest.approx(expected)
    everyone = (y == 1).mean() - (y == 0).mean() * t / (1 - t)
    assert only(rows, metric="net_benefit_all", threshold=t)["value"] == pytest.approx(everyone)
    points = [r for r in rows if r["metric"] == "reliability"]
    assert sum(r["count"] for r in points) == len(y)  # type: ignore[misc]
    assert sum(r["count"] * r["value"] for r in points) == pytest.approx((y == 1).sum())  # type: ignore[operator]
    assert all(r["low"] <= r["value"] <= r["high"] for r in points)  # type: ignore[operator]


def test_what_local_recalibration_would_bring(tmp_path: Path) -> None:
    start = made(tmp_path, temperature=4.0)
    p, y = metrics.probabilities(start)[start.test][:, 1], start.target.y[start.test]
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.2, 1 - y, y)  # so that no cut parts the classes
    start.target.y[start.test] = y
    rows = operating.evaluate(start)
    after = calibration.cross_recalibrate(y, p, start.split.units[start.test])
    for name, error in (("brier", brier_score_loss), ("log_loss", log_loss)):
        expected = {False: error(y, p), True: error(y, after)}
        for again, value in expected.items():
            row = only(rows, metric=name, recalibrated=again)
            assert row["value"] == pytest.approx(value) and row["low"] < row["value"] < row["high"]  # type: ignore[operator]
        change = only(rows, metric=f"{name}_change")
        assert change["value"] == pytest.approx(expected[True] - expected[False])
    parted = made(tmp_path / "parted")
    parted.target.y[parted.test] = metrics.probabilities(parted)[parted.test].argmax(1)
    assert not [r for r in operating.evaluate(parted) if "recalibrated" in r], "nothing to fit where a cut parts the classes"


def test_the_models_temperature_changes_probabilities_and_not_their_order(tmp_path: Path) -> None:
    cold, warm = made(tmp_path), made(tmp_path, temperature=3.0)
    p, q = (metrics.probabilities(c) for c in (cold, warm))
    expected = p ** (1 / 3) / (p ** (1 / 3)).sum(1, keepdims=True)
    np.testing.assert_allclose(q, expected, rtol=1e-6)


def test_one_answer_a_patient(tmp_path: Path) -> None:
    start = made(tmp_path)
    table = start.dataset.table.copy()
    table["patient"] = [f"p{i // 4}" for i in range(len(table))]
    table.loc[table.index[-1], "patient"] = None
    y = np.arange(len(table)) // 4 % 2  # alike for all images of a patient
    several = replace(start, dataset=replace(start.dataset, table=table), target=replace(start.target, y=y))
    rows = operating.evaluate(several)
    p, test = metrics.probabilities(several)[:, 1], several.test
    ids = [str(v) if isinstance(v := table["patient"].iloc[i], str) else f"alone {i}" for i in test]
    names = sorted(set(ids))
    mean = [np.mean([p[i] for i, n in zip(test, ids, strict=True) if n == name]) for name in names]
    truth = [y[next(i for i, n in zip(test, ids, strict=True) if n == name)] for name in names]
    row = only(rows, metric="auroc", unit="patient", aggregation="mean")
    assert row["value"] == pytest.approx(roc_auc_score(truth, mean)) and row["n"] == len(names)
    single = only(rows, metric="auroc", unit="image")
    assert single["value"] == pytest.approx(roc_auc_score(y[test], p[test])) and single["n"] == len(test)
    assert not [r for r in operating.evaluate(start) if "unit" in r], "no patients, nothing to bring together"
    labels = replace(made(tmp_path / "labels", multilabel=True), dataset=several.dataset)
    found = {r["aggregation"]: r for r in operating.evaluate(labels) if "unit" in r}
    assert set(found) == {"none", "mean", "max", "noisy_or"}


def test_predictive_values_of_few_positive_patients_are_marked() -> None:
    p, units = np.linspace(0, 1, 80), np.arange(80)
    for positive, few in ((3, True), (12, False)):
        truth = np.isin(units, np.linspace(30, 79, positive).astype(int)).astype(float)
        rows = operating._rate_decisions(truth, p, 0.4, leave_out(units, 80), units)
        marked = {row["metric"]: row.get("few", False) for row in rows if "prevalence" not in row}
        assert (marked["ppv"], marked["npv"], marked["sensitivity"], marked["specificity"]) == (few, few, few, False)


def test_of_negative_images_alone_there_is_a_specificity_with_its_interval() -> None:
    truth, units = np.zeros(40), np.arange(40)
    p = np.linspace(0, 1, 40)
    rows = {r["metric"]: r for r in operating._rate_one_side(truth, p, 0.9, units, leave_out(units, 40))}
    exact = binomtest(36, 40).proportion_ci(0.95, "exact")
    assert rows["specificity"]["value"] == 0.9 and rows["specificity"]["low"] == pytest.approx(exact.low, abs=0.01)
    assert rows["specificity"]["high"] == pytest.approx(exact.high, abs=0.01) and "few" not in rows["specificity"]
    assert np.isnan([rows["sensitivity"][key] for key in ("value", "low", "high")]).all()
