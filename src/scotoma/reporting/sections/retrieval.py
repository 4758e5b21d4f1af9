"""Retrieval: how often what lies nearest among the features has the same label, one line per encoder."""

from __future__ import annotations

import pandas as pd

from scotoma.reporting.cells import Table
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.sections.base import tabulate_models

HEADING = "Representation quality"
PART = "features"
ORDER = 8
TITLES = {
    "precision_at_1": "Nearest",
    "precision_at_5": "5 nearest",
    "precision_at_10": "10 nearest",
    "precision_chance": "By chance",
    "map": "Whole ranking (mAP)",
    "map_chance": "… by chance",
}
CAPTION = "How often the training images nearest to a test image carry its label, with 95 % intervals"
KEY = "Nearest by the angle between features; never one of the same patient or group. By chance: what images drawn at random give."


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One table; of single classes the values are in ``rows.jsonl``."""
    table = tabulate_models(rows[rows["class"].isna()], TITLES, "neighbours", sheets)
    return {"tables": [(CAPTION, table, KEY)]} if table else {}
