"""Errors of a predicted number: a line a model."""

from __future__ import annotations

import pandas as pd

from scotoma.reporting.cells import Table
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.sections.base import tabulate_models

HEADING = "Results: errors of the predicted number"
ORDER = 2
KEYS = ("unit",)
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


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One table."""
    table = tabulate_models(rows, TITLES, "errors of numbers", sheets)
    return {"text": TEXT, "tables": [("Errors on the test images, with 95 % intervals", table, KEY)]} if table else {}
