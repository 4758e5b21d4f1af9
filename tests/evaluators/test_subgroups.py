from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.contexts import context
from sklearn import metrics as sk
from torch import nn

from scotoma.data.splits.label_draws import draw
from scotoma.errors import UsageError
from scotoma.evaluators import subgroups
from scotoma.evaluators.base import Context
from scotoma.metrics import intervals
from scotoma.metrics.bootstrap import bootstrap_weights
from scotoma.models import linear_probe

N = 800  # of which 200 test rows, of 100 patients


def made(folder: Path, outputs: int = 2, classifier: bool = True, **columns: object) -> Context:
    """Features that are noisy logits of the classes, or labels; columns of metadata; two images a patient, of one class."""
    multilabel = outputs == 22
    found = context(folder, n=N, classes=2 if multilabel else outputs, multilabel=multilabel)
    rng, width = np.random.default_rng(1), found.target.y.shape[1] if multilabel else outputs
    target = found.target if multilabel else replace(found.target, y=np.arange(N) // 2 % outputs)
    signal = np.nan_to_num(target.y) if multilabel else np.eye(outputs)[target.y]
    found.target = target
    found.features = (signal + rng.normal(size=(N, width))).astype(np.float32)
    if classifier:
        found.head = nn.Linear(width, width)
        nn.init.eye_(found.head.weight)
        nn.init.constant_(found.head.bias, -0.5 if multilabel else 0.0)
    found.dataset = replace(found.dataset, table=found.dataset.table.assign(**columns))
    return found


def pick(rows: list[dict], metric: str, column: str, **keys: object) -> dict[object, dict]:
    """Rows of a metric over classes (or of ``class=``), by subgroup."""
    keys = {"class": None} | keys
    return {
        r.get("subgroup"): r
        for r in rows
        if (r["metric"], r["column"]) == (metric, column) and all(r.get(k) == v for k, v in keys.items())
    }


SEX = np.array(["F", "M", None], object)[np.arange(N) // 2 % 5 % 3]


def test_each_subgroup_has_scikit_learns_values(tmp_path: Path) -> None:
    one = made(tmp_path, sex=SEX)
    rows = subgroups.evaluate(one, resamples=50)
    y, score = one.target.y[one.test], one.features[one.test] @ [-1, 1]
    names = np.where(SEX[one.test] == None, "missing", SEX[one.test])  # noqa: E711
    assert list(pick(rows, "auroc", "sex")) == ["F", "M", "missing"]
    for name in ("F", "M", "missing"):
        of = names == name
        called = (score[of] > 0).astype(int)
        expected = {
            "auroc": sk.roc_auc_score(y[of], score[of]),
            "sensitivity": sk.recall_score(y[of], called),
            "specificity": sk.recall_score(y[of], called, pos_label=0),
            "balanced_accuracy": sk.balanced_accuracy_score(y[of], called),
        }
        for metric, value in expected.items():
            row = pick(rows, metric, "sex")[name]
            assert row["value"] == pytest.approx(value, abs=1e-6) and row["low"] <= row["value"] <= row["high"]
            assert (row["n"], row["patients"]) == (of.sum(), of.sum() // 2) and "class" not in row


def test_an_encoder_is_tested_by_a_probe_on_all_training_labels(tmp_path: Path) -> None:
    one = made(tmp_path, classifier=False, sex=SEX)
    row = pick(subgroups.evaluate(one, resamples=20), "auroc", "sex")["M"]
    p = linear_probe.predict(one.features, one.target, draw(one.target, one.split, 1.0, 0), one.test)
    of = SEX[one.test] == "M"
    assert row["value"] == pytest.approx(sk.roc_auc_score(one.target.y[one.test][of], p[of, 1]), abs=1e-6)


def test_which_columns_divide_the_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ages = np.array([0, 17.9, 18, 39, 40, 59.5, 60, 79, 80, 101, np.nan, -3])
    cycle = np.arange(N) // 4 % 12  # two patients of either class
    one = made(
        tmp_path, Age=ages[cycle], site=np.array([1.0, 2.0, np.nan])[cycle % 3], view=cycle, many=np.arange(N) % 13,
        constant="x", rarely=np.where(cycle, None, "x"), kind=one_of(rng), kind_shares=one_of(rng), patient=one_of(rng),
        group=one_of(rng), frame=one_of(rng), mask_path=one_of(rng), split="test",
        elsewhere=np.where(np.arange(N) < N // 2, "a", "b"),
    )  # fmt: skip
    found = {}
    for r in subgroups.evaluate(one, resamples=10):
        if "subgroup" in r:
            found.setdefault(r["column"], []).append(r["subgroup"])
    assert {column: list(dict.fromkeys(names)) for column, names in found.items()} == {
        "Age": ["0-17", "18-39", "40-59", "60-79", "80+", "missing"],
        "site": ["1", "2", "missing"],
        "view": [str(v) for v in range(12)],
    }
    counts = pick(subgroups.evaluate(one, resamples=10), "auroc", "Age")
    bands = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])[cycle[one.test]]
    assert [counts[name]["n"] for name in (*subgroups.BANDS, "missing")] == np.bincount(bands).tolist()


def test_rare_values_are_one_subgroup_without_the_missing(tmp_path: Path) -> None:
    patient = np.arange(N) // 2 - 300  # the test patients are 0 to 99
    site = np.select([patient < 4, patient < 8, patient < 11], ["b", "c", None], "a")  # two sites of four patients, three of none
    rows = pick(subgroups.evaluate(made(tmp_path, site=site), resamples=10), "auroc", "site")
    assert [(name, r["patients"]) for name, r in rows.items()] == [("a", 89), ("other (each fewer than 5)", 8), ("missing", 3)]


def one_of(rng: np.random.Generator) -> np.ndarray:
    return rng.choice(["a", "b"], N)


def test_a_table_without_such_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a column that divides the test rows"):
        subgroups.require_data(made(tmp_path, sex="F"))


def test_targets_that_are_always_positive_are_refused(tmp_path: Path) -> None:
    one = made(tmp_path, outputs=22, sex=SEX)
    one.target = replace(one.target, y=np.ones((N, 2), np.float32))
    with pytest.raises(UsageError, match="no target has positive and negative test rows"):
        subgroups.evaluate(one)


def test_small_subgroups_are_marked_and_take_no_part_in_a_gap(tmp_path: Path) -> None:
    one = made(tmp_path)
    patient, y = np.arange(N) // 2 - 300, one.target.y  # the test patients are 0 to 99, every other one positive
    site = np.select([patient < 29, patient < 59], ["29 patients", "30 patients"], "41 patients")
    scanner = np.where((y == 1) & (patient >= 18), "A", "B")  # of B 50 negative and 9 positive patients
    one.dataset = replace(one.dataset, table=one.dataset.table.assign(site=site, scanner=scanner))
    one.head.weight.data *= torch.tensor([[1.0], [-1.0]])  # useless, and very unlike between subgroups
    rows = subgroups.evaluate(one, resamples=50)
    by_site = pick(rows, "auroc", "site")
    assert {name: row["small"] for name, row in by_site.items()} == {
        "29 patients": True,
        "30 patients": False,
        "41 patients": False,
    }
    (gap,) = pick(rows, "auroc_gap", "site").values()
    assert gap["value"] == pytest.approx(abs(by_site["30 patients"]["value"] - by_site["41 patients"]["value"]))
    assert {gap["highest"], gap["lowest"]} == {"30 patients", "41 patients"}
    # Of scanner A all are positive: it has no value; of B too few are; so there is no gap.
    by_scanner = pick(rows, "sensitivity", "scanner")
    assert {name: (row["small"], row["few"]) for name, row in by_scanner.items()} == {"A": (True, True), "B": (True, True)}
    assert np.isnan([by_scanner["A"][key] for key in ("value", "low", "high")]).all()
    assert by_scanner["A"]["n"] == (scanner[one.test] == "A").sum()
    assert not any(row["few"] for row in by_site.values())
    assert not any(r["column"] == "scanner" and r["metric"].endswith("_gap") for r in rows)


def test_a_gap_and_its_interval_come_from_joint_resamples(tmp_path: Path) -> None:
    site = np.array(["a", "b", "c"])[np.arange(N) // 4 % 3]
    one = made(tmp_path, site=site)
    one.features[site == "b"] *= np.array([-1, -1], np.float32)  # misread at b
    rows = subgroups.evaluate(one, resamples=100)
    (gap,) = pick(rows, "auroc_gap", "site").values()
    y, score, names = one.target.y[one.test], one.features[one.test] @ [-1, 1], site[one.test]
    areas = []
    for counts in [np.ones(200, int), *bootstrap_weights(one.split.units[one.test], 100)]:
        drawn = np.repeat(np.arange(200), counts)
        areas.append([sk.roc_auc_score(y[drawn][names[drawn] == s], score[drawn][names[drawn] == s]) for s in "abc"])
    areas = np.array(areas)
    value = areas[0].max() - areas[0].min()
    reach = np.quantile([np.ptp(line - areas[0]) for line in areas[1:]], 0.95)
    assert gap["value"] == pytest.approx(value, abs=1e-9) and gap["lowest"] == "b" and gap["highest"] in "ac"
    assert (gap["low"], gap["high"]) == pytest.approx((value - reach, min(1, value + reach)), abs=1e-9) and gap["low"] > 0
    assert gap["n"] == 200
    row = pick(rows, "auroc", "site")["b"]
    b = names == "b"
    p = np.stack([-score, score], 1)[b]
    (alone, *_) = intervals.evaluate(y[b], p, one.split.units[one.test][b], ["auroc"])
    assert [row[k] for k in ("value", "low", "high")] == pytest.approx([alone[k] for k in ("value", "low", "high")], abs=1e-9)


@pytest.mark.parametrize("truth", [[0.5] * 6, [0.4, 0.5, 0.5, 0.6], [0.3, 0.7]])
def test_the_interval_of_a_gap_holds_it_and_finds_none_by_chance(truth: list[float]) -> None:
    # 500 made studies: 95 % of the intervals, or more, hold the true gap; the standard error of 95 % is 1 %.
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        values = truth + rng.normal(0, 0.05, len(truth))
        lines = values[:, None] + np.concatenate([np.zeros((len(truth), 1)), rng.normal(0, 0.05, (len(truth), 300))], 1)
        gap = subgroups._gap({str(k): line for k, line in enumerate(lines)})
        held += gap["low"] <= np.ptp(truth) <= gap["high"]
    assert held / 500 >= 0.93


def test_several_classes_are_compared_class_by_class(tmp_path: Path) -> None:
    one = made(tmp_path, outputs=3, site=np.array(["a", "b"])[np.arange(N) // 20 % 2])
    y = one.target.y.copy()
    y[(one.dataset.table["site"] == "b") & (y == 2)] = 0  # class 2 is never seen at b
    one.target = replace(one.target, y=y)
    rows = subgroups.evaluate(one, resamples=20)
    test = one.test
    of = one.dataset.table["site"].to_numpy()[test] == "a"
    truth, logits = y[test][of], one.features[test][of]
    p = linear_probe.probabilities(logits.astype(float), False)
    found = pick(rows, "auroc", "site")
    assert list(found) == ["a", "b"] and np.isnan(found["b"]["value"])  # at b the mean would be over two classes only
    assert found["b"]["few"] and found["b"]["n"] == 200 - of.sum()
    assert found["a"]["value"] == pytest.approx(sk.roc_auc_score(truth, p, multi_class="ovr"), abs=1e-6)
    recall = pick(rows, "balanced_accuracy", "site")["a"]["value"]
    assert recall == pytest.approx(sk.balanced_accuracy_score(truth, logits.argmax(1)), abs=1e-6)
    for k in range(3):
        of_class = pick(rows, "auroc", "site", **{"class": f"class {k}"})
        assert [name for name, row in of_class.items() if not np.isnan(row["value"])] == (["a", "b"] if k < 2 else ["a"])
        assert of_class["a"]["value"] == pytest.approx(sk.roc_auc_score(truth == k, p[:, k]), abs=1e-6)
        sensitivity = pick(rows, "sensitivity", "site", **{"class": f"class {k}"})["a"]["value"]
        assert sensitivity == pytest.approx((logits.argmax(1)[truth == k] == k).mean(), abs=1e-6)


def test_decisions_are_at_the_classifiers_thresholds(tmp_path: Path) -> None:
    one = made(tmp_path, site=np.array(["a", "b"])[np.arange(N) // 4 % 2])
    one.info = replace(one.info, thresholds=(0.8, 0.2), temperature=2.0)
    rows = subgroups.evaluate(one, resamples=10)
    y, score = one.target.y[one.test], one.features[one.test] @ [-1, 1]
    at = one.dataset.table["site"].to_numpy()[one.test] == "a"
    called = 1 / (1 + np.exp(-score / 2)) >= 0.2  # the second class's; the first is what is left
    for metric, side in (("sensitivity", 1), ("specificity", 0)):
        share = (called == side)[at & (y == side)].mean()
        assert pick(rows, metric, "site")["a"]["value"] == pytest.approx(share)


def test_unknown_labels_are_left_out(tmp_path: Path) -> None:
    site = np.array(["a", "b"])[np.arange(N) // 2 % 2]
    one = made(tmp_path, outputs=22, site=site)
    rows = subgroups.evaluate(one, resamples=20)
    values = []
    for k, label in enumerate(one.target.classes):
        row = pick(rows, "auroc", "site", **{"class": label})["a"]
        y = one.target.y[one.test, k]
        of = ~np.isnan(y) & (site[one.test] == "a")
        values.append(sk.roc_auc_score(y[of], one.features[one.test][of, k]))
        assert row["value"] == pytest.approx(values[-1], abs=1e-6)
        assert (row["n"], row["patients"]) == (of.sum(), len(np.unique(one.split.units[one.test][of])))
        called = pick(rows, "specificity", "site", **{"class": label})["a"]["value"]
        assert called == pytest.approx((one.features[one.test][of & (y == 0), k] <= 0.5).mean(), abs=1e-6)
    assert pick(rows, "auroc", "site")["a"]["value"] == pytest.approx(np.mean(values), abs=1e-6)


def test_rows_are_of_plain_values(tmp_path: Path) -> None:
    rows = subgroups.evaluate(made(tmp_path, sex=SEX, age=np.arange(N) % 90), resamples=10)
    assert {type(v) for row in rows for v in row.values()} == {str, int, float, bool}
    assert len(json.dumps(rows, allow_nan=False)) > 0
