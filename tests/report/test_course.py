"""Who was tested, and what is known of copies, stands beside the counts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scotoma.report import course
from scotoma.report.csv_tables import Sheets

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
    (table,) = course.cohorts(rows, Sheets())
    assert table["tested"] == (
        "Tested: 11 labelled images (all rows: none is known). Near-duplicates of test images in the encoder's training: "
        "not checked: no record."
    )
    assert (table["grouped"], table["unit"]) == (True, "study + file")
    (old,) = course.cohorts(rows.drop(columns=["rule", "overlap", "unit"]), Sheets())  # of an earlier version
    assert (old["tested"], old["unit"]) == ("", "")
