"""The store: every image decoded once, square, uint8, memory-mapped.

``prepare`` builds it from a ``Dataset`` into a cache keyed by the files (path, size, time of change) and the settings, in
processes of their own, with a progress bar; atomically (it appears under its name only when complete) and resumably (what a
killed run had decoded stays). A folder ``STORE`` holds ``pixels.npy`` (rows, side, side, channels), ``hashes.npy`` (perceptual
hash a row), ``facts.parquet`` (header facts a row) and ``store.json`` (settings).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data import pseudonyms
from scotoma.data.dataset import Dataset
from scotoma.data.io import read, text_detector
from scotoma.data.io.sampling import spread
from scotoma.data.io.text_detector import MISSING
from scotoma.data.store import builder, caches, image_index, looking
from scotoma.errors import RunError, UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

PROTOCOL = 4  # raise when the same file would come out as other pixels
MASKS_FOLDER, MASK_ROW = "regions", "region"  # names in a prepared store: its label maps, and the column of their rows
NOTE = "note"  # of a store of label maps: the column of facts that states what was done to a mask
MARGIN = 1.3  # the store's side over the training size: what a random crop can use
# What the table takes from the headers where it has no such column; patient and study are keyed hashes by then.
FROM_HEADERS = ("patient", "study", "modality", "age", "sex", "view", "laterality", "spacing_mm", "vendor", "model")


@dataclass(frozen=True)
class Store:
    """An opened store: pixels by row, and what the headers said; ``key`` is the id of the key of its hashes."""

    path: Path
    side: int
    channels: int
    display: read.Display = read.AS_STORED
    key: str = ""
    protocol: int = PROTOCOL
    notices: tuple[str, ...] = ()  # what was decided for several images together

    @property
    def preparation(self) -> dict[str, Any]:
        """How pixels were prepared, for an encoder's header."""
        return {"side": self.side, "margin": MARGIN, "protocol": self.protocol, "display": self.display.settings()}

    @cached_property
    def pixels(self) -> np.ndarray:
        """(rows, side, side, channels) uint8, memory-mapped, read-only."""
        return np.load(self.path / "pixels.npy", mmap_mode="r")

    @cached_property
    def hashes(self) -> np.ndarray:
        """(rows, 32) uint8: the perceptual hash of each image."""
        return np.load(self.path / "hashes.npy")

    @cached_property
    def facts(self) -> pd.DataFrame:
        """One row per image: ``content`` (keyed hash of its pixels), ``error`` (missing where readable), what its header said."""
        import pandas as pd

        return pd.read_parquet(self.path / "facts.parquet")

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: np.ndarray) -> np.ndarray:
        """The images of these rows, (n, channels, side, side) uint8 laid out channels-last, fetched with one index."""
        return self.pixels[rows].transpose(0, 3, 1, 2)


def side_for(size: int) -> int:
    """The store's side for training at ``size`` pixels: at least 1.3 times as much, a multiple of 16."""
    return -(-int(np.ceil(MARGIN * size)) // 16) * 16


def cache_folder() -> Path:
    """Folder of the cached stores: ``$SCOTOMA_CACHE``, else ``$XDG_CACHE_HOME/scotoma``, else ``~/.cache/scotoma``."""
    if chosen := os.environ.get(builder.CACHE_VARIABLE):
        return Path(chosen)
    caches_of_user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches_of_user if caches_of_user.is_absolute() else Path.home() / ".cache") / "scotoma"


