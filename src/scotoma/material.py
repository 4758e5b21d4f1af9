"""What every verb that trains or tests starts from: table, store, split, target, gathered in one place and checked there."""

from __future__ import annotations

import hashlib
import importlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data import identity, splits, store, table, targets, units
from scotoma.errors import UsageError
from scotoma.views import modality

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.images import Display

USED = "used.parquet"
_BY_HEADER = {"CR": "xray", "DX": "xray", "DR": "xray", "MG": "xray", "CT": "ct", "MR": "mr"}


@dataclass
class Material:
    """Readable pictures, their pixels, split and target.

    Args:
        dataset: readable rows.
        store: their pixels.
        split: of the rows.
        target: what is predicted; None without one.
        modality: a key of ``scotoma.views.MODALITIES``.
        seconds: what preparing took.
        earlier: the run of the encoder that is tested or tuned; None without one.
    """

    dataset: table.Dataset
    store: store.Store
    split: splits.Split
    target: targets.Target | None
    modality: str
    seconds: float
    earlier: Path | None = None

    @property
    def rows(self) -> np.ndarray:
        """(n,) each row's place in the store."""
        return self.dataset.table["row"].to_numpy()

    @property
    def pretraining(self) -> np.ndarray:
        """Positions a pretraining may see: training rows, and rows outside the split; no patient or picture validated or tested on.

        Raises:
            UsageError: none is left.
        """
        found = np.flatnonzero(self._free)
        if not len(found):
            raise UsageError(
                f"{self.dataset.name}: every picture or its patient is validated or tested on: none is left to pretrain on"
            )
        return found

    @cached_property
    def _free(self) -> np.ndarray:
        together = units.linked(self.split.units, splits.contents(self.dataset, self.store))
        return ~np.isin(together, together[np.isin(self.split.of, ("val", "test"))])

    def fingerprint(self, positions: np.ndarray) -> str:
        """A hash of the pixels of these rows, whatever their order."""
        content = splits.contents(self.dataset, self.store)[positions]
        return hashlib.blake2b("".join(sorted(content)).encode(), digest_size=16).hexdigest()

    def save_used(self, folder: Path) -> None:
        """Write ``used.parquet``: keyed hashes of file, patient and content of every picture, with its split.

        Where the patient is not known, the study, the series or the volume stands in its place (``units.owners``).
        Pictures outside the split that a pretraining may see count as training. What the encoder had been trained on before,
        elsewhere, follows with row -1, so that a test of a fine-tuned network is kept apart from its pretraining too.
        """
        import pandas as pd

        key = identity.load_key()
        frame = self.dataset.table
        names = frame["image_path"] if "image_path" in frame.columns else frame["row"].astype(str)
        frames = frame["frame"] if "frame" in frame.columns else [None] * len(frame)
        used = pd.DataFrame(
            {
                "row": self.rows,
                "file": [identity.pseudonym(f"{n} {f}", key) for n, f in zip(names, frames, strict=True)],
                "patient": units.owners(self.dataset, self.store),
                "content": splits.contents(self.dataset, self.store),
                "unit": self.split.units,
                "split": np.where((self.split.of == "") & self._free, "train", self.split.of),
            }
        )
        before = _used(self.earlier)
        if before is not None:
            before = before[(before["split"] == "train") & ~before["content"].isin(used["content"][used["split"] == "train"])]
            used = pd.concat([used, before.assign(row=-1, unit=-1)], ignore_index=True)
        with files.replacing(folder / USED) as temporary:
            used.to_parquet(temporary)


