"""Which file each row id is: ``index/NAME.csv`` of the cache, for its owner's eyes alone and on this machine alone.

Rows, pages and predictions name images by row id, which lets nobody else find them. The index lies in no run folder, prepared store
or report; ``scotoma find`` lists it and ``scotoma purge`` takes a patient's rows out of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scotoma import files
from scotoma.errors import RunError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.dataset import Dataset

FOLDER = "index"  # in the cache
PEOPLE = ("patient", "study", "group", "series")


def path_of(cache: Path, store: Path) -> Path:
    """Where the index of a store, cached or prepared, lies on the machine that made it."""
    settings = json.loads((store / "store.json").read_text())
    return cache / FOLDER / f"{settings['name'][:40]}-{settings['fingerprint']}.csv"


def write(cache: Path, store: Path, dataset: Dataset, facts: pd.DataFrame) -> Path | None:
    """Write the index of a store, unless it is there; None where the cache cannot be written.

    Columns: row id, file, frame, join key (what the spreadsheet that was joined calls the image), error (missing where readable),
    and the keyed hashes of the image and its patient by which `scotoma find` searches it.

    Args:
        cache: the folder of the cache.
        store: of the images.
        dataset: all of its rows, unreadable ones too.
        facts: of the store.
    """
    import pandas as pd

    path, table = path_of(cache, store), dataset.table
    if not dataset.keys and path.exists() and path.stat().st_mtime >= (store / "store.json").stat().st_mtime:
        return path
    keys = dataset.keys or _keys_before(path)
    found = pd.DataFrame({
        "row": np.arange(len(table)),
        "file": table["image_path"].to_numpy(object),
        "frame": table["frame"].astype("Int64") if "frame" in table.columns else None,
        "join_key": [keys.get(str(name)) for name in table["image_path"]],
        "error": facts["error"].to_numpy(object),
        "content": facts["content"].to_numpy(object),
        **{name: of[name].to_numpy(object) for of in (facts, table) for name in PEOPLE if name in of.columns},
    })  # fmt: skip
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _save(path, found)
    except (OSError, RunError):
        return None
    return path


def join_keys(cache: Path, store: Path, rows: np.ndarray) -> list[str]:
    """What the user's own table calls these images: the value by which a spreadsheet was joined, else the file's path (and frame).

    Raises:
        UsageError: the index is not on this machine, or cannot be read.
    """
    path = path_of(cache, store)
    try:
        found = read(path).set_index("row").loc[rows]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"--join_key: {path}, which was written where {store} was prepared, is not there or not whole") from error
    frames = ["" if frame != frame else f" frame {int(frame)}" for frame in found["frame"].astype(float)]
    return [str(value) for value in found["join_key"].fillna(found["file"] + frames)]


def read(path: Path) -> pd.DataFrame:
    """An index."""
    import pandas as pd

    text = dict.fromkeys(("file", "join_key", "error", "content", *PEOPLE), object)
    found: pd.DataFrame = pd.read_csv(files.regular(path), dtype=text, keep_default_na=False, na_values=[""])
    return found


def take_out(path: Path, rows: np.ndarray) -> None:
    """Rewrite an index without these rows."""
    found = read(path)
    _save(path, found[~found["row"].isin(rows)])


def _keys_before(path: Path) -> dict[str, str]:
    """File -> join key of the index that is there: a command without the spreadsheet does not take them away."""
    try:
        before = read(path).dropna(subset=["join_key"])
    except (OSError, ValueError, KeyError, UsageError):
        return {}
    return dict(zip(before["file"], before["join_key"], strict=True))


def _save(path: Path, table: pd.DataFrame) -> None:
    with files.replacing(path, 0o600) as temporary:
        table.to_csv(temporary, index=False, errors="backslashreplace")
