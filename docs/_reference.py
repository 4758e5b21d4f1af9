"""Pages of the reference that the program writes itself, made anew at each build of the site: nothing of them is committed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from mkdocs.structure.files import File, Files

from scotoma import cli, plugins


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for path, text in {"reference/cli.md": _commands(), "reference/evaluators.md": _evaluators()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def _commands() -> str:
    parts = [
        "# Command line\n\nWhat `scotoma VERB --help` prints. In Python every verb is a function of the same name and arguments.\n"
    ]
    for verb, summary in cli.VERBS.items():
        done = subprocess.run([sys.executable, "-m", "scotoma", verb, "--help"], capture_output=True, text=True, check=True)
        parts.append(f"## {verb}\n\n{summary}\n\n```text\n{done.stdout.strip()}\n```\n")
    return "\n".join(parts)


def _evaluators() -> str:
    lines = ["# Evaluators\n\n`scotoma evaluate RUN DATA --with NAME,NAME`\n\n| name | what it measures |\n|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {text} |" for name, text in plugins.summaries("evaluators").items())]) + "\n"
