"""Finds methods, datasets and evaluators by module name; there is no registry to edit."""

from __future__ import annotations

import ast
import difflib
import importlib
import json
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


def needs(name: str) -> list[str]:
    """What a method needs beside images, in words, read off its class without importing it."""
    words = {"needs_labels": "labels", "needs_vit": "ViT", "needs_cnn": "CNN"}
    tree = ast.parse((_ROOT / FOLDERS["methods"] / f"{name}.py").read_text())
    found = []
    for node in (n for c in tree.body if isinstance(c, ast.ClassDef) for n in c.body):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else None
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id in words and isinstance(value, ast.Constant) and value.value is True:
            found.append(words[target.id])
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            defaults = {a.arg: d for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)}
            columns = defaults.get("columns")
            if isinstance(columns, ast.Tuple) and columns.elts:
                found.append("metadata")
    return found


def costs() -> dict[str, float]:
    """Method -> time of a step per image relative to ``supervised``, same network, as ``benchmarks/methods.py`` measured it."""
    path = _ROOT / FOLDERS["methods"] / "costs.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


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


def variant(text: str) -> tuple[Any, dict[str, Any]]:
    """``mae?masking=block&mask_ratio=0.6`` -> the method's class and these arguments; a bare name has none.

    Raises:
        UsageError: no such method or argument, or a value of another type.
    """
    name, _, query = text.partition("?")
    chosen = method(name)
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return chosen, chosen.parse({key: value for key, _, value in pairs})


def method(name: str) -> Any:
    """The one ``Method`` class of a module in ``methods``."""
    base = importlib.import_module("scotoma.methods.base").Method  # by name: a data set is looked up without torch
    found = module("methods", name)
    return next(v for v in vars(found).values() if isinstance(v, type) and issubclass(v, base) and v.__module__ == found.__name__)
