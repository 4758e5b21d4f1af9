"""What a verb returns: the path of what it wrote, with its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

from scotoma import plugins
from scotoma.errors import UsageError
from scotoma.preflight import weights_file
from scotoma.run_folder import Row, read_rows

if TYPE_CHECKING:
    import pandas as pd

_LINES = 12  # of an evaluator in the short table
_METRICS = 4  # of an evaluator that does not state which of its rows are headlines
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

    summary: str = ""  # what a person wants to know of the run that has just ended, in a few lines

    def ending(self, summary: str) -> RunResult:
        """The result with its summary."""
        self.summary = summary
        return self

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

    note: str = ""  # lines below the short table: where all rows are

    @property
    def summary(self) -> str:
        """A short table: the headline metrics of each evaluator with interval and count, and where the rest is.

        Which of its rows are headlines an evaluator's module states (``is_headline(row)``); else its first metrics over all
        classes.
        """
        shown = [row for row in self if row["evaluator"] not in ("data", "cohort") and row.get("seed") is None and "low" in row]
        lines = [("evaluator", "metric", "value", "95 % interval", "n")]
        for name in dict.fromkeys(row["evaluator"] for row in shown):
            of_name = [row for row in shown if row["evaluator"] == name]
            chosen = list(filter(_headline(name, of_name), of_name))
            for row in chosen[:_LINES]:
                lines.append((name, _words(row), _number(row["value"]), interval_text(row), str(row.get("n", ""))))
            if len(chosen) > _LINES:
                lines.append((name, f"and {len(chosen) - _LINES} more", "", "", ""))
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        table = ["  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*table, *filter(None, [self.note])])

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
        whole = [row for row in self if row["evaluator"] not in ("data", "cohort") and all(row.get(key) is None for key in _PARTS)]
        sets = [[row for row in whole if row.get("split") == name] for name in ("test", "val", "train", None)]
        found: dict[str, Any] = {}
        for row in next(filter(None, sets), []):
            if found.setdefault(row["metric"], row["value"]) != row["value"]:
                raise UsageError(f"{row['metric']} has several values here: choose among the rows")
        return found


def interval_text(row: Row) -> str:
    """``0.700 to 0.900``, the ends of a row's 95 % interval; empty where it has none."""
    low, high = row.get("low"), row.get("high")
    return "" if low is None or low != low else f"{_number(low)} to {_number(high)}"


def _number(value: Any) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _headline(evaluator: str, rows: Iterable[Row]) -> Callable[[Row], bool]:
    """Which rows of an evaluator stand in the short table."""
    stated: Callable[[Row], bool] | None = None
    if evaluator in plugins.names("evaluators"):
        stated = getattr(plugins.module("evaluators", evaluator), "is_headline", None)
    whole = [row for row in rows if all(row.get(key) is None for key in _PARTS)]
    first = list(dict.fromkeys(row["metric"] for row in whole))[:_METRICS]
    return stated or (lambda row: row["metric"] in first and all(row.get(key) is None for key in _PARTS))


def _words(row: Row) -> str:
    """A metric and what it is of: a class, a subgroup, a share of the labels, one answer per patient."""
    parts = ("class", "decision", "column", "subgroup", "corruption", "severity", "explanation", "other")
    of = [str(row[key]) for key in parts if row.get(key)]
    if row.get("unit") and (row["unit"], row.get("aggregation", "none")) != ("image", "none"):
        of.append(f"by {row['unit']}" + (f" ({row['aggregation']})" if row.get("aggregation", "none") != "none" else ""))
    if row.get("fraction"):
        of.append(f"at {row['fraction']:.0%} of the labels")
    if row.get("few"):
        of.append("(too few)")
    return " ".join([row["metric"], *of])
