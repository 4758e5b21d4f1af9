"""``evaluate``: an encoder or a classifier, and a table -> rows and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma import plugins, preflight
from scotoma.arguments import checked
from scotoma.data import evaluated_images
from scotoma.data.datamodule import TESTED_ON, data_rows
from scotoma.errors import RunError, UsageError, notice
from scotoma.run_folder import Row, Run, read_rows, status

if TYPE_CHECKING:
    pass  # nothing heavy: the command line's parser imports what stands here

ROWS = ("auto", "test", "all")  # that can be tested


@checked
def evaluate(
    run: str | Path,
    data: Any,
    evaluators: list[str] | None = None,
    target: list[str] | None = None,
    out: str | Path | None = None,
    labels: str | None = None,
    on: str | None = None,
    annotators: str | None = None,
    missing: list[str] | None = None,
    separator: str | None = None,
    classes: list[str] | None = None,
    split: str = "auto",
    fractions: list[float] | None = None,
    seeds: int = 3,
    seed: int = 0,
    strict: bool = False,
    allow_leakage: bool = False,
    keep_identity: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Row]:
    """Test an encoder or a classifier on the test rows of a table, or on all of a table that a finished model has never seen.

    Args:
        run: a finished pretrain or finetune run, or an encoder or model file.
        data: a folder, a CSV or Parquet table, a MedMNIST .npz, NAME:PATH of a public data set, a prepared store, or phantom:N.
        evaluators: see `scotoma list evaluators`; by default metrics for a classifier, segmentation for a segmenter, regression
            for a model of numbers, linear for an encoder.
        target: the columns to predict; by default those of the classifier.
        out: a run folder of its own; by default the rows join those of `run`.
        labels: a spreadsheet (CSV or XLSX) to join to the images.
        on: the spreadsheet's column that names the image.
        annotators: majority or soft: several rows of an image are several annotators', brought together so (soft: train on shares).
        missing: words that mean a missing value, such as NA,unknown; by default empty cells, and NA and the like among numbers.
        separator: text between several findings in a cell of the target, such as |; each finding becomes a 0/1 target.
        classes: the classes of one categorical target to tell apart; others count as unlabelled.
        split: rows to test: test (of the table's column split, or of a drawn split), all (every labelled row), or auto: all for a
            finished model and a table without a split of which it has seen nothing, else test.
        fractions: shares of the labels with which probes are trained; by default 1.
        seeds: label draws for each fraction below 1.
        seed: of the split.
        strict: stop at an unreadable image instead of leaving it out.
        allow_leakage: go on where a patient or image is on both sides of the split, or was in the encoder's pretraining.
        keep_identity: explanations of DICOM images, written as DICOM, carry the patient's identity; by default a pseudonym.
        overwrite: replace a finished run in `out`.
        quiet: no progress bars.

    Returns:
        The rows.

    Raises:
        UsageError: the request is wrong; nothing was written, but the rows of those evaluators that did not refuse it.
        RunError: the run failed.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("overwrite", "quiet", "out")} | {"run": str(run)}
    arguments["data"] = str(data) if isinstance(data, (str, Path)) else f"a {type(data).__name__}"
    fractions = fractions or [1.0]
    if any(not 0 < f <= 1 for f in fractions) or seeds < 1:
        raise UsageError("--fractions must be above 0 and at most 1, --seeds at least 1")
    if split not in ROWS:
        raise UsageError(f"--split {split}: one of {', '.join(ROWS)}")
    for name in evaluators or ():
        plugins.check("evaluators", name)
    preflight.weights_file(run)
    if out is not None:
        preflight.refuse_folder(Path(out), "evaluate", overwrite)
    elif status(Path(run)) != "finished":
        raise UsageError(f"{run} is no finished run folder: name one for the rows with --out")
    from scotoma.data import encoder_header
    from scotoma.data.datamodule import gather
    from scotoma.models import encoders
    from scotoma.training import label_columns

    info = encoder_header.read_info(run)
    _refuse_by_header(evaluators or [], info)
    target = target or list(info.targets)
    numbers = info.numeric if info.targets == tuple(target) else "regression" in (evaluators or ())
    of_the_model = classes is None and len(target) == 1 and info.targets == tuple(target) and not info.decoder
    if of_the_model:
        classes = list(info.classes)
    trains = not info.targets or any(getattr(plugins.module("evaluators", name), "TRAINS", True) for name in evaluators or ())
    if split == "all" and trains:
        raise UsageError("--split all leaves no rows to train on: it is for a finished model and evaluators that train nothing")
    material = gather(
        data=data, labels=labels, on=on, annotators=annotators, missing=missing, separator=separator,
        target=target or None, classes=classes, numbers=numbers, size=info.image_size, channels=info.in_chans,
        modality_name=info.modality, seed=seed, strict=strict, allow_leakage=allow_leakage, encoder_run=Path(run),
        rows="test" if trains else split,
        display=info.display, quiet=quiet,
    )  # fmt: skip
    if material.target is None:
        raise UsageError("name what to predict with --target")
    label_columns.say(material, info.method)
    _require_tested(material)
    if of_the_model and not numbers:
        _say_other_classes(material)
    from scotoma.data.labels.targets import require_classes
    from scotoma.evaluators.base import Context, say_few
    from scotoma.models import segmentation_decoders

    stamp = _stamp(Path(run))
    about = data_rows(material)
    if out is None:
        _refuse_another_test(Path(run), about)
    network, info, linear = encoders.load(run)
    head = linear or segmentation_decoders.load(run, network, info)
    natural = "segmentation" if info.decoder else "regression" if info.numeric else "metrics" if linear else "linear"
    chosen = evaluators or [natural]
    for name in ("train", "test") if trains else ("test",):
        require_classes(material.target, material.split.rows(name), f"split {name}")
    context = Context(
        network, info, head, material.dataset, material.store, material.split, material.target, tuple(sorted(fractions)), seeds,
        info.method["name"], keep_identity,
    )  # fmt: skip
    notice(material.dataset.name, f"tested on {len(context.test)} labelled images: {material.rule}")
    say_few(material)
    opened = Run(Path(run), {}) if out is None else Run.open(Path(out), "evaluate", arguments, overwrite)
    try:
        overlap = material.overlap(run)
        about.append(overlap.row(method=context.name, encoder=info.name))
        found, failed = _carry_out(
            opened, context, chosen, about, material.overlap_in_words(run), None if out else (Path(run), stamp)
        )
        if found and out is not None:
            opened.finish()
    finally:
        opened.give_up()
    if failed:
        kept = f"the rows of {', '.join(n for n in chosen if n not in failed)} are in {opened.path}" if found else ""
        for name, error in failed.items():
            if not isinstance(error, UsageError):
                notice(material.dataset.name, f"--with {name} failed{kept and '; ' + kept}")
                raise error
        raise UsageError("; ".join(dict.fromkeys(map(str, failed.values()))) + (kept and f" ({kept})"))
    return found


