"""``pyproject.toml``: what the package imports is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Module -> package of another name.
PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "umap": "umap-learn", "yaml": "pyyaml"}
# Packages that no line imports.
REASONS = {
    "pyjpegls": "a decoder that pydicom finds: JPEG-LS",
    "pylibjpeg": "a decoder that pydicom finds: the interface of the next",
    "pylibjpeg-openjpeg": "a decoder that pydicom finds: JPEG 2000",
    "tensorboard": "torch.utils.tensorboard imports it",
}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=]", text)[0] for text in requirements}


def imported() -> set[str]:
    """Packages of others that ``src`` imports anywhere, inside functions too."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    others = found - set(sys.stdlib_module_names) - {"scotoma"}
    return {PACKAGES.get(name, name.replace("_", "-")) for name in others}


def test_what_is_imported_is_declared() -> None:
    extras = {name: value for name, value in PROJECT["optional-dependencies"].items() if name not in ("dev", "docs", "bench")}
    assert imported() <= names(PROJECT["dependencies"]).union(*map(names, extras.values()))


def test_what_is_declared_is_imported_or_has_a_reason() -> None:
    declared = {name.split("[")[0] for name in names(PROJECT["dependencies"])}
    assert declared - imported() == REASONS.keys()
