"""``pretrain``: images -> ``encoder.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scotoma import plugins, preflight
from scotoma.arguments import checked
from scotoma.distributed import launcher
from scotoma.errors import UsageError

DEFAULT_MINUTES = 10.0
PRESETS = ("small", "reference")
PRECISIONS = ("bf16-mixed", "32-true")


@checked
def pretrain(
    data: Any,
    method: str = "simclr",
    out: str | Path = "runs/pretrain",
    encoder: str | None = None,
    init: str | None = None,
    preset: str = "small",
    method_args: dict[str, Any] | None = None,
    labels: str | None = None,
    on: str | None = None,
    annotators: str | None = None,
    missing: list[str] | None = None,
    separator: str | None = None,
    target: list[str] | None = None,
    classes: list[str] | None = None,
    size: int = 96,
    channels: int | None = None,
    modality: str = "auto",
    minutes: float | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    precision: str | None = None,
    devices: int = 1,
    compile: bool = False,
    shard: bool = False,
    checkpointing: bool = False,
    accumulate: int = 1,
    seed: int = 0,
    strict: bool = False,
    allow_leakage: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Pretrain an encoder on images, unlabelled unless the method needs labels.

    Test and validation rows (the table's, or those of a drawn split) are kept out, so that the encoder can be tested on them.

    Args:
        data: a folder, a CSV or Parquet table, a MedMNIST .npz, NAME:PATH of a public data set, a prepared store, or phantom:N.
        method: see `scotoma list methods`.
        out: the run folder.
        encoder: a timm network, or vit_tiny_patch8 and the like; by default the method's own.
        init: start from these weights: a run, a weights file of timm's names, or a tag of timm's pretrained networks.
        preset: small (the method's defaults, for small data) or reference (the paper's); flags override either.
        method_args: the method's arguments; on the command line --method.NAME VALUE.
        labels: a spreadsheet (CSV or XLSX) to join to the images.
        on: the spreadsheet's column that names the image.
        annotators: majority or soft: several rows of an image are several annotators', brought together so (soft: train on shares).
        missing: words that mean a missing value, such as NA,unknown; by default empty cells, and NA and the like among numbers.
        separator: text between several findings in a cell of the target, such as |; each finding becomes a 0/1 target.
        target: the columns to train on, for methods that need labels.
        classes: the classes of one categorical target to tell apart; others count as unlabelled.
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
        seed: of the split, the weights, the order and the views.
        strict: stop at an unreadable image instead of leaving it out.
        allow_leakage: go on where a patient or image is on both sides of the split.
        overwrite: replace a finished run in `out`.
        resume: go on with an interrupted run in `out`.
        quiet: no progress bars.

    Returns:
        The run folder.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run failed.
    """
    chosen = plugins.method(method)
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: one of {', '.join(PRESETS)}")
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
    if precision not in (None, *PRECISIONS):
        raise UsageError(f"--precision {precision}: one of {', '.join(PRECISIONS)}")
    if reads_labels and not target:
        raise UsageError(f"{method} trains on labels: name them with --target")
    arguments = {
        "data": _named(data), "method": method, "encoder": encoder, "init": init, "method_args": method_args or {},
        "labels": labels, "on": on, "annotators": annotators, "missing": missing, "separator": separator,
        "target": target, "classes": classes, "size": size, "channels": channels, "modality": modality, "minutes": minutes,
        "epochs": epochs, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay,
        "precision": precision, "compile": compile, "shard": shard, "checkpointing": checkpointing, "accumulate": accumulate,
        "seed": seed, "strict": strict, "allow_leakage": allow_leakage,
    }  # fmt: skip
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
            data=data, labels=labels, on=on, annotators=annotators, missing=missing, separator=separator,
            target=target if reads_labels else None, classes=classes, size=size,
            channels=channels, modality_name=modality, seed=seed, strict=strict, allow_leakage=allow_leakage,
            encoder_run=Path(init) if init else None, tests=False, quiet=quiet,
        )  # fmt: skip
    if finished:
        from scotoma.training import resuming

        return resuming.confirm_finished(Path(out), material, chosen.requirements(settings).masks, [init] if init else [])
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
    return run.path


def _require_network(name: str, size: int) -> None:
    """Refuse a network that timm does not have before data are read."""
    from scotoma.models.encoders import resolve

    resolve(name, size)


def _named(data: Any) -> str:
    """How a configuration names its data: a path or ``phantom:N`` as typed, a table in memory by its kind."""
    return str(data) if isinstance(data, (str, Path)) else f"a {type(data).__name__} of {len(data)} rows"