def gather(*, data: Any, labels: str | Path | None = None, on: str | None = None, readers: str | None = None,
           target: list[str] | None = None, classes: list[str] | None = None, numbers: bool = False, size: int,
           channels: int | None = None, modality_name: str = "auto", seed: int = 0, strict: bool = False,
           allow_leakage: bool = False, encoder_run: Path | None = None, display: Display | None = None, quiet: bool = False,
           imports: tuple[str, ...] = ("timm", "lightning")) -> Material:  # fmt: skip
    """Load, check, decode and split.

    Args:
        data: what ``scotoma.data.table.load`` takes.
        labels: a spreadsheet to join.
        on: its column that names the picture.
        readers: ``majority`` or ``soft``, how several readers' rows of a picture become one.
        target: columns to predict; of pictures with headers also what these say (``store.FROM_HEADERS``).
        classes: of one categorical target, the classes to tell apart.
        numbers: the target is a column of numbers.
        size: training size, pixels.
        channels: 1 or 3; None for what the pictures have.
        modality_name: a key of ``MODALITIES``, or ``auto``.
        seed: of a drawn split.
        strict: an unreadable picture is an error.
        allow_leakage: go on with a leaking split, or with test pictures that the encoder was pretrained on.
        encoder_run: the run folder of an encoder to be tested on these data: its patients keep their split, and overlap is refused.
        display: how stored values become grey levels, as that encoder's header names it; None for as the data set says.
        quiet: no progress bar.
        imports: slow modules imported in a thread while pictures are decoded in other processes.

    Raises:
        UsageError, RunError: with a line that says what to do.
    """
    if modality_name != "auto":
        modality(modality_name)
    if size < 16:
        raise UsageError(f"--size {size}: pictures need at least 16 pixels")
    dataset = table.load(data, labels, on, readers)
    if display is not None:
        dataset = replace(dataset, display=display)
    if target and not (set(target) - set(dataset.table.columns)) & set(store.FROM_HEADERS):
        targets.read(dataset, target, classes or (), numbers)  # a wrong column is found before anything is decoded
    importer = threading.Thread(target=lambda: [importlib.import_module(name) for name in imports])
    importer.start()
    began = time.perf_counter()
    dataset, opened = store.prepare(dataset, size, channels, strict=strict, quiet=quiet)
    seconds = time.perf_counter() - began
    importer.join()
    found = targets.read(dataset, target, classes or (), numbers) if target else None
    earlier = earlier_split(encoder_run)
    split = splits.make(dataset, opened, found.y if found else None, seed, allow_leakage, earlier)
    if earlier and not allow_leakage:
        _refuse_overlap(split, dataset, opened, earlier)
    name = _modality(dataset, opened) if modality_name == "auto" else modality_name
    return Material(dataset, opened, split, found, name, seconds, encoder_run)


def _modality(dataset: table.Dataset, opened: store.Store) -> str:
    """What most headers say; else grey or colour."""
    if "modality" in opened.facts.columns:
        most = Counter(opened.facts["modality"].iloc[dataset.table["row"]].dropna()).most_common(1)
        if most and most[0][0] in _BY_HEADER:
            return _BY_HEADER[most[0][0]]
    return "grey" if opened.channels == 1 else "colour"


def earlier_split(run: Path | None) -> dict[str, str]:
    """Keyed names of patients and pictures of a run -> the split they had in it; empty where the run left no record.

    What was on several sides counts as trained on, then as validated on.
    """
    used = _used(run)
    if used is None:
        return {}
    found: dict[str, str] = {}
    for name in reversed(table.SPLITS):
        rows = used[used["split"] == name]
        found |= {n: name for column in ("patient", "content") for n in rows[column] if isinstance(n, str)}
    return found


def _used(run: Path | None) -> pd.DataFrame | None:
    import pandas as pd

    path = None if run is None else (run if run.is_dir() else run.parent) / USED
    return None if path is None or not path.exists() else pd.read_parquet(path)


def _refuse_overlap(split: splits.Split, dataset: table.Dataset, opened: store.Store, earlier: dict[str, str]) -> None:
    """Refuse to test an encoder on patients or pictures that it was pretrained on."""
    names = splits.known_by(dataset, opened)
    seen = [p for p in split.rows("test").tolist() if any(earlier.get(name) == "train" for name in names[p])]
    if seen:
        raise UsageError(
            f"{len(seen)} of {len(split.rows('test'))} test pictures of {dataset.name} (or their patients) were in the encoder's "
            "pretraining; test on others, or say --allow_leakage"
        )
