"""Whose images a run's rows, pages and figures are about beside those that it was trained on, so that `scotoma find` names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scotoma import files
from scotoma.data.splits import splits, units
from scotoma.errors import UsageError

if TYPE_CHECKING:
    from scotoma.data.dataset import Dataset
    from scotoma.data.store.store import Store

TESTED = "tested.parquet"  # in the run folder: keyed hashes of patients and contents


def note(folder: Path, dataset: Dataset, store: Store, split: np.ndarray | None = None) -> None:
    """Add the images of a table to those that a run has looked at; for who holds the run's lock.

    Args:
        folder: of the run.
        dataset: readable rows.
        store: their pixels.
        split: (n,) the side of each row.
    """
    import pandas as pd

    rows = dataset.table["row"].to_numpy()
    sides = split if split is not None else np.full(len(rows), "")
    found = pd.DataFrame(
        {"row": rows, "patient": units.name_owners(dataset, store), "content": splits.contents(dataset, store), "split": sides}
    )
    if (folder / TESTED).exists():
        try:
            found = pd.concat([pd.read_parquet(files.regular(folder / TESTED)), found], ignore_index=True)
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder / TESTED}: damaged: put it back from a copy, or move the file away") from error
    with files.replacing(folder / TESTED) as temporary:
        found.drop_duplicates(["patient", "content"], keep="last").to_parquet(temporary)
