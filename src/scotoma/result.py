"""What a verb returns: the path of what it wrote, with its results."""

from __future__ import annotations

from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

from scotoma.errors import UsageError
from scotoma.preflight import weights_file
from scotoma.run_folder import read_rows

if TYPE_CHECKING:
    import pandas as pd

_PARTS = ("class", "seed", "subgroup", "column", "corruption", "explanation")  # keys of a row about a part


class RunResult(PosixPath):
    """A run folder, as a path and with what lies in it.

    Example:
        >>> run = RunResult("runs/finetune")
        >>> run.path
        PosixPath('runs/finetune')
        >>> run.metrics
        {}
    """

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(str(self))

    @property
    def encoder(self) -> Path:
        """The weights file: ``encoder.safetensors`` of a pretraining, ``model.safetensors`` of a fine-tuning.

        Raises:
            UsageError: the run has none (a study has several).
        """
        return weights_file(self.path)

    @property
    def rows(self) -> pd.DataFrame:
        """All results, a row each; see the page on the run folder for the columns."""
        import pandas as pd

        return pd.DataFrame(read_rows(self.path))

    @property
    def metrics(self) -> dict[str, Any]:
        """Metric -> value over all classes and label draws.

        Raises:
            UsageError: a metric has several values, of several methods or label fractions: take them from ``rows``.
        """
        found: dict[str, Any] = {}
        for row in read_rows(self.path):
            if row["evaluator"] == "data" or any(row.get(key) is not None for key in _PARTS):
                continue
            if found.setdefault(row["metric"], row["value"]) != row["value"]:
                raise UsageError(f"{self}: {row['metric']} has several values; take them from .rows")
        return found
