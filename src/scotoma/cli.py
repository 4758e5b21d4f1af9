"""The command line: verbs and parsing, nothing else.

``scotoma --help`` imports nothing heavy. A verb's flags are its function's arguments, names, types and docstrings (jsonargparse);
``--method`` is read first, so that this one method's arguments can be added as ``--method.NAME``.
"""

from __future__ import annotations

import csv
import difflib
import importlib
import inspect
import json
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scotoma import errors, plugins, processes
from scotoma.arguments import OLD, POSITIONAL, RENAMED, flag_name, positional_arguments, wanted
from scotoma.distributed import launcher
from scotoma.errors import ScotomaError, UsageError, stage

VERBS = {
    "demo": "a whole study on synthetic chest radiographs, in a few minutes; ends with report.html",
    "audit": "problems of the data, worst first: leaks, duplicates, shortcuts, outliers; changes nothing",
    "prepare": "images -> a store, decoded once (the other verbs do it by themselves, into a cache)",
    "split": "training, validation and test set or folds by patient, balanced over labels, written into the table",
    "pretrain": "unlabelled images -> encoder.safetensors",
    "finetune": "an encoder and a few labels -> model.safetensors",
    "evaluate": "an encoder or a model -> metrics on the test set and figures",
    "embed": "images -> the encoder's features, one Parquet file",
    "study": "methods x label fractions x label draws, with controls: the benefit of pretraining",
    "find": "runs, stores and caches that hold a patient, by keyed hash",
    "purge": "removal of a withdrawn patient from caches, stores and embeddings; or of the whole cache",
    "report": "run folders -> one self-contained report.html",
    "list": "methods, encoders, datasets, evaluators, corruptions, attributions; one line each",
}
TRACEBACK = "SCOTOMA_TRACEBACK"  # set: an unforeseen error is shown in full


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code is 0, 2 for wrong usage, 1 for a failed run."""
    if argv is None:
        processes.is_command = True
        os.environ["PYTHONSAFEPATH"] = "1"  # libraries start processes, too
        if not processes.end_with_parent() and not launcher.several():  # of several, one that waits for others would not end
            processes.treat_ends_as_interrupts()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        from scotoma import __version__

        print(__version__)
        return 0
    before, errors.at_command_line = errors.at_command_line, True
    try:
        return _run(arguments[0], arguments[1:])
    except (ScotomaError, OSError) as error:  # of the latter: a full disk, a file that may not be read
        _print_partial(error)
        if launcher.is_first() or not isinstance(error, UsageError):  # all processes would say the same
            print(f"scotoma: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code if isinstance(error, ScotomaError) else 1
    except KeyboardInterrupt:
        print(f"scotoma: stopped{'; use --resume to continue' if _is_unfinished(arguments) else ''}", file=sys.stderr)
        return processes.exit_code()
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        _print_partial(error)
        print(f"scotoma: {_fault(error)}", file=sys.stderr)
        return 1
    finally:
        errors.at_command_line = before


def _is_unfinished(arguments: list[str]) -> bool:
    """Whether the run folder of these arguments holds a run that ``--resume`` goes on with."""
    from scotoma.run_folder import RESUMED, resumable

    verb, *rest = arguments
    if verb not in RESUMED:
        return False
    try:
        out = _named(rest, "--out") or _config(verb, rest).get("out")
    except ScotomaError:  # it was stopped before it had found this
        return False
    if out is None:
        out = inspect.signature(function_of(verb)).parameters["out"].default
    return resumable(Path(str(out)))


def function_of(verb: str) -> Callable[..., Any]:
    """The function of a verb: ``scotoma.commands.VERB.VERB``."""
    return typing.cast("Callable[..., Any]", getattr(importlib.import_module(f"scotoma.commands.{verb}"), verb))


def _fault(error: Exception) -> str:
    """A line about what should not have happened, without the error's own words: they may quote a cell, a path or a header."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "scotoma" in f.filename] or list(frames)
    place = f"{own[-1].filename.rpartition('scotoma/')[2]}, line {own[-1].lineno}" if own else "an unknown place"
    return (
        f"a fault of Scotoma itself, {type(error).__name__} in {place}; with {TRACEBACK}=1 it is shown in full, "
        "which may quote the data: look before you pass it on"
    )


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
    return (
        "usage: scotoma VERB [options]\n\nPretrain image encoders on unlabelled medical images, use them with few labels, and "
        f"prove what that was worth.\n\nverbs:\n{lines}\n\n`scotoma VERB --help` explains a verb. First steps:\n\n"
        "  scotoma demo\n"
        "  scotoma study scans.csv --target diagnosis --methods simclr,mae --minutes 10 --out runs/first\n"
    )


