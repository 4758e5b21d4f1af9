"""The run folder: everything a command produced, and enough to repeat it."""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from scotoma.errors import RunError, ScotomaError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIBRARIES = ("scotoma", "torch", "torchvision", "timm", "lightning", "numpy", "pandas", "scikit-learn", "pydicom", "pillow")
Row = dict[str, Any]


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}


def hardware() -> dict[str, Any]:
    """The machine, as far as results and speed depend on it."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), model
        )
    torch = sys.modules.get("torch")
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "accelerators": accelerators}


@dataclass
class Run:
    """An open run folder.

    Args:
        path: the folder.
        config: the command and its arguments, as resolved so far.
        resumed: whether it goes on with an interrupted run.
    """

    path: Path
    config: dict[str, Any]
    resumed: bool = False
    _lock: IO[str] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, out: Path, command: str, arguments: dict[str, Any], overwrite: bool = False, resume: bool = False) -> Run:
        """Make the folder, or take up the one that an interrupted run left.

        Raises:
            UsageError: it holds a finished run and ``overwrite`` is not said; an interrupted one and neither ``resume`` nor
                ``overwrite``; another process writes into it; or it holds something that is no run.
        """
        if status(out) is None and out.exists() and (not out.is_dir() or any(p.name != ".lock" for p in out.iterdir())):
            raise UsageError(f"{out} holds something that is no run: name another folder with --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = (out / ".lock").open("w")
        except OSError as error:
            raise RunError(f"cannot write into {out} ({error.strerror})") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise UsageError(f"another run is writing into {out}: wait for it, or name another folder") from error
        found = status(out)  # read under the lock: another process may have finished it just now
        run = cls(out, {"command": command, **arguments}, found == "running" and resume and not overwrite, lock)
        try:
            if found == "finished" and not overwrite:
                raise UsageError(f"{out} holds a finished run: name another folder, or say --overwrite")
            if found == "running" and not (overwrite or resume):
                raise UsageError(f"{out} holds an interrupted run: say --resume to go on, or --overwrite to start anew")
            if run.resumed:
                run._continue(command, arguments)
            else:
                for path in out.iterdir():
                    if path.name != ".lock":
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                run._status("running")
                run.save_config()
        except ScotomaError:
            lock.close()
            raise
        return run

    def _continue(self, command: str, arguments: dict[str, Any]) -> None:
        """An interrupted run goes on with the configuration it had; a differing argument is an error, not a surprise."""
        saved = read_config(self.path)
        for name, value in {"command": command, **arguments}.items():
            changed = value is not None and name in saved and saved[name] != _plain(value)
            if changed and name not in saved.get("resolved", []):
                raise UsageError(
                    f"--resume: the interrupted run had {name} {saved[name]!r}, not {_plain(value)!r}; "
                    "leave it as it was, or say --overwrite"
                )
        self.config = saved
        rows = self.path / "rows.jsonl"
        if rows.exists():  # a killed process may have left half a line
            whole = rows.read_text().rpartition("\n")
            rows.write_text(whole[0] + whole[1])

    def save_config(self, **resolved: Any) -> None:
        """Write ``config.yaml``; ``resolved`` are automatic choices, saved as what they became."""
        self.config |= resolved
        content = {**self.config, "versions": versions(), "hardware": hardware()}
        write_atomically(self.path / "config.yaml", yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True))

    def add_rows(self, rows: Iterable[Row], **common: Any) -> list[Row]:
        """Append rows in one write, each with the ``common`` keys; values that are not finite become null."""
        complete = [{**common, **row} for row in rows]
        text = "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in complete)
        try:
            with (self.path / "rows.jsonl").open("a") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path / 'rows.jsonl'} ({error.strerror})") from error
        return complete

    def figure(self, name: str, figure: Figure, title: str, caption: str, section: str) -> None:
        """Save a figure as ``figures/NAME.png`` with the words that stand beside it in the report."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        write_atomically(folder / f"{name}.json", json.dumps({"title": title, "caption": caption, "section": section}))

    def finish(self) -> None:
        """Mark the run as finished and let the folder go."""
        self._status("finished")
        self.close()

    def close(self) -> None:
        """Let the folder go without marking it finished; where nothing was done yet, nothing stays behind."""
        if self._lock is not None:
            if status(self.path) == "running" and {p.name for p in self.path.iterdir()} <= {".lock", "status.json", "config.yaml"}:
                shutil.rmtree(self.path)
            self._lock.close()
            self._lock = None

    def _status(self, state: str) -> None:
        content = {"state": state, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_atomically(self.path / "status.json", json.dumps(content))


class Onlooker(Run):
    """A run folder in the other processes that train along: they write nothing."""

    def save_config(self, **resolved: Any) -> None:
        """Keep what was chosen."""
        self.config |= resolved

    def _status(self, state: str) -> None:
        """Nothing."""


def status(path: Path) -> str | None:
    """``"running"`` (also: interrupted) or ``"finished"``; None where there is no run."""
    try:
        return str(json.loads((path / "status.json").read_text())["state"])
    except (OSError, ValueError, KeyError):
        return None


def read_rows(path: Path) -> list[Row]:
    """The rows of a run folder, without a half-written last one."""
    file = path / "rows.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().rpartition("\n")[0].splitlines()]


def read_config(path: Path) -> dict[str, Any]:
    """A run folder's ``config.yaml``, without the record of versions and hardware.

    Raises:
        UsageError: there is none, or it is no mapping.
    """
    file = path / "config.yaml" if path.is_dir() else path
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: no configuration there ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a configuration (a mapping of arguments)")
    return {k: v for k, v in content.items() if k not in ("versions", "hardware")}


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is whole or absent, never half-written."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path} ({error.strerror})") from error


def _plain(value: Any) -> Any:
    """Values as JSON and YAML have them: paths as text, arrays as lists or numbers, tuples as lists, what is not finite as null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # of numpy or torch
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
