"""The data module, from which every verb that trains or tests starts: table, store, split and target, gathered and checked."""

from __future__ import annotations

import hashlib
import importlib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data import dataset as dataset_
from scotoma.data import encoder_header, provenance, pseudonyms
from scotoma.data import sources as table
from scotoma.data.labels import classes as label_columns
from scotoma.data.labels import targets
from scotoma.data.modalities import BY_HEADER, modality
from scotoma.data.splits import external, lookalikes, splits, units
from scotoma.data.store import store
from scotoma.errors import UsageError, notice, stage
from scotoma.run_folder import USED, Row, withdrawal_sentence, withdrawn

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.io.read import Display


@dataclass
class DataModule:
    """Readable images, their pixels, split and target.

    Args:
        dataset: readable rows.
        store: their pixels.
        split: of the rows.
        target: what is predicted; None without one.
        modality: a key of ``scotoma.data.modalities.MODALITIES``.
        seconds: what preparing took.
        earlier: the run of the encoder that is tested, tuned or trained on; None without one.
        before: what that encoder was trained on.
        overlaps: the test rows that weights were trained on, by the weights' source as the user names it.
        rule: which rows are the test rows, in words.
        copies: of test images in the training of these weights, by their source.
        left_out: positions that are not tested, as the weights' training or validation knows them; of ``rows="auto"`` alone.
    """

    dataset: dataset_.Dataset
    store: store.Store
    split: splits.Split
    target: targets.Target | None
    modality: str
    seconds: float
    earlier: Path | None = None
    before: provenance.Record = field(default_factory=provenance.Record)
    overlaps: dict[str, provenance.Overlap] = field(default_factory=dict)
    rule: str = ""
    copies: dict[str, lookalikes.Copies] = field(default_factory=dict)
    left_out: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    @property
    def rows(self) -> np.ndarray:
        """(n,) each row's place in the store."""
        return self.dataset.table["row"].to_numpy()

    @property
    def pretraining(self) -> np.ndarray:
        """Positions a pretraining may see: training rows, and rows outside the split; no patient or image validated or tested on.

        Raises:
            UsageError: none is left.
        """
        found = np.flatnonzero(self._free)
        if not len(found):
            raise UsageError(
                f"{self.dataset.name}: every image or its patient is validated or tested on: none is left to pretrain on; "
                f"{splits.ALL_TRAIN}"
            )
        return found

    @cached_property
    def _free(self) -> np.ndarray:
        together = units.link(self.split.units, splits.contents(self.dataset, self.store))
        return ~np.isin(together, together[np.isin(self.split.of, ("val", "test"))])

    def fingerprint(self, positions: np.ndarray) -> str:
        """A hash of the pixels of these rows, whatever their order."""
        content = splits.contents(self.dataset, self.store)[positions]
        return hashlib.blake2b("".join(sorted(content)).encode(), digest_size=16).hexdigest()

    def record(self, positions: np.ndarray) -> dict[str, Any]:
        """For the header of weights trained on these rows: what they and those that they started from were trained on."""
        patients, contents = (names[positions] for names in _hash_identities(self.dataset, self.store))
        own = provenance.of_rows(patients, contents, self.store.key, self.store.protocol)
        return self.before.joined(own).header()

    def overlap(self, source: str | Path) -> provenance.Overlap:
        """How many test rows these weights were trained on, as their file and their run folder say."""
        if str(source) not in self.overlaps:
            look = Source(str(source), self.dataset, self.store).look
            self.overlaps[str(source)] = look.overlap(self.split.rows("test"))
        return self.overlaps[str(source)]

    def overlap_in_words(self, source: str | Path) -> int | str:
        """For the rows of a test of these weights: on how many test rows they were trained, and what of that is not checked."""
        found, copies = self.overlap(source).value, self.copies.get(str(source))
        return copies.beside(found) if copies else found

    def save_used(self, folder: Path) -> None:
        """Write ``used.parquet``: keyed hashes of file, patient and content of every image, with its split.

        Where the patient is not known, the study, the series or the volume stands in its place (``units.name_owners``).
        Images outside the split that a pretraining may see count as training. What the encoder had been trained on before,
        elsewhere, follows with row -1, so that a test of a fine-tuned network is kept apart from its pretraining too.
        """
        import pandas as pd

        key = pseudonyms.load_key()
        frame = self.dataset.table
        names = frame["image_path"] if "image_path" in frame.columns else frame["row"].astype(str)
        frames = frame["frame"] if "frame" in frame.columns else [None] * len(frame)
        used = pd.DataFrame(
            {
                "row": self.rows,
                "file": [pseudonyms.pseudonym(f"{n} {f}", key) for n, f in zip(names, frames, strict=True)],
                "patient": units.name_owners(self.dataset, self.store),
                "content": splits.contents(self.dataset, self.store),
                lookalikes.LOOK: [row.tobytes() for row in self.store.hashes[self.rows]],
                "unit": self.split.units,
                "split": np.where((self.split.of == "") & self._free, "train", self.split.of),
            }
        )
        before = _read_used(self.earlier)
        if before is not None:
            trained = (before["split"] == "train") | self.before.lists(before["content"])  # a fine-tuning chose by validation rows
            before = before[trained & ~before["content"].isin(used["content"][used["split"] == "train"])]
            used = pd.concat([used, before.assign(row=-1, unit=-1, split="train")], ignore_index=True)
        with files.replacing(folder / USED) as temporary:
            used.to_parquet(temporary)


