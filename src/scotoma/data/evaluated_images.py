"""Whose images a run's rows, pages and figures are about beside those that it was trained on, and what was predicted of them.

`scotoma find` names a run by them, and `scotoma purge` takes a patient's predictions out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data.splits import splits, units
from scotoma.data.store import image_index, store
from scotoma.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.dataset import Dataset
    from scotoma.data.splits.label_draws import Draw
    from scotoma.data.store.store import Store

TESTED = "tested.parquet"  # in the run folder: keyed hashes of patients and contents
PREDICTIONS = "predictions"  # there, too: a folder of NAME.parquet of each evaluator; of a study of NAME.npy of each model
IMAGES = "images.parquet"  # beside the latter: which image each line of theirs is of


@dataclass(frozen=True)
class Predictions:
    """What one model predicts.

    Args:
        positions: (n,) of the table's rows.
        columns: (n,) each, labels and predictions.
        drawn: of which labels the model was trained; None for all of them.
    """

    positions: np.ndarray
    columns: dict[str, np.ndarray]
    drawn: Draw | None = None


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


def save_predictions(folder: Path, name: str, context: Any) -> None:
    """Write ``predictions/NAME.parquet``: of every image row id, keyed hashes, split, label and what was predicted.

    Args:
        folder: of the run.
        name: of the evaluator.
        context: an evaluator's: its table, store, split and ``predictions``.
    """
    import pandas as pd

    about = _describe_images(context.dataset, context.store, context.split.of)
    if context.join_key:
        about["join_key"] = image_index.join_keys(store.cache_folder(), context.store.path, about["row"].to_numpy())
    parts = []
    for of_model in context.predictions:
        part = about.iloc[of_model.positions].reset_index(drop=True)
        if of_model.drawn is not None:
            part = part.assign(fraction=of_model.drawn.fraction, seed=of_model.drawn.seed)
        parts.append(part.assign(**of_model.columns))
    (folder / PREDICTIONS).mkdir(exist_ok=True)
    with files.replacing(folder / PREDICTIONS / f"{name}.parquet") as temporary:
        pd.concat(parts, ignore_index=True).to_parquet(temporary)


def save_images(folder: Path, task: Any, positions: np.ndarray) -> None:
    """Write ``predictions/images.parquet``: row id, keyed hashes, split and labels of each line of a study's ``NAME.npy``.

    Its ``attrs["classes"]`` are the classes, or 0/1 targets, in the order of the columns of those arrays.

    Args:
        folder: of the study.
        task: with table, store and split, labels and names.
        positions: (n,) of the images tested.
    """
    found = _describe_images(task.dataset, task.store, task.split.of).iloc[positions].reset_index(drop=True)
    found = found.assign(**task.labels(positions))
    found.attrs["classes"] = list(task.names)
    with files.replacing(folder / PREDICTIONS / IMAGES) as temporary:
        found.to_parquet(temporary)


def _describe_images(dataset: Dataset, store: Store, split: np.ndarray) -> pd.DataFrame:
    """Row id, keyed hashes of patient and content, and split of every image."""
    import pandas as pd

    owners, contents = units.name_owners(dataset, store), splits.contents(dataset, store)
    return pd.DataFrame({"row": dataset.table["row"].to_numpy(), "patient": owners, "content": contents, "split": split})


def take_out_predictions(folder: Path, patients: set[str], contents: set[str]) -> None:
    """Rewrite a run's predictions without those of patients, and of images, that have these keyed hashes."""
    import pandas as pd

    for path in (folder / PREDICTIONS).glob("*.parquet"):
        found: pd.DataFrame = pd.read_parquet(files.regular(path))
        his = found["patient"].isin(patients) | found["content"].isin(contents)
        if his.any():
            for outputs in path.parent.glob("*.npy") if path.name == IMAGES else ():
                values = np.load(files.regular(outputs))
                if len(values) == len(found):  # else an interrupted purge has been here
                    with files.replacing(outputs) as temporary, temporary.open("wb") as file:
                        np.save(file, values[~his.to_numpy()])
            with files.replacing(path) as temporary:
                found[~his].to_parquet(temporary)
