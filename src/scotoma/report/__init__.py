"""Builds one self-contained ``report.html`` from run folders; never imports torch. `build.build` is the way in.

Here stands what its page and its figures share: how run folders are read, what things are called, how a value is
written.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scotoma.errors import UsageError
from scotoma.run import REPLACED, parse_config, read_config, read_rows, status

NAMES = {
    **{"simclr": "SimCLR", "mae": "MAE", "moco_v1": "MoCo v1", "moco_v2": "MoCo v2", "simsiam": "SimSiam", "byol": "BYOL"},
    **{"dino": "DINO", "msn": "MSN", "simmim": "SimMIM", "ijepa": "I-JEPA", "vicreg": "VICReg", "lejepa": "LeJEPA"},
    **{"msmae": "MSMAE", "intelligent_masking": "Intelligent masking", "autoencoder": "Autoencoder"},
    **{"context_encoder": "Context encoder", "proxy": "Proxy tasks", "supervised": "Supervised"},
    "random": "Random weights",
}
USES = {
    "linear": ("Linear classifier on the frozen encoder", "a linear classifier on the frozen encoder"),
    "finetune": ("Fine-tuned network", "the fine-tuned network"),
    "knn": (
        "Nearest neighbours in the frozen encoder's features",
        "a nearest-neighbour classifier on the frozen encoder",
    ),
    "metrics": ("Trained classifier", "the trained classifier"),
}
CONTROLS = {
    "pixels": "Pixels alone (32 px, PCA, logistic regression)",
    "header": "Image size and header facts alone",
    "majority": "Majority class",
}
METRICS = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "average_precision": "Average precision",
    "auroc_micro": "Micro AUROC",
    "average_precision_micro": "Micro average precision",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
}


def called(method: Any) -> str:
    """What a reader calls a method; ``mae?masking=block&mask_ratio=0.6`` is MAE (masking block, mask ratio 0.6)."""
    name, _, query = str(method).partition("?")
    given = ", ".join(pair.replace("=", " ").replace("_", " ") for pair in query.split("&") if pair)
    return NAMES.get(name, name) + (f" ({given})" if given else "")


def method_of(config: dict[str, Any]) -> Any:
    """The method of a run as it was asked for: of a study's, with its arguments."""
    return config.get("variant") or config.get("method")


def label_of(method: Any, encoder: Any, several: bool) -> str:
    """A method's display name, with its network where ``several`` are compared."""
    name = "no method" if missing(method) else called(method)
    return f"{name} ({encoder})" if several and not missing(encoder) else name


def decimals(value: float, sign: bool = False) -> str:
    """Three decimals, with a true minus sign; a dash where there is no value."""
    return "\u2013" if missing(value) else f"{value:{'+' if sign else ''}.3f}".replace("-", "\u2212")


def p_value(value: float) -> str:
    """A p-value with its relation."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def interval(row: pd.Series, sign: bool = False) -> str:
    """The 95 % interval in words; empty where a row has none."""
    bounds = f"{decimals(row['low'], sign)} to {decimals(row['high'], sign)}"
    return "" if missing(row["low"]) else f"95\u00a0% interval {bounds}"


def count(value: float | None, of: float | None) -> str:
    """A count, with its share ``of`` a whole."""
    if value is None or missing(value):
        return "\u2013"
    return f"{value:,.0f}" + (f" ({100 * value / of:.0f}\u00a0%)" if of else "")


def duration(seconds: float) -> str:
    """A time as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def same(column: pd.Series, value: Any) -> pd.Series:
    """Equality where missing equals missing."""
    return column.isna() if missing(value) else column == value


def at(fraction: float) -> str:
    """A share of the labels in words; empty where it is not known."""
    if missing(fraction):
        return ""
    return "with all labels" if fraction == 1 else f"with {100 * fraction:g}\u00a0% of the labels"


