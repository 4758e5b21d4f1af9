"""The section on predicted numbers."""

from __future__ import annotations

import pandas as pd

from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.sections import regression

COMMON = {
    "metric": "mae",
    "class": None,
    "unit": None,
    "seed": None,
    "target": "age",
    "n": 40,
    "labels": 10,
    "low": 1.0,
    "high": 20.0,
}


def test_shares_and_uses_of_a_study_are_lines_and_columns_of_their_own() -> None:
    values = {("simclr", "linear", 0.1): 9.0, ("simclr", "linear", 1.0): 7.0, ("simclr", "finetune", 0.1): 8.0,
              ("simclr", "finetune", 1.0): 6.0, ("control", "pixels", 0.1): 11.0, ("control", "pixels", 1.0): 10.0}  # fmt: skip
    rows = [
        COMMON | {"method": m, "label": "SimCLR" if m == "simclr" else m, "use": u, "fraction": f, "value": v}
        for (m, u, f), v in values.items()
    ]
    ((_, table, _),) = regression.describe(pd.DataFrame(rows), Sheets())["tables"]
    assert len(table["heads"]) == 2 and len(table["lines"]) == 3
    shown = [[float(cell["value"]) for cell in line["cells"]] for line in table["lines"]]
    assert shown == [[9.0, 7.0], [8.0, 6.0], [11.0, 10.0]]


def test_a_single_model_has_a_column_a_metric() -> None:
    rows = [
        COMMON | {"metric": m, "method": "simclr", "label": "SimCLR", "fraction": None, "value": v}
        for m, v in (("mae", 3.0), ("r2", 0.5))
    ]
    ((_, table, _),) = regression.describe(pd.DataFrame(rows), Sheets())["tables"]
    assert len(table["heads"]) == 2 and len(table["lines"]) == 1
