"""Checkpoints as other programs write them: which table of weights, and which names in it, are the network's.

Several networks can lie in one file. The rule: of student and teacher (or EMA) the teacher, as DINO, DINOv2 and I-JEPA evaluate; of
MoCo's two the query encoder, as its authors transfer it; where two are left that differ, the file is refused.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scotoma.data.encoder_header import is_pickled
from scotoma.errors import UsageError
from scotoma.models import efficientnet_names, transformers_names

CHUNK = re.compile(r"(?<![^.])blocks\.\d+\.(\d+)(?=\.)")  # DINOv2 trains its blocks in chunks, of which the second number counts on
COUNTER = "num_batches_tracked"  # of batch norm; files of before 2018 lack it, and nothing that Scotoma does reads it
AVERAGED = re.compile(r"(^|[._])(ema|teacher|target_encoder)([._]|$)")
SECOND = re.compile(r"(^|[._])(student|encoder_k|momentum_encoder|target_network)([._]|$)")
MOST_NAMED = 5  # tensors left out that are named
DEPTH = 3  # of tables within tables
# Beside tensors and Python's own types: what training scripts save with them, read as data, none of which can run anything.
_SCALAR = np.float64().__reduce__()[0]  # numpy's maker of numbers, whose module was renamed with numpy 2
SAFE: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@dataclass(frozen=True)
class CheckpointWeights:
    """The weights that a checkpoint has for a network.

    Args:
        weights: under the network's own names, as they stand in the file.
        place: keys and prefix under which they were found; "" where they are the file.
        left_out: names of the other tensors that the file has.
        others: places of other networks that would fit, not taken.
        mapped: what was done to their names; "" where they are timm's.
    """

    weights: dict[str, Tensor]
    place: str
    left_out: tuple[str, ...]
    others: tuple[str, ...] = ()
    mapped: str = ""

    def sentence(self) -> str:
        """What was taken, in a line."""
        others = f"; not taken: {', '.join(self.others)}" if self.others else ""
        where = f"{self.place}, " if self.place else ""
        mapped = f", {self.mapped}" if self.mapped else ""
        names = ", ".join(self.left_out[:MOST_NAMED])
        more = f" and {len(self.left_out) - MOST_NAMED} more" if len(self.left_out) > MOST_NAMED else ""
        out = f"{len(self.left_out)} others left out{f' ({names}{more})' if names else ''}"
        return f"{where}{len(self.weights)} tensors{mapped}; {out}{others}"


def read(path: Path) -> dict[str, Any]:
    """What a weights file holds, by name; nothing in it is ever run.

    Raises:
        UsageError: it holds no table of weights, or other Python objects.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if not is_pickled(path):
            return dict(load_file(path))
        with torch.serialization.safe_globals(SAFE):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        object_in_it = re.search(r"GLOBAL ([\w.]+)", str(error))
        if object_in_it:
            raise UsageError(
                f"{path}: holds Python objects beside the weights ({object_in_it[1]}), which are not read: where it was written, "
                "save its table of weights alone (torch.save(model.state_dict(), ...))"
            ) from error
        # torch's own words on a pickle would send the reader to `weights_only=False`, which runs what lies in it
        unclear = isinstance(error, pickle.UnpicklingError | EOFError | KeyError | TypeError) or not str(error)
        reason = "it is damaged, or no file of weights" if unclear else str(error).splitlines()[0]
        raise UsageError(f"{path}: no weights can be read from it ({reason})") from error
    if not isinstance(found, dict) or not any(True for _ in _tables(found)):
        raise UsageError(f"{path}: holds no table of weights by name")
    return found