def missing(value: Any) -> bool:
    """None or not-a-number."""
    return value is None or (isinstance(value, float) and value != value)


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "images_seen": ("Pictures seen", lambda v: f"{v:,.0f}"),
    "steps": ("Steps", lambda v: f"{v:,.0f}"),
    "seconds": ("Time", duration),
    "images_per_second": ("Pictures per second", lambda v: f"{v:,.0f}"),
    "peak_memory_bytes": ("Peak memory", lambda v: f"{v / 2**30:,.2f} GiB"),
    "parameters": ("Parameters", lambda v: f"{v / 1e6:,.1f} million"),
    "loss": ("Last loss", lambda v: f"{v:.4g}"),
    "feature_spread": ("Feature spread", lambda v: f"{v:.2f}"),
    "effective_rank": ("Effective rank", lambda v: f"{v:.1f}"),
}
ASKED = {
    "command": "Verb", "data": "Data", "target": "Target", "method": "Method", "methods": "Methods",
    "fractions": "Shares of labels", "label_fraction": "Share of labels", "seeds": "Label draws", "seed": "Seed",
    "encoder": "Encoder", "image_size": "Picture size (pixels)", "size": "Picture size (pixels)", "steps": "Steps",
    "epochs": "Epochs", "minutes": "Minutes",
}  # fmt: skip
SECTIONS = ("data", "pretraining", "features", "explanations", "results")  # in which figures of a run may stand
NO_FLAGS = ("command", "out", "overwrite", "resume", "resolved")
CALIBRATION = ("brier", "ece")
TEXT = (
    "evaluator", "metric", "split", "target", "class", "predicted", "method", "encoder", "protocol", "reference", "corruption",
    "column", "subgroup", "explanation", "other", "highest", "lowest", "unit", "aggregation", "use", "overlap", "reason",
    "rule", "what",
)  # fmt: skip
NUMBERS = (
    "value", "low", "high", "n", "fraction", "seed", "labels", "draws", "p_value", "p_holm", "fpr", "severity", "patients", "small",
    "threshold", "prevalence", "confidence", "count", "recalibrated", "wanted", "width", "never", "points",
)  # fmt: skip
Table = dict[str, Any]  # what a template shows of one table


def cell(rows: pd.DataFrame, sign: bool = False) -> Table | None:
    """The first row's value with its interval, as a table's cell; None where there is no such row."""
    if rows.empty or missing(rows.iloc[0]["value"]):
        return None
    row = rows.iloc[0]
    bounds = "" if missing(row["low"]) else f"[{decimals(row['low'], sign)}, {decimals(row['high'], sign)}]"
    return square(decimals(row["value"], sign), bounds)


def square(value: str, interval: str = "", mark: str = "") -> Table:
    """A table's cell of these words."""
    return {"value": value, "interval": interval, "mark": mark}


def line(name: str, cells: Sequence[Table | None], group: str = "", note: str = "") -> Table:
    """A line of a table: its name with a note beneath, under the heading ``group`` where there is one."""
    return {"name": name, "cells": cells, "group": group, "note": note}


def finding(target: Any, name: Any) -> str:
    """What a class is called: the class 1 of a 0/1 column goes by its column's name."""
    return str(target) if missing(name) or (str(name) == "1" and not missing(target)) else str(name)


@dataclass(frozen=True)
class Folder:
    """A run folder as it lies on the disk; ``top`` names the folder the user gave, of which this is a part."""

    path: Path
    top: str
    config: dict[str, Any]
    text: str
    state: str | None
    rows: list[dict[str, Any]]

    @property
    def metrics(self) -> list[Path]:
        """The logs of the training steps: beside the configuration or under ``logs``, one each time a run was taken up."""
        return [*self.path.glob("metrics.csv"), *sorted(self.path.glob("logs/**/metrics.csv"))]


def read(runs: Sequence[Path]) -> list[Folder]:
    """The runs and the runs inside them, each once."""
    found: dict[Path, Folder] = {}
    names = [run.resolve().name for run in runs]
    for run, name in zip(runs, names, strict=True):
        if not (run / "config.yaml").is_file():
            raise UsageError(
                f"{run} is no run folder: it has no config.yaml"
                if Path(run).exists()
                else f"{run} is no run folder: nothing is there"
            )
        top = name if names.count(name) == 1 else f"{run.resolve().parent.name}/{name}"
        own = []
        files = (f for f in run.rglob("config.yaml") if REPLACED not in f.relative_to(run).parts)
        for file in sorted(files, key=lambda f: (len(f.parts), f)):
            folder, path = file.parent, file.parent.resolve()
            if path not in found:
                _require_own(folder, file, folder / "rows.jsonl", *folder.glob("metrics.csv"), *folder.glob("logs/**/metrics.csv"))
                try:
                    rows = [row for row in read_rows(folder) if isinstance(row, dict)]
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{folder / 'rows.jsonl'} is damaged ({error}): repeat the run") from error
                found[path] = Folder(folder, top, read_config(folder), file.read_text(), status(folder), rows)
            own.append(found[path])
        if not any(f.rows or any(f.path.glob("figures/*.png")) or f.metrics for f in own):
            raise UsageError(f"{run} holds no results yet: run it first, or go on with it by --resume")
    return list(found.values())