def _run(verb: str, arguments: list[str]) -> int:
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        raise UsageError(f"unknown verb {verb!r}" + (f"; did you mean {near[0]!r}?" if near else f"; one of {', '.join(VERBS)}"))
    if verb == "list":
        from scotoma.commands import list as listing

        return listing.show(arguments, VERBS[verb])
    function = function_of(verb)
    if "--help" in arguments or "-h" in arguments:
        from scotoma import help_page

        method = _method(function, arguments, {})
        print(help_page.page(verb, function, _parser(verb, function, method)._actions, _hints(function, method), method), end="")
        return 0
    values = _parse(verb, function, arguments)
    if values.get("devices", 1) > 1 and not launcher.several():
        return launcher.start(values["devices"], [verb, *arguments])
    result = function(**values)
    if result is not None and verb not in ("audit", "find", "purge") and launcher.is_first():
        _print_result(result, bool(values.get("quiet")))
    return 0


def _parse(verb: str, function: Callable[..., Any], arguments: list[str]) -> dict[str, Any]:
    """The function's arguments out of flags and, under ``--config``, a YAML file that flags override."""
    config = _config(verb, arguments)
    takes_method = "method_args" in inspect.signature(function).parameters
    method = _method(function, arguments, config)
    own = set(inspect.signature(function).parameters) - {"method_args"}
    _check_names(verb, own, {}, [a for a in arguments if not a.startswith("--method.")])  # before torch is imported
    stage("importing torch", method is None or "--quiet" in arguments)
    parser = _parser(verb, function, method)
    if takes_method:
        config.pop("method", None)
        config |= {f"method.{k}": v for k, v in (config.pop("method_args", None) or {}).items()}
    known = {action.dest for action in parser._actions}
    _check_names(verb, known, config, arguments)
    parser.set_defaults({k: v for k, v in config.items() if v is not None})
    typed = _rewritten(verb, function, method, arguments)
    # a folder named 007 is no number, a patient null not nobody: text stays as it was typed, and the parser is shown a word for it
    hints = _hints(function, method)
    verbatim = {k: v for k, v in typed.items() if _is_text(hints.get(k))}
    values = parser.parse_args([f"--{k}={'given' if k in verbatim else v}" for k, v in typed.items()]).as_dict()
    for name, text in verbatim.items():
        within, _, last = name.rpartition(".")
        (values[within] if within else values)[last] = text
    found = {k: v for k, v in values.items() if k in inspect.signature(function).parameters}
    if takes_method:  # those that were given alone: what the others are, a preset may say
        given = {name.partition(".")[2] for name in (*typed, *config) if name.startswith("method.")}
        found |= {"method_args": {k: v for k, v in values["method"].items() if k in given}}
        found |= {"method": method} if _names_method(function) else {}
    return found


def _is_text(hint: Any) -> bool:
    """Whether what is typed for an argument is taken letter by letter: text, a path, or whatever is named so."""
    kinds = set(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, types.UnionType) else {hint}
    return hint is Any or kinds - {type(None)} in ({str}, {Path}, {str, Path})


def _method(function: Callable[..., Any], arguments: list[str], config: dict[str, Any]) -> str | None:
    """The method whose arguments a verb takes as ``--method.NAME``: the one that is named, or the only one; None without any."""
    parameters = inspect.signature(function).parameters
    if "method_args" not in parameters:
        return None
    if not _names_method(function):
        return "supervised"
    return str(_named(arguments, "--method") or config.get("method", parameters["method"].default))


def _names_method(function: Callable[..., Any]) -> bool:
    return "method" in inspect.signature(function).parameters


def _check_names(verb: str, known: set[str], config: dict[str, Any], arguments: list[str]) -> None:
    """Refuse unknown keys and flags by the nearest known name."""
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(f"unknown key {key!r} in the configuration" + (f"; did you mean {near[0]!r}?" if near else ""))
    flags = known | set(RENAMED.values()) | {"config", "help", "method"}
    for flag in (a.split("=")[0] for a in arguments if a.startswith("--")):
        if OLD.get(flag[2:]) in flags:
            raise UsageError(f"{flag} is called --{OLD[flag[2:]]} now")
        if flag[2:] not in flags:
            near = difflib.get_close_matches(flag[2:], flags, n=1)
            raise UsageError(f"unknown flag {flag}" + (f"; did you mean --{near[0]}?" if near else f"; see scotoma {verb} --help"))


def _hints(function: Callable[..., Any], method: str | None) -> dict[str, Any]:
    """The types of a verb's flags, those of its method's arguments included."""
    found = typing.get_type_hints(function)
    if method is not None:
        of_method = plugins.method(method)
        found |= {f"method.{name}": hint for name, hint in typing.get_type_hints(of_method.__init__).items()}
    return found


