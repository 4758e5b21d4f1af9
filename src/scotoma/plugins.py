"""Finds methods, datasets and evaluators by module name; there is no registry to edit."""

from __future__ import annotations

import ast
import difflib
import importlib
from pathlib import Path
from typing import Any

from scotoma.errors import UsageError

FOLDERS = {"methods": "methods", "datasets": "data/datasets", "evaluators": "evaluators"}
_ROOT = Path(__file__).parent


def names(kind: str) -> list[str]:
    """The names of all plug-ins of a kind, sorted, without importing any."""
    return sorted(p.stem for p in (_ROOT / FOLDERS[kind]).glob("*.py") if p.stem not in ("__init__", "base"))


def summaries(kind: str) -> dict[str, str]:
    """Name -> first line of the module's docstring, read without importing anything."""
    found = {}
    for name in names(kind):
        tree = ast.parse((_ROOT / FOLDERS[kind] / f"{name}.py").read_text())
        found[name] = (ast.get_docstring(tree) or "").split("\n")[0]
    return found


def check(kind: str, name: str) -> None:
    """Raise a ``UsageError`` that names the nearest where there is no such plug-in."""
    if name not in names(kind):
        near = difflib.get_close_matches(name, names(kind), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(names(kind))}"
        raise UsageError(f"unknown {kind.removesuffix('s')} {name!r}; {hint}")


def module(kind: str, name: str) -> Any:
    """Import one plug-in.

    Raises:
        UsageError: there is none of that name.
    """
    check(kind, name)
    return importlib.import_module(f"scotoma.{FOLDERS[kind].replace('/', '.')}.{name}")


def method(name: str) -> Any:
    """The one ``Method`` class of a module in ``methods``."""
    base = importlib.import_module("scotoma.methods.base").Method  # by name: a data set is looked up without torch
    found = module("methods", name)
    return next(v for v in vars(found).values() if isinstance(v, type) and issubclass(v, base) and v.__module__ == found.__name__)
