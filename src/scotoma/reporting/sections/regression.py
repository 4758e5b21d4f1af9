"""Errors of a predicted number: a line a model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scotoma import plugins
from scotoma.reporting.cells import Table
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import CONTROL, USES
from scotoma.reporting.sections.base import tabulate_models, tabulate_shares

HEADING = "Results: errors of the predicted number"
ORDER = 2
KEYS = ("unit", "use", "reference", "p_value", "p_holm")
TITLES = {
    "mae": "Mean absolute error", "mae_of_mean": "… of always predicting the mean", "rmse": "Root mean squared error",
    "bias": "Bias (predicted less true)", "r2": "R²", "pearson": "Correlation",
}  # fmt: skip
HEADLINE = ("mae", TITLES["mae"])
TEXT = (
    "Here the model predicts a number. The mean absolute error is how far it lies off on average, in the number's own unit; beside "
    "it stands the error of predicting the training images' mean for every image, which knows nothing."
)
KEY = "R²: share of the numbers' spread that the model explains; 0 for the mean, negative for worse. Bias: above 0 it is too high."
STUDY = (
    ("mae", "Mean absolute error by share of the labels, with 95 % intervals", "Means over the label draws."),
    ("mae_difference", "Difference from random weights, same labels and test images", "Below 0 the pretrained encoder errs less."),
)


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One model's errors, a column a metric; of a study the mean absolute error, a column a share of the labels."""
    if rows.empty:
        return {}
    table = tabulate_models(rows[rows["fraction"].isna()], TITLES, "errors of numbers", sheets)
    tables = [("Errors on the test images, with 95 % intervals", table, KEY)] if table else []
    study = rows[rows["fraction"].notna() & rows["seed"].isna()]
    if len(study):
        control, uses = (
            study["method"] == CONTROL,
            plugins.titles("evaluators") | USES | {"majority": "Mean of the training labels"},
        )
        named = [uses.get(u, str(u)) for u in study["use"]]
        study = study.assign(
            label=np.where(control, named, study["label"].astype(str) + ", " + pd.Series(named, study.index).str.lower())
        )
    for metric, title, key in STUDY if len(study) else ():
        part = study[study["metric"] == metric]
        found = tabulate_shares(part, sorted(set(part["fraction"])), "", sheets.add(metric.replace("_", " "), part))
        tables += [(title, found, key)] if found else []
    return {"text": TEXT, "tables": tables} if tables else {}
