"""The arguments of a verb: those about data, written once; the check of all by their types, in Python as on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import numbers
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from scotoma.errors import ScotomaError, UsageError, in_python, notice

R = TypeVar("R")
Modality = Literal[
    "auto", "grey", "xray", "ct", "mr", "ultrasound", "mammography", "oct", "colour", "dermoscopy", "fundus", "histology"
]
Precision = Literal["bf16-mixed", "32-true"]
Decoder = Literal["auto", "unet", "deeplabv3plus", "upernet", "setr_pup"]
POSITIONAL = ("run", "runs", "data", "patient")  # may stand without their flag
RENAMED = {"evaluators": "with"}  # where the flag has another name than the argument
OLD = {"readers": "annotators"}  # names of arguments and keys of version 0.1.0, read for one version more
NOT_CONFIGURATION = ("out", "overwrite", "resume", "keep_checkpoints", "quiet")
_SWITCHES = (True, False)
_SHARE = "above 0 and at most 1"
RANGES = {  # of a number, or of each of several; the same in every verb, but for VERB.ARGUMENT
    **dict.fromkeys(("fractions", "label_fraction"), _SHARE),
    **dict.fromkeys(("steps", "epochs", "minutes", "batch_size", "finetune_steps", "finetune_batch_size"), "above 0"),
    **dict.fromkeys(("devices", "accumulate", "seeds", "pretrainings", "every", "images"), "at least 1"),
    **dict.fromkeys(("learning_rate", "finetune_learning_rate", "final_learning_rate", "weight_decay", "patience"), "at least 0"),
    **dict.fromkeys(("size", "finetune_size"), "at least 16"),
    **dict.fromkeys(("warmup", "drop_path"), "at least 0 and below 1"),
    "folds": "at least 2",
    "pretrain.learning_rate": "above 0",  # finetune's 0 stands for a learning-rate finder
}
_WITHIN = {"above": operator.gt, "at least": operator.ge, "at most": operator.le, "below": operator.lt}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableArgs:
    """Which images, and what is known of each.

    Args:
        data: folder of images, CSV or Parquet table, MedMNIST .npz, prepared store, public data set (NAME:PATH, see `scotoma
            list datasets`) or synthetic radiographs (phantom:N).
        labels: label spreadsheet, CSV or XLSX, to join to the images.
        on: column of the spreadsheet that identifies the image; found automatically if omitted.
        annotators: how to merge several annotators' labels of one image: majority vote or soft labels.
        missing: values that mean a missing label, separated by commas; by default empty cells, and NA and the like among
            numbers.
    """

    data: Any
    labels: str | Path | None = None
    on: str | None = None
    annotators: Literal["majority", "soft"] | None = None
    missing: list[str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataArgs(TableArgs):
    """Images with their target and split.

    Args:
        separator: text between several findings in a cell of the target, such as |; each finding becomes a 0/1 target.
        classes: classes of one categorical target to distinguish, separated by commas; other values count as unlabelled. Of
            masks: VALUE=NAME of each (1=tumour,2=edema), or names alone in the order of the values.
        seed: random seed of split, label draws, weights, order and augmentation.
        strict: stop at an unreadable image instead of leaving it out.
        allow_leakage: continue although a patient or image is in two parts of the split, or was in the encoder's pretraining.
    """

    separator: str | None = None
    classes: list[str] | None = None
    seed: int = 0
    strict: bool = False
    allow_leakage: bool = False


class _Unfit(Exception):
    """A value is not of a type."""


def check_arguments(function: Callable[..., R]) -> Callable[..., R]:
    """Make a verb's function flat, and let it check its arguments and take a single value where it takes a list.

    A parameter that is a dataclass, such as ``source: DataArgs``, becomes its fields, in the signature as in the docstring:
    ``finetune(data="scans.csv", labels="labels.xlsx")``. ``finetune(target="label")`` is ``finetune(target=["label"])``, not five
    targets of a letter each; a tuple, a pandas Index or an array is a list; a numpy number is a number. A name of an earlier
    version is taken with a line on standard error.

    Raises:
        UsageError: of the function that is returned: a value is not of the type that its argument has.

    Example:
        >>> @check_arguments
        ... def verb(target: list[str], steps: int = 100) -> list[str]:
        ...     return target
        >>> verb("label")
        ['label']
    """
    hints = typing.get_type_hints(function)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint) and name != "return"}
    first: list[inspect.Parameter] = []
    last: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        for field in dataclasses.fields(groups[name]) if name in groups else ():
            hints[field.name] = typing.get_type_hints(groups[name])[field.name]
            has_default = field.default is not dataclasses.MISSING
            default = field.default if has_default else inspect.Parameter.empty
            added = inspect.Parameter(field.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            (last if has_default else first).append(added)
        if name not in groups:
            first.append(parameter)
    flat = [p.replace(annotation=hints.get(p.name, Any)) for p in first + last]
    signature = inspect.Signature(flat, return_annotation=hints.get("return", Any))

    def bind(*args: Any, **kwargs: Any) -> dict[str, Any]:
        for old in OLD.keys() & kwargs.keys() - signature.parameters.keys():
            notice("scotoma", f"the argument {old} is called {OLD[old]} now; the old name goes with the next version")
            kwargs[OLD[old]] = kwargs.pop(old)
        try:
            values = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            unknown = next((name for name in kwargs if name not in signature.parameters), "")
            near = difflib.get_close_matches(unknown, signature.parameters, n=1)
            raise TypeError(f"{function.__name__}(): {error}" + (f"; did you mean {near[0]!r}?" if near else "")) from None
        for name, value in values.items():
            try:
                values[name] = _fitted(value, hints.get(name, Any))
            except _Unfit:
                shown = repr(value) if isinstance(value, (str, numbers.Number, bool, type(None))) else f"a {type(value).__name__}"
                raise UsageError(f"{name}={shown}: must be {wanted(hints[name])}") from None
            _check_range(function.__name__, name, values[name])
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group) if f.name in values})
        return values

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> R:
        try:
            return function(**bind(*args, **kwargs))
        except ScotomaError as error:
            error.args = (in_python(str(error)),)
            raise

    checked.__doc__ = _flat_docstring(function.__doc__ or "", groups)
    checked.__annotations__ = {p.name: p.annotation for p in flat} | {"return": hints.get("return", Any)}
    setattr(checked, "__signature__", signature)  # noqa: B010 (mypy knows no such attribute)
    del checked.__wrapped__  # which documentation would show, with its dataclass
    return checked


def range_of(verb: str, name: str) -> str:
    """What a number of this argument must be; empty where it may be any."""
    return RANGES.get(f"{verb}.{name}", RANGES.get(name, ""))


def _check_range(verb: str, name: str, value: Any) -> None:
    """Refuse a number that is not within the range of its argument."""
    several = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    wanted_range = range_of(verb, name)
    for number in several if wanted_range else ():
        limits = [limit.rpartition(" ") for limit in wanted_range.split(" and ")]
        if isinstance(number, (int, float)) and not all(_WITHIN[how](number, float(limit)) for how, _, limit in limits):
            raise UsageError(f"--{flag_name(name)} {number}: must be {wanted_range}")


def _flat_docstring(text: str, groups: dict[str, Any]) -> str:
    """The docstring with the fields' lines in place of the dataclass's."""
    for name, group in groups.items():
        documented = [inspect.cleandoc(c.__doc__ or "") for c in reversed(group.__mro__) if dataclasses.is_dataclass(c)]
        fields = "\n".join(t.partition("Args:\n")[2].rstrip() for t in documented)
        lines = re.sub(r"^ {4}", " " * 8, fields, flags=re.MULTILINE)
        before, _, after = text.partition(f"{' ' * 8}{name}: see `{group.__name__}`.")
        text = before + lines + after
    return text


def configuration(values: Mapping[str, Any], *leave_out: str) -> dict[str, Any]:
    """A verb's arguments as ``config.yaml`` has them: dataclasses flat, data in words, without what does not bear on the result.

    Args:
        values: the verb's ``locals()`` before it has other names.
        leave_out: further arguments that are no part of the configuration.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= vars(value) if isinstance(value, TableArgs) else {name: str(value) if isinstance(value, Path) else value}
    for name in flat.keys() & {"data", "against"}:
        flat[name] = _in_words(flat[name])
    return {k: v for k, v in flat.items() if k not in (*NOT_CONFIGURATION, *leave_out)}


