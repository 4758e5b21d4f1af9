"""``finetune``: an encoder and a few labels -> ``model.safetensors``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from scotoma.errors import UsageError
from scotoma.pretrain import PRECISIONS
from scotoma.run import Run

MODEL = "model.safetensors"


def finetune(
    data: Any,
    target: list[str],
    encoder: str | Path,
    out: str | Path = "runs/finetune",
    labels: str | None = None,
    on: str | None = None,
    readers: str | None = None,
    classes: list[str] | None = None,
    frozen: bool = False,
    label_fraction: float = 1.0,
    steps: int = 100,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.01,
    patience: int = 0,
    balance: bool = True,
    drop_tokens: float = 0.0,
    precision: str | None = None,
    seed: int = 0,
    strict: bool = False,
    allow_leakage: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Turn an encoder and labels into a classifier. Rows tell its metrics on validation rows; `evaluate` tests it.

    Args:
        data: a folder, a CSV or Parquet table, a MedMNIST .npz, NAME:PATH of a public data set, a prepared store, or phantom:N.
        target: one column of classes, or several of 0/1/missing (multi-label).
        encoder: a finished pretraining run, or an encoder file.
        out: the run folder.
        labels: a spreadsheet (CSV or XLSX) to join to the pictures.
        on: the spreadsheet's column that names the picture.
        readers: majority or soft: several rows of a picture are several readers', brought together so (soft: train on shares).
        classes: the classes of one categorical target to tell apart; others count as unlabelled.
        frozen: leave the encoder as it is and fit a logistic regression on its features.
        label_fraction: share of the training and validation labels to use.
        steps: length as optimiser steps.
        batch_size: pictures a step.
        learning_rate: peak.
        weight_decay: of AdamW.
        patience: stop after so many checks of the validation loss without improvement (10 checks a run) and keep the best
            weights; 0 trains the fixed number of steps.
        balance: weight the loss so that classes count alike.
        drop_tokens: share of a vision transformer's patches that training leaves out (0.75 in MSMAE), mostly those that the encoder
            attends to, anew at each step; a test sees them all.
        precision: bf16-mixed or 32-true; by default bf16-mixed where the processor has it.
        seed: of the split, the label draw, the order and the views.
        strict: stop at an unreadable picture instead of leaving it out.
        allow_leakage: go on where a patient or picture is on both sides of the split, or was in the encoder's pretraining.
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
    if not 0 <= drop_tokens < 1:
        raise UsageError(f"--drop_tokens {drop_tokens}: must be at least 0 and below 1")
    if precision not in (None, *PRECISIONS):
        raise UsageError(f"--precision {precision}: one of {', '.join(PRECISIONS)}")
    arguments["data"] = str(data) if isinstance(data, (str, Path)) else f"a {type(data).__name__}"
    from scotoma import encoders
    from scotoma.material import gather

    info = encoders.read_info(encoder)
    material = gather(
        data=data, labels=labels, on=on, readers=readers,
        target=target, classes=classes, size=info.image_size, channels=info.in_chans,
        modality_name=info.modality, seed=seed, strict=strict, allow_leakage=allow_leakage, encoder_run=Path(encoder),
        display=info.display, quiet=quiet,
    )  # fmt: skip
    assert material.target is not None
    from scotoma.data.targets import require_classes
    from scotoma.evaluators.base import draw, draw_rows
    from scotoma.finetuning import predict, probe, tune

    drawn = draw(material.target, material.split, label_fraction, seed)
    require_classes(material.target, drawn.train, "training")
    network, info, _ = encoders.load(encoder)
    if drop_tokens and (frozen or not encoders.is_vit(network)):
        raise UsageError("--drop_tokens needs a vision transformer that is trained, not --frozen")
    run = Run.open(Path(out), "finetune", arguments, overwrite, resume)
    try:
        if frozen:
            head: Any = probe(network, info, material.store, material.rows, material.target, drawn)
        else:
            tuned, costs = tune(
                network, info, material.store, material.rows, material.target, drawn, steps=steps, batch_size=batch_size,
                learning_rate=learning_rate, weight_decay=weight_decay, precision=precision, seed=seed, patience=patience,
                balance=balance, drop_tokens=drop_tokens, run=run, quiet=quiet,
            )  # fmt: skip
            network, head = tuned.encoder.cpu(), tuned.head.cpu()
        info = replace(info, targets=material.target.columns, classes=material.target.classes)
        encoders.save(run.path / MODEL, network, info, head)
        material.save_used(run.path)
        val = material.split.rows("val")
        val = val[material.target.known[val]]
        common = {"method": info.method["name"], "encoder": info.name, "target": ",".join(target), "split": "val"}
        (run.path / "rows.jsonl").unlink(missing_ok=True)  # of a run that was killed between its rows and its end
        if not frozen:
            run.add_rows(costs, evaluator="finetune", **(common | {"split": "train"}))
        if len(val):
            p = predict(network, head, info, material.store, material.rows[val], material.target.multilabel)
            run.add_rows(draw_rows(material.target.y[val], p, drawn), evaluator="linear" if frozen else "finetune", **common)
        run.finish()
    finally:
        run.close()
    return run.path
