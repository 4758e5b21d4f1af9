"""The documentation: what it says of commands, columns and rows is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scotoma import cli
from scotoma.data.labels.columns import SPELLINGS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    written = {"reference/cli.md", "reference/evaluators.md"}  # by `make docs`
    assert [t for t in targets if not (page.parent / t).exists() and t.removeprefix("../") not in written] == []


def test_verbs_and_flags_of_commands_in_the_docs_exist() -> None:
    import inspect

    wrong = []
    for page in PAGES:
        for command in re.findall(r"^\s*scotoma ((?:[^\n#]|\\\n)+)", page.read_text(), flags=re.MULTILINE):
            verb = command.split()[0]
            if verb not in cli.VERBS or verb == "list":
                wrong += [] if verb in cli.VERBS else [f"{page.name}: {verb}"]
                continue
            parameters = inspect.signature(cli.function_of(verb)).parameters
            known = {*parameters, "config", "with", "method", "help", "resume"}
            wrong += [f"{page.name}: {verb} --{flag}" for flag in re.findall(r"--([a-z_]+)", command) if flag not in known]
    assert wrong == []


def test_every_key_of_a_row_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "concepts" / "run_folder.md").read_text()))
    rows = [json.loads(line) for file in ROOT.glob("tests/fixtures/runs/*/rows.jsonl") for line in file.read_text().splitlines()]
    common = {key for key in {k for row in rows for k in row} if sum(key in row for row in rows) > len(rows) / 4}
    assert common - described == set()


def test_every_spelling_of_a_column_is_listed() -> None:
    table = re.findall(r"^\| `(\w+)` \| (`.+`) \|$", (ROOT / "docs" / "how_to" / "table.md").read_text(), flags=re.MULTILINE)
    assert {name: tuple(re.findall(r"`(\w+)`", spellings)) for name, spellings in table} == SPELLINGS
