"""A command run to its end and watched: seconds, when something first happened, and the memory that it and its children took."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and its children, grandchildren and so on."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in family(int(child)))]


def resident(pid: int) -> dict[str, int]:
    """Bytes of a process: its own memory and mapped files, what it shares with others divided among them."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        return {name: 1024 * int(lines[name].split()[0]) for name in ("Pss_Anon", "Pss_File")}
    except (OSError, KeyError, ValueError):  # it has just ended
        return {"Pss_Anon": 0, "Pss_File": 0}


def watched(command: list[str], begun: Callable[[str], bool] = lambda said: False) -> dict[str, float]:
    """Run a command to its end.

    Args:
        command: the program and its arguments.
        begun: given all that the command said so far: has what is waited for happened?

    Returns:
        ``seconds`` in all; ``first_step`` until ``begun``; ``own_bytes`` and ``file_bytes``, the greatest sums over the process and
        its children of memory of their own and of pages of mapped files, which the system takes back at need.

    Raises:
        SystemExit: the command failed; with the end of what it said.
    """
    start = time.perf_counter()
    found: dict[str, float] = {"own_bytes": 0, "file_bytes": 0}
    with tempfile.NamedTemporaryFile() as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        said = Path(file.name)
        while process.poll() is None:
            sizes = [resident(pid) for pid in family(process.pid)]
            found["own_bytes"] = max(found["own_bytes"], sum(s["Pss_Anon"] for s in sizes))
            found["file_bytes"] = max(found["file_bytes"], sum(s["Pss_File"] for s in sizes))
            if "first_step" not in found and begun(said.read_text(errors="replace")):
                found["first_step"] = time.perf_counter() - start
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: {said.read_text(errors='replace')[-2000:]}")
    return found | {"seconds": time.perf_counter() - start}
