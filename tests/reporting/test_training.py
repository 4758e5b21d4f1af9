"""Who was tested, and what is known of copies, stands beside the counts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scotoma.reporting import training
from scotoma.reporting.csv_tables import Sheets

DATA = [
    {"evaluator": "data", "metric": "images", "split": "test", "value": 12},
    {"evaluator": "data", "metric": "groups", "split": "test", "value": 7, "unit": "study + file"},
    {"evaluator": "data", "metric": "tested", "split": "test", "value": 11, "n": 12, "rule": "all rows: none is known"},
    {"evaluator": "data", "metric": "near_duplicates_in_training", "split": "test", "overlap": "not checked: no record", "n": 12},
]


def test_the_number_tested_and_its_rule_are_told() -> None:
    columns = ["run", "target", "class"]
    rows = (
        pd.DataFrame(DATA)
        .assign(run=str(Path("run")), target=None)
        .reindex(columns=[*DATA[0], "unit", "rule", "overlap", "n", *columns])
    )
    (table,) = training.cohorts(rows, Sheets())
    assert table["tested"] == (
        "Tested: 11 labelled images (all rows: none is known). Near-duplicates of test images in the encoder's training: "
        "not checked: no record."
    )
    assert "groups of images that belong together (study + file), and no group is in more than one" in table["apart"]
    (old,) = training.cohorts(rows.drop(columns=["rule", "overlap", "unit"]), Sheets())  # of an earlier version
    assert old["tested"] == "" and "(of the table, or near-duplicates)" in old["apart"]


def test_what_is_in_several_sets_is_told() -> None:
    data = pd.DataFrame(
        [
            {"metric": "images", "split": "test", "value": 12},
            {"metric": "patients", "split": "test", "value": 7, "unit": "patient"},
            *({"metric": "shared_between_sides", "value": n, "what": w} for n, w in ((3, "patients"), (2, "identical images"))),
        ]
    ).assign(run="run", target=None, evaluator="data", **{"class": None})
    (table,) = training.cohorts(data, Sheets(), {"run"})
    assert table["apart"] == (
        "What was split are patients, but 3 patients and 2 identical images are in more than one of these sets: "
        "the run allows it, and its results may flatter."
    )
    for leaking, end in ((("other",), "more than one of these sets."), (("run",), "the run allows it.")):
        (table,) = training.cohorts(data[:2], Sheets(), leaking)
        assert "no patient is in more than one" in table["apart"] and table["apart"].endswith(end)


def test_few_patients_are_told_by_run() -> None:
    tested = {"evaluator": "data", "metric": "tested", "unit": "patient"}
    rows = pd.DataFrame(
        [{**tested, "run": "a", "patients": 1}, {**tested, "run": "b", "patients": 4}, {**tested, "run": "c", "patients": 40}]
    )
    assert training.cautions(rows) == [
        "a: all test images are of one patient, which gives no interval.",
        "b: intervals over 4 patients are unreliable.",
    ]
    assert training.cautions(rows[:1]) == ["All test images are of one patient, which gives no interval."]