def _rewritten(verb: str, function: Callable[..., Any], method: str | None, arguments: list[str]) -> dict[str, str]:
    """What a user types -> what jsonargparse reads: positionals get their flag, ``a,b`` becomes a list, a bare switch is true."""
    hints = _hints(function, method)
    lists = {name for name, hint in hints.items() if "list[" in str(hint) or "tuple[" in str(hint)}
    switches = {name for name, hint in hints.items() if hint is bool}
    names = {new: old for old, new in RENAMED.items()}
    queue = list(arguments)
    done: dict[str, str] = {}
    positional = []
    while queue:
        argument = queue.pop(0)
        if not argument.startswith("--"):
            positional.append(argument)
            continue
        flag, equals, value = argument[2:].partition("=")
        name = names.get(flag, flag)
        if name in switches and not equals and not (queue and queue[0].lower() in ("true", "false")):
            value = "true"
        elif not equals:
            if not queue:
                raise UsageError(f"--{flag} needs a value; see scotoma {verb} --help")
            value = queue.pop(0)
        if name in ("config", "method"):
            continue
        if name in lists:
            if name in done:
                raise UsageError(f"--{flag} is there twice: name all after one, with commas between")
            value = _as_list(value, quoted=not re.search(r"\[(int|float)\b", str(hints[name])))
        done[name] = value
    places = [name for name in positional_arguments(inspect.signature(function).parameters) if name not in done]
    if positional and places == ["runs"]:
        done["runs"] = f"[{','.join(map(json.dumps, positional))}]"
    elif len(positional) > len(places):
        raise UsageError(f"{positional[len(places)]!r}: a value without a flag; see scotoma {verb} --help")
    else:
        done |= zip(places, positional, strict=False)
    return done


def _as_list(text: str, quoted: bool) -> str:
    """``a,b`` or ``"a,b",c`` as a list; of words that may look like numbers, quoted."""
    if text.startswith("["):
        if not quoted or _is_json(text):
            return text
        text = text.removeprefix("[").removesuffix("]")
    parts = [part.strip() for part in next(csv.reader([text], skipinitialspace=True), ()) if part.strip()]
    return "[" + ",".join(json.dumps(part) if quoted else part for part in parts) + "]"


def _is_json(text: str) -> bool:
    """Whether it is a list of texts in JSON."""
    try:
        return all(isinstance(item, str) for item in json.loads(text))
    except ValueError:
        return False


def _config(verb: str, arguments: list[str]) -> dict[str, Any]:
    """The mapping under ``--config``, less what is a record and no argument."""
    path = _named(arguments, "--config")
    if path is None:
        return {}
    from scotoma.run_folder import read_config

    config = read_config(Path(path), is_given=True)
    command = config.pop("command", verb)
    if command != verb:
        raise UsageError(f"{path} is the configuration of `scotoma {command}`, not of {verb}")
    for record in ("resolved", "variant", "scaled"):
        config.pop(record, None)
    return config


def _named(arguments: list[str], flag: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
    return None


def _parser(verb: str, function: Callable[..., Any], method: str | None) -> Any:
    """Jsonargparse's parser of a function's signature and docstring, and of the method's."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
            text = _plainly(" ".join(str(message).split()), _hints(function, method))
            raise UsageError(f"{text}; see scotoma {verb} --help")

    parser = Parser(prog=f"scotoma {verb}", description=(function.__doc__ or "").strip().split("\n")[0])
    parser.add_argument("--config", help="arguments from a YAML file, such as a run's config.yaml; flags override it")
    skip: set[str | int] = {"method_args", "method"} if method is not None else set()
    parser.add_function_arguments(function, skip=skip, fail_untyped=False)
    if method is not None:
        chosen = plugins.method(method)
        parser.add_class_arguments(chosen, "method", skip={"encoder", "inputs"}, fail_untyped=False)
    return parser


def _plainly(message: str, hints: dict[str, Any]) -> str:
    """What jsonargparse reports of a value that will not do, in the user's words."""
    if lacking := re.match(r"the following arguments are required: ([\w, ]+)", message):
        names = lacking[1].split(", ")
        places = [name for name in names if name in POSITIONAL]
        flags = [f"--{flag_name(name)}" for name in names if name not in POSITIONAL]
        return f"name {' and '.join([*(name.upper() for name in places), *flags])}"
    found = re.match(r'Parser key "([\w.]+)"', message)
    if found is None or found[1] not in hints:
        return message.rstrip(".")
    value = message.rpartition("value:")[2].strip() or "''"
    return f"--{flag_name(found[1])} {value}: must be {wanted(hints[found[1]])}"


def _print_partial(error: Exception) -> None:
    """The short table of the rows that were written before, or beside, what failed."""
    if (rows := getattr(error, "rows", None)) is not None:
        print(rows.summary)


def _print_result(result: Any, quiet: bool) -> None:
    """What came out: the short table of rows; of a folder its summary, and in the last line its path, under ``--quiet`` alone."""
    summary = getattr(result, "summary", "")
    if isinstance(result, list):
        print(summary)
    else:
        print(f"{summary}\n{result}" if summary and not quiet else result)


if __name__ == "__main__":
    sys.exit(main())
