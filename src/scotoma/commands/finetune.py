"""``finetune``: an encoder and a few labels -> ``model.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scotoma import preflight
from scotoma.arguments import checked
from scotoma.commands.pretrain import PRECISIONS
from scotoma.errors import UsageError, notice
from scotoma.run_folder import Run

VALIDATED = ("auroc", "balanced_accuracy", "dice", "mae")  # metrics that are printed at the end


@checked
def finetune(
    data: Any,
    target: list[str],
    encoder: str | Path,
    out: str | Path = "runs/finetune",
    labels: str | None = None,
    on: str | None = None,
    annotators: str | None = None,
    missing: list[str] | None = None,
    separator: str | None = None,
    classes: list[str] | None = None,
    regression: bool = False,
    frozen: bool = False,
    decoder: str = "auto",
    size: int | None = None,
    label_fraction: float = 1.0,
    steps: int = 100,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.01,
    schedule: str = "cosine",
    patience: int = 0,
    monitor: str = "loss",
    balance: str = "weights",
    threshold: str = "youden",
    drop_path: float = 0.0,
    method_args: dict[str, Any] | None = None,
    precision: str | None = None,
    seed: int = 0,
    strict: bool = False,
    allow_leakage: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Turn an encoder and labels into a classifier, segmenter or regressor. Rows tell how it does on validation rows.

    Args:
        data: a folder, a CSV or Parquet table, a MedMNIST .npz, NAME:PATH of a public data set, a prepared store, or phantom:N.
        target: one column of classes; several of 0/1/missing (multi-label); or mask_path, whose regions are to be found.
        encoder: a finished pretraining run, or an encoder file.
        out: the run folder.
        labels: a spreadsheet (CSV or XLSX) to join to the images.
        on: the spreadsheet's column that names the image.
        annotators: majority or soft: several rows of an image are several annotators', brought together so (soft: train on shares).
        missing: words that mean a missing value, such as NA,unknown; by default empty cells, and NA and the like among numbers.
        separator: text between several findings in a cell of the target, such as |; each finding becomes a 0/1 target.
        classes: the classes of one categorical target to tell apart; others count as unlabelled.
        regression: the target is one column of numbers (an age, an ejection fraction), which is predicted as such.
        frozen: leave the encoder as it is and fit a logistic (or ridge) regression on its features, or train the decoder alone.
        decoder: of regions: unet, deeplabv3plus or upernet for a convolutional network, upernet or setr_pup for a vision
            transformer; auto takes the first.
        size: side of what the encoder sees, pixels; by default that of its pretraining.
        label_fraction: share of the training and validation labels to use.
        steps: length as optimiser steps.
        batch_size: images a step.
        learning_rate: peak; 0 for the one that a range test on throw-away steps finds (its figure is kept).
        weight_decay: of AdamW.
        schedule: of the learning rate: cosine, constant, one_cycle, or plateau (constant, lowered where validation rows improve no
            more).
        patience: stop after so many checks of the validation rows without improvement (10 checks a run) and keep the best
            weights; 0 trains the fixed number of steps.
        monitor: what is checked: loss, auroc, average_precision, balanced_accuracy, mcc or another metric; of regions loss
            or dice; of numbers loss or mae.
        balance: how classes are made to count alike: weights (in the loss), oversample, undersample; or none.
        threshold: what validation rows choose each class's threshold by: youden (sensitivity + specificity), or the sensitivity to
            be reached, such as 0.95. Probabilities are calibrated there too (by a temperature).
        drop_path: share of the residual branches that training leaves out at the last layer, rising from 0 at the first.
        method_args: arguments of the supervised method: what is trained, mixed, smoothed and dropped.
        precision: bf16-mixed or 32-true; by default bf16-mixed where the processor has it (a CPU: from 32 pixels on).
        seed: of the split, the label draw, the order and the views.
        strict: stop at an unreadable image instead of leaving it out.
        allow_leakage: go on where a patient or image is on both sides of the split, or was in the encoder's pretraining.
        overwrite: replace a finished run in `out`.
        resume: go on with an interrupted run in `out`.
        quiet: no progress bars.

    Returns:
        The run folder.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run failed.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("overwrite", "resume", "quiet", "out")}
    if not 0 < label_fraction <= 1:
        raise UsageError(f"--label_fraction {label_fraction}: must be above 0 and at most 1")
    if steps <= 0 or batch_size <= 0:
        raise UsageError("--steps and --batch_size must be above 0")
    if not 0 <= drop_path < 1 or learning_rate < 0:
        raise UsageError("--drop_path must be at least 0 and below 1, --learning_rate at least 0")
    if precision not in (None, *PRECISIONS):
        raise UsageError(f"--precision {precision}: one of {', '.join(PRECISIONS)}")
    from scotoma.training.schedule import BALANCES, SCHEDULES

    rule = _rule(threshold)
    for name, value, known in (("schedule", schedule, SCHEDULES), ("balance", balance, BALANCES)):
        if value not in known:
            raise UsageError(f"--{name} {value}: one of {', '.join(known)}")
    arguments["data"] = str(data) if isinstance(data, (str, Path)) else f"a {type(data).__name__}"
    preflight.weights_file(encoder)
    finished = preflight.is_finished(Path(out), "finetune", arguments, overwrite, resume)
    if not finished:
        preflight.refuse_folder(Path(out), "finetune", overwrite, resume)
    from dataclasses import replace

    import numpy as np

    from scotoma.data import encoder_header
    from scotoma.data.datamodule import gather
    from scotoma.models import encoders, pretrained_weights
    from scotoma.training import label_columns

    info = encoder_header.read_info(encoder)
    material = gather(
        data=data, labels=labels, on=on, annotators=annotators, missing=missing, separator=separator,
        target=target, classes=classes, numbers=regression, size=size or info.image_size, channels=info.in_chans,
        modality_name=info.modality, seed=seed, strict=strict, allow_leakage=allow_leakage, encoder_run=Path(encoder),
        display=info.display, quiet=quiet,
    )  # fmt: skip
    assert material.target is not None
    label_columns.say(material, info.method)
    from scotoma.data.labels.targets import require_classes
    from scotoma.data.splits.label_draws import draw
    from scotoma.methods.supervised import Supervised
    from scotoma.models import segmentation_decoders
    from scotoma.tasks.base import FineTuning, task_of
    from scotoma.training import resuming

    task = task_of(material.dataset, material.store, material.split, material.target, quiet=quiet)
    if finished:
        return resuming.confirm_finished(Path(out), material, not task.is_of_images, [encoder])
    tuning = FineTuning(
        steps, batch_size, learning_rate, weight_decay, schedule, balance, patience, monitor, precision, seed, frozen,
        Supervised.settings(method_args or {}), decoder, rule,
    )  # fmt: skip
    drawn = draw(material.target, material.split, label_fraction, seed)
    require_classes(material.target, drawn.train, "training")
    if frozen and (tuning.encoder_args or drop_path):
        raise UsageError("--frozen leaves the encoder as it is: --method arguments and --drop_path are for one that is trained")
    dilated = segmentation_decoders.STRIDE if decoder == "deeplabv3plus" else 0
    network, info = pretrained_weights.adapted(encoder, size, dilated, **({"drop_path_rate": drop_path} if drop_path else {}))
    task.require(tuning, network, info, drawn)
    run = Run.open(Path(out), "finetune", arguments, overwrite, resume)
    try:
        resuming.check(run, material, not task.is_of_images, [encoder])
        material.save_used(run.path)  # before the first step: what an interrupted run holds is found, too
        model, costs = task.train(network, info, drawn, tuning, run)
        model = task.calibrate(model, drawn, tuning)
        record = material.record(np.union1d(drawn.seen, drawn.val))  # validation rows choose: they are no test either
        encoders.save(run.path / preflight.MODEL, model.network, replace(model.info, trained_on=record), model.head)
        common = {"method": info.method["name"], "encoder": info.name, "target": ",".join(material.target.columns), "split": "val"}
        run.replace_rows([])  # without those of a run that was killed between its rows and its end
        run.add_rows(costs, **{**common, "evaluator": "finetune", "split": "train"})
        validated = task.validate(model, drawn)
        run.add_rows(validated, **common, evaluator=task.row_keys("linear" if frozen else "finetune")["evaluator"])
        run.finish()
        _say_validation(material.dataset.name, validated)
    finally:
        run.close()
    return run.path


def _say_validation(name: str, rows: list[dict[str, Any]]) -> None:
    """One line on what the validation images say; they made choices, so that it is no test."""
    whole = [row for row in rows if row.get("class") is None and row["metric"] in VALIDATED and row["value"] == row["value"]]
    whole = [row for row in whole if row.get("unit", "image") == "image"]
    if whole:
        values = ", ".join(f"{row['metric']} {row['value']:.3f}" for row in whole)
        notice(
            name, f"{values} on {whole[0].get('n', 'the')} validation images, by which choices were made: `scotoma evaluate` tests"
        )


def _rule(text: str) -> Literal["youden"] | float:
    """The rule of a threshold: ``youden``, or a sensitivity."""
    if text == "youden":
        return "youden"
    try:
        sensitivity = float(text)
    except ValueError:
        sensitivity = 0.0
    if not 0 < sensitivity <= 1:
        raise UsageError(f"--threshold {text}: youden, or a sensitivity above 0 and at most 1, such as 0.95")
    return sensitivity
