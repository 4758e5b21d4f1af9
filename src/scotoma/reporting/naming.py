"""What methods, metrics, evaluators and data are called on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scotoma.reporting.cells import duration, missing

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


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "images_seen": ("Images seen", lambda v: f"{v:,.0f}"),
    "steps": ("Steps", lambda v: f"{v:,.0f}"),
    "seconds": ("Time", duration),
    "images_per_second": ("Images per second", lambda v: f"{v:,.0f}"),
    "peak_memory_bytes": ("Peak memory", lambda v: f"{v / 2**30:,.2f} GiB"),
    "parameters": ("Parameters", lambda v: f"{v / 1e6:,.1f} million"),
    "loss": ("Last loss", lambda v: f"{v:.4g}"),
    "feature_spread": ("Feature spread", lambda v: f"{v:.2f}"),
    "effective_rank": ("Effective rank", lambda v: f"{v:.1f}"),
}
ASKED = {
    "command": "Verb", "data": "Data", "target": "Target", "method": "Method", "methods": "Methods",
    "fractions": "Shares of labels", "label_fraction": "Share of labels", "seeds": "Label draws", "seed": "Seed",
    "encoder": "Encoder", "image_size": "Image size (pixels)", "size": "Image size (pixels)", "steps": "Steps",
    "epochs": "Epochs", "minutes": "Minutes",
}  # fmt: skip
SECTIONS = ("data", "pretraining", "features", "explanations", "results")  # in which figures of a run may stand
NO_FLAGS = ("command", "out", "overwrite", "resume", "resolved")
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
