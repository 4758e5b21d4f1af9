"""Scotoma pretrains image encoders on unlabelled medical images, uses them with few labels, and proves what that was worth.

The public functions are the command's verbs: ``scotoma.pretrain(data=..., method="mae")`` is
``scotoma pretrain --data ... --method mae``. They are imported when first used, because torch, timm and lightning take seconds to
import. (The report's function is ``scotoma.report.build.build``.)
"""

import sys

if getattr(sys, "argv", [])[:1] == ["-m"] and not sys.flags.safe_path:
    del sys.path[0]  # `python -m scotoma.cli` puts the working directory there, where a `typing.py` may lie among the images

from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_FUNCTIONS = ("pretrain", "finetune", "evaluate", "embed", "study", "prepare", "split", "audit", "find", "purge", "demo")
__all__ = ["__version__", *_FUNCTIONS]


class _Package(ModuleType):
    """A verb's module bears its function's name, and Python binds it here when it is imported: the function takes its place."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, getattr(value, name) if name in _FUNCTIONS and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Import a public function when it is first asked for."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'scotoma' has no attribute {name!r}")
    return getattr(import_module(f"scotoma.{name}"), name)
