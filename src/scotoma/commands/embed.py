"""``embed``: images -> their features, one Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scotoma import preflight
from scotoma.arguments import checked
from scotoma.errors import UsageError

NEVER = ("image_path", "mask_path", "embedding")  # the first two may name a patient


@checked
def embed(
    run: str | Path,
    data: Any,
    out: str | Path = "embeddings.parquet",
    labels: str | None = None,
    on: str | None = None,
    annotators: str | None = None,
    missing: list[str] | None = None,
    target: list[str] | None = None,
    rows: str = "all",
    strict: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Write the encoder's features of every readable image into a Parquet file, one row an image.

    Columns: ``row`` (the row id), ``split``, ``patient``, ``study`` and ``group`` (keyed hashes) where the table has them, the
    target columns as the table has them, where a row has no patient the keyed hashes ``series``, ``file`` and ``content`` (of the
    image), and ``embedding``, a list of D float32 in one column: ``np.stack(frame["embedding"])``
    in pandas is (n, D), and in DuckDB ``list_cosine_similarity(a.embedding, b.embedding)`` compares two rows. Under ``scotoma``
    the file's metadata name, as JSON, encoder, method, fingerprint of its training images, a hash of its weights, the image
    size, how many images and patients it was trained on, and how many of these rows are among them (``overlap``), which is printed.

    No split is drawn: ``split`` is the table's own, else the side that the run had an image or its patient on, else missing.

    Args:
        run: a finished pretrain or finetune run, or an encoder or model file (of a model, the features that its head sees).
        data: a folder, a CSV or Parquet table, a MedMNIST .npz, NAME:PATH of a public data set, a prepared store, or phantom:N.
        out: the Parquet file.
        labels: a spreadsheet (CSV or XLSX) to join to the images.
        on: the spreadsheet's column that names the image.
        annotators: majority or soft: several rows of an image are several annotators', brought together so.
        missing: words that mean a missing value, such as NA,unknown; by default empty cells, and NA and the like among numbers.
        target: columns of the table to write beside the features; by default those of the classifier that the table has.
        rows: train, val or test for the images of that split, or all.
        strict: stop at an unreadable image instead of leaving it out.
        overwrite: replace the file `out`.
        quiet: no progress bar.

    Returns:
        The file.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the disk is full, nothing could be read, or an unreadable image under `strict`.
    """
    from scotoma.data import phi
    from scotoma.data.dataset import SPLITS
    from scotoma.data.sources import IDENTIFIERS

    path = Path(out)
    if rows not in (*SPLITS, "all"):
        raise UsageError(f"--rows {rows}: one of {', '.join(SPLITS)}, all")
    wrong = next((name for name in target or () if name in NEVER), None)
    if wrong:
        raise UsageError(f"--target {wrong}: no column to write beside the features")
    for name in target or ():
        if (reason := phi.named(name)) is not None and reason.direct and name not in IDENTIFIERS:
            raise UsageError(f"--target {name}: {reason.text} is written nowhere; join it by row in a table of your own")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} exists: name another file with --out" + ("" if path.is_dir() else ", or say --overwrite"))
    preflight.weights_file(run)
    from scotoma.models.embedding import write_features

    write_features(path, run, data, labels, on, annotators, missing, target, rows, strict, quiet)
    return path
