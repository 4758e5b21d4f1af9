"""Scotoma pretrains image encoders on unlabelled medical images, uses them with few labels, and proves what that was worth.

The public functions are the command's verbs: ``scotoma.pretrain(data=..., method="mae")`` is ``scotoma pretrain --data ... --method mae``.
They are imported when first used, because torch, timm and lightning take seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_FUNCTIONS = {
    "pretrain": "pretrain",
    "finetune": "finetune",
    "evaluate": "evaluate",
    "study": "study",
    "report": "report.build",
    "prepare": "prepare",
    "demo": "demo",
}
__all__ = ["__version__", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    """Import a public function when it is first asked for."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'scotoma' has no attribute {name!r}")
    return getattr(import_module(f"scotoma.{_FUNCTIONS[name]}"), name)
