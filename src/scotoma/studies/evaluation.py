"""``scotoma evaluate``: evaluators of one encoder or model, one after the other, each with its rows and figures in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scotoma import files, plugins
from scotoma.data import encoder_header, evaluated_images
from scotoma.data.datamodule import TESTED_ON
from scotoma.data.splits.external import WHY
from scotoma.errors import RunError, UsageError, notice, stage
from scotoma.run_folder import Row, Run, read_rows, status


def carry_out(
    run: Run,
    context: Any,
    names: list[str],
    about: list[Row],
    overlap: int | str,
    tested: tuple[Path, tuple[int, ...]] | None,
    quiet: bool = False,
) -> tuple[list[Row], dict[str, Exception]]:
    """Rows and figures of each evaluator into the run as they come, after those about the data; and who failed, and why.

    One that refuses, cannot do with these data (``require_data``), or fails for a reason that nobody foresaw takes nothing from
    the others; one that fails as it draws keeps its rows. What would stop the others too (a full disk, a run folder that cannot be
    written, or was replaced) ends all.

    Every row of the encoder carries on how many test images it was trained (``overlap``). Where rows join those of the run that is
    ``tested``, it must still be the one that was read.
    """
    found: list[Row] = []
    failed: dict[str, Exception] = {}
    for name in names:
        stage(f"evaluating: {name}", quiet)
        module = plugins.module("evaluators", name)
        context.predictions.clear()
        common = context.common | ({"method": "control"} if getattr(module, "CONTROL", False) else {"overlap": overlap})
        try:
            if hasattr(module, "require_data"):
                module.require_data(context)
            rows = [{"evaluator": name, "protocol": module.PROTOCOL, **common, **row} for row in module.evaluate(context)]
        except Exception as error:
            if isinstance(error, OSError) and error.errno in files.NO_ROOM:
                raise
            failed[name] = error
            continue
        with run.alone():
            if tested is not None and (status(tested[0]) != "finished" or stamp_of(tested[0]) != tested[1]):
                raise RunError(f"{run.path} was replaced by another run meanwhile: evaluate that one")
            if tested is not None:
                refuse_another_test(run.path, about)
            if not found:
                evaluated_images.note(run.path, context.dataset, context.store, context.split.of)
            found += replace_rows(run, rows if found else about + rows)
            if context.predictions:
                evaluated_images.save_predictions(run.path, name, context)
            try:
                if hasattr(module, "figures"):
                    module.figures(context, run)
            except (RunError, OSError):
                raise
            except Exception as error:
                failed[name] = error
    return found, failed


def refuse_another_test(run: Path, about: list[Row]) -> None:
    """Refuse to put rows of other test images, or of another target, among those that a run holds: they would take their place.

    Raises:
        UsageError: the run was tested on others.
    """
    (now,) = (row[TESTED_ON] for row in about if TESTED_ON in row)
    if any(row.get(TESTED_ON, now) != now for row in read_rows(run)):
        raise UsageError(
            f"{run} holds the rows of a test on other images or of another target: name a run folder for these with --out"
        )


def refuse_by_header(evaluators: list[str], info: Any) -> None:
    """Refuse evaluators none of which goes with what the header states of the weights; of several, each refuses in its turn."""
    _refuse(evaluators, "require", info)


def refuse_by_data(evaluators: list[str], context: Any) -> None:
    """Refuse evaluators none of which can do with these data; of several, each refuses in its turn."""
    _refuse(evaluators, "require_data", context)


def _refuse(evaluators: list[str], check: str, given: Any) -> None:
    wrong = []
    for name in evaluators:
        require = getattr(plugins.module("evaluators", name), check, None)
        try:
            if require is not None:
                require(given)
        except UsageError as error:
            wrong.append(str(error))
    if evaluators and len(wrong) == len(evaluators):
        raise UsageError("; ".join(dict.fromkeys(wrong)))


def stamp_of(run: Path) -> tuple[int, ...]:
    """By which a weights file is known from one that took its place."""
    entry = encoder_header.find(run).stat()
    return entry.st_ino, entry.st_size, entry.st_mtime_ns


def require_tested(data_module: Any) -> None:
    """Refuse a table of which no row tests."""
    if len(data_module.split.rows("test")):
        return
    name, n = data_module.dataset.name, len(data_module.dataset)
    if data_module.split.made or len(data_module.left_out):
        why = f": {WHY}" if len(data_module.left_out) else ""
        raise UsageError(
            f"{name}: none of {n} images is left to test ({data_module.rule}{why}): test on images that it has not seen"
        )
    raise UsageError(f"{name}: the table's split has no row test among {n}: write test where rows are to be tested")


def warn_other_classes(data_module: Any) -> None:
    """Say how many test rows have a class that the model was not trained to tell; they are not tested."""
    target, rows = data_module.target, data_module.split.rows("test")
    column = data_module.dataset.column(target.columns[0]).iloc[rows]
    others = int((column.notna().to_numpy() & ~target.known[rows]).sum())
    if others:
        known = ", ".join(target.classes[:10])
        notice(
            data_module.dataset.name,
            f"{others} of {len(rows)} test images have another class than the model's ({known}): not tested",
        )


def replace_rows(run: Run, rows: list[Row]) -> list[Row]:
    """Put rows in place of what the same evaluators said before; a training's own rows, on validation, stay."""
    replaced = {(row["evaluator"], row.get("split")) for row in rows}
    with run.alone():
        run.replace_rows([row for row in read_rows(run.path) if (row.get("evaluator"), row.get("split")) not in replaced] + rows)
    return rows
