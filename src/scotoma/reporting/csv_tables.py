"""Every table of a page as numbers: one CSV file per table, in a folder beside the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from scotoma.errors import RunError
from scotoma.reporting.reading import NUMBERS, TEXT
from scotoma.run_folder import write_atomically

INDEX = "index.csv"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
OWN = ("kind", "order", "use_order", "words", "whose", "alone")  # columns that the page adds
COLUMNS = ("label", "run", *TEXT, *NUMBERS)


def inert(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before texts that a spreadsheet would take for a formula, column names too."""

    def text(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    return table.map(text).rename(columns=text)


class Sheets:
    """The rows of the tables that a page shows, collected while it is made.

    Args:
        folder: name of the folder beside the page.
    """

    def __init__(self, folder: str = "tables") -> None:
        self.folder = folder
        self.tables: dict[str, pd.DataFrame] = {}

    def add(self, name: str, rows: pd.DataFrame) -> str:
        """Keep the rows that a table shows, without the columns of which they have nothing; the file's name as the page gives it.

        Of no rows there is no file, and no name.
        """
        if rows.empty:
            return ""
        stem = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        first, number = stem, 2
        while stem in self.tables:
            stem, number = f"{first}_{number}", number + 1
        columns = [*COLUMNS, *(c for c in rows.columns if c not in COLUMNS and c not in OWN)]
        kept = [c for c in columns if c in rows.columns and rows[c].notna().any()]
        self.tables[stem] = rows[kept].reset_index(drop=True)
        return f"{self.folder}/{stem}.csv"

    def write(self, beside: Path) -> None:
        """Write all files, and an index of them; what an earlier page listed and this one lacks is removed, nothing else.

        Raises:
            RunError: they cannot be written.
        """
        folder = beside.parent / self.folder
        try:
            folder.mkdir(exist_ok=True)
            earlier = pd.read_csv(folder / INDEX)["file"].tolist() if (folder / INDEX).exists() else []
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"cannot write into {folder} ({error}): move it away") from error
        for name, table in self.tables.items():
            write_atomically(folder / f"{name}.csv", inert(table).to_csv(index=False))
        for name in {str(file) for file in earlier} - {f"{name}.csv" for name in self.tables}:
            (folder / Path(name).name).unlink(missing_ok=True)
        index = pd.DataFrame({"file": [f"{n}.csv" for n in self.tables], "lines": [len(t) for t in self.tables.values()]})
        write_atomically(folder / INDEX, index.to_csv(index=False))
