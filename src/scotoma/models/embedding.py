"""``scotoma embed``: the features of every readable image in a Parquet file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data import dataset as dataset_
from scotoma.data import encoder_header
from scotoma.data.datamodule import Source
from scotoma.data.dataset import SPLITS
from scotoma.data.sources import IDENTIFIERS
from scotoma.data.splits import splits
from scotoma.data.store import image_index, store
from scotoma.errors import RunError, UsageError, notice, stage
from scotoma.models import pretrained_weights

if TYPE_CHECKING:
    import pandas as pd

COLUMN = "embedding"
NEVER = ("image_path", "mask_path", COLUMN)  # the first two may name a patient
HEADER = b"scotoma"
FOUND_BY = ("series", "file", "content")  # keyed hashes, of a store's facts
BLOCK = 4096  # rows at a time, and in a row group


def write_features(
    path: Path,
    run: str | Path,
    dataset: dataset_.Dataset,
    target: list[str] | None,
    rows: str,
    strict: bool,
    quiet: bool,
    encoder: str | None = None,
    join_key: bool = False,
) -> None:
    """Decode and embed; the other arguments are those of ``scotoma embed``.

    Raises:
        UsageError, RunError: with a line that states what to do; nothing was written.
    """
    info = pretrained_weights.header(str(run), encoder)
    dataset = replace(dataset, display=info.display)
    for name in set(target or ()) - set(store.FROM_HEADERS):
        dataset.column(name)  # a wrong column is found before anything is decoded
    stage("preparing the store", quiet)
    dataset, opened = store.prepare(dataset, info.image_size, info.in_chans, strict=strict, quiet=quiet)
    encoder_header.warn_unlike(run, dataset.name, opened.preparation)
    source = Source(str(run), dataset, opened)
    sides = _sides(dataset, opened, source.sides())
    chosen = np.arange(len(dataset)) if rows == "all" else np.flatnonzero(sides == rows)
    if not len(chosen):
        raise UsageError(f"{dataset.name}: no image is known to be in split {rows}; see the table's column split, or --rows all")
    wanted = target or [name for name in info.targets if name in dataset.table.columns and name not in NEVER]
    overlap = source.look.overlap(chosen)
    notice(dataset.name, overlap.sentence("embedded images", f"the encoder {Path(run).name}"))
    metadata = source.record.statement() | {"overlap": overlap.value, "overlap_reasons": list(overlap.reasons)}
    stage("extracting the features", quiet)
    columns = _columns(dataset, opened, sides, wanted)
    if join_key:
        columns["join_key"] = image_index.join_keys(store.cache_folder(), opened.path, columns["row"].to_numpy())
    _write(path, columns.iloc[chosen], run, info, opened, metadata)


def _sides(dataset: dataset_.Dataset, opened: store.Store, earlier: dict[str, str]) -> np.ndarray:
    """(n,) the split of each row, None where it is not known; what stands on several sides counts as trained on."""
    given = dataset.table["split"] if "split" in dataset.table.columns else None
    if given is not None and given.notna().any():
        return given.where(given.notna(), None).to_numpy(object)
    known = [{earlier.get(name) for name in names} for names in splits.name_rows(dataset, opened)]
    return np.array([next((side for side in SPLITS if side in of_row), None) for of_row in known], object)


def _columns(dataset: dataset_.Dataset, opened: store.Store, sides: np.ndarray, target: list[str]) -> pd.DataFrame:
    """What stands beside the features; where rows name no patient also by what else `scotoma purge` finds his."""
    import pandas as pd
    from pandas.api.types import infer_dtype

    kept = ["row", *(name for name in IDENTIFIERS if name in dataset.table.columns)]
    found = dataset.table[kept].copy()
    found.insert(1, "split", pd.Series(sides, found.index, "string"))
    for name in (t for t in target if t not in found):
        column = dataset.column(name)
        mixed = infer_dtype(column) in ("mixed", "mixed-integer")  # Parquet has one type per column
        found[name] = column.map(str, na_action="ignore") if mixed else column
    if "patient" not in found or found["patient"].isna().any():
        facts = opened.facts.iloc[dataset.table["row"].to_numpy()]
        for name in (n for n in FOUND_BY if n in facts.columns and n not in found):
            found[name] = pd.Series(facts[name].to_numpy(object), found.index, "string")
    return found


def _hash(run: str | Path, network: Any) -> str:
    """Of the file of the weights; of a tag's, of their names and values."""
    if Path(run).exists():
        return hashlib.blake2b(encoder_header.find(run).read_bytes(), digest_size=16).hexdigest()
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def _write(path: Path, columns: pd.DataFrame, run: str | Path, info: Any, opened: store.Store, provenance: dict[str, Any]) -> None:
    """Features block by block, so that no more than a block is in memory; the file appears under its name when it is whole."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    from scotoma.models import encoders
    from scotoma.models.features import extract

    network = pretrained_weights.open_network(str(run), info)
    width = encoders.width(network)
    metadata = {
        "encoder": info.name,
        "method": info.method["name"],
        "fingerprint": info.data,
        "image_size": info.image_size,
        "weights": _hash(run, network),
        **provenance,
    }
    beside = pa.Schema.from_pandas(columns, preserve_index=False).remove_metadata()
    features = pa.field(COLUMN, pa.list_(pa.float32(), width))
    schema = beside.append(features).with_metadata({HEADER: json.dumps(metadata)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path} ({error.strerror})") from error
    with files.replacing(path) as temporary, ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(columns), BLOCK):
            part = columns.iloc[start : start + BLOCK]
            x = extract(network, info, opened, part["row"].to_numpy())
            values = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), width)
            arrays = pa.Table.from_pandas(part, schema=beside, preserve_index=False).columns
            writer.write_table(pa.Table.from_arrays([*arrays, values], schema=schema))
