"""Re-encoded and resized copies of test images among those that weights were trained on, by perceptual hashes that a run keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma.data.provenance import NONE
from scotoma.data.splits import units
from scotoma.data.splits.near_duplicates import near_pairs
from scotoma.data.splits.splits import contents
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.dataset import Dataset
    from scotoma.data.provenance import Record
    from scotoma.data.splits.splits import Split
    from scotoma.data.store.store import Store

NOTHING = "none found"
LOOK = "look"  # the column of ``used.parquet``: the perceptual hash, which never leaves the installation


@dataclass(frozen=True)
class Copies:
    """What was found among the test rows.

    Args:
        copied: test images that are near-duplicates of training images, with no two ids that say they are of two patients.
        others: those that are near-duplicates of training images of other patients only.
        tested: how many test images there are.
        reason: why it is not checked; "" where it is.
    """

    copied: int = 0
    others: int = 0
    tested: int = 0
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """As a row about the data."""
        found = {"evaluator": "data", "metric": "near_duplicates_in_training", "split": "test", "n": self.tested}
        return {**found, "value": None if self.reason and not self.copied else self.copied, "overlap": self.sentence()}

    def sentence(self) -> str:
        """In words, for rows and reports."""
        found = f"{self.copied} copies, {self.others} alike of other patients" if self.copied or self.others else ""
        if self.reason:
            return f"{found and f'{found}; further ones '}not checked: {self.reason}"
        return found or "none"

    def beside(self, overlap: int | str) -> int | str:
        """The overlap of a metric's row, which states "none" only where copies were looked for and none was found."""
        more = [f"{self.copied} near-duplicates"] if self.copied else []
        more += ["near-duplicates not checked"] if self.reason else []
        if overlap == NONE and more:
            return "; ".join(more if self.copied else [NOTHING, *more])
        return "; ".join([str(overlap), *more]) if more else overlap


def look(used: pd.DataFrame | None, record: Record, dataset: Dataset, store: Store, split: Split) -> Copies:
    """Compare the test rows with the training rows of a run.

    Rows that the run itself held back for validation or test are not compared: its split kept them apart. Images that the
    weights' own record has and the run's does not (of an encoder file that came without its run, or that lies in the folder of
    another) cannot be compared.

    Args:
        used: the run's ``used.parquet``; None where there is none.
        record: what the weights' file states that they were trained on.
        dataset: readable rows.
        store: their pixels.
        split: of the rows.
    """
    return _compare(used, record, dataset, store, split.rows("test"))[0]


def find_copied(used: pd.DataFrame | None, record: Record, dataset: Dataset, store: Store) -> np.ndarray:
    """(n,) bool: the rows of a table that ``look`` would count as copies of training images, were all of them tested."""
    copied = np.zeros(len(dataset), bool)
    copied[_compare(used, record, dataset, store, np.arange(len(dataset)))[1]] = True
    return copied


def _compare(
    used: pd.DataFrame | None, record: Record, dataset: Dataset, store: Store, test: np.ndarray
) -> tuple[Copies, np.ndarray]:
    """What was found among these positions, and which of them are copies."""
    if used is None or LOOK not in used.columns or used.loc[used["split"] == "train", LOOK].isna().all():
        reason = "the run's own record (used.parquet) is not there, or of an earlier version"
        if record.unknown and not record.parts:  # of a file of another program there is no run
            reason = "; ".join(record.unknown)
        return Copies(tested=len(test), reason=reason), test[:0]
    held_back = set(used.loc[used["split"].isin(["val", "test"]), "content"].dropna())
    train = used[(used["split"] == "train") & used[LOOK].notna()]
    content = contents(dataset, store)[test]
    test_ = test[[c not in held_back for c in content.tolist()]]
    known = np.frombuffer(b"".join(train[LOOK]), np.uint8).reshape(-1, 32)
    mine, theirs = near_pairs(store.hashes[dataset.table["row"].to_numpy()[test_]], known)
    here, there = units.name_owners(dataset, store)[test_][mine], train["patient"].to_numpy(object)[theirs]
    other = np.array([isinstance(a, str) and isinstance(b, str) and a != b for a, b in zip(here, there, strict=True)], bool)
    copied = np.unique(mine[~other])
    missing = "" if train[LOOK].notna().all() else "part of the record is of an earlier version"
    if elsewhere := record.beyond(used["content"]):
        missing = f"{elsewhere} of the images that it was trained on are not in the run's own record (used.parquet)"
    missing = "; ".join([*([missing] if missing else []), *record.unknown])
    return Copies(len(copied), len(np.setdiff1d(mine[other], copied)), len(test), missing), test_[copied]


def check(used: pd.DataFrame | None, record: Record, dataset: Dataset, store: Store, split: Split, refused: bool) -> Copies:
    """As ``look``; copies are refused or said, and what is not checked is reported.

    Raises:
        UsageError: the weights were trained on copies of test images.
    """
    found = look(used, record, dataset, store, split)
    if not found.tested:
        return found
    if found.copied:
        text = (
            f"{found.copied} of {found.tested} test images are near-duplicates (re-encoded or resized copies) of images in the "
            "encoder's training"
        )
        if refused:
            raise UsageError(f"{dataset.name}: {text}; test on others, or use --allow_leakage")
        notice(dataset.name, text)
    if found.others:
        notice(
            dataset.name,
            f"{found.others} of {found.tested} test images are near-duplicates of other patients' images in the training: "
            "look whether they are copies (`scotoma audit --against`)",
        )
    if found.reason and found.reason != "; ".join(record.unknown):  # which the overlap's line has said
        notice(dataset.name, f"near-duplicates in the encoder's training: not checked ({found.reason})")
    return found
