"""What trainings took and reached: loss curves, costs of the pretraining, values on validation images."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from scotoma import plugins
from scotoma.reporting.cells import Table, missing
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import COSTS, METRICS, label_of, method_of, title_of
from scotoma.reporting.reading import Folder
from scotoma.reporting.results import split_evenly
from scotoma.reporting.sections.base import tabulate_models

MOST = 5  # pretrainings beside each other
WHICH: dict[str, Callable[[Any], str]] = {  # of several pretrainings by one method, by the keys of their rows
    "run": str,
    "fraction": lambda share: f"{100 * share:g}\u00a0% of labels",
    "seed": lambda seed: f"draw {seed + 1:g}",
    "pretraining": lambda number: f"pretraining {number:g}",
}


def curves(folders: Iterable[Folder], several: bool) -> list[tuple[str, pd.DataFrame]]:
    """Loss curves of the pretraining runs, and of any run that was named itself."""
    found: list[tuple[str, pd.DataFrame]] = []
    for folder in folders:
        files = [file for file in folder.metrics if file.stat().st_size]
        if files and (folder.config.get("command") == "pretrain" or folder.path.name == folder.top):
            table = pd.concat(map(pd.read_csv, files), ignore_index=True)
            table = table.reindex(columns=["step", "loss", "feature_spread", "effective_rank"])
            table = table.apply(pd.to_numeric, errors="coerce")
            name = method_of(folder.config) or ("Fine-tuning" if folder.config.get("command") == "finetune" else folder.path.name)
            label = label_of(name, folder.config.get("encoder"), several)
            number = re.search(r"-p(\d+)$", folder.path.name) if method_of(folder.config) else None  # as studies name theirs
            label += f", pretraining {int(number[1]) + 1}" if number else ""
            taken = [name for name, _ in found]
            found.append((label if label not in taken else f"{label}, {folder.path.name} ({len(found) + 1})", table))
    return [(label, table) for label, table in found if table["loss"].notna().any()]


def costs(rows: pd.DataFrame, several: bool, sheets: Sheets) -> Table:
    """What each pretraining run took and gave."""
    lines: dict[str, dict[str, float]] = {}
    labels = []
    extra = {c: words for c, words in WHICH.items() if rows[c].nunique() > 1}
    for _, row in rows.iterrows():
        words = [word(row[c]) for c, word in extra.items() if not missing(row[c])]
        label = ", ".join([label_of(row["method"], row["encoder"], several), *words])
        lines.setdefault(label, {})[row["metric"]] = row["value"]
        labels.append(label)
    given = [*COSTS, *dict.fromkeys(c for line in lines.values() for c in line if c not in COSTS)]
    columns = [c for c in given if any(c in line and line[c] == line[c] for line in lines.values())]
    if all(line.get("processes", 1) == 1 for line in lines.values()):
        columns = [c for c in columns if c != "processes"]  # one is the rule
    ways = {c: COSTS.get(c, (title_of(c).capitalize(), "{:.4g}".format)) for c in columns}
    cells = {
        label: [ways[c][1](v) if (v := line.get(c, math.nan)) == v else "\u2013" for c in columns] for label, line in lines.items()
    }
    if not columns:
        return {}
    parts = [
        {"heads": part, "lines": [(ways[c][0], [cells[label][i] for label in part]) for i, c in enumerate(columns)]}
        for part in split_evenly(list(cells), MOST)
    ]
    return {"sheet": sheets.add("pretraining costs", rows.assign(label=labels)[rows["metric"].isin(columns)]), "parts": parts}


def validation_tables(rows: pd.DataFrame, sheets: Sheets, name: str = "validation") -> list[Table]:
    """What trainings reached on their validation images, a table an evaluator: no test result, as these chose settings."""
    whole = rows[rows["class"].isna() & (rows["unit"].isna() | (rows["unit"] == "image"))]
    sections = plugins.modules("sections")
    return [
        tabulate_models(part, getattr(sections.get(str(evaluator)), "TITLES", METRICS), name, sheets)
        for evaluator, part in whole.groupby("evaluator", sort=False)
    ]
