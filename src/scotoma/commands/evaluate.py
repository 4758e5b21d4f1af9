"""``evaluate``: an encoder or a classifier, and a table -> rows and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from scotoma import plugins, preflight
from scotoma.arguments import DataArgs, check_arguments, configuration
from scotoma.errors import UsageError, notice, stage
from scotoma.result import Rows
from scotoma.run_folder import Run, status


@check_arguments
def evaluate(
    run: str | Path,
    source: DataArgs,
    evaluators: list[str] | None = None,
    target: list[str] | None = None,
    out: str | Path | None = None,
    split: Literal["auto", "test", "all"] = "auto",
    fractions: list[float] | None = None,
    seeds: int = 3,
    keep_identity: bool = False,
    join_key: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Rows:
    """Test an encoder or a model on the test set of a table, or a finished model on all that it has not seen of another table.

    Args:
        run: finished pretraining or fine-tuning run, or an encoder or model file.
        source: see `DataArgs`.
        evaluators: evaluators, see `scotoma list evaluators`; by default metrics for a classifier, segmentation for a
            segmenter, regression for a regressor, linear for an encoder.
        target: label columns; by default those of the model.
        out: run folder of its own; by default the rows are added to `run`.
        split: rows to test: test (the test set), all (every labelled row), or auto: of a table without a split a finished model
            is tested on all rows but those of patients and images of its training and validation, and near-duplicates of its
            training images, which are left out and counted; else test.
        fractions: label fractions for probes, separated by commas; by default 1.
        seeds: number of label draws at each fraction below 1.
        keep_identity: keep the patient's identity in explanations written as DICOM; by default a pseudonym replaces it.
        join_key: write into the predictions what your own table calls each image (the value of `--on`, else the file's path); it
            may name a patient.
        overwrite: replace the finished run in `out`.
        quiet: no progress bar.

    Returns:
        The rows: a list of mappings with `.table` (a DataFrame), `.metrics`, and `.summary`, the short table that is printed.

    Raises:
        UsageError: the request is wrong; nothing was written, but the rows of those evaluators that did not refuse it.
        RunError: the run failed.
    """
    arguments = configuration(locals())
    fractions = fractions or [1.0]
    for name in evaluators or ():
        plugins.check("evaluators", name)
    preflight.weights_file(run)
    if out is not None:
        preflight.refuse_folder(Path(out), "evaluate", overwrite)
    elif status(Path(run)) != "finished":
        raise UsageError(f"{run} is no finished run folder: name one for the rows with --out")
    stage("importing torch", quiet)
    from scotoma.data import encoder_header
    from scotoma.data.datamodule import data_rows, gather
    from scotoma.data.store import image_index, store
    from scotoma.models import encoders
    from scotoma.quality.cohort import compare_sets
    from scotoma.studies.evaluation import (
        carry_out,
        refuse_another_test,
        refuse_by_data,
        refuse_by_header,
        require_tested,
        stamp_of,
        warn_other_classes,
    )
    from scotoma.training import label_columns

    info = encoder_header.read_info(run)
    refuse_by_header(evaluators or [], info)
    target = target or list(info.targets)
    numbers = info.numeric if info.targets == tuple(target) else "regression" in (evaluators or ())
    of_the_model = source.classes is None and len(target) == 1 and info.targets == tuple(target) and not info.decoder
    if of_the_model:
        source = replace(source, classes=list(info.classes))
    trains = not info.targets or any(getattr(plugins.module("evaluators", name), "TRAINS", True) for name in evaluators or ())
    if split == "all" and trains:
        raise UsageError("--split all leaves no rows to train on: it is for a finished model and evaluators that train nothing")
    data_module = gather(
        **vars(source),
        target=target or None,
        numbers=numbers,
        size=info.image_size,
        channels=info.in_chans,
        modality_name=info.modality,
        encoder_run=Path(run),
        rows="test" if trains else split,
        display=info.display,
        quiet=quiet,
    )
    if data_module.target is None:
        raise UsageError("name what to predict with --target")
    label_columns.warn(data_module, info.method)
    if join_key:  # that it can be told, before anything is computed
        image_index.join_keys(store.cache_folder(), data_module.store.path, data_module.rows[:1])
    require_tested(data_module)
    if of_the_model and not numbers:
        warn_other_classes(data_module)
    from scotoma.data.labels.targets import require_classes
    from scotoma.data.splits.external import WHY, refuse_missing_classes
    from scotoma.evaluators.base import Context, warn_few_units
    from scotoma.models import segmentation_decoders

    stamp = stamp_of(Path(run))
    about = [*data_rows(data_module), *compare_sets(data_module)]
    if out is None:
        refuse_another_test(Path(run), about)
    network, info, linear = encoders.load(run)
    head = linear or segmentation_decoders.load(run, network, info)
    refuse_missing_classes(data_module)
    for name in ("train", "test") if trains else ("test",):
        require_classes(data_module.target, data_module.split.rows(name), f"split {name}", trains=name == "train")
    context = Context(
        network,
        info,
        head,
        data_module.dataset,
        data_module.store,
        data_module.split,
        data_module.target,
        tuple(sorted(fractions)),
        seeds,
        info.method["name"],
        keep_identity,
        join_key,
    )
    chosen = evaluators or ["linear" if head is None else context.task.evaluator]
    why = f": {WHY}" if len(data_module.left_out) else ""
    notice(data_module.dataset.name, f"tested on {len(context.test)} labelled images: {data_module.rule}{why}")
    warn_few_units(data_module)
    refuse_by_data(chosen, context)
    opened = Run(Path(run), {}) if out is None else Run.open(Path(out), "evaluate", arguments, overwrite)
    try:
        overlap = data_module.overlap(run)
        about.append(overlap.row(method=context.name, encoder=info.name))
        found, failed = carry_out(
            opened, context, chosen, about, data_module.overlap_in_words(run), None if out else (Path(run), stamp), quiet
        )
        if found and out is not None:
            opened.finish()
    finally:
        opened.give_up()
    result = Rows(found)
    index = image_index.path_of(store.cache_folder(), data_module.store.path)
    result.note = f"rows: {len(found)} in {opened.path / 'rows.jsonl'}, predictions beside them\n"
    result.note += f"index: {index} (which file each row id is; on this machine alone)\n" if index.exists() else ""
    result.note += f"next: scotoma report {opened.path}"
    if failed:
        for error in failed.values() if found else ():
            error.__dict__["rows"] = result  # the command prints what there is
        there = list(dict.fromkeys(row["evaluator"] for row in found if row["evaluator"] not in ("data", "cohort")))
        kept = f"the rows of {', '.join(there)} are in {opened.path}" if found else ""
        faults = {name: error for name, error in failed.items() if not isinstance(error, UsageError)}
        if faults:
            notice(data_module.dataset.name, f"--with {', '.join(faults)} failed{kept and '; ' + kept}")
            raise next(iter(faults.values()))
        refusal = UsageError("; ".join(dict.fromkeys(map(str, failed.values()))) + (kept and f" ({kept})"))
        refusal.__dict__["rows"] = result if found else None
        raise refusal
    return result
