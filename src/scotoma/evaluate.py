"""``evaluate``: an encoder or a classifier, and a table -> rows and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scotoma import plugins
from scotoma.errors import UsageError
from scotoma.run import Row, Run, read_rows, status, write_atomically


def evaluate(
    run: str | Path,
    data: Any,
    evaluators: list[str] | None = None,
    target: list[str] | None = None,
    out: str | Path | None = None,
    labels: str | None = None,
    on: str | None = None,
    readers: str | None = None,
    classes: list[str] | None = None,
    fractions: list[float] | None = None,
    seeds: int = 3,
    seed: int = 0,
    strict: bool = False,
    allow_leakage: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Row]:
    """Test an encoder or a classifier on the test rows of a table.

    Args:
        run: a finished pretrain or finetune run, or an encoder or model file.
        data: a folder, a CSV or Parquet table, a MedMNIST .npz, NAME:PATH of a public data set, a prepared store, or phantom:N.
        evaluators: see `scotoma list evaluators`; by default metrics for a classifier, linear for an encoder.
        target: the columns to predict; by default those of the classifier.
        out: a run folder of its own; by default the rows join those of `run`.
        labels: a spreadsheet (CSV or XLSX) to join to the pictures.
        on: the spreadsheet's column that names the picture.
        readers: majority or soft: several rows of a picture are several readers', brought together so (soft: train on shares).
        classes: the classes of one categorical target to tell apart; others count as unlabelled.
        fractions: shares of the labels with which probes are trained; by default 1.
        seeds: label draws for each fraction below 1.
        seed: of the split.
        strict: stop at an unreadable picture instead of leaving it out.
        allow_leakage: go on where a patient or picture is on both sides of the split, or was in the encoder's pretraining.
        overwrite: replace a finished run in `out`.
        quiet: no progress bars.

    Returns:
        The rows.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run failed.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("overwrite", "quiet", "out")} | {"run": str(run)}
    arguments["data"] = str(data) if isinstance(data, (str, Path)) else f"a {type(data).__name__}"
    fractions = fractions or [1.0]
    if any(not 0 < f <= 1 for f in fractions) or seeds < 1:
        raise UsageError("--fractions must be above 0 and at most 1, --seeds at least 1")
    for name in evaluators or ():
        plugins.check("evaluators", name)
    from scotoma import encoders
    from scotoma.material import gather

    info = encoders.read_info(run)
    if out is None and status(Path(run)) != "finished":
        raise UsageError(f"{run} is no finished run folder: name one for the rows with --out")
    target = target or list(info.targets)
    if classes is None and len(target) == 1 and info.targets == tuple(target):
        classes = list(info.classes)
    material = gather(
        data=data, labels=labels, on=on, readers=readers,
        target=target or None, classes=classes, size=info.image_size, channels=info.in_chans,
        modality_name=info.modality, seed=seed, strict=strict, allow_leakage=allow_leakage, encoder_run=Path(run),
        display=info.display, quiet=quiet,
    )  # fmt: skip
    if material.target is None:
        raise UsageError("name what to predict with --target")
    from scotoma.data.targets import require_classes
    from scotoma.evaluators.base import Context

    network, info, head = encoders.load(run)
    chosen = evaluators or (["metrics"] if head is not None else ["linear"])
    trains = head is None or any(getattr(plugins.module("evaluators", name), "TRAINS", True) for name in chosen)
    for name in ("train", "test") if trains else ("test",):
        require_classes(material.target, material.split.rows(name), f"split {name}")
    context = Context(
        network, info, head, material.dataset, material.store, material.split, material.target, tuple(sorted(fractions)), seeds,
        info.method["name"],
    )  # fmt: skip
    rows = material_rows(material)
    for name in chosen:
        module = plugins.module("evaluators", name)
        common = context.common | ({"method": "control"} if getattr(module, "CONTROL", False) else {})
        rows += [{"evaluator": name, "protocol": module.PROTOCOL, **common, **row} for row in module.evaluate(context)]
    return _write(Path(run), Path(out) if out else None, rows, arguments, overwrite)


def material_rows(material: Any) -> list[Row]:
    """Rows about the data: how many pictures, patients and unreadable files."""
    from scotoma.data.splits import cohort

    target = material.target
    rows: list[Row] = list(cohort(material.split, target.y if target else None, target.classes if target else ()))
    unreadable = int(material.store.facts["error"].notna().sum())
    return [*rows, {"evaluator": "data", "metric": "unreadable", "value": unreadable}]


def _write(source: Path, out: Path | None, rows: list[Row], arguments: dict[str, Any], overwrite: bool) -> list[Row]:
    """Rows into a run of their own, or into the run they are about, where they replace what the same evaluators said before."""
    if out is None:
        import json

        said = {(row["evaluator"], row.get("split")) for row in rows}  # a training's own rows, on validation, stay
        kept = [row for row in read_rows(source) if (row["evaluator"], row.get("split")) not in said]
        run = Run(source, {})
        write_atomically(source / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        return run.add_rows(rows)
    run = Run.open(out, "evaluate", arguments, overwrite)
    try:
        found = run.add_rows(rows)
        run.finish()
    finally:
        run.close()
    return found