def pick(content: dict[str, Any], wanted: Iterable[str], name: str, network: str) -> CheckpointWeights:
    """The weights of a network with these names out of what a file holds.

    Args:
        content: of the file.
        wanted: names of all of the network's tensors.
        name: of the file, for messages.
        network: its name, likewise.

    Raises:
        UsageError: no table of the file has all of them, or several differ.
    """
    wanted = list(wanted)
    needed = [n for n in wanted if not n.endswith(COUNTER)]
    tables = dict(_tables(content))
    mapped = {}
    for table, names in list(tables.items()):
        if (found := transformers_names.rename(names)) is not None:
            tables[table], mapped[table] = found, "transformers' names mapped to timm's"
        elif (found := efficientnet_names.rename(names, wanted)) is not None:
            tables[table], mapped[table] = found, "EfficientNet-PyTorch's names mapped to timm's"
        elif not any(CHUNK.search(n) for n in needed) and any(CHUNK.search(n) for n in names):
            tables[table] = {CHUNK.sub(r"blocks.\1", n): tensor for n, tensor in names.items()}
            mapped[table] = "blocks numbered through their chunks"
    places = [(table, prefix) for table, weights in tables.items() for prefix in _prefixes(weights, needed)]
    whole = [(t, p) for t, p in places if all(p + n in tables[t] for n in needed)]
    if not whole:
        best = max(places, key=lambda place: sum(place[1] + n in tables[place[0]] for n in needed), default=None)
        missing = needed if best is None else [n for n in needed if best[1] + n not in tables[best[0]]]
        raise UsageError(
            f"{name}: not weights of a {network} ({missing[0]} is missing, {len(missing)} of {len(needed)} in all); name the "
            "network that they are of with --encoder, or give them timm's names"
        )
    ranks = [_rank(t, p) for t, p in whole]
    chosen, *equals = [place for place, rank in zip(whole, ranks, strict=True) if rank == min(ranks)]
    weights = {n: tables[chosen[0]][chosen[1] + n] for n in wanted if chosen[1] + n in tables[chosen[0]]}
    differing = [_place(t, p) for t, p in equals if not all(torch.equal(weights[n], tables[t][p + n]) for n in needed)]
    if differing:
        raise UsageError(
            f"{name}: holds several networks that fit ({', '.join([_place(*chosen), *differing])}): save the one you mean alone"
        )
    taken = {chosen[1] + n for n in weights}
    of_table = {t: [n for n in names if t != chosen[0] or n not in taken] for t, names in tables.items()}
    left_out = tuple(_place(t, n) for t in sorted(tables, key=lambda t: t != chosen[0]) for n in of_table[t])
    others = tuple(_place(t, p) for t, p in whole if (t, p) != chosen)
    return CheckpointWeights(weights, _place(*chosen), left_out, others, mapped.get(chosen[0], ""))


def _tables(content: dict[Any, Any], path: str = "", depth: int = DEPTH) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Tables of tensors by name, each with the keys that lead to it; an optimiser's state goes by numbers and is none."""
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if own:
        yield path, own
    for key, value in content.items() if depth else ():
        if isinstance(key, str) and isinstance(value, dict):
            yield from _tables(value, f"{path}.{key}" if path else key, depth - 1)


def _prefixes(weights: dict[str, Tensor], needed: list[str]) -> list[str]:
    """What stands before names of the network in this table, the most frequent first; whole parts of names only."""
    by_end: dict[str, list[str]] = {}
    for name in weights:
        by_end.setdefault(name.rpartition(".")[2], []).append(name)
    found = Counter(
        name[: -len(wanted)]
        for wanted in needed
        for name in by_end.get(wanted.rpartition(".")[2], ())
        if name.endswith(wanted) and (name == wanted or name[-len(wanted) - 1] == ".")
    )
    return [prefix for prefix, _ in found.most_common()]


def _place(table: str, prefix: str) -> str:
    return f"{table}: {prefix}" if table and prefix else table or prefix


def _rank(table: str, prefix: str) -> int:
    """Averaged networks first, momentum encoders and students last."""
    words = f"{table}.{prefix}"
    return 2 if SECOND.search(words) else 0 if AVERAGED.search(words) else 1
