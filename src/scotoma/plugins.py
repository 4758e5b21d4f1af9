"""Finds what lies in certain folders by module name; there is no registry to edit."""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from scotoma.errors import UsageError

FOLDERS = {
    "methods": "methods",
    "datasets": "data/datasets",
    "evaluators": "evaluators",
    "corruptions": "transforms/corruptions",
    "attributions": "explain/attributions",
    "sections": "reporting/sections",
    "tasks": "tasks",
}
LISTED = tuple(kind for kind in FOLDERS if kind not in ("sections", "tasks"))  # by ``scotoma list``


def _files(kind: str) -> dict[str, Path]:
    """Name -> file of all plug-ins of a kind, sorted, without importing any."""
    package = importlib.import_module(_package(kind))  # its docstring alone; tests extend its path
    found = {p.stem: p for folder in reversed(package.__path__) for p in Path(folder).glob("*.py")}
    return {name: found[name] for name in sorted(found) if name not in ("__init__", "base")}


def _package(kind: str) -> str:
    return f"scotoma.{FOLDERS[kind].replace('/', '.')}"


def names(kind: str) -> list[str]:
    """The names of all plug-ins of a kind, sorted, without importing any."""
    return list(_files(kind))


def summaries(kind: str) -> dict[str, str]:
    """Name -> first line of the module's docstring, read without importing anything."""
    return {name: (ast.get_docstring(ast.parse(p.read_text())) or "").split("\n")[0] for name, p in _files(kind).items()}


@cache
def titles(kind: str) -> dict[str, str]:
    """Name -> what stands before the colon of its summary, which tables and figures call it; without a colon its name."""
    return {name: text.partition(":")[0] if ":" in text else name.replace("_", " ") for name, text in summaries(kind).items()}


def needs(name: str) -> list[str]:
    """What a method needs beside images, in words, by lines of its module, which is not imported."""
    lines = {
        "labels": "needs_labels = True",
        "ViT": "needs_vit = True",
        "CNN": "needs_cnn = True",
        "metadata": 'columns: tuple[str, ...] = ("',
    }
    text = _files("methods")[name].read_text()
    return [word for word, line in lines.items() if line in text]


def costs() -> dict[str, dict[str, Any]]:
    """Method -> ``cost``, the time of a step per image relative to ``supervised`` with the same network, ``encoder``.

    At 96 pixels, as ``benchmarks/methods.py`` measured it.
    """
    path = Path(__file__).parent / FOLDERS["methods"] / "costs.json"
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
    return importlib.import_module(f"{_package(kind)}.{name}")


def modules(kind: str) -> dict[str, Any]:
    """All plug-ins of a kind, imported, by their ``ORDER``; those without one last, by name."""
    found = {name: importlib.import_module(f"{_package(kind)}.{name}") for name in _files(kind)}
    return dict(sorted(found.items(), key=lambda item: getattr(item[1], "ORDER", math.inf)))


def variant(text: str) -> tuple[Any, dict[str, Any]]:
    """``mae?masking=block&mask_ratio=0.6`` -> the method's class and these arguments; a bare name has none.

    Raises:
        UsageError: no such method or argument, or a value of another type.
    """
    name, _, query = text.partition("?")
    chosen = method(name)
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    if lacking := [key for key, equals, _ in pairs if not equals]:
        raise UsageError(f"{text}: give {lacking[0]} a value, {name}?{lacking[0]}=VALUE")
    return chosen, chosen.parse({key: value for key, _, value in pairs})


def method(name: str) -> Any:
    """The one ``Method`` class of a module in ``methods``."""
    base = importlib.import_module("scotoma.methods.base").Method  # by name: a data set is looked up without torch
    return class_of("methods", name, base)


def class_of(kind: str, name: str, base: type) -> Any:
    """The one class of a plug-in that is derived from ``base``; None where it has none."""
    found = module(kind, name)
    own = (v for v in vars(found).values() if isinstance(v, type) and v.__module__ == found.__name__)
    return next((v for v in own if issubclass(v, base)), None)
