"""``embed``: images -> their features, one Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scotoma import preflight
from scotoma.arguments import TableArgs, check_arguments
from scotoma.errors import UsageError, stage

NEVER = ("image_path", "mask_path", "embedding")  # the first two may name a patient


@check_arguments
def embed(
    run: str | Path,
    source: TableArgs,
    out: str | Path = "embeddings.parquet",
    target: list[str] | None = None,
    rows: Literal["train", "val", "test", "all"] = "all",
    encoder: str | None = None,
    join_key: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Write the encoder's features of every readable image into a Parquet file, one row per image.

    Columns: ``row`` (the row id), ``split``, ``patient``, ``study`` and ``group`` (keyed hashes) where the table has them, the
    target columns as the table has them, where a row has no patient the keyed hashes ``series``, ``file`` and ``content`` (of the
    image), and ``embedding``, a list of D float32 in one column: ``np.stack(frame["embedding"])``
    in pandas is (n, D), and in DuckDB ``list_cosine_similarity(a.embedding, b.embedding)`` compares two rows. Under ``scotoma``
    the file's metadata name, as JSON, encoder, method, fingerprint of its training images, a hash of its weights, the image
    size, how many images and patients it was trained on, and how many of these rows are among them (``overlap``), which is printed.

    No split is drawn: ``split`` is the table's own, else the side that the run had an image or its patient on, else missing.

    Args:
        run: finished pretraining or fine-tuning run, or an encoder or model file (of a model: the features before its head); or
            weights from elsewhere, at timm's input size and statistics: a file of another program, lite0, or a tag of timm's
            pretrained networks, such as resnet18.a1_in1k.
        source: see `TableArgs`.
        out: Parquet file to write.
        target: columns of the table to copy beside the features; by default the model's targets.
        rows: images to embed: those of one part of the split, or all.
        encoder: name of the network, for a file of another program, which does not state it.
        join_key: write a column `join_key`, what your own table calls each image (the value of `--on`, else the file's path); it
            may name a patient.
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
    from scotoma.data.sources import IDENTIFIERS

    path = Path(out)
    wrong = next((name for name in target or () if name in NEVER), None)
    if wrong:
        raise UsageError(f"--target {wrong}: no column to write beside the features")
    for name in target or ():
        if (reason := phi.reason_by_name(name)) is not None and reason.direct and name not in IDENTIFIERS:
            raise UsageError(f"--target {name}: {reason.text} is written nowhere; join it by row in a table of your own")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} exists: name another file with --out" + ("" if path.is_dir() else ", or use --overwrite"))
    preflight.require_weights(run)
    stage("importing torch", quiet)
    from scotoma.data import sources
    from scotoma.models.embedding import write_features

    write_features(path, run, sources.load(**vars(source), target=target), target, rows, strict, quiet, encoder, join_key)
    return path
