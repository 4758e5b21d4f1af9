"""The two errors a user sees as one line: wrong usage (exit code 2) and a failed run (exit code 1); and notices."""

from __future__ import annotations

import os
import re
import sys

at_command_line = False  # then messages name flags, not arguments; in every thread


class ScotomaError(Exception):
    """An error whose message is one line that states what is wrong and what to do."""

    exit_code = 1


class UsageError(ScotomaError):
    """The request itself is wrong: a missing column, an unknown name, a folder that may not be overwritten."""

    exit_code = 2


class RunError(ScotomaError):
    """The request was sound and failed: an unreadable file under ``--strict``, a full disk, a loss that is not finite."""


def _is_printing() -> bool:
    """Whether this is the one of several processes that prints; SLURM's have no RANK before they have met."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def notice(name: str, text: str) -> None:
    """Print one line on standard error about what was joined, guessed, left out or read as something else.

    Of several processes of one training the first alone prints it. ``--quiet`` does not silence it: it is no progress, it is
    something that a result depends on.

    Args:
        name: of the data set or file, which stands before the text.
        text: the line, with a count; never a value that identifies a patient.
    """
    if _is_printing():
        print(f"{name}: {in_python(text)}", file=sys.stderr)


def stage(text: str, quiet: bool = False) -> None:
    """Print on standard error what begins now and may take seconds: progress, which ``quiet`` silences."""
    if not quiet and _is_printing():
        print(f"scotoma: {text} ...", file=sys.stderr, flush=True)


def in_python(text: str) -> str:
    """A message with arguments in place of flags, unless this process is the command.

    Example:
        >>> in_python("runs/a holds a finished run: name another folder, or use --overwrite")
        'runs/a holds a finished run: name another folder, or use `overwrite`'
        >>> in_python("--with metrics failed; see --method.mask_ratio")
        "`evaluators` metrics failed; see `method_args['mask_ratio']`"
        >>> in_python("holds a withdrawn patient: `scotoma purge P --yes` removes it")
        'holds a withdrawn patient: `scotoma purge P --yes` removes it'
        >>> in_python("/data/--odd/x holds nothing: name another with --labels.")
        '/data/--odd/x holds nothing: name another with `labels`.'
    """
    if at_command_line:
        return text
    parts = text.split("`")  # between backquotes stands a command
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<![\w/-])--([a-z]\w*)(?:(?<=--method)\.(\w+))?(?![\w/-])", _argument, parts[i])
    return "`".join(parts)


def _argument(flag: re.Match[str]) -> str:
    name, key = "evaluators" if flag[1] == "with" else flag[1], flag[2]
    return f"`{name}_args[{key!r}]`" if key else f"`{name}`"


def number(count: int, noun: str) -> str:
    """A count with its noun, in the plural where it is not one."""
    return f"{count} {noun}{'s' * (count != 1)}"
