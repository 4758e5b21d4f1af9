"""Python processes that are started: none runs what lies in the working directory, none outlives who started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# -P: neither the working directory nor a script's folder is looked in for modules. A `numpy.py` among the images is no numpy.
COMMAND = (sys.executable, "-P")
PARENT = "SCOTOMA_PARENT"  # names the process with which this one ends
# How a process ends over a file that crashes a codec, or that takes longer than its alarm.
CRASHES = tuple(-n for n in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGALRM))
ENDING = (signal.SIGTERM, signal.SIGHUP)  # by which a command is asked to end: by a scheduler, or as its terminal goes
_PR_SET_PDEATHSIG = 1
is_command = False  # whether this process is the command: ``cli.main`` states it
_asked: list[int] = []


def environment(**others: str) -> dict[str, str]:
    """The variables for a process that is started: what it starts in turn looks into no working directory either."""
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]  # an empty entry means the working directory
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return {
        **kept,
        **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}),
        "PYTHONSAFEPATH": "1",
        PARENT: str(os.getpid()),
        **others,
    }


def end_with_parent() -> bool:
    """End this process when the one that ``environment`` was asked by ends, even by SIGKILL; False where none was."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return parent is not None
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before this one was ready
        os._exit(1)
    return True


def treat_ends_as_interrupts() -> None:
    """Let SIGTERM and SIGHUP of this process be as Ctrl-C, so that what is half-written is cleared away; of no copy of it."""
    owner = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        interrupt(number)

    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, stop)


def interrupt(number: int) -> NoReturn:
    """Stop this process as Ctrl-C does, and remember which signal asked for it."""
    _asked.append(number)
    raise KeyboardInterrupt


def exit_code() -> int:
    """Of an interrupted process: 143 after SIGTERM, 129 after SIGHUP, 130 after Ctrl-C."""
    return 128 + (_asked[0] if _asked else signal.SIGINT)


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Interrupt the block after ``seconds``; only in the main thread, and where no alarm is set already, as there is in a worker.

    Of Python code and of waiting for a disk; a library's loop that does not return to Python is for a process of its own.

    Raises:
        TimeoutError: again and again, should the block catch it.
    """
    if threading.current_thread() is not threading.main_thread() or any(signal.getitimer(signal.ITIMER_REAL)):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"reading its header takes more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, min(seconds, 1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