def prepare(dataset: Dataset, size: int, channels: int | None = None, out: Path | None = None,
            strict: bool = False, workers: int | None = None, quiet: bool = False,
            skip_empty: bool = False) -> tuple[Dataset, Store]:  # fmt: skip
    """Decode a dataset into a store, or open the one that holds it already.

    Args:
        dataset: the table of images.
        size: the training size in pixels; the store's side is ``side_for(size)``.
        channels: 1 or 3; by default 3 where any of a sample of the images has colour.
        out: the store's folder; by default a folder of the cache.
        strict: an unreadable image stops the run; otherwise it is left out and listed.
        workers: decoding processes; by default one per core.
        quiet: no progress bar.
        skip_empty: leave out images that show nothing (``hashes.is_blank``).

    Returns:
        The dataset without unreadable rows, its column ``row`` pointing into the store, the columns of ``FROM_HEADERS`` filled from
        the headers where the table has none; and the store.

    Raises:
        RunError: the disk is full, nothing could be read, or an unreadable image under ``strict``.
        UsageError: a prepared store is too small for this size or shows grey levels otherwise, or ``out`` holds something else.
    """
    if dataset.store is not None:
        store = open_store(dataset.store)
        if store.side < size or (channels and channels != store.channels):
            raise UsageError(
                f"{dataset.store} was prepared at side {store.side} with {store.channels} channels: prepare it anew for size {size}"
            )
        if replace(store.display, redact=False, levels=()) != replace(dataset.display, redact=False, levels=()):
            raise UsageError(f"{dataset.store} was prepared with {store.display}, not {dataset.display}: prepare it anew")
        if store.display.redact != dataset.display.redact:
            there, then = ("is", "was not") if store.display.redact else ("is not", "was")
            notice(dataset.name, f"burned-in text {there} painted over in this store, and {then} where the encoder was trained")
        if store.protocol != PROTOCOL:
            notice(
                dataset.name,
                f"prepared by version {store.protocol} of the reader of images, this is version {PROTOCOL}: some formats come out "
                "otherwise today; `scotoma prepare` them again for that",
            )
        return _readable(dataset, store, strict, skip_empty)
    dataset = _redactable(dataset)
    side = side_for(size)
    channels = channels or _channels(dataset)
    if len(dataset.display.windows) not in (0, channels):
        raise UsageError(f"{len(dataset.display.windows)} windows do not make {channels} channels")
    folder = _ensure_built(dataset, side, channels, out, workers, strict, quiet)
    return _readable(dataset, open_store(folder), strict, skip_empty)


def open_masks(dataset: Dataset, side: int, quiet: bool = True, out: Path | None = None) -> tuple[Store, np.ndarray]:
    """The label maps of the column ``mask_path``, laid out as the images of a store of this side.

    Args:
        dataset: the table; of a prepared store, that which ``prepare`` kept.
        side: of the images' store.
        quiet: no progress bar.
        out: the folder of the label maps; by default a folder of the cache.

    Returns:
        A store of one channel whose pixels are labels, and (n,) the row there of each row of the dataset, -1 where it has no map or
        one that cannot be read (which is reported on standard error).

    Raises:
        UsageError: no such column, or it is empty.
        RunError: none can be read, or the disk is full.
    """
    if dataset.store is not None and MASK_ROW in dataset.table.columns:
        opened, at = open_store(dataset.store / MASKS_FOLDER), dataset.table[MASK_ROW].to_numpy(np.int64)
        _notes(dataset.name, opened, at)
        return opened, at
    column = dataset.column("mask_path")
    known = np.flatnonzero(column.notna())
    if not len(known):
        raise UsageError(f"{dataset.name}: column 'mask_path' is empty")
    maps = dataset.table.iloc[known].rename(columns={"image_path": builder.IMAGE})
    maps = maps.assign(image_path=column.iloc[known]).reset_index(drop=True)
    of_maps = replace(dataset, name=f"{dataset.name}-regions", table=maps, store=None, display=read.AS_STORED)
    opened = open_store(_ensure_built(of_maps, side, 1, out, None, False, quiet, labels=True))
    errors = opened.facts["error"]
    bad = errors.notna().to_numpy()
    if bad.any():
        rows = dataset.table["row"].to_numpy() if "row" in dataset.table.columns else np.arange(len(dataset))
        first = int(bad.argmax())
        told = f"{int(bad.sum())} of {len(bad)} masks cannot be used (first: row {rows[known[first]]}: {errors.iloc[first]})"
        if bad.all():
            raise RunError(f"{dataset.name}: {told}")
        notice(dataset.name, f"{told}; left out, listed in {opened.path / 'facts.parquet'}")
    at = np.full(len(dataset), -1)
    at[known[~bad]] = np.flatnonzero(~bad)
    _notes(dataset.name, opened, at)
    return opened, at


def _notes(name: str, masks: Store, at: np.ndarray) -> None:
    """Print what was done to masks that another program might not have done, with a count."""
    if NOTE in masks.facts.columns:
        notes = masks.facts[NOTE].iloc[at[at >= 0]].dropna().str.split("; ").explode()
        for text, count in notes.value_counts().items():
            notice(name, f"{count} masks {text}")


