"""``split``: who trains, chooses and tests, written into the user's own table."""

from __future__ import annotations

from pathlib import Path

from scotoma.arguments import TableArgs, check_arguments
from scotoma.errors import UsageError


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
    """Split images by patient into train, val and test, balanced over labels; writes the table with a column `split`.

    The unit joins all that is known to belong together: patient, study, series, the file of a frame, and `group`. Rows without a
    patient are decoded to read their headers; rows without any of these are kept together by their looks (near-duplicates and
    altered copies). The table's own columns are written as they came, so `out` is as confidential as the input.
    Identical images of two patients are refused when the table is used. For k-fold cross-validation: `--folds 5 --out folds.csv`,
    then for each fold `scotoma split folds.csv --test_where fold=1 --out fold1.csv`.

    Args:
        source: see `TableArgs`.
        out: the table to write, .csv or .parquet.
        target: columns to balance, separated by commas: one of classes, or several of 0/1/missing. Units without a label train.
        classes: the classes of one categorical target to balance; others count as unlabelled.
        by: a further column whose equal values stay on one side; what belongs together by itself is kept whole beside it.
        test_where: COLUMN=VALUE,VALUE: these rows test (a site for an external test, a fold), the others train and choose.
        test_after: COLUMN=VALUE: rows with a later date or a larger value test, the others train and choose.
        folds: write a column fold (0 to folds - 1) too; without --test_where and --test_after, fold 0 tests.
        keep: an earlier table of this verb: its units keep their side, new ones are added for balance.
        shares: of train, val and test; by default 0.7, 0.1, 0.2.
        copies: keep altered copies (mirrored, turned, cropped, brightened) on one side too, whatever patient they name; images
            without any id are kept so by default.
        seed: of the draw.
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
        raise UsageError(f"{out} exists: name another file, or say --overwrite")
    if shares and (len(shares) != 3 or min(shares) < 0 or shares[0] <= 0 or abs(sum(shares) - 1) > 1e-6):
        raise UsageError("--shares: three numbers, of train, val and test, that sum to 1")
    if folds is not None and folds < 2:
        raise UsageError(f"--folds {folds}: at least 2")
    if sum(v is not None for v in (test_where, test_after, keep)) > 1 or (folds and keep):
        raise UsageError("give one of --test_where, --test_after and --keep; --folds does not go with --keep")
    from scotoma.data import sources
    from scotoma.data.splits.table_split import split_table

    raw = sources.read(**vars(source))
    return split_table(
        raw, source.data, out, target, classes, by, test_where, test_after, folds, keep, shares, copies, seed, separator, quiet
    )