def _in_words(data: Any) -> str | None:
    """How a configuration names its data: a path or ``phantom:N`` as typed, a table in memory by its kind."""
    return None if data is None else str(data) if isinstance(data, (str, Path)) else f"a {type(data).__name__} of {len(data)} rows"


def flag_name(name: str) -> str:
    """The name of an argument's flag, without its dashes."""
    return RENAMED.get(name, name)


def format_value(value: Any) -> str:
    """A value of an argument as the command line reads it: lists with commas, as JSON where a text holds what separates them."""
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        texts = [str(item) for item in value]
        plain = all(text and text == text.strip() and not set(text) & set(',"[]\n\r') for text in texts)
        return ",".join(texts) if plain else json.dumps(texts, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)


def wanted(hint: Any) -> str:
    """The values that a type takes, in words."""
    either = typing.get_args(hint) if _is_union(hint) else (hint,)
    return " or ".join(_words(one) for one in either if one is not type(None))


def positional_arguments(signature: Mapping[str, inspect.Parameter]) -> list[str]:
    """The arguments that may stand without their flag, in their order."""
    return [name for name, p in signature.items() if name in POSITIONAL and p.annotation is not bool]


def choices_of(hint: Any) -> list[str]:
    """The values of an argument of fixed choices, of one alone or of a list; else none."""
    for one in typing.get_args(hint) if _is_union(hint) else (hint,):
        if typing.get_origin(one) is list:
            return choices_of(typing.get_args(one)[0])
        if typing.get_origin(one) is Literal:
            return [str(value) for value in typing.get_args(one)]
    return []


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        *others, last = map(str, typing.get_args(hint))
        return f"{', '.join(others)} or {last}" if others else last
    if typing.get_origin(hint) is dict:
        return "{NAME: VALUE, ...}"
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    inner = (typing.get_args(hint) or (None,))[0]
    if typing.get_origin(inner) is typing.Literal:
        return f"{_words(inner)}, with commas between"
    several = {int: "whole numbers", float: "numbers"}.get(inner, "names")
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
    if hint is not str and getattr(value, "shape", None) == ():  # of NumPy; text is as it shows itself, 0.1 in any precision
        value = value.item()
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
        return bool(_one_of(value, _SWITCHES))
    if hint in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
        if abs(typing.cast("float", value)) <= sys.float_info.max and (hint is float or value == hint(value)):
            return hint(value)
    elif hint is str and isinstance(value, (str, Path, numbers.Real)) and not isinstance(value, bool):
        return str(value)
    elif hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    elif hint is type(None) and value is None:
        return None
    raise _Unfit