def _ensure_built(dataset: Dataset, side: int, channels: int, out: Path | None, workers: int | None, strict: bool, quiet: bool,
          labels: bool = False) -> Path:  # fmt: skip
    """The folder of a finished store, built where it is not there."""
    settings = {"protocol": PROTOCOL, "name": dataset.name, "side": side, "channels": channels, "labels": labels}
    settings |= {"display": dataset.display.settings(), "fingerprint": _fingerprint(dataset, side, channels, labels)}
    settings["key"] = _key()
    folder = out or cache_folder() / "stores" / f"{dataset.name[:40]}-{settings['fingerprint']}"
    if out is None and (folder / "store.json").exists():
        caches.hold(folder)  # before it is looked at again: another process may be removing it
    if out is not None or not _is_intact(folder, dataset, settings) or _readable_now(folder, dataset, labels):
        with _lock(folder):
            if out is None and folder.is_dir():
                _renew(folder, dataset, settings, labels)
            if not folder.is_dir() or not builder.is_same(folder, settings):
                if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                    raise UsageError(f"{folder} is not empty: name another folder for the store")
                builder.build(dataset, folder, settings, workers or len(os.sched_getaffinity(0)), strict, quiet)
            elif broken := builder.find_damage(folder, len(dataset)):
                raise UsageError(f"{folder} is damaged ({broken}): remove it, or name another folder for the store")
        if out is None:
            caches.hold(folder)
            caches.tidy(folder.parent)
    if out is None:
        caches.note_patients(folder, dataset.table)
    return folder


def _renew(folder: Path, dataset: Dataset, settings: dict[str, Any], labels: bool) -> None:
    """Remove a store of the cache that is damaged, or that lacks images which can be read now; which is reported."""
    if not _is_intact(folder, dataset, settings):
        told = "its store in the cache is damaged, and is built anew"
    elif now := _readable_now(folder, dataset, labels):
        told = f"{now} of the images that could not be read last time are tried again: the store is built anew"
    else:
        return
    notice(dataset.name, told)
    shutil.rmtree(folder)


def _is_intact(folder: Path, dataset: Dataset, settings: dict[str, Any]) -> bool:
    """Whether a folder of the cache holds this store, undamaged."""
    return builder.is_same(folder, settings) and builder.find_damage(folder, len(dataset)) is None


def _readable_now(folder: Path, dataset: Dataset, labels: bool, tried: int = 8) -> int:
    """How many rows of a store could not be read when it was built, where one of the first few of them can be read now; else 0."""
    waiting = builder.find_retries(folder)
    jobs = builder.list_frames(dataset.table.iloc[waiting[:tried]])
    with closing(looking.at(jobs, labels)) as found:  # of one that is there and broken, that is to be kept
        return len(waiting) if any(word != looking.AWAY for word in found) else 0


def _redactable(dataset: Dataset) -> Dataset:
    """The dataset, not to be redacted (which is reported) where the detector of burned-in text is not installed."""
    if not dataset.display.redact or text_detector.models() is not None:
        return dataset
    notice(dataset.name, f"burned-in text was painted over where the encoder was trained, and stays in these images: {MISSING}")
    return replace(dataset, display=replace(dataset.display, redact=False))


