"""The arguments of a verb: checked by their types as the function is called, from Python as from the command line."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from scotoma.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
RENAMED = {"evaluators": "with"}  # where the flag has another name than the argument
_SWITCHES = (True, False)


class _Unfit(Exception):
    """A value is not of a type."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a verb's function check its arguments, and take a single value where it takes a list.

    ``finetune(target="label")`` is ``finetune(target=["label"])``, not five targets of a letter each; a tuple, a pandas Index or an
    array is a list; a numpy number is a number.

    Raises:
        UsageError: of the function that is returned: a value is not of the type that its argument has.

    Example:
        >>> @checked
        ... def verb(target: list[str], steps: int = 100) -> list[str]:
        ...     return target
        >>> verb("label")
        ['label']
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        hints = typing.get_type_hints(function)
        bound = inspect.signature(function).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            try:
                bound.arguments[name] = _fitted(value, hints.get(name, Any))
            except _Unfit:
                shown = repr(value) if isinstance(value, (str, numbers.Number, bool, type(None))) else f"a {type(value).__name__}"
                raise UsageError(f"--{flag_name(name)} {shown}: must be {wanted(hints[name])}") from None
        return function(*bound.args, **bound.kwargs)

    return called


def flag_name(name: str) -> str:
    """The name of an argument's flag, without its dashes."""
    return RENAMED.get(name, name)


def wanted(hint: Any) -> str:
    """The values that a type takes, in words."""
    either = typing.get_args(hint) if _is_union(hint) else (hint,)
    return " or ".join(_words(one) for one in either if one is not type(None))


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is dict:
        return "{NAME: VALUE, ...}"
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    several = {int: "whole numbers", float: "numbers"}.get((typing.get_args(hint) or (None,))[0], "names")
    return known.get(hint, f"{several} with commas between")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _fitted(value: Any, hint: Any) -> Any:
    """The value as its type has it.

    Raises:
        _Unfit: it is not of that type.
    """
    if hint is Any:
        return value
    if _is_union(hint):
        for one in typing.get_args(hint):
            try:
                return _fitted(value, one)
            except _Unfit:
                continue
        raise _Unfit
    origin = typing.get_origin(hint)
    if origin is list:
        return [_fitted(item, typing.get_args(hint)[0]) for item in _items(value)]
    if origin is typing.Literal:
        return _one_of(value, typing.get_args(hint))
    if origin is dict:
        return value if isinstance(value, Mapping) else _one_of(value, ())
    return _plain(value, hint)


def _items(value: Any) -> Iterable[Any]:
    """What stands in a list; a single value stands for a list of one."""
    if value is None or isinstance(value, (Mapping, bytes)) or hasattr(value, "columns"):  # a table is no list of columns
        raise _Unfit
    return [value] if isinstance(value, (str, Path, numbers.Number)) or not isinstance(value, Iterable) else value


def _one_of(value: Any, known: tuple[Any, ...]) -> Any:
    if isinstance(value, (str, numbers.Number)) and value in known:
        return value
    raise _Unfit


def _plain(value: Any, hint: Any) -> Any:
    if hint is bool:
        return bool(_one_of(value.item() if hasattr(value, "item") else value, _SWITCHES))
    if hint in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
        if float(value).is_integer() or (hint is float and math.isfinite(value)):
            return hint(value)
    elif hint is str and isinstance(value, (str, Path, numbers.Real)) and not isinstance(value, bool):
        return str(value)
    elif hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    elif hint is type(None) and value is None:
        return None
    raise _Unfit
