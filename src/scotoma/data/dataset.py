"""``Dataset``: a named table with one row per image."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma.data.io import read
from scotoma.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test")
DISPLAY = "scotoma_display"  # a Parquet table's attribute: how its images are shown
TABLE = "table.parquet"  # of a prepared store
LEFT_OUT = "scotoma_left_out"  # its attribute: the columns that `prepare` left out as identifying, with why


@dataclass(frozen=True)
class Dataset:
    """A named table, one row per image.

    Columns: ``image_path`` (absolute, or ``phantom:SEED``, or ``file.npz#member``), ``frame`` (which image of the file; missing
    for files with one), and where known ``patient``, ``study`` and ``group`` (keyed hashes), ``split``, ``mask_path``, targets,
    metadata. The index is 0..n-1 and is the row id by which rows, logs and reports name an image.
    """

    name: str
    table: pd.DataFrame
    store: Path | None = None  # set where the images lie prepared already
    display: read.Display = read.AS_STORED  # how stored values become grey levels
    plain: bool = False  # identifiers are as they came, no hashes: inside ``load``, and for `scotoma split`
    keys: Mapping[str, str] = field(default_factory=dict)  # image_path -> what the spreadsheet that was joined calls the image
    spelled: pd.DataFrame | None = None  # of a plain one: the file's own cells, for `scotoma split`, which writes them again

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> pd.Series[Any]:
        """One column of the table.

        Raises:
            UsageError: there is none of that name; the message names the nearest.
        """
        if name not in self.table.columns:
            usable = [c for c in self.table.columns if c not in ("image_path", "frame", "row")]
            near = difflib.get_close_matches(name, usable, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(map(str, usable)) or 'none'}"
            if why := self.table.attrs.get(LEFT_OUT, {}).get(name):
                hint = f"`scotoma prepare` left it out as {why}: prepare anew with --columns {name}"
            raise UsageError(f"{self.name} has no column {name!r}; {hint}")
        return self.table[name]
