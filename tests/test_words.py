"""The word test: help texts, messages, the report and the docs use the field's terms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.helpers.words import ROOT, SOURCE, docstrings, find_banned, literals, messages

from scotoma.cli import VERBS

REPORT = SOURCE / "reporting"


def wrong(paths: list[Path], texts: object) -> dict[str, list[str]]:
    found = {str(p.relative_to(ROOT)): [w for text in texts(p) for w in find_banned(text)] for p in paths}  # type: ignore[operator]
    return {path: words for path, words in found.items() if words}


def test_the_test_finds_phrases_and_passes_ordinary_senses() -> None:
    for text in (
        "the picture",
        "made-up data",
        "two readers",
        "Read: higher",
        "peak of each",
        "64 images a second",
        "it tells apart",
    ):
        assert find_banned(text), text
    for text in (
        "peak memory",
        "peak learning rate",
        "a region of interest",
        "an image reader",
        "`asides` was a module",
        "3 images",
    ):
        assert find_banned(text) == [], text


def test_help_texts() -> None:
    assert [word for text in VERBS.values() for word in find_banned(text)] == []


def test_messages() -> None:
    assert wrong(sorted(SOURCE.rglob("*.py")), messages) == {}


def test_the_report() -> None:
    assert wrong(sorted(REPORT.rglob("*.jinja")), lambda path: [path.read_text()]) == {}
    assert wrong(sorted(REPORT.rglob("*.py")), lambda path: literals(ast.parse(path.read_text()))) == {}


def test_docstrings() -> None:
    """Help texts are those of the commands, the reference page's those of all other modules."""
    assert wrong(sorted(SOURCE.rglob("*.py")), docstrings) == {}


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]), ids=lambda p: p.name
)
def test_docs(page: Path) -> None:
    assert find_banned(page.read_text()) == []
