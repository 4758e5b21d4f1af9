"""Where the report's pages come from: one setting of jinja2 for all of them."""

from __future__ import annotations

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined

from scotoma.reporting import sections


def templates() -> Environment:
    """The templates of this folder and of the sections; text is escaped, and a name that a template lacks is an error."""
    beside = FileSystemLoader(list(sections.__path__))  # each section's beside its module
    return Environment(
        loader=ChoiceLoader([FileSystemLoader(Path(__file__).parent), PrefixLoader({"sections": beside})]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
