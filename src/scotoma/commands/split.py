"""``split``: who trains, chooses and tests, written into the user's own table."""

from __future__ import annotations

from pathlib import Path

from scotoma.arguments import TableArgs, check_arguments
from scotoma.errors import UsageError, stage


@check_arguments
def split(
    source: TableArgs,
    out: str | Path,
    target: list[str] | None = None,
    classes: list[str] | None = None,
    by: str | None = None,
    test_where: str | None = None,
    test_after: str | None = None,
    folds: int | None = None,
    keep: str | None = None,
    shares: list[float] | None = None,
    copies: bool = False,
    seed: int = 0,
    separator: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Split images by patient into training, validation and test set, balanced over labels; writes the table with a column split.

    Images of one patient, study, series, file or `group` stay on one side. For rows without a patient the headers are read; rows
    without any of these are grouped by image similarity (near-duplicates and altered copies). The table's own columns are written
    unchanged, so `out` is as confidential as the input. Identical images of two patients are refused when the table is used.

    Cross-validation: `--folds 5 --out folds.csv`, then for each fold `scotoma split folds.csv --test_where fold=1 --out fold1.csv`.

    Args:
        source: see `TableArgs`.
        out: table to write, .csv or .parquet.
        target: label columns to balance, separated by commas: one with classes, or several with 0/1/missing. Unlabelled
            patients go to the training set.
        classes: classes of one categorical target to balance; other values count as unlabelled.
        by: further grouping column: rows with equal values stay on one side, beside patient, study and series.
        test_where: test set by value, COLUMN=VALUE,VALUE (a site for an external test, a fold); the other rows are divided into
            training and validation set.
        test_after: test set by date or number, COLUMN=VALUE: rows with a later date or a larger value; the other rows are
            divided into training and validation set.
        folds: number of cross-validation folds, written into a column fold (0 to folds - 1); without --test_where and
            --test_after fold 0 is the test set.
        keep: earlier table of this verb: its patients keep their side, new ones are added for balance.
        shares: fractions of training, validation and test set, separated by commas; by default 0.7, 0.1, 0.2.
        copies: keep altered copies (mirrored, rotated, cropped, brightened) on one side, too, whatever their patient column
            contains; the default for images without any identifier.
        seed: random seed of the split.
        separator: text between several findings in a cell of the target, such as |; each finding becomes a 0/1 target.
        overwrite: replace `out`.
        quiet: no progress bar, no counts.

    Returns:
        The table's path.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the table cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: name a .csv or a .parquet")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists: name another file, or use --overwrite")
    if shares and (len(shares) != 3 or min(shares) < 0 or shares[0] <= 0 or abs(sum(shares) - 1) > 1e-6):
        raise UsageError("--shares: three numbers, of train, val and test, that sum to 1")
    if sum(v is not None for v in (test_where, test_after, keep)) > 1 or (folds and keep):
        raise UsageError("give one of --test_where, --test_after and --keep; --folds does not go with --keep")
    from scotoma.data import sources
    from scotoma.data.splits.table_split import split_table

    stage("reading the table", quiet)
    named = [*target, by or "", *((given or "").split("=")[0] for given in (test_where, test_after))] if target else None
    raw = sources.read(**vars(source), target=named)
    return split_table(
        raw, source.data, out, target, classes, by, test_where, test_after, folds, keep, shares, copies, seed, separator, quiet
    )