def gather(*, data: Any, labels: str | Path | None = None, on: str | None = None, annotators: str | None = None,
           missing: list[str] | None = None, separator: str | None = None,
           target: list[str] | None = None, classes: list[str] | None = None, numbers: bool = False, size: int,
           channels: int | None = None, modality_name: str = "auto", seed: int = 0, strict: bool = False,
           allow_leakage: bool = False, encoder_run: Path | None = None, tests: bool = True, compared: Sequence[str] = (),
           rows: str = "test",
           display: Display | None = None, quiet: bool = False) -> DataModule:  # fmt: skip
    """Load, check, decode and split.

    Args:
        data: what ``scotoma.data.sources.load`` takes.
        labels: a spreadsheet to join.
        on: its column that names the image.
        annotators: ``majority`` or ``soft``, how several annotators' rows of an image become one.
        missing: words that mean a missing value.
        separator: what stands between several findings in a cell of the target.
        target: columns to predict; of images with headers also what these say (``store.FROM_HEADERS``).
        classes: of one categorical target, the classes to distinguish.
        numbers: the target is a column of numbers.
        size: training size, pixels.
        channels: 1 or 3; None for what the images have.
        modality_name: a key of ``MODALITIES``, or ``auto``.
        seed: of a drawn split.
        strict: an unreadable image is an error.
        allow_leakage: go on with a leaking split, or with test images that the encoder was pretrained on.
        encoder_run: the run (or file, or tag) of an encoder to be tested on these data: its patients keep their split, and overlap
            is refused.
        tests: whether that encoder is tested; where training goes on from it, overlap is only said.
        compared: other weights that are tested on these data, for which the same holds.
        rows: which rows test: ``test``, those of the table's split or of a drawn one; ``all``; or ``auto``: where the table has no
            split, all but those of patients and images that trained or validated that encoder (``external.hold_out``).
        display: how stored values become grey levels, as that encoder's header names it; None for as the data set states.
        quiet: no progress bar.

    Raises:
        UsageError, RunError: with a line that states what to do.
    """
    if modality_name != "auto":
        modality(modality_name)
    stage("reading the table", quiet)
    dataset = table.load(data, labels, on, annotators, missing, target)
    if display is not None:
        dataset = replace(dataset, display=display)
    if numbers and separator:
        raise UsageError("--separator goes with findings in words: leave it out with --regression")
    if target and not numbers:
        dataset, target = label_columns.prepare_target(dataset, target, classes or (), separator)
    if target and not (set(target) - set(dataset.table.columns)) & set(store.FROM_HEADERS):
        targets.read(dataset, target, classes or (), numbers)  # a wrong column is found before anything is decoded
    began = time.perf_counter()
    stage("preparing the store", quiet)
    importer = threading.Thread(target=importlib.import_module, args=("timm",))  # seconds, while other processes decode
    importer.start()
    dataset, opened = store.prepare(dataset, size, channels, strict=strict, quiet=quiet)
    seconds = time.perf_counter() - began
    if encoder_run is not None:
        encoder_header.warn_unlike(encoder_run, dataset.name, opened.preparation)
    importer.join()
    found = targets.read(dataset, target, classes or (), numbers) if target else None
    if found and numbers and not found.known.all():
        without = f"{(~found.known).sum()} of {len(dataset)} images have no number in {found.columns[0]}"
        notice(dataset.name, f"{without}: they are neither tested nor trained on with labels")
    sources = [Source(str(source), dataset, opened) for source in (*([encoder_run] if encoder_run else ()), *compared)]
    earlier = _sides(sources, seen=not allow_leakage)
    is_external = rows == "auto" and not splits.has_split(dataset) and not any(source.holds_all for source in sources)
    if is_external:
        split = external.hold_out(dataset, opened, earlier, _find_copied(sources, dataset, opened, allow_leakage))
    else:
        split = splits.make(dataset, opened, found.y if found else None, seed, allow_leakage, earlier, rows == "all")
    out = np.flatnonzero(split.of == "") if is_external else np.zeros(0, int)
    rule = _describe_test(dataset, rows, sources, len(out))
    refused = tests and not allow_leakage
    overlaps = {source.name: source.overlap(split, dataset.name, refused) for source in sources}
    copies = {
        source.name: lookalikes.check(_read_used(source.folder), source.record, dataset, opened, split, refused)
        for source in sources
        if tests
    }
    name = _modality(dataset, opened) if modality_name == "auto" else modality_name
    before = sources[0].record if encoder_run else provenance.Record()
    there = encoder_run if encoder_run and encoder_run.exists() else None
    return DataModule(dataset, opened, split, found, name, seconds, there, before, overlaps, rule, copies, out)