def open_store(path: Path) -> Store:
    """Open a finished store.

    Raises:
        UsageError: the folder holds none, or one of another version.
    """
    try:
        settings = json.loads(files.regular(path / "store.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a prepared store") from error
    try:
        display, protocol = read.Display.of(settings["display"]), int(settings["protocol"])
        key, notices = settings.get("key") or _key(), tuple(settings.get("notices", ()))
        store = Store(path, int(settings["side"]), int(settings["channels"]), display, key, protocol, notices)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: prepared by another version of Scotoma, whose layout is unknown; prepare it anew") from error
    if broken := builder.find_damage(path):
        raise UsageError(f"{path} is damaged ({broken}): prepare it anew")
    return store


def _key() -> str:
    return pseudonyms.key_id(pseudonyms.load_key())


def unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """How the images of an encoder were prepared otherwise than others; "" where alike, or where its header does not state.

    Args:
        ours: of the encoder: ``pixels`` of its header.
        theirs: of the data, or of a network that starts from it (``Store.preparation``).
    """
    if not ours or not theirs:
        return ""
    parts = []
    versions = [pixels.get("protocol") for pixels in (ours, theirs)]
    if None not in versions and versions[0] != versions[1]:
        parts.append(f"by version {versions[0]} of the reader of images, these by version {versions[1]}")
    before, now = (read.Display.of(pixels.get("display")) for pixels in (ours, theirs))
    shown = [replace(display, levels=(), redact=False) for display in (before, now)]  # of redaction ``prepare`` tells
    if shown[0] != shown[1]:
        parts.append(f"with {shown[0]}, these with {shown[1]}")
    known = {kind: (low, high) for kind, low, high in before.levels}
    for kind, low, high in now.levels:
        if known.get(kind) != (low, high):
            was = f"from {known[kind][0]:g} to {known[kind][1]:g}" if kind in known else "not at all"
            parts.append(f"with {kind} values shown {was}, these from {low:g} to {high:g}")
    return f"the encoder's images were prepared {'; '.join(parts)}" if parts else ""


def statistics(store: Store, rows: np.ndarray, sample: int = 2000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, of pixels in [0, 1], over a sample from all over ``rows``."""
    chosen = np.sort(rows)[spread(len(rows), sample)]
    images = store.pixels[chosen].reshape(len(chosen), -1, store.channels)
    counts = np.stack([np.sum([np.bincount(p[:, c], minlength=256) for p in images], 0) for c in range(store.channels)])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(1)
    deviation = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(1) - mean**2, 1e-6))
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in deviation)


def _channels(dataset: Dataset, sample: int = 32) -> int:
    """3 where any of a sample of the images has colour (channels differing by more than JPEG's rounding), else 1."""
    if dataset.display.windows:
        return len(dataset.display.windows)
    picks = spread(len(dataset), sample)
    jobs = [job for job in builder.list_frames(dataset.table.iloc[picks]) if not looking.grey_by_header(job[0])]
    with closing(looking.at(jobs)) as found:
        return 3 if looking.COLOUR in found else 1


def _fingerprint(dataset: Dataset, side: int, channels: int, labels: bool = False) -> str:
    """A name for these files, as they are now, and the way they are shown."""
    digest = hashlib.blake2b(f"{PROTOCOL} {side} {channels} {dataset.display} {_key()}".encode(), digest_size=10)
    seen: dict[str, str] = {}
    for path, frame, *image in builder.list_requests(dataset.table):  # a mask's store hangs on its image as well
        for name in (path, *(other for other in image if other)):
            if name not in seen:
                seen[name] = read.stamp(name, labels and name == path)
            digest.update(f"{name} {frame} {seen[name]}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process builds a store; a second one waits and then finds it. No lock file stays behind."""
    path = folder.with_name(folder.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = files.acquire(path, what="the store")
    except OSError as error:
        raise RunError(f"cannot write into {path.parent} ({error.strerror}): name another folder") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _readable(dataset: Dataset, store: Store, strict: bool, skip_empty: bool) -> tuple[Dataset, Store]:
    table = dataset.table.copy()
    if dataset.store is None:  # else it is the prepared store's own column
        table["row"] = np.arange(len(table))
    facts = store.facts.iloc[table["row"]].reset_index(drop=True)
    bad = facts["error"].notna().to_numpy()
    message = builder.refuse_unreadable(facts, dataset.name, strict)
    index = None
    if dataset.store is None:
        index = image_index.write(cache_folder(), store.path, dataset, facts)
    if message:
        print(f"{message}; left out, listed in {index or store.path / 'facts.parquet'}", file=sys.stderr)
    for line in store.notices:
        notice(dataset.name, line)
    if dataset.store is None and (several := _several(table, facts[~bad])):
        text = f"{several} rows name a file of several images and none of them: the first stands for the file"
        notice(dataset.name, f"{text}, of a NIfTI volume the middle slice; name others in a column frame, from 0")
    for column in FROM_HEADERS:
        if column not in table.columns and column in facts.columns:
            table[column] = facts[column].to_numpy()
    if store.display.redact:
        painted = int(facts["redacted"].gt(0).sum()) if "redacted" in facts.columns else 0
        notice(dataset.name, f"burned-in text found and painted over in {painted} of {len(facts)} images")
    if skip_empty:
        bad = bad | facts["blank"].eq(True).to_numpy()
        if bad.all():
            raise UsageError(f"every image of {dataset.name} is empty: leave out --skip_empty")
    return replace(dataset, table=table[~bad].reset_index(drop=True)), store


def _several(table: pd.DataFrame, facts: pd.DataFrame) -> int:
    """How many rows name a file that holds several images, and none of these."""
    unnamed = facts.index[table["frame"].iloc[facts.index].isna()] if "frame" in table.columns else facts.index
    return int(facts.reindex(unnamed, columns=["frames", "slices"]).gt(1).any(axis=1).sum())
