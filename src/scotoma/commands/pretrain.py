"""``pretrain``: images -> ``encoder.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scotoma import plugins, preflight
from scotoma.arguments import DataArgs, Modality, Precision, check_arguments, configuration
from scotoma.distributed import launcher
from scotoma.errors import UsageError
from scotoma.result import RunResult

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
    size: int = 96,
    channels: Literal[1, 3] | None = None,
    modality: Modality = "auto",
    minutes: float | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    precision: Precision | None = None,
    devices: int = 1,
    compile: bool = False,
    shard: bool = False,
    checkpointing: bool = False,
    accumulate: int = 1,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Pretrain an encoder on images, unlabelled unless the method needs labels.

    Test and validation rows (the table's, or those of a drawn split) are kept out, so that the encoder can be tested on them.

    Args:
        source: see `DataArgs`.
        method: see `scotoma list methods`.
        out: the run folder.
        encoder: a timm network, or vit_tiny_patch8 and the like; by default the method's own.
        init: start from these weights: a run, a weights file of timm's names, or a tag of timm's pretrained networks.
        preset: small (the method's defaults, for small data) or reference (the paper's); flags override either.
        method_args: the method's arguments; on the command line --method.NAME VALUE.
        target: the columns to train on, for methods that need labels.
        size: side of what the encoder sees, pixels.
        channels: 1 or 3; by default 3 where any image has colour.
        modality: which augmentations are plausible: auto, grey, xray, ct, mr, colour, dermoscopy, fundus.
        minutes: wall-clock budget of the training; the number of steps is fixed before the first (10 where no length is given).
        epochs: length as passes over the training images.
        steps: length as optimiser steps.
        batch_size: images a step; by default the method's, at most half the images; auto for the most that a GPU's memory holds
            (which the learning rate may have to follow).
        learning_rate: peak; by default the method's.
        weight_decay: of AdamW; by default the method's.
        precision: bf16-mixed or 32-true; by default bf16-mixed where the processor has it (a CPU: from 32 pixels on).
        devices: GPUs of this machine (without any: processes) that share each batch; torchrun's and SLURM's processes are found
            by themselves, over several machines too.
        compile: let torch.compile fuse the step; the first ones take minutes, and not every network gains.
        shard: deal weights, gradients and moments out over the devices, of which each otherwise has all (FSDP): for networks that
            are too large for one; with --steps or --epochs, without --compile.
        checkpointing: compute activations again in the backward pass: a third more work, far less memory; not with batch norm.
        accumulate: take each device's share of a batch in so many parts, one after the other, where it does not fit; what
            compares images with one another (simclr, vicreg, ...) then compares those of a part.
        overwrite: replace a finished run in `out`.
        resume: go on with an interrupted run in `out`.
        quiet: no progress bars.

    Returns:
        The run folder: a path with `.metrics`, `.encoder` and `.rows`.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run failed.
    """
    arguments = configuration(locals(), "preset", "devices")
    chosen = plugins.method(method)
    if preset == "reference":
        paper = dict(chosen.reference)
        method_args = paper.pop("method_args", {}) | (method_args or {})
        encoder, batch_size = encoder or paper.get("encoder"), batch_size or paper.get("batch_size")
        learning_rate = learning_rate or paper.get("learning_rate")
        weight_decay = paper.get("weight_decay") if weight_decay is None else weight_decay
        if minutes is None and epochs is None and steps is None:
            epochs = paper.get("epochs")
    settings = chosen.settings(method_args or {})
    reads_labels = chosen.requirements(settings).labels
    if sum(v is not None for v in (minutes, epochs, steps)) > 1:
        raise UsageError("give one of --minutes, --epochs and --steps")
    if minutes is None and epochs is None and steps is None:
        minutes = DEFAULT_MINUTES
    lengths = {"minutes": minutes, "epochs": epochs, "steps": steps}
    for name, value in {**lengths, "batch_size": batch_size, "learning_rate": learning_rate, "accumulate": accumulate}.items():
        if value is not None and value != "auto" and value <= 0:
            raise UsageError(f"--{name} {value}: must be above 0")
    if reads_labels and not target:
        raise UsageError(f"{method} trains on labels: name them with --target")
    arguments |= lengths | {
        "encoder": encoder,
        "method_args": method_args or {},
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
    }
    if devices < 1 or (devices > 1 and not launcher.several()):
        raise UsageError(f"--devices {devices}: from Python, start the script with torchrun --nproc_per_node {max(2, devices)}")
    if shard and not launcher.several():
        raise UsageError("--shard deals a method out over several devices: name their number with --devices")
    if shard and (minutes or compile):
        raise UsageError("--shard goes with --steps or --epochs (trial steps need all of it on one device), and without --compile")
    if init is not None:
        preflight.require(init)
    finished = preflight.is_finished(Path(out), "pretrain", arguments, overwrite, resume)
    if not finished and launcher.is_first():
        preflight.refuse_folder(Path(out), "pretrain", overwrite, resume)
    if encoder is not None:
        _require_network(encoder, size)
    launcher.join()
    quiet = quiet or not launcher.is_first()
    from scotoma.data.datamodule import gather

    with launcher.first_here():
        material = gather(
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
        return RunResult(resuming.confirm_finished(Path(out), material, masks, [init] if init else []))
    from scotoma.training.pretraining import (
        assemble,
        opened,
        train,  # torch, timm and lightning
    )

    parts = assemble(arguments, material)
    run = opened(Path(out), arguments, overwrite, resume)
    try:
        train(run, material, parts, quiet)
        run.finish()
    finally:
        run.close()
    return RunResult(run.path)


def _require_network(name: str, size: int) -> None:
    """Refuse a network that timm does not have before data are read."""
    from scotoma.models.encoders import resolve

    resolve(name, size)
