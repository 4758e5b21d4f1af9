"""Python processes that are started: none runs what lies in the working directory, none outlives who started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# -P: neither the working directory nor a script's folder is looked in for modules. A `numpy.py` among the images is no numpy.
COMMAND = (sys.executable, "-P")
PARENT = "SCOTOMA_PARENT"  # names the process with which this one ends
_PR_SET_PDEATHSIG = 1


def environment(**others: str) -> dict[str, str]:
    """The variables for a process that is started: what it starts in turn looks into no working directory either."""
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]  # an empty entry means the working directory
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return {**kept, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}), "PYTHONSAFEPATH": "1", PARENT: str(os.getpid()),
            **others}  # fmt: skip


def end_with_parent() -> None:
    """End this process when the one that ``environment`` was asked by ends, even by SIGKILL; where none did, nothing to do."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before this one was ready
        os._exit(1)
