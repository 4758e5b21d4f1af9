"""Scotoma pretrains image encoders on unlabelled medical images, uses them with few labels, and proves what that was worth.

The public functions are the command's verbs: ``scotoma.pretrain(data=..., method="mae")`` is
``scotoma pretrain ... --method mae``. They are imported when first used, because torch and timm take seconds to import.
"""

import sys

if getattr(sys, "argv", [])[:1] == ["-m"] and not sys.flags.safe_path:
    del sys.path[0]  # `python -m scotoma` puts the working directory there, where a `typing.py` may lie among the images

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_VERBS = ("pretrain", "finetune", "evaluate", "embed", "study", "prepare", "split", "audit", "find", "purge", "demo", "report")
__all__ = ["__version__", *_VERBS]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used."""
    if name not in _VERBS:
        raise AttributeError(f"module 'scotoma' has no attribute {name!r}")
    return getattr(import_module(f"scotoma.commands.{name}"), name)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