def _describe_test(dataset: dataset_.Dataset, rows: str, sources: Sequence[Source], out: int) -> str:
    """Which rows test, in words; of a table of its own ``out`` are left out."""
    if rows == "all":
        return "all rows, by --split all"
    if splits.has_split(dataset):
        return "the test rows of the table's own split"
    if rows == "test":
        return "the test rows of a drawn split"
    if any(source.holds_all for source in sources):
        return "the test rows of the training run's own split"
    if out:
        return f"all rows but {out}, which are left out"
    looked = [source.look.overlap(np.arange(len(dataset))) for source in sources]
    open_ = next((f" (of {o.unchecked} that is not checked)" for o in looked if o.unchecked), "")
    open_ = open_ or next((" (patients not checked in full)" for o in looked if o.alone), "")
    return f"all rows: the table has no split, and no row of it is known to the training run{open_}"


def _find_copied(sources: Sequence[Source], dataset: dataset_.Dataset, opened: store.Store, allow_leakage: bool) -> np.ndarray:
    """(n,) bool: near-duplicates of training images; none where these may be tested."""
    looked = [lookalikes.find_copied(_read_used(s.folder), s.record, dataset, opened) for s in sources if not allow_leakage]
    return np.any([np.zeros(len(dataset), bool), *looked], axis=0)


def _modality(dataset: dataset_.Dataset, opened: store.Store) -> str:
    """What most headers say; else grey or colour."""
    if "modality" in opened.facts.columns:
        most = Counter(opened.facts["modality"].iloc[dataset.table["row"]].dropna()).most_common(1)
        if most and most[0][0] in BY_HEADER:
            return BY_HEADER[most[0][0]]
    return "grey" if opened.channels == 1 else "colour"


class Source:
    """Weights that a table meets: what their file and their run folder say of its rows.

    Args:
        name: a run folder, a file, or a tag of timm's.
        dataset: readable rows.
        opened: their store.
    """

    def __init__(self, name: str, dataset: dataset_.Dataset, opened: store.Store) -> None:
        self.name, self.record = name, provenance.record(name)
        self.folder = Path(name) if Path(name).exists() else None
        self.run = read_earlier_split(self.folder)
        self.names = splits.name_rows(dataset, opened)
        look = self.record.look(*_hash_identities(dataset, opened), opened.key, opened.protocol)
        self.holds_all = all(content in self.run for content in splits.contents(dataset, opened).tolist())
        sides = [{self.run.get(name) for name in names} - {None} for names in self.names]
        in_run = np.array(["train" in of for of in sides], bool)
        self.look = replace(look, seen=look.seen | in_run, named=look.named | np.array([bool(of) for of in sides], bool))

    def sides(self, seen: bool = True) -> dict[str, str]:
        """Names of patients and images -> the split that the run had them in, or training where the file alone knows them."""
        known = {n: "train" for names, there in zip(self.names, self.look.seen, strict=True) if there and seen for n in names}
        return known | self.run

    def overlap(self, split: splits.Split, name: str, refused: bool) -> provenance.Overlap:
        """Refuse, or say, that the weights were trained on test rows, and say where that or the same of validation is open."""
        chosen_by = [i for i in split.rows("val") if any(self.run.get(n) == "val" for n in self.names[i])]  # that run's own
        test, val = (self.look.overlap(rows) for rows in (split.rows("test"), np.setdiff1d(split.rows("val"), chosen_by)))
        which = f"the encoder {Path(self.name).name}"
        if test.seen and refused:
            raise UsageError(
                f"{test.seen} of {test.rows} test images of {name} (or their patients) were in the encoder's pretraining; "
                f"test {Path(self.name).name} on others, or use --allow_leakage"
            )
        if test.seen or test.unchecked or test.alone:
            notice(name, test.sentence("test images", which))
        if val.seen:
            notice(name, val.sentence("validation images", which))
        return test


