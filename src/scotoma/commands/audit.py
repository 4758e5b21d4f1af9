"""``audit``: what is wrong with a table of images, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scotoma import preflight
from scotoma.arguments import TableArgs, check_arguments, configuration
from scotoma.errors import RunError, stage
from scotoma.result import Rows

SIZE = 96  # at which images are decoded: the default of the other verbs, which find them done
PAGE = "audit.html"


@check_arguments
def audit(
    source: TableArgs,
    against: Any = None,
    target: list[str] | None = None,
    separator: str | None = None,
    out: str | Path | None = None,
    fail_on: Literal["error", "warning", "never"] = "never",
    overwrite: bool = False,
    quiet: bool = False,
) -> Rows:
    """Find problems of a data set: leakage, duplicates, shortcuts, outliers, identifying images; changes nothing.

    Problems are printed, worst first. With `out`, a run folder holds them as rows, with the row ids of all images concerned, and
    as `audit.html` with thumbnails, which are as confidential as the images.

    Args:
        source: see `TableArgs`.
        against: second data set, such as an external test set, which must share no patient and no image with the first.
        target: label columns, separated by commas; by default label, if there is such a column.
        separator: text between several findings in a cell of the target, such as |; each finding becomes a 0/1 target.
        out: run folder for the rows and `audit.html`; by default nothing is written.
        fail_on: lowest severity that makes the exit code 1.
        overwrite: replace the finished run in `out`.
        quiet: print neither the problems nor a progress bar.

    Returns:
        Rows: a problem each, then counts, the cohort table and what sizes and borders predict.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: there is a problem as bad as `fail_on` states; it has been printed and written.
    """
    arguments = configuration(locals(), "fail_on")
    if out is not None:
        preflight.refuse_folder(Path(out), "audit", overwrite)
    from scotoma.data import evaluated_images, sources
    from scotoma.data.labels import classes, targets
    from scotoma.data.store import store
    from scotoma.quality.audit import PROTOCOL, AuditedTable, find_problems, has_classes, write_captions
    from scotoma.quality.findings import labels_of, worst_first
    from scotoma.reporting.audit import print_findings, write
    from scotoma.run_folder import Run

    stage("reading the table", quiet)
    dataset = sources.load(**vars(source), target=target)
    asked = target or [c for c in ("label",) if c in dataset.table.columns]
    dataset, asked = classes.split_findings(dataset, asked, separator)
    target = asked if target else None
    dataset, remarks = classes.check_spellings(dataset, asked)
    if target and dataset.store is None:
        for name in (t for t in target if t in dataset.table.columns):
            targets.read(dataset, [name])  # a wrong column is found before anything is decoded
    second = None if against is None else sources.load(against, missing=source.missing)
    arguments["target"] = target
    run = Run.open(Path(out), "audit", arguments, overwrite) if out is not None else None
    try:
        stage("preparing the store", quiet)
        ready = AuditedTable(*store.prepare(dataset, SIZE, quiet=quiet))
        other = None if second is None else AuditedTable(*store.prepare(second, SIZE, ready.store.channels, quiet=quiet))
        known = [targets.read(ready.dataset, [name]) for name in asked if target or has_classes(ready.dataset, name)]
        stage("looking for problems", quiet)
        findings, rows = find_problems(dataset, ready, other, known, quiet)
        findings = worst_first(findings + labels_of(remarks))
        found = [{"protocol": PROTOCOL, **f.row()} for f in findings] + rows
        if run is not None:
            for part in filter(None, (ready, other)):  # before any page shows them
                evaluated_images.note(run.path, part.dataset, part.store)
            run.add_rows(found)
            parts = [ready.store, *([other.store] if other else [])]
            names = dataset.name, second.name if second else None
            write(run.path / PAGE, names, findings, rows, parts, write_captions(ready, other, known))
            run.finish()
    finally:
        if run is not None:
            run.give_up()
    if not quiet:
        print_findings(dataset.name, len(dataset), findings, rows)
        if run is not None:
            print(run.path / PAGE)
    bad = [f for f in findings if f.severity == "error" or (fail_on == "warning" and f.severity == "warning")]
    if bad and fail_on != "never":
        raise RunError(f"{dataset.name}: {len(bad)} problems, the first: {bad[0].text}")
    return Rows(found)
