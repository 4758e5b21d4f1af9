"""What ``scotoma VERB --help`` prints: a verb's parser as a plain page, with flags as they are typed."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Callable
from typing import Any

from scotoma.arguments import RENAMED, DataArgs, choices_of, flag_name, positional_arguments, range_of

WIDTH = 100  # characters
_OF_DATA = {field.name for field in dataclasses.fields(DataArgs)}


def page(verb: str, function: Callable[..., Any], actions: list[Any], hints: dict[str, Any], method: str | None) -> str:
    """The help of a verb.

    Args:
        verb: its name.
        function: what it runs.
        actions: of jsonargparse's parser.
        hints: argument -> type.
        method: whose arguments are among the flags.
    """
    signature = inspect.signature(function).parameters
    places = positional_arguments(signature)
    required = [name for name, p in signature.items() if p.default is p.empty]
    words = [name.upper() if name in required else f"[{name.upper()}]" for name in places]
    words += [f"--{flag_name(name)} {name.upper()}" for name in required if name not in places]
    parser = argparse.ArgumentParser(
        prog=f"scotoma {verb}",
        usage=" ".join(["scotoma", verb, *words, "[options]"]),
        description=_description(function),
        formatter_class=_Formatter,
        add_help=False,
    )
    needed, options, about_data = map(parser.add_argument_group, ("required", "options", "labels and data"))
    of_method = parser.add_argument_group(f"arguments of --method {method}")
    for action in actions:
        name, flag, text = action.dest, f"--{flag_name(action.dest)}", (action.help or "").replace("%", "%%").rstrip(".")
        if name == "help":
            text = "this page"
        elif name == "method":
            text = f"see `scotoma list methods` (here: {method})"
        elif action.default is True:
            text += f" (default: true; {flag} false)"
        else:
            default = [] if action.default in (None, "") or action.default is False else [f"default: {_shown(action.default)}"]
            facts = [*default, *filter(None, [range_of(verb, name)])]
            text += f" ({', '.join(facts)})" if facts else ""
        group = of_method if name.startswith("method.") else about_data if name in _OF_DATA else options
        group = needed if name in required else group
        if name in places:
            group.add_argument(name, metavar=name.upper(), help=f"{text}; also as {flag}")
        elif name == "help" or hints.get(name) is bool:
            group.add_argument(flag, action="store_true", help=text)
        else:
            group.add_argument(flag, metavar=_metavar(name, hints.get(name)), help=text)
    return parser.format_help()


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=WIDTH)


def _description(function: Callable[..., Any]) -> str:
    """The docstring down to its arguments."""
    text = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0].replace("``", "`")
    return "\n\n".join(textwrap.fill(" ".join(paragraph.split()), WIDTH) for paragraph in text.split("\n\n"))


def _metavar(name: str, hint: Any) -> str:
    """The choices of an argument, or a word for its value."""
    choices = choices_of(hint)
    if name in RENAMED:
        return "NAMES"
    inner = [one for one in typing.get_args(hint) if one is not type(None)] or [hint]
    kinds = ["N" if one is int else "X" for one in inner if one in (int, float)]
    if choices:
        return "|".join(kinds + choices) if kinds else "{" + ",".join(choices) + "}"
    return kinds[0] if kinds and len(inner) == 1 else name.rpartition(".")[2].upper()