def _sides(sources: Sequence[Source], seen: bool) -> dict[str, str]:
    """What all weights together know of the split; what is on several sides counts as trained on, then as validated on."""
    known = [source.sides(seen) for source in sources]
    return {name: side for side in reversed(dataset_.SPLITS) for of in known for name, kept in of.items() if kept == side}


def _hash_identities(dataset: dataset_.Dataset, opened: store.Store) -> tuple[np.ndarray, np.ndarray]:
    """(n,) pseudonyms of patients, None where there is none, and (n,) keyed hashes of images."""
    return units.name_owners(dataset, opened), splits.contents(dataset, opened)


def read_earlier_split(run: Path | None) -> dict[str, str]:
    """Keyed names of patients and images of a run -> the split they had in it; empty where the run left no record.

    What was on several sides counts as trained on, then as validated on.
    """
    if run is not None and (gone := withdrawn(run if run.is_dir() else run.parent)):
        notice(str(run), f"{withdrawal_sentence(gone)}, see `scotoma purge`")
    used = _read_used(run)
    if used is None:
        return {}
    found: dict[str, str] = {}
    for name in reversed(dataset_.SPLITS):
        rows = used[used["split"] == name]
        found |= {n: name for column in ("patient", "content") for n in rows[column] if isinstance(n, str)}
    return found


def _read_used(run: Path | None) -> pd.DataFrame | None:
    import pandas as pd

    path = None if run is None else (run if run.is_dir() else run.parent) / USED
    if path is None or not path.exists():
        return None
    try:
        return pd.read_parquet(files.regular(path)).astype({"split": str, "content": object, "patient": object})
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{path}: damaged: put it back from a copy, or move it away, so that the record in the weights' file is taken"
        ) from error


TESTED_ON = "tested_on"  # the key of a row by which the images tested and the target are known again


def data_rows(data_module: Any) -> list[Row]:
    """Rows about the data: how many images, patients and unreadable files."""
    import numpy as np

    from scotoma.data.splits.altered_copies import NOT_LOOKED_FOR
    from scotoma.data.splits.splits import cohort, count_shared

    target = data_module.target
    rows: list[Row] = list(cohort(data_module.split, target.y if target else None, target.classes if target else ()))
    if target is not None:
        test = data_module.split.rows("test")
        tested = {
            "metric": "tested",
            "split": "test",
            "value": int(target.known[test].sum()),
            "n": len(test),
            "rule": data_module.rule,
            "unit": data_module.split.unit,
            "patients": len(np.unique(data_module.split.units[test[target.known[test]]])),
            TESTED_ON: _hash_test(data_module, test[target.known[test]]),
        }
        rows.append({"evaluator": "data", **tested})
    if not data_module.split.made and len(set(data_module.split.of.tolist()) - {""}) > 1:  # the table's own
        copied = data_module.split.copied
        told = {"reason": NOT_LOOKED_FOR} if copied is None else {}
        rows.append({"evaluator": "data", "metric": "altered_copies_across_splits", "value": copied, **told})
    if count := len(data_module.left_out):
        rows.append(
            {"evaluator": "data", "metric": "left_out", "value": count, "n": len(data_module.dataset), "reason": external.WHY}
        )
    rows += [{**copies.row(), "weights": Path(source).name} for source, copies in data_module.copies.items()]
    for what, count in count_shared(data_module.dataset, data_module.store, data_module.split):  # which --allow_leakage let pass
        rows.append({"evaluator": "data", "metric": "shared_between_sides", "value": count, "what": what})
    unreadable = int(data_module.store.facts["error"].notna().sum())
    return [*rows, {"evaluator": "data", "metric": "unreadable", "value": unreadable}]


def _hash_test(data_module: Any, rows: np.ndarray) -> str:
    """A keyed hash of the images that are tested and of the target's columns."""
    from scotoma.data import pseudonyms
    from scotoma.data.splits.splits import contents

    images = sorted(map(str, contents(data_module.dataset, data_module.store)[rows]))
    return pseudonyms.pseudonym("\n".join([*data_module.target.columns, *images]), pseudonyms.load_key())
