"""Evaluators where little is left to test: one patient, one class, patients with images of several classes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.contexts import context, head

from scotoma.data.labels.targets import Target
from scotoma.errors import UsageError
from scotoma.evaluators import metrics, operating, regression, retrieval, robustness, subgroups
from scotoma.evaluators.base import Context, Row

CLASSES = 4
EVALUATORS = (metrics, operating, regression, retrieval, robustness, subgroups)


def made(folder: Path, patients: np.ndarray, classes: int = CLASSES, multilabel: bool = False) -> Context:
    """Test images of these patients (all others are of one more each), with columns of patient and sex."""
    start = context(folder, n=160, classes=classes, multilabel=multilabel, head=head(2 if multilabel else classes))
    units = np.arange(160) + 1000
    units[start.split.rows("test")] = patients
    table = start.dataset.table.assign(patient=[f"p{u}" for u in units], sex=["F" if i % 3 else "M" for i in range(160)])
    return replace(start, dataset=replace(start.dataset, table=table), split=replace(start.split, units=units))


def rows_of(module: object, start: Context) -> list[Row]:
    if module is regression:
        numbers = start.features[:, 0].astype(np.float32)
        target = Target(("age",), ("age",), np.zeros(len(numbers), np.int64), numbers=numbers)
        start = replace(start, target=target, head=None, info=replace(start.info, targets=(), classes=()))
    return module.evaluate(start)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("multilabel", [False, True], ids=["classes", "labels"])
@pytest.mark.parametrize("module", EVALUATORS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_one_patient_gives_values_and_no_interval(module: object, multilabel: bool, tmp_path: Path) -> None:
    start = made(tmp_path, np.full(40, 7), multilabel=multilabel)
    rows = rows_of(module, start)
    bounded = [r for r in rows if "low" in r]
    assert any(r["value"] == r["value"] for r in bounded)
    assert all(math.isnan(r["low"]) and math.isnan(r["high"]) for r in bounded)
    again = [r for r in rows_of(module, made(tmp_path, np.arange(40) // 4, multilabel=multilabel)) if "low" in r]
    assert any(r["low"] < r["high"] for r in again)
    values = {str(sorted((k, str(v)) for k, v in r.items() if k not in ("value", "low", "high", "patients"))): r for r in bounded}
    for row in again:  # the values themselves do not hang on whose the images are
        same = values.get(str(sorted((k, str(v)) for k, v in row.items() if k not in ("value", "low", "high", "patients"))))
        if same is not None and module is not operating:
            assert same["value"] == pytest.approx(row["value"], nan_ok=True)


def test_a_rate_that_rests_on_one_patient_has_no_interval(tmp_path: Path) -> None:
    start = made(tmp_path, np.arange(40) // 4, classes=2)
    y = start.target.y.copy()
    y[start.test] = (np.arange(40) < 4).astype(int)  # all positives are of the first patient
    start = replace(start, target=replace(start.target, y=y))
    found = {r["metric"]: r for r in metrics.evaluate(start) if r.get("class") == "class 1" and "low" in r}
    assert math.isnan(found["sensitivity"]["low"]) and not math.isnan(found["specificity"]["low"])
    whole = {r["metric"]: r for r in metrics.evaluate(start) if "class" not in r}
    assert math.isnan(whole["sensitivity"]["low"]) and not math.isnan(whole["accuracy"]["low"])
    decided = {r["metric"]: r for r in operating.evaluate(start) if "prevalence" not in r and "threshold" in r}
    assert math.isnan(decided["sensitivity"]["low"]) and not math.isnan(decided["specificity"]["low"])


def test_patients_with_images_of_several_classes_have_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = made(tmp_path, np.arange(40) // 8)  # images of all four classes each
    rows = operating.evaluate(start)
    assert {r["class"] for r in rows} == {f"class {k}" for k in range(CLASSES)} and not [r for r in rows if "unit" in r]
    assert capsys.readouterr().err == (
        "made: answers by patient leave out 5 of 5 with images of several classes, which leaves none\n"
    )
    y = start.target.y.copy()
    y[start.test[:24]] = np.arange(24) // 8 % 2  # three patients have one class
    rows = operating.evaluate(replace(start, target=replace(start.target, y=y)))
    assert {r["n"] for r in rows if r.get("unit") == "patient"} == {3}
    assert capsys.readouterr().err == "made: answers by patient leave out 2 of 5 with images of several classes\n"


@pytest.mark.parametrize("module", EVALUATORS, ids=lambda m: m.__name__.rpartition(".")[2])
@pytest.mark.parametrize("left", [1, 5])
def test_one_class_alone_is_no_fault(module: object, left: int, tmp_path: Path) -> None:
    start = made(tmp_path, np.arange(40) // 4)
    of = start.split.of.copy()
    of[np.setdiff1d(start.test, start.test[start.target.y[start.test] == 2][:left])] = ""
    start = replace(start, split=replace(start.split, of=of))
    try:
        rows = rows_of(module, start)
    except UsageError:
        assert module is subgroups
        return
    assert all("value" in r for r in rows)
