"""``pretrain``: images -> ``encoder.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scotoma import plugins, preflight
from scotoma.arguments import DataArgs, Modality, Precision, check_arguments, configuration
from scotoma.distributed import launcher
from scotoma.errors import UsageError, number, stage
from scotoma.result import RunResult
from scotoma.training import presets

DEFAULT_MINUTES = 10.0


@check_arguments
def pretrain(
    source: DataArgs,
    method: str = "simclr",
    out: str | Path = "runs/pretrain",
    encoder: str | None = None,
    init: str | None = None,
    preset: Literal["small", "reference"] = "small",
    method_args: dict[str, Any] | None = None,
    target: list[str] | None = None,
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    modality: Modality = "auto",
    minutes: float | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    warmup: float | None = None,
    final_learning_rate: float | None = None,
    precision: Precision | None = None,
    devices: int = 1,
    compile: bool = False,
    shard: bool = False,
    checkpointing: bool = False,
    accumulate: int = 1,
    overwrite: bool = False,
    resume: bool = False,
    keep_checkpoints: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Pretrain an encoder on images, without labels unless the method requires them.

    Validation and test set (the table's column split, or a drawn split) are left out, so that the encoder can be tested on them.

    Args:
        source: see `DataArgs`.
        method: pretraining method, see `scotoma list methods`.
        out: run folder.
        encoder: network: a timm name, or vit_tiny_patch8 and the like; by default the method's own (of a vision transformer with
            patches for the input size: 16 pixels from 128 on, 8 from 64, 4 from 32).
        init: initial weights: a run, a weights file, lite0 (on ImageNet, of the extra weights), or a tag of timm's pretrained
            networks; by default random.
        preset: hyperparameters: small (the method's defaults, for small data sets) or reference (the paper's: network, input
            size, length, batch, learning rate and its schedule, the method's arguments); flags override either. A paper's batch
            that the data cannot fill is reduced, and its learning rate by the paper's rule.
        method_args: the method's arguments; on the command line --method.NAME VALUE.
        target: label columns, for methods that require labels.
        size: input image size in pixels; by default 96, or the paper's.
        channels: input channels; by default 3 if any image has colour, else 1.
        modality: imaging modality, which determines the plausible augmentations; auto takes it from the data set or the DICOM
            headers.
        minutes: training time in minutes of wall clock; the number of steps is fixed before the first (10 if no length is
            given).
        epochs: training length in passes over the training images.
        steps: training length in optimiser steps.
        batch_size: images per step; by default the method's, at most half the images; auto: the most that fit into GPU memory
            (the learning rate may have to be adapted).
        learning_rate: peak learning rate; by default the method's.
        weight_decay: weight decay of AdamW; by default the method's.
        warmup: share of the steps over which the learning rate rises; by default the method's.
        final_learning_rate: learning rate at the last step, to which it falls as a cosine; by default 0, or the paper's.
        precision: floating-point precision; by default bf16-mixed where the processor supports it (CPU: from 32 pixels on),
            else 32-true.
        devices: number of GPUs of this machine (of processes, without a GPU) that share each batch; the processes of torchrun
            and SLURM, on several machines too, are detected.
        compile: compile the training step with torch.compile; the first steps take minutes, and not every network gains.
        shard: shard parameters, gradients and optimiser state across devices (FSDP), for networks too large for one device;
            requires --steps or --epochs, excludes --compile.
        checkpointing: activation checkpointing: a third more computation, far less memory; not for networks with batch norm.
        accumulate: gradient accumulation: number of parts of each device's batch; methods that compare images within a batch
            (simclr, vicreg, ...) compare those of a part.
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
    arguments = configuration(locals(), "devices")
    chosen = plugins.method(method)
    defaults = presets.preset(chosen, preset)
    method_args = defaults.method_args | (method_args or {})
    size = size or defaults.size
    if minutes is None and epochs is None and steps is None:
        epochs = defaults.epochs
    settings = chosen.settings(method_args)
    reads_labels = chosen.requirements(settings).labels
    if sum(v is not None for v in (minutes, epochs, steps)) > 1:
        raise UsageError("give one of --minutes, --epochs and --steps")
    if minutes is None and epochs is None and steps is None:
        minutes = DEFAULT_MINUTES
    lengths = {"minutes": minutes, "epochs": epochs, "steps": steps}
    if reads_labels and not target:
        raise UsageError(f"{method} trains on labels: name them with --target")
    arguments |= lengths | {"size": size, "method_args": method_args}
    if devices > 1 and not launcher.several():
        raise UsageError(f"--devices {devices}: from Python, start the script with `torchrun --nproc_per_node {max(2, devices)}`")
    if shard and not launcher.several():
        raise UsageError("--shard deals a method out over several devices: name their number with --devices")
    if shard and (minutes or compile):
        raise UsageError("--shard goes with --steps or --epochs (trial steps need all of it on one device), and without --compile")
    if init is not None:
        preflight.require(init)
    finished = preflight.is_finished(Path(out), "pretrain", arguments, overwrite, resume)
    if not finished and launcher.is_first():
        preflight.refuse_folder(Path(out), "pretrain", overwrite, resume)
    if (network := encoder or (defaults.encoder if init is None else None)) is not None:
        _require_network(network, size)
    launcher.join()
    quiet = quiet or not launcher.is_first()
    from scotoma.data.datamodule import gather

    with launcher.first_here():
        data_module = gather(
            **vars(source),
            target=target if reads_labels else None,
            size=size,
            channels=channels,
            modality_name=modality,
            encoder_run=Path(init) if init else None,
            tests=False,
            quiet=quiet,
        )
    if finished:
        from scotoma.training import resuming

        masks = chosen.requirements(settings).masks
        return RunResult(resuming.confirm_finished(Path(out), data_module, masks, [init] if init else []))
    stage("building the network", quiet)
    from scotoma.quality.cohort import describe_sets
    from scotoma.training import ending
    from scotoma.training.pretraining import (
        assemble,
        open_run,
        train,  # torch and timm
    )

    parts = assemble(arguments, data_module)
    run = open_run(Path(out), arguments, overwrite, resume)
    try:
        rows = train(run, data_module, parts, quiet)
        if launcher.is_first():
            run.add_rows(describe_sets(data_module))
        run.finish(keep_checkpoints)
    finally:
        run.close()
    done = {row["metric"]: row["value"] for row in rows}
    if not done:  # another of several processes tells
        return RunResult(run.path)
    took = f"{done['steps']:.0f} steps of {run.config['batch_size']} in {done['seconds'] / 60:.1f} minutes"
    result = f"pretrained: {parts.info.name} by {run.config['method']} on {number(int(done['images']), 'image')}, {took}"
    following = ending.command("finetune", source=source, target="COLUMN", encoder=run.path)
    return RunResult(run.path).ending(ending.describe([result], data_module, following))


def _require_network(name: str, size: int) -> None:
    """Refuse a network that timm does not have before data are read."""
    from scotoma.models.encoders import resolve

    resolve(name, size)
