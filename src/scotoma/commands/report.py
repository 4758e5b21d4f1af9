"""``report``: run folders -> one self-contained page."""

from __future__ import annotations

from pathlib import Path

from scotoma.arguments import check_arguments


@check_arguments
def report(runs: list[Path], out: Path | None = None) -> Path:
    """Write one page about run folders; beside it ``tables/``, ``model_card.md`` and ``checklist.md``.

    Args:
        runs: run folders; run folders inside them are read, too.
        out: page to write; by default `report.html` in the first run's folder. Files beside a page of another name carry its
            name (`both.html`: `both_tables/`, `both_model_card.md`).

    Returns:
        The page's path.

    Raises:
        UsageError: a folder is no run, cannot be read, or holds no results.
        RunError: the page cannot be written.
    """
    from scotoma.reporting.build import build

    return build(runs, out)
