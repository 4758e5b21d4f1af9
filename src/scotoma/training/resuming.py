"""What a run was started on: keyed hashes of its data row by row, kept in the run folder and compared when it is gone on with."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data import pseudonyms
from scotoma.data.datamodule import DataModule
from scotoma.data.splits import splits
from scotoma.data.store import store
from scotoma.errors import UsageError, notice, number
from scotoma.run_folder import DATA, Onlooker, Run

if TYPE_CHECKING:
    import pandas as pd

# Of the table's columns: what names a file is known by its content, and a split is compared as it came to be.
_APART = ("row", "image_path", "mask_path", "frame", "split")
_SHOWN = "shown"  # attribute: how stored values become grey levels, and the names of the classes
_WEIGHTS = "weights"  # attribute: source of weights to start from, or to compare with -> hash of the file


def check(run: Run, data_module: DataModule, masks: bool = False, weights: Iterable[str | Path] = ()) -> None:
    """Keep what a run is started on; refuse to go on with it on other data.

    Args:
        run: just opened.
        data_module: its data.
        masks: its masks are used.
        weights: those that it starts from, or compares with.

    Raises:
        UsageError: table, labels, split, masks, pixels or weights are others than when the run was started; the message names what
            changed.
    """
    if isinstance(run, Onlooker):
        return
    import pandas as pd

    now = state(data_module, masks, weights)
    if run.resumed and (run.path / DATA).exists():
        try:
            before = pd.read_parquet(files.regular(run.path / DATA))
        except (OSError, ValueError) as error:
            raise UsageError(f"--resume: {run.path / DATA} is damaged; use --overwrite to start anew") from error
        if changed := changes(before, now):
            raise UsageError(
                f"--resume: not all is as it was when the run was started: {'; '.join(changed)}. "
                "Bring it back as it was, or use --overwrite"
            )
        return
    if run.resumed and run.has_begun:
        notice(
            data_module.dataset.name, "--resume: an earlier version started the run: whether the data are the same is not checked"
        )
    with files.replacing(run.path / DATA) as temporary:
        now.to_parquet(temporary)


def confirm_finished(out: Path, data_module: DataModule, masks: bool = False, weights: Iterable[str | Path] = ()) -> Path:
    """Say that a run which is to be gone on with is finished; refuse other data than it was started on.

    Raises:
        UsageError: as ``check``.
    """
    if (out / DATA).exists():  # which earlier versions did not keep
        check(Run(out, {}, resumed=True), data_module, masks, weights)
    notice(out.name, "--resume: the run is finished, with these arguments: nothing to do")
    return out


def state(data_module: DataModule, masks: bool = False, weights: Iterable[str | Path] = ()) -> pd.DataFrame:
    """One row per image: keyed hashes of its pixels, its side of the split, its labels, its mask, and every other column."""
    import pandas as pd

    key = pseudonyms.load_key()
    target, table = data_module.target, data_module.dataset.table
    found: dict[str, Any] = {
        "pixels": splits.contents(data_module.dataset, data_module.store),
        "split": _hash(pd.Series(data_module.split.of), key),
    }
    if target is not None:
        parts = [p.reshape(len(p), -1) for p in (target.y, target.shares, target.numbers) if p is not None]
        text = [b"".join(np.ascontiguousarray(p[i]).tobytes() for p in parts).hex() for i in range(len(table))]
        found["labels"] = _hash(pd.Series(text), key)
    if masks and "mask_path" in table.columns:
        opened, at = store.open_masks(data_module.dataset, data_module.store.side)
        found["masks"] = [
            None if k < 0 else hashlib.blake2b(opened.pixels[k].tobytes(), digest_size=8, key=key).hexdigest() for k in at
        ]
    for name in table.columns:
        if name not in _APART and name not in (target.columns if target is not None else ()):
            found[f"column {name}"] = _hash(table[name], key)
    frame = pd.DataFrame(found)
    settings = {
        k: v for k, v in json.loads((data_module.store.path / "store.json").read_text()).items() if k not in ("name", "fingerprint")
    }
    classes = [*target.classes, *target.mask_classes] if target is not None else []
    frame.attrs[_SHOWN] = json.dumps([settings, [pseudonyms.pseudonym(name, key) for name in classes]], sort_keys=True)
    frame.attrs[_WEIGHTS] = {str(source): _of_file(source) for source in weights if Path(source).exists()}
    return frame


def _of_file(source: str | Path) -> str:
    from scotoma.data import encoder_header

    with encoder_header.find(source).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def changes(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """What is not as it was, in a few words each; nothing of columns that were not there before, which nothing used."""
    changed = []
    if before.attrs.get(_SHOWN) != now.attrs.get(_SHOWN):
        changed.append("how images are shown, or the classes, changed")
    weights: dict[str, str] = before.attrs.get(_WEIGHTS, {})  # what an earlier version kept has none
    changed += [
        f"the weights {source} changed" for source, kept in weights.items() if now.attrs[_WEIGHTS].get(source, kept) != kept
    ]
    old, new = Counter(before["pixels"]), Counter(now["pixels"])
    gone, come = (old - new).total(), (new - old).total()
    differ = int((before["pixels"].to_numpy() != now["pixels"].to_numpy()).sum()) if len(before) == len(now) else -1
    if differ == gone == come and differ:
        changed.append(f"{number(differ, 'image')} changed")
    elif gone or come:
        changed.append(f"{number(gone, 'image')} gone, {come} new")
    elif differ:
        changed.append("the order of the images changed")
    if len(before) != len(now) or (differ and not changed[-1].endswith("changed")) or "order" in " ".join(changed):
        return changed  # rows do not stand side by side
    for name in (c for c in before.columns if c != "pixels"):
        words = {"split": "the split", "labels": "labels", "masks": "masks"}.get(name, name.replace("column ", "column '", 1) + "'")
        if name not in now.columns:
            changed.append(f"{words} is not there")
            continue
        count = int((before[name].fillna("") != now[name].fillna("")).sum())
        if count:
            changed.append(f"{words} of {number(count, 'row')} changed")
    return changed


def _hash(column: pd.Series[Any], key: bytes) -> np.ndarray:
    """A keyed hash of each value as text; None where it is missing."""
    import pandas as pd

    codes, different = pd.factorize(column.astype(object).where(column.notna(), None))
    names = [pseudonyms.pseudonym(value, key)[:16] for value in different]
    return np.array([*names, None], object)[codes]  # the last is of the code -1