def frame(folders: Iterable[Folder]) -> pd.DataFrame:
    """All rows as a table of the known keys, text as text and numbers as numbers; repeated rows once."""
    rows = pd.DataFrame([{**row, "run": f.top} for f in folders for row in f.rows], columns=["run", *TEXT, *NUMBERS])
    for name in TEXT:
        rows[name] = pd.Series([None if missing(v) else str(v) for v in rows[name]], dtype=object, index=rows.index)
    for name in NUMBERS:
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    return rows.drop_duplicates(ignore_index=True)


def _require_own(folder: Path, *files: Path) -> None:
    """Refuse files that are no plain files of the run folder: a page would show what lies elsewhere on this machine.

    Raises:
        UsageError: one is a link that leads out of the folder, or a pipe or device.
    """
    for file in files:
        if (file.exists() or file.is_symlink()) and not (file.is_file() and file.resolve().is_relative_to(folder.resolve())):
            raise UsageError(f"{file} is no file of this run folder but a link out of it, a pipe or a device: take it away")


def plain(text: Any) -> str:
    """Text that Markdown shows as it is: no line breaks, no cells, no tags, no links or pictures from elsewhere."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def pictures_of(folder: Folder) -> list[dict[str, Any]]:
    """The figures that a run saved, with the words that stand beside them."""
    found = []
    for file in sorted((folder.path / "figures").glob("*.png")):
        _require_own(folder.path, file, file.with_suffix(".json"))
        try:
            words = json.loads(file.with_suffix(".json").read_text())
        except (OSError, ValueError, RecursionError):
            words = {}
        words = words if isinstance(words, dict) else {}
        section = words.get("section")
        found.append({
            "title": str(words.get("title") or file.stem), "caption": str(words.get("caption") or ""),
            "section": section if section in SECTIONS else "results",
            "uri": "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode(),
        })  # fmt: skip
    return found


def asked(folder: Folder) -> dict[str, Any]:
    """What the user asked of a run, and the commands that repeat it."""
    config, items = folder.config, []
    for key, word in ASKED.items():
        if not missing(value := config.get(key)):
            if isinstance(value, dict):  # a number for each method
                value = [f"{called(k)} {v}" for k, v in value.items()]
            listed: list[Any] = value if isinstance(value, list) else [value]
            if key in ("method", "methods"):
                shown = [called(v) for v in listed]
            elif key in ("fractions", "label_fraction") and all(isinstance(v, int | float) for v in listed):
                shown = [f"{100 * v:g}\u00a0%" for v in listed]
            else:
                shown = [str(v) for v in listed]
            items.append((word, ", ".join(shown)))
    record = parse_config(folder.text)
    for key in ("hardware", "versions"):
        if isinstance(kept := record.get(key), dict):
            kept = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in kept.items()}
            items.append((key.capitalize(), ", ".join(f"{k} {v}" for k, v in kept.items() if v not in (None, ""))))
    verb = str(config.get("command", "VERB"))
    again = ["scotoma", verb, "--config", str(folder.path / "config.yaml"), "--out", "NEW_FOLDER"]
    return {
        "name": folder.top,
        "verb": verb,
        "items": items,
        "again": shlex.join(again),
        "full": shlex.join(["scotoma", verb, *_flags(config)]),
    }


def _flags(config: dict[str, Any], prefix: str = "") -> list[str]:
    """A configuration as the flags that the user could have typed."""
    found: list[str] = []
    for key, value in config.items():
        name = prefix + str(key).removesuffix("_args")
        if missing(value) or value is False or (not prefix and key in NO_FLAGS):
            continue
        if isinstance(value, dict):
            found += _flags(value, name + ".")
        elif value is True:
            found.append(f"--{name}")
        else:
            found += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return found


def data_name(config: dict[str, Any]) -> str:
    """The data in a word: a table called ``table.csv`` goes by its folder's name."""
    data = config.get("data")
    if missing(data):
        return "unnamed data"
    path = Path(str(data))
    if path.stem in ("table", "data", "labels", "index", "store"):
        return path.parent.name or str(data)
    return path.stem if path.suffix in (".csv", ".parquet", ".xlsx", ".npz") else path.name
