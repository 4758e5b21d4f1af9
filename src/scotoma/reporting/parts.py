"""Parts of the page that evaluators fill: each by its section, or by the plain table where it has none."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from scotoma import plugins
from scotoma.reporting import results
from scotoma.reporting.cells import Table
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import title_of_use
from scotoma.reporting.reading import has_unknown_keys
from scotoma.reporting.sections.base import plain_table

PLAIN = "sections/plain.html.jinja"
RECORDS = ("data", "cohort", "pretrain", "finetune")  # of data and of trainings, which have parts of their own


@dataclass
class Part:
    """A part of the page: its id, its heading, and (template, content) of what stands in it."""

    id: str
    heading: str
    blocks: list[tuple[str, Table]] = field(default_factory=list)

    @property
    def is_filled(self) -> bool:
        """Whether anything but a figure stands in it."""
        return any(content for _, content in self.blocks)


def find_parts(
    rows: pd.DataFrame, label: Callable[[pd.DataFrame], pd.DataFrame], images: Mapping[str, Collection[Any]], sheets: Sheets
) -> list[Part]:
    """The parts of evaluators in their order, those without a section last.

    Args:
        rows: those about test images.
        label: gives rows their column ``label``.
        images: saved figures by the part in which they stand.
        sheets: to which the tables go.
    """
    parts: dict[str, Part] = {}
    sections, classifiers = plugins.modules("sections"), results.find_classifiers(rows)
    compared = {m for table in sheets.tables.values() for m in table["metric"]}  # in the tables of classifiers
    others = [n for n in dict.fromkeys(rows["evaluator"].dropna()) if n not in sections and (n not in RECORDS or n in classifiers)]
    for name in [*sections, *others]:
        own, section = label(rows[rows["evaluator"] == name]), sections.get(name)
        heading = getattr(section, "HEADING", title_of_use(name))
        id = getattr(section, "PART", name) if section else "of_" + re.sub(r"\W+", "_", name)
        part = Part(id, heading[:1].upper() + heading[1:])
        part, rest = parts.setdefault(part.id, part), own
        if section:
            content, rest = _describe(section, own, sheets)
            has_template = Path(str(section.__file__)).with_suffix(".html.jinja").exists()
            part.blocks.append((f"sections/{name}.html.jinja" if has_template else PLAIN, content))
        elif name in classifiers:
            known = own["metric"].isin({*compared, *results.DRAWN}) | (name in RECORDS)
            rest = own[has_unknown_keys(own, results.KEYS) | ~known]
        if len(rest):
            caption = f"{'Rows' if len(rest) == len(own) else 'Further rows'} of {name.replace('_', ' ')}"
            part.blocks.append((PLAIN, {"tables": [(caption, plain_table(rest, name, sheets), "")]}))
    return [part for part in parts.values() if part.is_filled or images.get(part.id)]


def _describe(section: Any, rows: pd.DataFrame, sheets: Sheets) -> tuple[Table, pd.DataFrame]:
    """What a section shows of its evaluator's rows, and the rows that it does not show."""
    unknown, before = has_unknown_keys(rows, getattr(section, "KEYS", ())), set(sheets.tables)
    content = section.describe(rows[~unknown], sheets)
    shown = {m for name, table in sheets.tables.items() if name not in before for m in table["metric"]}
    rest = rows[unknown | ~rows["metric"].isin({*shown, *getattr(section, "DRAWN", ())})]
    means = rest[rest["seed"].isna()]
    return content, rest[rest["seed"].isna() | ~rest["metric"].isin(means["metric"])]  # of draws their mean, where there is one
