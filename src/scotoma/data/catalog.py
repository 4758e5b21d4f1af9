"""``name:path[?policy=value&...]``: the public data sets that Scotoma knows by name, found, listed and described.

A data set is a module of ``scotoma.data.datasets``: its docstring, ``SOURCE`` (where it is obtained), ``TERMS`` (of use),
``LAYOUT`` (what lies below its folder), ``load(root, **policies)`` and, where masks have several classes that the publisher
names, ``MASK_CLASSES`` (as ``--classes`` takes them).
"""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from scotoma import plugins
from scotoma.errors import UsageError

if TYPE_CHECKING:
    from scotoma.data.dataset import Dataset

_NAME = re.compile(r"([A-Za-z][\w-]*):(.*)", re.DOTALL)
_INTRODUCTION = """# Public data sets

Made by `scotoma list datasets --markdown`; edit the modules in `src/scotoma/data/datasets`.

`NAME:PATH` in place of DATA reads a data set from the folder in which it lies; nothing is downloaded. `-` and `_` are the same, and
a name may be cut short where that leaves one (`mimic-cxr`). Policies follow a question mark:
`'chexpert:/data/chexpert?uncertain=1'` (quoted for the shell).

All sets name alike what is alike. `label` holds the class of a set with one class per image; a set with several findings per
image has one column per finding: 1, 0, or missing where it is not known. Names are the publisher's in snake_case. `patient` and
`study` are keyed hashes; `group` (a lesion, say) joins what belongs together beside them; `split` is the
publisher's, where it keeps patients apart. Metadata: `age` (years), `sex` (F, M), `view`, `laterality` (L, R), `site` (where it
was acquired), `body_part`, `spacing_mm`. Images that a table lists and the disk lacks are left out, with a count.

The terms are a reminder, not legal advice: read the publisher's before use.
"""
_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def is_name(text: str) -> bool:
    """Whether ``text`` is ``name:path``, and not the path of something that has a colon in it."""
    return _NAME.fullmatch(text) is not None and not Path(text).exists()


def load(text: str) -> Dataset:
    """Load ``name:path``, or ``name:path?policy=value&other=value``.

    The name may be cut short where that leaves one, and ``-`` and ``_`` are the same: ``mimic-cxr`` is ``mimic_cxr_jpg``.

    Raises:
        UsageError: no such data set, folder or policy, or another value than the policy takes; what the data set itself refuses.
    """
    matched = _NAME.fullmatch(text)
    if matched is None:
        raise UsageError(f"{text}: write name:path, a name of `scotoma list datasets`")
    name = _full_name(matched[1])
    path, mark, query = matched[2].rpartition("?") if "?" in matched[2] else (matched[2], "", "")
    if not path:
        raise UsageError(f"{text}: write {name}:PATH, the folder that holds it")
    root = Path(path).expanduser()
    if not root.exists():
        raise UsageError(f"{root}: no such file or folder")
    module = plugins.module("datasets", name)
    allowed = policies(module)
    chosen: dict[str, Any] = {}
    for part in query.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if key not in allowed or not equals:
            raise UsageError(f"{name} has no policy {part!r}; {_choices(allowed) or 'it takes none'}")
        chosen[key] = _value(name, key, value, allowed[key][0])
    dataset: Dataset = module.load(root, **chosen)
    return dataset


def policies(module: ModuleType) -> dict[str, tuple[Any, Any]]:
    """Name -> type and default of each policy of a data set: the arguments of its ``load`` after ``root``."""
    hints = typing.get_type_hints(module.load)
    arguments = list(inspect.signature(module.load).parameters.values())[1:]
    return {a.name: (hints[a.name], a.default) for a in arguments}


def listing() -> str:
    """What ``scotoma list datasets`` prints: what each is, where it is obtained, its terms, its policies."""
    found, summaries = [], plugins.summaries("datasets")
    width = max(map(len, summaries))
    for name, module in _modules().items():
        found.append(f"{name:<{width}}  {summaries[name]}")
        found += [f"{'':<{width}}    from: {module.SOURCE}", f"{'':<{width}}    terms: {module.TERMS}"]
        found += [f"{'':<{width}}    {line}" for line in [_choices(policies(module)), _mask_classes(module)] if line]
    found += [
        "",
        "--data NAME:PATH or, quoted for the shell, 'NAME:PATH?policy=value&policy=value'; a policy's first value is its default",
    ]
    return "\n".join(found)


def markdown() -> str:
    """``docs/reference/datasets.md``: the same, with each data set's layout and what its module states of it."""
    lines = [_INTRODUCTION]
    for name, module in _modules().items():
        summary, _, rest = inspect.getdoc(module).partition("\n")  # type: ignore[union-attr]
        lines += [f"## {name}", "", summary, "", *([rest.strip(), ""] if rest.strip() else [])]
        lines += [f"- From: {module.SOURCE}", f"- Terms: {module.TERMS}"]
        lines += [f"- {line[0].upper()}{line[1:]}" for line in [_choices(policies(module)), _mask_classes(module)] if line]
        lines += ["", "```", module.LAYOUT, "```", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _mask_classes(module: ModuleType) -> str:
    """The names of the classes of a data set's masks, as they are typed; empty where the publisher states none."""
    return f"mask classes: --classes '{module.MASK_CLASSES}'" if hasattr(module, "MASK_CLASSES") else ""


def _modules() -> dict[str, ModuleType]:
    return {name: plugins.module("datasets", name) for name in plugins.names("datasets")}


def _full_name(typed: str) -> str:
    names, wanted = plugins.names("datasets"), typed.lower().replace("-", "_")
    found = [wanted] if wanted in names else [n for n in names if n.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"data set {typed!r} may be {' or '.join(found)}: write more of the name")
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see `scotoma list datasets`"
    raise UsageError(f"{typed!r} is neither a file nor a known data set; {hint}")


def _value(name: str, key: str, value: str, kind: Any) -> Any:
    """A policy's value as its type: one of a ``Literal``, a switch, a whole number."""
    if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
        return value
    if kind is bool and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    if kind is int and value.isdecimal() and int(value) > 0:
        return int(value)
    raise UsageError(f"{name}: {key}={value} is none of {'|'.join(_words(kind, None))}")


def _words(kind: Any, default: Any) -> list[str]:
    if typing.get_origin(kind) is Literal:
        return sorted(map(str, typing.get_args(kind)), key=lambda v: v != str(default))
    return ["0", "1"] if kind is bool else [str(default or 1), "any whole number"]


def _choices(allowed: dict[str, tuple[Any, Any]]) -> str:
    """``policies: uncertain=missing|0|1, ...``, the default first."""
    return "policies: " + ", ".join(f"{k}={'|'.join(_words(*v))}" for k, v in allowed.items()) if allowed else ""
