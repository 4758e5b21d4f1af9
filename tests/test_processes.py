"""Processes that are started: nothing in the working directory runs, and they end with who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scotoma import processes

ROOT = Path(__file__).parents[1]
# What Python, the command and its libraries import first, and what site would run.
TRAPS = ("__future__", "bisect", "csv", "ctypes", "decimal", "json", "logging", "numpy", "pandas", "PIL", "pydicom", "random", "re",
         "sitecustomize", "tempfile", "timm", "torch", "typing", "usercustomize", "yaml", "zipfile")  # fmt: skip


def trapped(folder: Path) -> Path:
    """Fill a folder with modules that leave a mark where they are run; the mark."""
    mark = folder / "ran"
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r}); raise SystemExit('trapped')\n")
    return mark


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | variables
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("started", ["module", "function"])
def test_what_lies_among_the_images_is_never_run(started: str, grey_folder) -> None:  # type: ignore[no-untyped-def]
    folder = grey_folder(4, classes=())
    mark = trapped(folder)
    command = (
        ["-m", "scotoma.cli"] if started == "module" else ["-P", "-c", "import sys; from scotoma.cli import main; sys.exit(main())"]
    )
    paths = f"{ROOT / 'src'}"
    done = run(folder, sys.executable, *command, "prepare", ".", "--size", "16", "--out", "../store", PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
    assert (folder.parent / "store" / "table.parquet").exists()


def test_processes_look_into_no_empty_entry_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`PYTHONPATH=$PYTHONPATH:/x` with nothing set before means the working directory to Python."""
    mark = trapped(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f":{ROOT / 'src'}")
    env = processes.environment()
    done = subprocess.run(
        [*processes.COMMAND, "-c", "import random, json, scotoma.data.store.decode_worker"], cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 0 and not mark.exists()
    assert env["PYTHONPATH"] == str(ROOT / "src")


@pytest.mark.long
def test_pretraining_and_auditing_among_traps(grey_folder) -> None:  # type: ignore[no-untyped-def]
    folder = grey_folder(8, classes=())
    mark = trapped(folder)
    for given in (
        ["audit", "."],
        ["pretrain", "--data", ".", "--method", "simclr", "--steps", "2", "--size", "32", "--out", "../run"],
    ):
        done = run(folder, sys.executable, "-m", "scotoma.cli", *given, "--quiet", PYTHONPATH=str(ROOT / "src"))
        assert done.returncode == 0, done.stderr
        assert not mark.exists()


ORPHAN = """
import subprocess, sys, time
from scotoma import processes
code = "from scotoma import processes; processes.end_with_parent(); print('ready', flush=True); import time; time.sleep(60)"
child = subprocess.Popen([*processes.COMMAND, "-c", code], env=processes.environment(), stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_started_process_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 20
    while alive(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(child)


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "from scotoma import processes; processes.end_with_parent(); print('went on')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {processes.PARENT: "1"}, capture_output=True, check=False)
    assert done.returncode == 1 and done.stdout == b""


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and was waited for by nobody does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


ASKED = """
import os, signal, sys, time
from pathlib import Path
from scotoma import cli, files

def write(verb, arguments):
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    with files.replacing(Path("table.csv")) as temporary:
        temporary.write_text("half")
        os.kill(child, signal.SIGTERM)
        print(os.waitpid(child, 0)[1], flush=True)
        time.sleep(60)

cli._run = write
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.exit(cli.main())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_command_that_is_asked_to_end_clears_away_what_is_half_written(number: int, code: int, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != processes.PARENT} | {"PYTHONPATH": str(ROOT / "src")}
    command = [*processes.COMMAND, "-c", ASKED, "split"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == f"{signal.SIGTERM}\n"  # the copy ends by the signal, as it would by itself
            assert list(tmp_path.glob("table.csv.*.new"))
            process.send_signal(number)
            assert (process.wait(30), process.stderr.read()) == (code, "scotoma: stopped\n")
        finally:
            process.kill()
    assert not list(tmp_path.iterdir())


def test_a_process_that_the_command_started_ends_at_once(tmp_path: Path) -> None:
    script = "import os, signal; from scotoma import cli; cli._run = lambda *_: os.kill(os.getpid(), signal.SIGTERM); cli.main()"
    env = processes.environment(PYTHONPATH=str(ROOT / "src"))
    done = subprocess.run([*processes.COMMAND, "-c", script, "split"], cwd=tmp_path, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")
