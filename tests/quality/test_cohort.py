"""The cohort table against scipy and numbers by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scotoma.quality import cohort


def find(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    matching = [r for r in rows if all(r.get(k) == v for k, v in wanted.items())]
    assert len(matching) == 1, matching
    return matching[0]


def test_a_table_by_hand() -> None:
    table = pd.DataFrame(
        {
            "age": [20.5, 30, 40, 50, 60, None, 25, 35, 45, 55, 65, 75],
            "sex": ["F", "F", "M", "M", None, "F", "M", "M", "M", "F", "M", "M"],
            "note": [f"seen {k}" for k in range(12)],
            "image_path": ["x"] * 12,
            "site": ["A"] * 12,
        }
    )
    of = np.array(["train"] * 6 + ["test"] * 6)
    rows = cohort.compare(table, of, targets=("sex",))
    assert {r["evaluator"] for r in rows} == {"cohort"}
    assert {r.get("column") for r in rows} == {None, "age", "sex"}  # text of its own in each row and a constant describe nothing
    assert find(rows, metric="images", split="train")["value"] == 6
    assert not [r for r in rows if r["metric"] == "patients"]
    age = find(rows, metric="median", column="age", split="train")
    assert (age["value"], age["lower_quartile"], age["upper_quartile"], age["n"]) == (40, 30, 50, 5)
    share = find(rows, metric="share", column="sex", split="train", **{"class": "F"})
    assert (share["value"], share["count"], share["n"]) == (0.6, 3, 5)
    assert [find(rows, metric="missing", column=c, split=s)["value"] for c in ("age", "sex") for s in ("train", "test")] == [
        1,
        0,
        1,
        0,
    ]
    sex = find(rows, metric="difference", column="sex", split="test", reference="train")
    p, q = 0.6, 1 / 6
    assert sex["value"] == pytest.approx(abs(p - q) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2))
    # chi-square by hand: [[3, 2], [1, 5]], n = 11: n (ad - bc)^2 / (row and column sums)
    chi = 11 * (3 * 5 - 2 * 1) ** 2 / (5 * 6 * 4 * 7)
    assert find(rows, metric="p_value", column="sex")["value"] == pytest.approx(stats.chi2.sf(chi, 1))
    train, test = table["age"][:6].dropna(), table["age"][6:]
    difference = (test.mean() - train.mean()) / np.sqrt((train.var() + test.var()) / 2)
    assert find(rows, metric="difference", column="age")["value"] == pytest.approx(difference)
    assert find(rows, metric="p_value", column="age", test="Mann-Whitney")["value"] == stats.mannwhitneyu(test, train).pvalue


def test_categories_of_few_patients_are_one_and_names_are_not_described() -> None:
    patients = np.repeat(np.arange(30), 2)
    table = pd.DataFrame({
        "patient": patients,
        "site": np.array(["A"] * 20 + ["B"] * 4 + ["C"] * 5 + ["D"])[patients],
        "patient_name": [f"Zwxy{p % 3}" for p in patients],
        "dob": [f"19{31 + p % 4}-04-17" for p in patients],
    })  # fmt: skip
    of = np.where(patients % 2, "test", "train")
    found = cohort.compare(table, of, patients)
    assert {r.get("column") for r in found} == {None, "site"}
    shares = {(r["class"], r["split"]): r["count"] for r in found if r["metric"] == "share"}
    other = "other (each fewer than 5)"
    assert {label for label, _ in shares} == {"A", "C", other}
    assert shares[other, "train"] + shares[other, "test"] == 5  # of B and D
    asked = cohort.compare(table, of, patients, targets=("site",))
    assert {r["class"] for r in asked if r["metric"] == "share"} == {"A", "B", "C", "D"}


def test_patients_are_counted_once() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    age, sex = rng.normal(60, 12, 40), rng.choice(["F", "M"], 40)
    of = np.where(patients % 3 == 0, "test", "train")
    table = pd.DataFrame({"age": age[patients] + rng.choice([-0.1, 0, 0.1], len(patients)), "sex": sex[patients]})
    rows = cohort.compare(table, of, patients)
    assert find(rows, metric="patients", split="test")["value"] == 14
    one = pd.DataFrame({"age": age, "sex": sex, "test": np.arange(40) % 3 == 0})
    medians = table["age"].groupby(patients).median()
    wanted = stats.mannwhitneyu(medians[one["test"]], medians[~one["test"]]).pvalue
    assert find(rows, metric="p_value", column="age")["value"] == pytest.approx(wanted)
    counts = pd.crosstab(one["test"], one["sex"])
    p = find(rows, metric="p_value", column="sex")
    assert p["value"] == pytest.approx(stats.chi2_contingency(counts, correction=False).pvalue)
    assert p["n"] == 40
    assert (
        find(rows, metric="p_value", column="sex")["value"]
        != find(cohort.compare(table, of), metric="p_value", column="sex")["value"]
    )


def test_three_splits_and_categories_that_one_lacks() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"view": rng.choice(["AP", "PA", "LL"], 300), "k": rng.integers(0, 2, 300).astype(float)})
    of = np.repeat(["train", "val", "test"], 100)
    table.loc[200:, "view"] = "PA"
    table.loc[::7, "k"] = np.nan
    rows = cohort.compare(table, of)
    assert [find(rows, metric="share", column="view", split="test", **{"class": c})["value"] for c in ("AP", "LL", "PA")] == [
        0,
        0,
        1,
    ]
    assert {r["class"] for r in rows if r.get("column") == "k" and r["metric"] == "share"} == {"0", "1"}
    assert sorted(r["split"] for r in rows if r["metric"] == "p_value" and r["column"] == "view") == ["test", "val"]
    counts = pd.crosstab(of[of != "test"], table["view"][of != "test"])
    wanted = stats.chi2_contingency(counts, correction=False).pvalue
    assert find(rows, metric="p_value", column="view", split="val")["value"] == pytest.approx(wanted)


def test_the_difference_of_shares_is_that_of_the_binary_formula_and_of_any_order() -> None:
    rng = np.random.default_rng(0)
    for k in (2, 3, 6):
        a, b = rng.dirichlet(np.ones(k), 2)
        turn = rng.permutation(k)
        assert cohort.share_difference(a, b) == pytest.approx(cohort.share_difference(a[turn], b[turn]))
        assert cohort.share_difference(a, a) == pytest.approx(0, abs=1e-7)
        if k == 2:
            wanted = abs(a[0] - b[0]) / np.sqrt((a[0] * a[1] + b[0] * b[1]) / 2)
            assert cohort.share_difference(a, b) == pytest.approx(wanted)


def test_a_column_that_one_side_lacks_is_described_and_not_compared() -> None:
    table = pd.DataFrame({"age": [*np.arange(20.0), *[None] * 20], "sex": [None] * 20 + ["F", "M"] * 10})
    rows = cohort.compare(table, np.repeat(["train", "test"], 20))
    assert not [r for r in rows if r["metric"] in ("p_value", "difference")]
    assert find(rows, metric="median", column="age", split="test")["n"] == 0
