"""What a training ends with, for a person: what came out, what was held out and how it was split, the device, the next command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scotoma.arguments import DataArgs, format_value
from scotoma.data.datamodule import DataModule
from scotoma.data.dataset import SPLITS
from scotoma.data.splits.units import count_of
from scotoma.data.store import image_index, store
from scotoma.errors import number
from scotoma.result import interval_text
from scotoma.run_folder import Row, hardware

WORDS = {"train": "training", "val": "validation", "test": "test"}


def describe(results: Sequence[str], data_module: DataModule, following: str) -> str:
    """The lines.

    Args:
        results: what came out, in a line each.
        data_module: the images.
        following: the next command.
    """
    index = image_index.path_of(store.cache_folder(), data_module.store.path)
    where = [f"index: {index} (which file each row id is; on this machine alone)"] if index.exists() else []
    return "\n".join([*results, f"data: {_split(data_module)}", *where, f"device: {_device()}", f"next: {following}"])


def score(rows: Sequence[Row], metric: str) -> str:
    """The validation line of a model: its headline metric over all classes and images, with interval and count."""
    whole = [r for r in rows if r["metric"] == metric and r.get("class") is None and r.get("unit", "image") == "image"]
    if not whole:
        return "validation: no labelled validation images, so nothing was measured or calibrated"
    row = whole[0]
    value = f"{row['value']:.3f}" if row["value"] == row["value"] else "no value"
    interval = f"95 % interval {interval_text(row)}" if interval_text(row) else "no interval"
    return f"validation: {metric} {value} ({interval}, {number(row['n'], 'image')}); choices were made by these images: no test"


def command(verb: str, *positional: str | Path, source: DataArgs | None = None, **flags: str | Path) -> str:
    """A command as it is typed, with the flags by which these data were read."""
    parts = ["scotoma", verb, *map(str, positional)]
    given: dict[str, Any] = {}
    if source is not None:
        data = source.data if isinstance(source.data, (str, Path)) else "DATA"
        parts.append(str(data))
        given = {name: getattr(source, name) for name in ("labels", "on", "annotators", "missing", "separator")}
    for name, value in {**given, **flags}.items():
        if value:
            parts += [f"--{name}", format_value(value)]
    return shlex.join(parts)


def _split(data_module: DataModule) -> str:
    """How many images on which side, and whose split it is."""
    split = data_module.split
    counts = {name: len(split.rows(name)) for name in SPLITS}
    apart = len(split.of) - sum(counts.values())
    sides = ", ".join(f"{n} {WORDS[name]}{' (held out)' if name == 'test' and n else ''}" for name, n in counts.items())
    unit = count_of(len(set(split.units.tolist())), split.unit)
    rule = f"split drawn by {split.unit}" if split.made else "the table's own split"
    left = f", {apart} in no part" if apart else ""
    return f"{number(len(split.of), 'image')} of {unit}: {sides}{left}; {rule}"


def _device() -> str:
    found = hardware()
    return ", ".join(found["accelerators"]) or f"{found['processor']}, {number(found['cores'], 'core')}"
