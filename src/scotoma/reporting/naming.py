"""What methods, metrics, evaluators and data are called on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma import plugins
from scotoma.reporting.cells import duration, missing

if TYPE_CHECKING:
    import pandas as pd

USES = {"finetune": "Fine-tuned network"}  # those that are no evaluator
CONTROL = "control"  # the method of their rows
RANDOM = "random"  # the method of rows about untrained networks
METRICS = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "average_precision": "Average precision",
    "auroc_micro": "Micro AUROC",
    "average_precision_micro": "Micro average precision",
    "f1": "Macro F1",
    "mcc": "Matthews correlation",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
}


def title_of(metric: Any, titles: Mapping[str, str] = METRICS) -> str:
    """What a metric is called: its title, or its name with spaces."""
    return titles.get(str(metric)) or METRICS.get(str(metric)) or str(metric).replace("_", " ")


def title_of_use(evaluator: Any) -> str:
    """What an evaluator tests, or a control is: the title of its module, its name where there is none."""
    name = str(evaluator)
    return USES.get(name) or plugins.titles("evaluators").get(name) or name.replace("_", " ")


def phrase_of_use(evaluator: Any) -> str:
    """The same within a sentence."""
    title = title_of_use(evaluator)
    return f"the {title[:1].lower()}{title[1:]}"


def name_of_method(method: Any) -> str:
    """What a method is called; ``mae?masking=block&mask_ratio=0.6`` is MAE (masking block, mask ratio 0.6)."""
    name, _, query = str(method).partition("?")
    given = ", ".join(pair.replace("=", " ").replace("_", " ") for pair in query.split("&") if pair)
    title = "Random weights" if name == RANDOM else plugins.titles("methods").get(name, name)
    return title + (f" ({given})" if given else "")


def method_of(config: dict[str, Any]) -> Any:
    """The method of a run; of a study's, with its arguments."""
    return config.get("variant") or config.get("method")


def label_of(method: Any, encoder: Any, several: bool) -> str:
    """A method's display name, with its network where ``several`` are compared."""
    name = "no method" if missing(method) else name_of_method(method)
    return f"{name} ({encoder})" if several and not missing(encoder) else name


def controls_of(names: Any) -> list[str]:
    """The methods whose networks before their first step a row of random weights is about; none where it states none."""
    return [] if missing(names) else str(names).split(",")


def label_rows(rows: pd.DataFrame, several: bool) -> list[str]:
    """The display name of each row's method, with its network where ``several`` are compared.

    Of random weights with the method of which they are the start, where there are such of several methods.
    """
    starts = rows.loc[rows["method"] == RANDOM, "control_of"]
    apart = starts.nunique(dropna=False) > 1
    found = []
    for method, encoder, of in zip(rows["method"], rows["encoder"], rows["control_of"], strict=True):
        label = label_of(method, encoder, several)
        if apart and method == RANDOM and (names := controls_of(of)):
            label = f"{label}, as {' and '.join(name_of_method(name) for name in names)} begin{'s' * (len(names) == 1)}"
        found.append(label)
    return found


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "images_seen": ("Images seen", lambda v: f"{v:,.0f}"),
    "steps": ("Steps", lambda v: f"{v:,.0f}"),
    "seconds": ("Time", duration),
    "images_per_second": ("Images per second", lambda v: f"{v:,.0f}"),
    "peak_memory_bytes": ("Peak memory", lambda v: f"{v / 2**30:,.2f} GiB"),
    "parameters": ("Parameters", lambda v: f"{v / 1e6:,.1f} million"),
    "images": ("Training images", lambda v: f"{v:,.0f}"),
    "seconds_preparing": ("Time to read and prepare the images", duration),
    "processes": ("Processes that trained together", lambda v: f"{v:,.0f}"),
    "loss": ("Training loss at the end", lambda v: f"{v:.4g}"),
    "feature_spread": ("Feature spread", lambda v: f"{v:.2f}"),
    "effective_rank": ("Effective rank", lambda v: f"{v:.1f}"),
}
ASKED = {
    "command": "Verb", "data": "Data", "target": "Target", "method": "Method", "methods": "Methods",
    "fractions": "Shares of labels", "label_fraction": "Share of labels", "seeds": "Label draws", "seed": "Seed",
    "pretrainings": "Pretrainings",
    "encoder": "Encoder", "image_size": "Image size (pixels)", "size": "Image size (pixels)", "steps": "Steps",
    "epochs": "Epochs", "minutes": "Minutes",
}  # fmt: skip
SECTIONS = ("data", "pretraining", "features", "explanations", "results")  # in which figures of a run may stand
NO_FLAGS = ("command", "out", "overwrite", "resume", "resolved", "variant", "scaled")
CALIBRATION = ("brier", "ece")


def finding(target: Any, name: Any) -> str:
    """What a class is called: the class 1 of a 0/1 column goes by its column's name."""
    return str(target) if missing(name) or (str(name) == "1" and not missing(target)) else str(name)


def data_name(config: dict[str, Any]) -> str:
    """The data in a word: a table called ``table.csv`` goes by its folder's name."""
    data = config.get("data")
    if missing(data):
        return "unnamed data"
    path = Path(str(data))
    if path.stem in ("table", "data", "labels", "index", "store"):
        return path.parent.name or str(data)
    return path.stem if path.suffix in (".csv", ".parquet", ".xlsx", ".npz") else path.name
