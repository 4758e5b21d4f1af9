"""Where a patient's images are: runs, prepared stores, the cache, embeddings; found by keyed hashes, and how he is taken out.

Nobody is named: what is searched for is the keyed hash of an identifier, and what is found are files made with the same key.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data import pseudonyms as identity
from scotoma.data.dataset import TABLE
from scotoma.data.evaluated_images import TESTED, take_out_predictions
from scotoma.data.patient_rows import OF_TABLE, OWNER, PEOPLE, count_unnamed, rows_of
from scotoma.data.provenance import Record
from scotoma.data.store import caches, image_index
from scotoma.data.store.store import MASK_ROW, MASKS_FOLDER
from scotoma.errors import UsageError, notice, number
from scotoma.run_folder import USED

if TYPE_CHECKING:
    import pandas as pd

RUN, STORE, CACHE, EMBEDDINGS, WEIGHTS, INDEX = "run", "store", "cache", "embeddings", "weights", "index"
UNFINISHED = "unfinished"  # what a killed build left in the cache
_LONGEST = 2**26  # bytes of a safetensors file's header
PAGES = ("figures/*", "**/*.html", "**/*.png", "**/*.dcm")  # of a run: what may show his images, whatever evaluator made it


@dataclass
class Holding:
    """A file or folder that holds images of the patient, or what was made of them.

    Args:
        kind: run, store, cache, embeddings, weights (an encoder or model file whose record names him), or index (which file each
            row of a store is).
        path: where it lies.
        images: how many of his there are; 0 where that is not known.
        splits: how many of them on which side, where it is known.
        rows: (k,) their places in the table.
        contents: keyed hashes of the images, where they are known.
    """

    kind: str
    path: Path
    images: int
    splits: dict[str, int] = field(default_factory=dict)
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False)
    contents: set[str] = field(default_factory=set, repr=False)

    def text(self) -> str:
        """One line that states what was found."""
        where = ", ".join(f"{n} {name}" for name, n in self.splits.items())
        count = number(self.images, "image") if self.images else ""
        if self.kind == WEIGHTS and not count:
            count = "trained on the patient, as its header states"
        return f"{self.kind:<10}  {self.path}{count and f'  {count}'}{where and f' ({where})'}"


def pseudonyms(identifiers: Iterable[str]) -> set[str]:
    """The keyed hashes by which identifiers may have been written."""
    key = identity.load_key()
    texts = [text.strip() for text in identifiers if text.strip()]
    spelt = {form for text in texts for form in (identity.canonical(text), text, text.lstrip("0")) if form}
    spelt |= {str(Path(text).absolute()) for text in texts if Path(text).is_file()}  # of a volume whose table names no patient
    if not spelt:
        raise UsageError("no patient is named: give the identifier, or - to read it from standard input, one per line")
    return {identity.pseudonym(form, key) for form in spelt}


def search(names: set[str], folders: Iterable[Path], cache: Path) -> list[Holding]:
    """Everything below these folders, and in the cache, that holds images of a patient.

    What does not know the patient is searched by the keyed hashes of the contents of the images that others have of him.
    """
    folders = list(folders)
    places = [entry for root in folders for entry in _tables(root, False)] + list(_tables(cache, True))
    rows, known, contents = rows_of([table for _, _, table in places], names)
    found = []
    for (kind, path, table), his in zip(places, rows, strict=True):
        if his.any():
            sides = table["split"][his].dropna().tolist() if "split" in table.columns else []
            counts = Counter(str(side) for side in sides if side)
            images = int(his.sum())
            if "row" in table.columns and kind == CACHE:
                images = int(table["row"][his].nunique())
            contents_of = set(table["content"][his].dropna()) if "content" in table.columns else set()
            found.append(Holding(kind, path, images, dict(counts), np.unique(table["row"].to_numpy()[his]), contents_of))
    if nameless := sum(count_unnamed(table) > 0 for kind, _, table in places if kind in (STORE, CACHE, EMBEDDINGS)):
        notice(
            "find",
            f"images that name no patient, in {nameless} of the stores and embeddings files, are found by files and "
            "images alone which another one names, or by a volume's path in place of the patient",
        )
    runs = {holding.path for holding in found if holding.kind == RUN}
    weights = {file for root in folders for file in root.rglob("*.safetensors") if not runs & set(file.parents)}
    return found + [
        Holding(WEIGHTS, file, 0) for file in sorted(weights) if file.is_file() and _is_trained_on(file, known, contents)
    ]


def _is_trained_on(file: Path, names: set[str], contents: set[str]) -> bool:
    """Whether an encoder or model file states in its header that it was trained on the patient."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            metadata = json.loads(opened.read(length))["__metadata__"] if length <= _LONGEST else {}
        kept = json.loads(metadata["scotoma"])["trained_on"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # of another program, or of a version that kept no record
    record = Record.of_header(kept)
    patients = np.array([*names, *(None for _ in contents)], object)
    images = np.array([*(None for _ in names), *contents], object)
    keys = {(part.key, part.reader) for part in record.parts if part.key == identity.key_id(identity.load_key())}
    return any(record.look(patients, images, key, reader).seen.any() for key, reader in keys)


def _tables(root: Path, cache: bool) -> Iterable[tuple[str, Path, pd.DataFrame]]:
    """(kind, path, table with ``row`` and keyed hashes) of every run, store and embeddings file below a folder."""
    import pandas as pd
    from pyarrow import parquet

    for path in (root / image_index.FOLDER).glob("*.csv") if cache else ():
        try:
            found = image_index.read(path)
            key = identity.load_key()
            yield INDEX, path, found.assign(file=[identity.pseudonym(name, key) for name in found["file"]])
        except (OSError, ValueError, KeyError, UsageError):
            notice(str(path), "damaged: whom it names cannot be searched")
    for folder, inner, names in os.walk(root):
        here = Path(folder)
        names = [name for name in names if name.endswith((".json", ".parquet")) and (here / name).is_file()]  # no pipes
        if "store.json" in names and "facts.parquet" in names:
            inner.clear()
            facts = _read_intact(here / "facts.parquet")
            if facts is None:
                continue
            facts["row"] = np.arange(len(facts))
            kept = _read_intact(here / TABLE) if (here / TABLE).exists() else None
            if kept is not None:
                kept = kept[[c for c in ("row", "split", *PEOPLE) if c in kept.columns]]
                kept = kept.rename(columns={name: OF_TABLE.format(name) for name in PEOPLE})
                facts = facts.merge(kept, on="row", how="outer")
            people = _read_intact(here / caches.PATIENTS) if (here / caches.PATIENTS).exists() else None
            if people is not None:
                facts = facts.merge(people, on="row", how="left")
            yield (CACHE if cache else STORE), here, facts
            continue
        looked_at = [_read_intact(here / name) for name in (USED, TESTED) if name in names]
        if looked_at := [frame for frame in looked_at if frame is not None]:
            both = pd.concat(looked_at, ignore_index=True)
            both = both.drop_duplicates(["patient", "content"]) if len(looked_at) > 1 else both
            yield RUN, here, both.drop(columns="file", errors="ignore").rename(columns={"patient": OWNER})  # of a frame, that was
        for name in (n for n in names if n.endswith(".parquet") and n not in (USED, TESTED)):
            try:
                schema = parquet.read_schema(here / name)
            except (OSError, ValueError):  # no Parquet file, whatever its name states
                continue
            if b"scotoma" in (schema.metadata or {}) and "embedding" in schema.names:
                table = _read_intact(here / name, [c for c in ("row", "split", *PEOPLE, "file", "content") if c in schema.names])
                if table is not None:
                    yield EMBEDDINGS, here / name, table


def _read_intact(path: Path, columns: list[str] | None = None) -> pd.DataFrame | None:
    """A table; None, and a line, where the file is damaged: the others are searched all the same."""
    import pandas as pd

    try:
        return pd.read_parquet(files.regular(path), columns=columns)
    except (OSError, ValueError, UsageError):
        notice(str(path), "damaged: whom it names cannot be searched")
        return None


def take_out_of_store(holding: Holding) -> None:
    """Zero a patient's pixels in a prepared store and remove his rows; other images keep their row ids.

    Pixels go first and the table's rows last: a killed purge is found again, and completed.
    """
    import pandas as pd

    path, rows = holding.path, holding.rows
    table = pd.read_parquet(path / TABLE) if (path / TABLE).exists() else None
    if table is not None and MASK_ROW in table.columns and (path / MASKS_FOLDER).is_dir():
        masks = table[MASK_ROW][table["row"].isin(rows)].to_numpy()
        _erase(path / MASKS_FOLDER, masks[masks >= 0].astype(int))
    for extra in path.glob("copies*"):  # groups of altered copies, found anew at need
        extra.unlink()
    _erase(path, rows)
    if table is not None:
        with files.replacing(path / TABLE) as temporary:
            table[~table["row"].isin(rows)].reset_index(drop=True).to_parquet(temporary)


def _erase(path: Path, rows: np.ndarray) -> None:
    """Zero the pixels, perceptual hashes and header facts of these rows of a store, file by file."""
    import pandas as pd

    for name in ("pixels.npy", "hashes.npy"):
        if (path / name).exists():
            with files.replacing(path / name) as temporary:
                shutil.copyfile(path / name, temporary)
                array = np.lib.format.open_memmap(temporary, "r+")
                array[rows] = 0
                array.flush()
                del array
    facts = pd.read_parquet(path / "facts.parquet")
    chosen = np.isin(np.arange(len(facts)), rows)
    for column in facts.columns:
        plain = facts[column].astype(object) if facts[column].dtype == bool else facts[column]
        facts[column] = plain.mask(chosen)
    facts["error"] = facts["error"].astype(object).mask(chosen, "removed: the patient has withdrawn")
    with files.replacing(path / "facts.parquet") as temporary:
        facts.to_parquet(temporary)


def take_out_of_embeddings(holding: Holding) -> None:
    """Rewrite an embeddings file without a patient's rows."""
    from pyarrow import parquet

    whole = parquet.read_table(holding.path)
    his = np.isin(whole.column("row").to_numpy(), holding.rows)
    with files.replacing(holding.path) as temporary:
        parquet.write_table(whole.filter(~his), temporary)


def mark_run(path: Path, names: set[str], contents: set[str]) -> None:
    """Say in a run that a patient of its images has withdrawn; remove pages and figures that may show them, and predictions.

    Args:
        path: of the run.
        names: keyed hashes of the patient.
        contents: of the patient's images.
    """
    from scotoma.run_folder import MARK, STATUS, WITHDRAWN, Run, read_rows

    with files.lock(_lock(path), wait=False):
        for file in {file for pattern in PAGES for file in path.glob(pattern) if file.is_file()}:
            file.unlink()
        take_out_predictions(path, names, contents)
        state = path / STATUS
        saved: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
        known = set(saved.get(MARK, []))
        named = _patients(path) & names or ({min(names)} if not known & names else set())  # else found by his images alone
        if new := named - known:
            files.write(state, json.dumps({**saved, MARK: sorted(known | new)}))
            row = {"evaluator": "data", "metric": WITHDRAWN, "value": len(new)}
            Run(path, {}).write_rows([*read_rows(path), row])


def _patients(path: Path) -> set[str]:
    """The keyed hashes of the patients of a run."""
    import pandas as pd

    kept = [path / name for name in (USED, TESTED) if (path / name).exists()]
    return {name for file in kept for name in pd.read_parquet(file, columns=["patient"])["patient"].dropna()}


def remove_run(path: Path) -> None:
    """Remove a run folder that nobody writes into."""
    with files.lock(_lock(path), wait=False):
        shutil.rmtree(path)


def _lock(path: Path) -> Path:
    """The lock of a run; of one that is being replaced, that of the run that takes its place."""
    from scotoma.run_folder import LOCK, REPLACED

    return (path.parent if path.name == REPLACED else path) / LOCK
