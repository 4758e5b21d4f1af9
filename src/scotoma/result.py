"""What a verb returns: the path of what it wrote, with its results."""

from __future__ import annotations

from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

from scotoma.errors import UsageError
from scotoma.preflight import weights_file
from scotoma.run_folder import Row, read_rows

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
        return Rows(read_rows(self.path)).table

    @property
    def metrics(self) -> dict[str, Any]:
        """Metric -> value over all classes and label draws; see `Rows.metrics`."""
        return Rows(read_rows(self.path)).metrics


class Rows(list[Row]):
    """The rows that a verb returns: a list of mappings, as a table, or the main metrics alone.

    Example:
        >>> Rows([{"evaluator": "metrics", "metric": "auroc", "value": 0.8}]).metrics
        {'auroc': 0.8}
    """

    @property
    def table(self) -> pd.DataFrame:
        """The rows as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self))

    @property
    def metrics(self) -> dict[str, Any]:
        """Metric -> value over all classes and label draws: of the test set, else of the validation set, else of the training.

        Raises:
            UsageError: a metric has several values, of several methods, evaluators or label fractions.
        """
        whole = [row for row in self if row["evaluator"] != "data" and all(row.get(key) is None for key in _PARTS)]
        sets = [[row for row in whole if row.get("split") == name] for name in ("test", "val", "train", None)]
        found: dict[str, Any] = {}
        for row in next(filter(None, sets), []):
            if found.setdefault(row["metric"], row["value"]) != row["value"]:
                raise UsageError(f"{row['metric']} has several values here: choose among the rows")
        return found
