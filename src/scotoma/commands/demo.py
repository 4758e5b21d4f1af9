"""``demo``: the whole way on made-up chest X-rays."""

from __future__ import annotations

from pathlib import Path

from scotoma.arguments import check_arguments


@check_arguments
def demo(
    out: str | Path = "runs/demo", images: int = 1500, minutes: float = 2.0, overwrite: bool = True, quiet: bool = False
) -> Path:
    """Draw chest X-ray phantoms, pretrain on them, train classifiers of an enlarged heart with few labels, write the report.

    Args:
        out: the run folder.
        images: how many phantoms.
        minutes: wall-clock budget of each of the two pretrainings.
        overwrite: replace an earlier demo in `out`.
        quiet: no progress bars.

    Returns:
        The run folder; open its `report.html`.
    """
    from scotoma.commands.study import study

    path = study(
        f"phantom:{images}", ["cardiomegaly"], ["simclr", "mae"], out, fractions=[0.02, 0.1, 1.0], seeds=3, minutes=minutes,
        size=64, finetune_steps=20, modality="xray", overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
    return path / "report.html"
