"""The words that users and readers do not meet, and where what they meet stands in the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "scotoma"
# Regular expressions of whole words -> the term of the field.
BANNED = {
    r"pictures?": "image",
    r"made-up": "synthetic",
    r"readers|readings": "annotators",
    r"regions?": "mask, segmentation",
    r"side of what the encoder sees": "input size",
    r"peak(?! learning rate| memory)": "peak learning rate",
    r"range test": "learning-rate finder",
    r"rows that choose": "validation set",
    r"watch(?:e[drs]|ing)?|watchers?": "callbacks",
    r"recipes?": "configuration",
    r"asides": "batches",
    r"partners?": "pairing",
    r"the material": "data module",
    r"dealt(?: out)?": "sharded",
    r"in use": "operating points",
    r"whom it fails": "subgroup performance",
    r"health of the features": "representation quality",
    r"what was asked": "run configuration",
    r"images a second": "images per second",
    r"Read:": "Interpretation:",
    r"says|asks|tells|wants": "returns, requires, reports, states",
}
# Ordinary senses.
ALLOWED = (
    r"regions? of interest",
    r"image readers?",
    r"the reader of images",  # the code that reads files
    r"colour-blind readers",
    r"(?:is|are) in use \(",  # a folder that a process holds
    r"missing input in use",  # TRIPOD+AI's item
    r"random (?:block|regions?)",
    r"picture archive",  # PACS
)
MESSAGES = ("UsageError", "RunError", "ImageError", "UnavailableError", "ForeignError", "notice", "print", "warn", "warning")


def find_banned(text: str) -> list[str]:
    """The banned words of a text, each with what stands around it and the term to use."""
    for ordinary in ALLOWED:
        text = re.sub(rf"\b{ordinary}", "", text)
    return [
        f"...{text[max(0, found.start() - 30) : found.end() + 20]!r}: {term}"
        for words, term in BANNED.items()
        for found in re.finditer(rf"(?<![\w`-])(?:{words})(?![\w`])", text)
    ]


def literals(node: ast.AST) -> Iterator[str]:
    """All string literals below a node; of formatted ones the fixed parts."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def messages(path: Path) -> list[str]:
    """Texts of errors, notices and lines that a module prints."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return [text for call in calls if ast.unparse(call.func).split(".")[-1] in MESSAGES for text in literals(call)]


def docstrings(path: Path) -> list[str]:
    """Docstrings of a module, its classes and functions: help texts and the reference."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
