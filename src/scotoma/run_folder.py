"""The run folder: everything a command produced, and enough to repeat it."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scotoma import files
from scotoma.arguments import OLD
from scotoma.errors import RunError, ScotomaError, UsageError, notice, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIBRARIES = ("scotoma", "torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "pydicom", "pillow")
OLD_VALUES = {"unit": {"picture": "image"}, "metric": {"pictures": "images"}}  # of a row
RESUMED = ("pretrain", "finetune", "study")  # verbs that go on with an interrupted run
MARK = "withdrawn"  # in status.json: a keyed hash of each patient who has
WITHDRAWN = "withdrawn_patients"  # the metric of a row of `scotoma purge`
DATA = "data.parquet"  # what the run was started on: ``resuming``
USED = "used.parquet"  # keyed hashes of the images it was given: ``data_module``
STATUS = "status.json"
CHECKPOINTS = "checkpoints"
AUTOMATIC = ("auto", 0)  # values of arguments that leave the choice to the verb
LOCK, REPLACED = ".lock", ".replaced"  # the latter holds a finished run until the one that replaces it is finished
LARGEST_CONFIG = 1 << 22  # bytes
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
    _lock: int | None = field(default=None, repr=False)

    @classmethod
    def open(cls, out: Path, command: str, arguments: dict[str, Any], overwrite: bool = False, resume: bool = False) -> Run:
        """Make the folder, or take up the one that an interrupted run left.

        Under ``overwrite`` a finished run is laid aside within the folder. It goes when the new one is finished, and comes back
        where the new one fails before it has done anything, or is given up with ``give_up``.

        Raises:
            UsageError: it holds a finished run and ``overwrite`` is not said; an interrupted one and neither ``resume`` nor
                ``overwrite``; another process writes into it; or it holds something that is no run.
        """
        if status(out) is None and out.exists() and (not out.is_dir() or any(not _of_no_run(p) for p in out.iterdir())):
            raise UsageError(f"{out} holds something that is no run: name another folder with --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = files.acquire(out / LOCK, wait=False)
        except files.Busy:
            raise UsageError(f"another run is writing into {out}: wait for it, or name another folder") from None
        except OSError as error:
            raise RunError(f"cannot write into {out} ({error.strerror})") from error
        run = cls(out, {"command": command, **arguments}, False, lock)
        try:
            files.sweep(out)
            run._mend()
            found = status(out)  # read under the lock: another process may have finished it just now
            # one that was killed before it had written its configuration had done nothing
            run.resumed = found == "running" and resume and not overwrite and (out / "config.yaml").exists()
            if found == "finished" and not overwrite:
                raise UsageError(f"{out} holds a finished run: name another folder, or use --overwrite")
            if found == "running" and not (overwrite or resume):
                going_on = "use --resume to continue, or --overwrite" if command in RESUMED else "use --overwrite"
                raise UsageError(f"{out} holds an interrupted run: {going_on} to start anew")
            if run.resumed:
                run._continue(command, arguments)
            else:
                if found == "finished":
                    run._lay_aside()
                run._clear()
                run._status("running")
                run.save_config()
        except ScotomaError:
            run._let_go()
            raise
        except OSError as error:
            run._let_go()
            raise RunError(f"cannot write into {out} ({error.strerror})") from error
        return run

    def _lay_aside(self) -> None:
        """Move a finished run out of the way of the one that replaces it; a kill on the way is undone by ``_mend``."""
        aside = self.path / REPLACED
        aside.mkdir(exist_ok=True)
        files.write(aside / STATUS, (self.path / STATUS).read_text())  # with its marks
        self._status("replacing")
        for path in self._content():
            files.rename(path, aside / path.name)
        files.sync(aside)

    def _put_back(self) -> None:
        """Let the run that was laid aside stand as finished again."""
        self._status("restoring")
        self._mend()

    def _mend(self) -> None:
        """End what a process began that was killed while it laid a run aside, put it back or cleared it away."""
        state, aside = _state(self.path), self.path / REPLACED
        if state == "restoring":  # what lies in the folder is of the replacement
            self._clear()
            self._status("replacing")
        if state in ("restoring", "replacing"):  # what lies in the folder is of the replaced run, as what lies aside
            for path in sorted(aside.iterdir(), key=lambda p: (p.name == STATUS, p)):  # its status last: then it is finished
                files.rename(path, self.path / path.name)
            files.sync(self.path)
        if state not in (None, "running"):
            shutil.rmtree(aside, ignore_errors=True)

    def _content(self) -> list[Path]:
        """What the run itself left, apart from its lock, its status and what it replaces."""
        return sorted(p for p in self.path.iterdir() if p.name not in (LOCK, REPLACED, STATUS))

    @property
    def has_begun(self) -> bool:
        """Whether it holds more than what it was started with."""
        return bool({p.name for p in self._content()} - {"config.yaml", DATA, USED})

    def _clear(self) -> None:
        for path in self._content():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _continue(self, command: str, arguments: dict[str, Any]) -> None:
        """An interrupted run goes on with the configuration it had; a differing argument is an error, not a surprise."""
        saved = read_config(self.path)
        refuse_other(saved, {"command": command, **arguments}, "interrupted")
        self.config = saved
        if (self.path / "rows.jsonl").exists():  # of an earlier version, a killed process may have left half a line
            self.write_rows(read_rows(self.path))

    def save_config(self, **resolved: Any) -> None:
        """Write ``config.yaml``; ``resolved`` are automatic choices, saved as what they became."""
        self.config |= resolved
        content = {**self.config, "versions": versions(), "hardware": hardware()}
        write_atomically(self.path / "config.yaml", yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True))

    def add_rows(self, rows: Iterable[Row], **common: Any) -> list[Row]:
        """Add rows, each with the ``common`` keys, to those that are there; values that are not finite become null."""
        complete = [{**common, **row} for row in rows]
        with self.alone():
            self.write_rows([*read_rows(self.path), *complete])
        return complete

    def write_rows(self, rows: Iterable[Row]) -> None:
        """Let these be all rows of the run, in one go."""
        files.write(self.path / "rows.jsonl", "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows))

    def replace_rows(self, rows: Iterable[Row]) -> None:
        """As ``write_rows``, but that patients have withdrawn stays."""
        kept = [row for row in read_rows(self.path) if row.get("metric") == WITHDRAWN]
        self.write_rows([*(row for row in rows if row.get("metric") != WITHDRAWN), *kept])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process writes into the folder meanwhile: this run holds its lock, or waits for it where it only adds to one."""
        if self._lock is not None:
            yield
            return
        try:
            self._lock = files.acquire(self.path / LOCK, what=str(self.path))
        except OSError as error:
            raise RunError(f"cannot write into {self.path} ({error.strerror})") from error
        try:
            yield
        finally:
            self._let_go()

    def figure(self, name: str, figure: Figure, title: str, caption: str, section: str) -> None:
        """Save a figure as ``figures/NAME.png`` with the words that stand beside it in the report."""
        folder = self.path / "figures"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write {folder} ({error.strerror})") from error
        with files.replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=110, bbox_inches="tight", format="png")
        files.write(folder / f"{name}.json", json.dumps({"title": title, "caption": caption, "section": section}))

    def finish(self, keep_checkpoints: bool = False) -> None:
        """Mark the run as finished, remove its checkpoints unless they are to be kept, and let the folder go."""
        if self._lock is not None:
            self._status("finished")
            if not keep_checkpoints:
                shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
            shutil.rmtree(self.path / REPLACED, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let the folder go without marking it finished; where nothing was done yet, it is again as it was."""
        if self._lock is not None:
            if status(self.path) == "running" and not self.has_begun:
                if (self.path / REPLACED).exists():
                    self._put_back()
                else:
                    shutil.rmtree(self.path)
            self._let_go()

    def give_up(self) -> None:
        """Let the folder go, and the run that this one was to replace stand as before; for a verb that cannot be resumed."""
        if self._lock is not None and (self.path / REPLACED).exists():
            self._put_back()
        self.close()

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _status(self, state: str) -> None:
        content: dict[str, Any] = {"state": state, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        if self.resumed and (marks := _marks(self.path)):  # what an interrupted run was trained on it still is
            content |= {MARK: marks}
        files.write(self.path / STATUS, json.dumps(content))


class Onlooker(Run):
    """A run folder in the other processes that train along: they write nothing."""

    def save_config(self, **resolved: Any) -> None:
        """Keep what was chosen."""
        self.config |= resolved

    def _status(self, state: str) -> None:
        """Nothing."""


def status(path: Path) -> str | None:
    """``"running"`` (also: interrupted) or ``"finished"``; None where there is no run."""
    found = _state(path)
    return "running" if found in ("replacing", "restoring") else found


def resumable(path: Path) -> bool:
    """Whether an unfinished run lies there with which ``--resume`` goes on."""
    return _state(path) == "running" and (path / "config.yaml").exists()


def _state(path: Path) -> str | None:
    """As ``status``, and ``"replacing"`` while a finished run is laid aside, ``"restoring"`` while it comes back."""
    file = path / "status.json"
    try:
        return None if files.unfit(file) else str(json.loads(file.read_text())["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of_no_run(path: Path) -> bool:
    """Whether a file shows nothing of what a folder holds: a lock, or what a killed process was writing."""
    return path.name == LOCK or path.name.endswith(files.NEW)


def withdrawn(*paths: Path) -> int:
    """How many patients of the images of a run, or of several together, have withdrawn since (`scotoma purge`)."""
    return len({mark for path in paths for mark in _marks(path)})


def withdrawal_sentence(count: int) -> str:
    """What is said of a run of which so many patients have withdrawn."""
    return f"holds {number(count, 'withdrawn patient')}: train it anew without"


def _marks(path: Path) -> list[str]:
    try:
        return list(json.loads(files.regular(path / STATUS).read_text()).get(MARK, []))
    except (OSError, ValueError, AttributeError, TypeError, UsageError):
        return []


def read_rows(path: Path) -> list[Row]:
    """The rows of a run folder, without a half-written last one."""
    file = path / "rows.jsonl"
    if not file.exists():
        return []
    return [_renamed(json.loads(line)) for line in files.regular(file).read_text().rpartition("\n")[0].splitlines()]


def _renamed(row: Row) -> Row:
    """A row with today's words; those of version 0.1.0 are read for one version more."""
    return row | {key: OLD_VALUES[key][row[key]] for key in OLD_VALUES if row.get(key) in OLD_VALUES[key]}


def parse_config(text: str) -> Any:
    """What the text of a ``config.yaml`` states: plain values, of which no one makes an object.

    Raises:
        yaml.YAMLError: it is no YAML, or has aliases: names that stand for nested names can stand for more values than there is
            memory.
    """
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
        raise yaml.YAMLError("it has aliases (*NAME), which are not taken")
    return yaml.safe_load(text)


def read_config(path: Path, is_given: bool = False) -> dict[str, Any]:
    """A run folder's ``config.yaml``, without the record of versions and hardware; keys of an earlier version by today's names.

    Args:
        path: the run folder, or the file.
        is_given: whether the user gave it: a line on standard error names its old keys.

    Raises:
        UsageError: there is none, it is no regular file, or it is no mapping.
    """
    file = path / "config.yaml" if path.is_dir() else path
    try:
        if files.regular(file).stat().st_size > LARGEST_CONFIG:
            raise UsageError(f"{file}: larger than {LARGEST_CONFIG >> 20} MiB: no configuration")
        content = parse_config(file.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: no configuration there ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a configuration (a mapping of arguments)")
    for old in OLD.keys() & content.keys() if is_given else ():
        notice(str(file), f"the key {old} is called {OLD[old]} now; the old name goes with the next version")
    return {OLD.get(str(k), str(k)): v for k, v in content.items() if k not in ("versions", "hardware")}


def refuse_other(saved: dict[str, Any], given: dict[str, Any], state: str) -> None:
    """Refuse to go on with a run whose configuration states otherwise.

    Args:
        saved: its configuration.
        given: the command and its arguments now; None where nothing was said.
        state: interrupted or finished.

    Raises:
        UsageError: an argument differs; the message names it.
    """
    for name, value in given.items():
        changed = value is not None and name in saved and saved[name] != _plain(value)
        if name in saved.get("resolved", []):  # what an automatic choice became, or the arguments that were given with others
            kept = saved[name]  # of a study's methods each its own number: one that was given for all
            for_all = isinstance(kept, dict) and all(one == value for one in kept.values())
            changed = changed and not (kept is None or for_all or value in AUTOMATIC or isinstance(value, dict))
        if changed:
            raise UsageError(
                f"--resume: the {state} run had {name} {saved[name]!r}, not {_plain(value)!r}; "
                "leave it as it was, or use --overwrite"
            )


write_atomically = files.write


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
