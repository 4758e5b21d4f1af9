"""``finetune``: an encoder and a few labels -> ``model.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scotoma import preflight
from scotoma.arguments import DataArgs, Decoder, Precision, check_arguments, configuration
from scotoma.errors import UsageError, stage
from scotoma.result import RunResult
from scotoma.run_folder import Run

STEPS = 100


@check_arguments
def finetune(
    source: DataArgs,
    target: list[str],
    encoder: str | Path | None = None,
    out: str | Path = "runs/finetune",
    init: str | Path | None = None,
    regression: bool = False,
    frozen: bool = False,
    decoder: Decoder = "auto",
    size: int | None = None,
    label_fraction: float = 1.0,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.01,
    warmup: float | None = None,
    final_learning_rate: float = 0.0,
    schedule: Literal["cosine", "constant", "one_cycle", "plateau"] = "cosine",
    patience: int = 0,
    monitor: str = "loss",
    balance: Literal["weights", "oversample", "undersample", "none"] = "weights",
    threshold: str = "youden",
    drop_path: float = 0.0,
    method_args: dict[str, Any] | None = None,
    precision: Precision | None = None,
    overwrite: bool = False,
    resume: bool = False,
    keep_checkpoints: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Train a classifier, segmenter or regressor from an encoder and labels.

    A classifier's head starts at zero and at a linear probe, one training each. The validation set chooses between them, and
    stopping, thresholds and calibration; test the model with `scotoma evaluate`.

    Args:
        source: see `DataArgs`.
        target: label columns: one with classes, several with 0/1/missing (multi-label), or mask_path for segmentation.
        encoder: weights to start from: a finished run, a weights file, lite0 (on ImageNet, of the extra weights) or a tag of timm's
            pretrained networks, such as resnet18.a1_in1k.
        init: the same; then encoder is the name of their network, for files of other programs, which do not state it.
        out: run folder.
        regression: predict numbers (age, ejection fraction) from one target column.
        frozen: keep the encoder frozen and fit a logistic or ridge regression on its features (segmentation: train the decoder
            alone).
        decoder: segmentation decoder: unet, deeplabv3plus or upernet for a convolutional network, upernet or setr_pup for a
            vision transformer; auto takes the first of these.
        size: input image size in pixels; by default that of the pretraining, of public weights timm's.
        label_fraction: fraction of the training and validation labels to use.
        steps: training length in optimiser steps (100 if no length is given).
        epochs: training length in passes over the labelled training images.
        batch_size: images per step.
        learning_rate: peak learning rate; 0: chosen by a learning-rate finder, with a figure.
        weight_decay: weight decay of AdamW.
        warmup: share of the steps over which the learning rate rises; by default 0.1.
        final_learning_rate: learning rate at the last step, to which it falls as a cosine.
        schedule: learning-rate schedule; plateau: constant, lowered when the validation set improves no more.
        patience: early-stopping patience in validation checks (10 per run); the best weights are restored; 0 disables.
        monitor: validation metric for early stopping: loss, auroc, average_precision, balanced_accuracy, mcc or another metric;
            segmentation: loss or dice; regression: loss or mae.
        balance: class balancing: loss weights, oversampling, undersampling or none.
        threshold: decision threshold of each class, chosen on the validation set: youden (maximum of sensitivity +
            specificity), or the sensitivity to reach, such as 0.95. Probabilities are calibrated on the validation set, too
            (temperature scaling).
        drop_path: stochastic depth: drop rate of the last layer's residual branch, rising linearly from 0 at the first layer.
        method_args: arguments of the supervised method: augmentation, mixup, label smoothing, layer decay and others.
        precision: floating-point precision; by default bf16-mixed where the processor supports it (CPU: from 32 pixels on),
            else 32-true.
        overwrite: replace the finished run in `out`.
        resume: continue the interrupted run in `out`.
        keep_checkpoints: keep the last checkpoint (weights and optimiser state) of the finished run; by default it is removed.
        quiet: no progress bar.

    Returns:
        The run folder: a path with `.metrics`, `.encoder`, `.rows`, and `.summary`, the lines that the command ends with.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run failed.
    """
    arguments = configuration(locals())
    rule = _rule(threshold)
    if steps and epochs:
        raise UsageError("give one of --steps and --epochs")
    if learning_rate and final_learning_rate > learning_rate:
        raise UsageError(
            f"--final_learning_rate {final_learning_rate:g}: must be at most the peak learning rate, {learning_rate:g}"
        )
    weights, named = _weights(encoder, init)
    finished = preflight.is_finished(Path(out), "finetune", arguments, overwrite, resume)
    if not finished:
        preflight.refuse_folder(Path(out), "finetune", overwrite, resume)
    from dataclasses import replace

    import numpy as np

    from scotoma.data import encoder_header
    from scotoma.data.datamodule import gather
    from scotoma.models import encoders, pretrained_weights
    from scotoma.training import label_columns

    info = encoder_header.info_or_none(weights) if Path(weights).exists() else None
    if info is None and named is None and Path(weights).exists():
        raise UsageError(f"{weights}: it does not state its network: --encoder NETWORK --init {Path(weights).name}")
    if info is None:
        named = pretrained_weights.network_of(weights, named)
        size = size or pretrained_weights.image_size(weights, named)
        encoders.resolve(named, size)
    elif named not in (None, info.name):
        raise UsageError(f"--encoder {named}: the weights of --init are of a {info.name}, which need not be named")
    data_module = gather(
        **vars(source),
        target=target,
        numbers=regression,
        size=size or (info.image_size if info else 0),
        channels=info.in_chans if info else None,
        modality_name=info.modality if info else "auto",
        encoder_run=Path(weights),
        display=info.display if info else None,
        quiet=quiet,
    )
    assert data_module.target is not None
    stage("building the network", quiet)
    from scotoma.data.labels.targets import require_classes
    from scotoma.data.splits.label_draws import draw
    from scotoma.methods.supervised import Supervised
    from scotoma.models import segmentation_decoders
    from scotoma.quality.cohort import describe_sets
    from scotoma.tasks.base import FineTuning, task_of
    from scotoma.training import ending, resuming
    from scotoma.training.pretraining import describe

    elsewhere = None
    if info is None and named is not None:
        elsewhere = describe({"size": size, "seed": source.seed}, data_module, named)
        elsewhere = replace(elsewhere, method={"name": Path(weights).name})
    info = info or elsewhere
    assert info is not None
    label_columns.warn(data_module, info.method)
    task = task_of(data_module.dataset, data_module.store, data_module.split, data_module.target, quiet=quiet)
    if finished:
        return RunResult(resuming.confirm_finished(Path(out), data_module, not task.is_of_images, [weights]))
    drawn = draw(data_module.target, data_module.split, label_fraction, source.seed)
    if steps is None:
        steps = max(1, round(epochs * len(drawn.train) / batch_size)) if epochs else STEPS
    tuning = FineTuning(
        steps,
        batch_size,
        learning_rate,
        weight_decay,
        schedule,
        balance,
        patience,
        monitor,
        precision,
        source.seed,
        frozen,
        Supervised.settings(method_args or {}),
        decoder,
        rule,
        warmup,
        final_learning_rate,
    )
    require_classes(data_module.target, drawn.train, "training")
    if frozen and (tuning.encoder_args or drop_path):
        raise UsageError("--frozen leaves the encoder as it is: --method arguments and --drop_path are for one that is trained")
    dilated = segmentation_decoders.STRIDE if decoder == "deeplabv3plus" else 0
    network, info = pretrained_weights.adapt(
        weights, size, dilated, elsewhere, **({"drop_path_rate": drop_path} if drop_path else {})
    )
    task.require(tuning, network, info, drawn)
    run = Run.open(Path(out), "finetune", arguments, overwrite, resume)
    try:
        resuming.check(run, data_module, not task.is_of_images, [weights])
        run.save_config(steps=steps, epochs=None, resolved=["steps", "epochs"])
        data_module.save_used(run.path)  # before the first step: what an interrupted run holds is found, too
        model, costs = task.train(network, info, drawn, tuning, run)
        model = task.calibrate(model, drawn, tuning)
        record = data_module.record(np.union1d(drawn.seen, drawn.val))  # validation rows choose: they are no test either
        encoders.save(run.path / preflight.MODEL, model.network, replace(model.info, trained_on=record), model.head)
        common = {
            "method": info.method["name"],
            "encoder": info.name,
            "target": ",".join(data_module.target.columns),
            "split": "val",
        }
        run.replace_rows([])  # without those of a run that was killed between its rows and its end
        run.add_rows(describe_sets(data_module))
        run.add_rows(costs, **{**common, "evaluator": "finetune", "split": "train"})
        validated = task.validate(model, drawn)
        run.add_rows(validated, **common, evaluator=task.row_keys("linear" if frozen else "finetune")["evaluator"])
        run.finish(keep_checkpoints)
    finally:
        run.close()
    following = ending.command("evaluate", run.path, source=source)
    return RunResult(run.path).ending(ending.describe([ending.score(validated, task.headline)], data_module, following))


def _weights(encoder: str | Path | None, init: str | Path | None) -> tuple[str, str | None]:
    """Where the weights to start from lie, and the name of their network where it was given."""
    if encoder is None and init is None:
        raise UsageError("name --encoder: a finished run, a weights file, lite0, or a tag of timm's, such as resnet18.a1_in1k")
    if encoder is not None and init is not None and Path(encoder).exists():
        raise UsageError(f"--encoder {encoder} and --init {init}: one of them; beside --init, --encoder is the name of a network")
    weights, named = (str(encoder), None) if init is None else (str(init), None if encoder is None else str(encoder))
    preflight.require_weights(weights)
    return weights, named


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
