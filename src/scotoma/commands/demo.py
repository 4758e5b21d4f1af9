"""``demo``: a whole study on synthetic chest radiographs."""

from __future__ import annotations

from pathlib import Path

from scotoma.arguments import check_arguments


@check_arguments
def demo(out: str | Path = "runs/demo", images: int = 900, minutes: float = 2, overwrite: bool = True, quiet: bool = False) -> Path:
    """Run a study on synthetic chest radiographs: pretraining, classifiers of cardiomegaly with few labels, report.

    Args:
        out: run folder.
        images: number of synthetic radiographs.
        minutes: length of the pretraining in minutes of wall clock.
        overwrite: replace an earlier demo in `out`.
        quiet: no progress bar.

    Returns:
        The run folder; open its `report.html`.
    """
    from scotoma.commands.study import study

    path = study(
        f"phantom:{images}", ["cardiomegaly"], ["simclr"], out, fractions=[0.02, 0.1, 1.0], seeds=3, minutes=minutes,
        size=64, finetune_steps=10, finetune_batch_size=16, modality="xray", overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
    return path / "report.html"
