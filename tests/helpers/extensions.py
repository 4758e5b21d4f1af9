"""Modules that a test adds to Scotoma, as a user would add a file."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from scotoma import plugins


@contextlib.contextmanager
def added(folder: Path, modules: Mapping[str, str], name: str = "echo") -> Iterator[None]:
    """A module of this name in these kinds' folders, which lie under ``folder``; kind -> code."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, code in modules.items():
            package = importlib.import_module(f"scotoma.{plugins.FOLDERS[kind].replace('/', '.')}")
            (folder / kind).mkdir(parents=True)
            (folder / kind / f"{name}.py").write_text(code)
            patch.setattr(package, "__path__", [*package.__path__, str(folder / kind)])
        importlib.invalidate_caches()
        plugins.titles.cache_clear()
        yield
    plugins.titles.cache_clear()
    for module in [n for n in sys.modules if n.startswith("scotoma.") and n.endswith(f".{name}")]:
        del sys.modules[module]
