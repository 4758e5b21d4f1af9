"""``study``: methods x label fractions x label draws, with controls; can be stopped and taken up again."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

from scotoma import packaged_weights, plugins, preflight
from scotoma.arguments import DataArgs, Decoder, Modality, check_arguments, configuration
from scotoma.errors import UsageError, stage
from scotoma.result import RunResult
from scotoma.run_folder import Run

CONTROLS = ("random", "majority", "pixels", "header")


@check_arguments
def study(
    source: DataArgs,
    target: list[str],
    methods: list[str],
    out: str | Path = "runs/study",
    fractions: list[float] | None = None,
    label_lists: list[str] | None = None,
    seeds: int = 3,
    pretrainings: int = 1,
    minutes: float | None = None,
    epochs: int | None = None,
    steps: int | dict[str, int] | None = None,
    size: int = 96,
    encoder: str | None = None,
    modes: list[Literal["linear", "finetune"]] | None = None,
    controls: list[str] | None = None,
    finetune_steps: int = 100,
    finetune_learning_rate: float = 5e-4,
    finetune_size: int | None = None,
    finetune_batch_size: int = 32,
    regression: bool = False,
    decoder: Decoder = "auto",
    channels: Literal[1, 3] | None = None,
    modality: Modality = "auto",
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Measure the benefit of pretraining: methods, then models on nested label fractions, beside baselines.

    Pretraining uses the training set only. A method that requires labels is pretrained anew for each fraction and label draw.

    Args:
        source: see `DataArgs`.
        target: label columns: one with classes, several with 0/1/missing (multi-label), or mask_path for segmentation.
        methods: pretraining methods, separated by commas, see `scotoma list methods`; with arguments (quoted for the shell):
            'mae?masking=block&mask_ratio=0.6'.
        out: run folder.
        fractions: label fractions, separated by commas; by default 0.01, 0.1, 1.
        label_lists: text files, separated by commas, that name the labelled training images of one more fraction each: a path, a
            file name, a value of the column `on` or a row id on each line. Validation labels are drawn at the same fraction.
        seeds: number of label draws at each fraction; each takes another initialisation of the untrained networks.
        pretrainings: number of pretrainings of each method, with different seeds, which the label draws take in turn.
        minutes: length of each pretraining in minutes of wall clock (10 if no length is given).
        epochs: length of each pretraining in passes over the training images.
        steps: length of each pretraining in optimiser steps: one number, or one for each method.
        size: input image size in pixels.
        encoder: one network for all methods; by default each method's own.
        modes: use of the encoders: linear (frozen, a linear probe), finetune, or both; by default both (segmentation:
            finetune).
        controls: baselines: random (the method's own network before its first step, with the same budget), majority, pixels,
            header; and weights to compare with: a run, a weights file, lite0 (on ImageNet, of the extra weights), or a tag of
            timm's pretrained networks, such as resnet18.a1_in1k.
        finetune_steps: length of each fine-tuning in optimiser steps.
        finetune_learning_rate: peak learning rate of each fine-tuning.
        finetune_size: input image size of fine-tuning in pixels; by default that of the pretraining.
        finetune_batch_size: images per step of each fine-tuning.
        decoder: segmentation decoder; auto takes the first that fits the network.
        regression: predict numbers (age, ejection fraction) from one target column.
        channels: input channels; by default 3 if any image has colour, else 1.
        modality: imaging modality, which determines the plausible augmentations; auto takes it from the data set or the DICOM
            headers.
        overwrite: replace the finished study in `out`.
        resume: continue the interrupted study in `out`.
        quiet: no progress bar.

    Returns:
        The run folder, with `report.html`: a path with `.rows`.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run failed.
    """
    arguments = configuration(locals())
    fractions = sorted(set(fractions or [0.01, 0.1, 1.0]))
    for method in methods:
        plugins.check("methods", method.partition("?")[0])
    if not methods or len(set(methods)) < len(methods):
        raise UsageError("--methods: name each method once, separated by commas")
    if sum(v is not None for v in (minutes, epochs, steps)) > 1:
        raise UsageError("give one of --minutes, --epochs and --steps")
    if pretrainings > seeds:
        raise UsageError(f"--pretrainings {pretrainings}: each needs a label draw (--seeds {seeds})")
    if minutes is None and epochs is None and steps is None:
        minutes = 10.0
    stage("importing torch", quiet)
    for method in methods:
        plugins.variant(method)
    from scotoma.tasks.base import FineTuning, choose, task_of

    kind = choose(target, regression)
    used = list(dict.fromkeys(modes or kind.modes))
    controls = list(kind.controls) if controls is None else controls
    kind.check(FineTuning(decoder=decoder))
    kind.check_study(methods, used, controls)
    _check_controls(controls, encoder)
    compared = [c for c in controls if c not in CONTROLS]  # weights
    arguments |= {"fractions": fractions, "modes": used, "controls": controls, "minutes": minutes}
    finished = preflight.is_finished(Path(out), "study", arguments, overwrite, resume)
    if not finished:
        preflight.refuse_folder(Path(out), "study", overwrite, resume)
    if encoder is not None:
        from scotoma.models.encoders import resolve

        resolve(encoder, size)
    from scotoma.data.datamodule import gather

    data_module = gather(
        **vars(source),
        target=target,
        numbers=regression,
        size=max(size, finetune_size or 0),
        channels=channels,
        modality_name=modality,
        compared=compared,
        quiet=quiet,
    )
    from scotoma.data.labels.targets import require_classes
    from scotoma.data.splits import label_lists as label_list

    assert data_module.target is not None
    lists: dict[float, Any] = {}
    for path in label_lists or ():
        share, listed = label_list.read(path, data_module.dataset, data_module.split, data_module.target, source.on)
        if share in (*fractions, *lists):
            raise UsageError(f"--label_lists {path}: {share:g} of the labels are already a fraction or another list of this study")
        lists[share] = listed
    for name in ("train", "test"):
        require_classes(data_module.target, data_module.split.rows(name), f"split {name}", trains=name == "train")
    from scotoma.training import label_columns, resuming

    task = task_of(data_module.dataset, data_module.store, data_module.split, data_module.target)
    if finished:
        return RunResult(
            resuming.confirm_finished(Path(out), data_module, not task.is_of_images, [c for c in controls if c not in CONTROLS])
        )
    for method in methods:
        label_columns.refuse(data_module, method)
    from scotoma.studies.runner import carry_out

    run = Run.open(Path(out), "study", arguments, overwrite, resume)
    try:
        resuming.check(run, data_module, not task.is_of_images, compared)
        carry_out(run, data_module, task, lists, quiet)
        run.finish()
    finally:
        run.close()
    from scotoma.reporting.build import build

    build([run.path])
    return RunResult(run.path)


def _check_controls(controls: list[str], encoder: str | None) -> None:
    """Refuse a control that is neither one of ``CONTROLS`` nor weights."""
    for control in controls:
        if control in CONTROLS:
            continue
        if Path(control).exists():
            from scotoma.models.pretrained_weights import network

            if network(control) is None and encoder is None:
                raise UsageError(f"--controls {control}: say which network these weights are of with --encoder")
            continue
        preflight.require(control)
        if packaged_weights.is_packaged(control):
            continue
        near = difflib.get_close_matches(control, CONTROLS, n=1)
        if near or "." not in control:
            weights = "a run, a weights file, lite0 or a timm tag"
            hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(CONTROLS)}, {weights}"
            raise UsageError(f"unknown control {control!r}; {hint}")