def _carry_out(
    run: Run,
    context: Any,
    names: list[str],
    about: list[Row],
    overlap: int | str,
    tested: tuple[Path, tuple[int, ...]] | None,
) -> tuple[list[Row], dict[str, Exception]]:
    """Rows and figures of each evaluator into the run as they come, after those about the data; and who failed, and why.

    One that refuses, or fails for a reason that nobody foresaw, takes nothing from the others. What would stop the others too (a
    full disk, a run that was replaced) ends all.

    Every row of the encoder carries on how many test images it was trained (``overlap``). Where rows join those of the run that is
    ``tested``, it must still be the one that was read.
    """
    found: list[Row] = []
    failed: dict[str, Exception] = {}
    for name in names:
        module = plugins.module("evaluators", name)
        common = context.common | ({"method": "control"} if getattr(module, "CONTROL", False) else {"overlap": overlap})
        try:
            rows = [{"evaluator": name, "protocol": module.PROTOCOL, **common, **row} for row in module.evaluate(context)]
        except (RunError, OSError):
            raise
        except Exception as error:
            failed[name] = error
            continue
        with run.alone():
            if tested is not None and (status(tested[0]) != "finished" or _stamp(tested[0]) != tested[1]):
                raise RunError(f"{run.path} was replaced by another run meanwhile: evaluate that one")
            if tested is not None:
                _refuse_another_test(run.path, about)
            if not found:
                evaluated_images.note(run.path, context.dataset, context.store, context.split.of)
            found += _replace(run, rows if found else about + rows)
            if hasattr(module, "figures"):
                module.figures(context, run)
    return found, failed


def _refuse_another_test(run: Path, about: list[Row]) -> None:
    """Refuse to put rows of other test images, or of another target, among those that a run holds: they would take their place.

    Raises:
        UsageError: the run was tested on others.
    """
    (now,) = (row[TESTED_ON] for row in about if TESTED_ON in row)
    if any(row.get(TESTED_ON, now) != now for row in read_rows(run)):
        raise UsageError(
            f"{run} holds the rows of a test on other images or of another target: name a run folder for these with --out"
        )


def _refuse_by_header(evaluators: list[str], info: Any) -> None:
    """Refuse evaluators none of which goes with what the header says of the weights; of several, each refuses in its turn."""
    wrong = []
    for name in evaluators:
        require = getattr(plugins.module("evaluators", name), "require", None)
        try:
            if require is not None:
                require(info)
        except UsageError as error:
            wrong.append(str(error))
    if evaluators and len(wrong) == len(evaluators):
        raise UsageError("; ".join(dict.fromkeys(wrong)))


def _stamp(run: Path) -> tuple[int, ...]:
    """By which a weights file is known from one that took its place."""
    from scotoma.data import encoder_header

    entry = encoder_header.find(run).stat()
    return entry.st_ino, entry.st_size, entry.st_mtime_ns


def _require_tested(material: Any) -> None:
    """Refuse a table of which no row tests."""
    if len(material.split.rows("test")):
        return
    name, n = material.dataset.name, len(material.dataset)
    if material.split.made:
        raise UsageError(f"{name}: none of {n} images is left to test ({material.rule}): test on images that it has not seen")
    raise UsageError(f"{name}: the table's split has no row test among {n}: write test where rows are to be tested")


def _say_other_classes(material: Any) -> None:
    """Say how many test rows have a class that the model was not trained to tell; they are not tested."""
    target, rows = material.target, material.split.rows("test")
    column = material.dataset.column(target.columns[0]).iloc[rows]
    others = int((column.notna().to_numpy() & ~target.known[rows]).sum())
    if others:
        known = ", ".join(target.classes[:10])
        notice(
            material.dataset.name, f"{others} of {len(rows)} test images have another class than the model's ({known}): not tested"
        )


def _replace(run: Run, rows: list[Row]) -> list[Row]:
    """Put rows in place of what the same evaluators said before; a training's own rows, on validation, stay."""
    said = {(row["evaluator"], row.get("split")) for row in rows}
    with run.alone():
        run.replace_rows([row for row in read_rows(run.path) if (row.get("evaluator"), row.get("split")) not in said] + rows)
    return rows
