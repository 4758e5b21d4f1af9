"""Killed at every write, sync, rename and lock: the next try ends as one left alone, and nothing half is called finished."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma import files
from scotoma import run_folder as runs
from scotoma.data import sources
from scotoma.data.store import builder, decode_worker, levelling, store
from scotoma.run_folder import Run, read_rows, status

POINTS = ("put", "sync", "rename", "acquire")  # through these goes all writing
KILLED = 77


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many runs are opened: nobody asks for the versions of libraries, and no power cut is waited for."""
    monkeypatch.setattr(runs, "versions", dict)
    monkeypatch.setattr(runs, "hardware", dict)
    monkeypatch.setattr(files, "sync", lambda path: None)


def killed_at(point: int, act: Callable[[], object]) -> bool:
    """Do something in a copy of this process that ends, without a word, before its ``point``-th write, sync, rename or lock.

    Every other time a write is cut in the middle. Returns whether it came that far.
    """
    child = os.fork()
    if child == 0:
        left = point

        def counted(name: str) -> Callable[..., object]:
            real = getattr(files, name)

            def call(*given: object, **named: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    if name == "put" and point % 2:
                        Path(str(given[0])).write_bytes(bytes(given[1])[: len(bytes(given[1])) // 2])  # type: ignore[arg-type]
                    os._exit(KILLED)
                return real(*given, **named)

            return call

        try:
            for name in POINTS:
                setattr(files, name, counted(name))
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


def content(folder: Path) -> dict[str, bytes]:
    """What a folder holds, without times and locks, and of a finished run without what a kill left of its checkpoints."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}
    if "status.json" in found:
        found["status.json"] = json.loads(found["status.json"])["state"].encode()
    if found.get("status.json") == b"finished":
        found.pop("checkpoints/last.ckpt", None)
    return found


class Figure:
    """One that is drawn at once."""

    def savefig(self, path: Path, **_: object) -> None:
        files.put(path, b"png")


def train(out: Path, value: int, **options: bool) -> None:
    """What a training verb does with its folder."""
    run = Run.open(out, "pretrain", {"value": value}, **options)
    run.save_config(steps=value, resolved=["steps"])
    (run.path / "checkpoints").mkdir(exist_ok=True)
    files.write(run.path / "checkpoints" / "last.ckpt", str(value))
    files.write(run.path / "encoder.safetensors", str(value) * 100)
    run.figure("views", Figure(), "t", "c", "s")  # type: ignore[arg-type]
    run.write_rows([])
    run.add_rows([{"value": value}, {"value": value + 1}])
    run.finish()


def test_a_training_killed_anywhere_is_gone_on_with(tmp_path: Path) -> None:
    train(tmp_path / "alone", 5)
    expected, point = content(tmp_path / "alone"), 0
    while killed_at(point, partial(train, tmp_path / str(point), 5)):
        out = tmp_path / str(point)
        if status(out) == "finished":
            assert content(out) == expected
        else:
            train(out, 5, resume=True)
        assert content(out) == expected, point
        point += 1
    assert point > 30


def test_a_run_replaced_and_killed_anywhere_is_the_old_or_the_new(tmp_path: Path) -> None:
    train(tmp_path / "old", 5)
    train(tmp_path / "new", 7)
    old, new, point, seen = content(tmp_path / "old"), content(tmp_path / "new"), 0, set()
    while True:
        out = tmp_path / str(point)
        train(out, 5)
        if not killed_at(point, partial(train, out, 7, overwrite=True)):
            break
        if status(out) == "finished":
            Run(out, {})
            found = {k: v for k, v in content(out).items() if not k.startswith(".replaced") and not k.endswith(files.NEW)}
            assert found in (old, new), point
            seen.add("old" if found == old else "new")
        train(out, 7, overwrite=True)
        assert content(out) == new, point
        point += 1
    assert seen >= {"old"} and point > 40


def test_an_evaluation_given_up_and_killed_anywhere_leaves_the_old_run(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        run = Run.open(out, "evaluate", {}, overwrite=True)
        run.add_rows([{"value": 9}])
        run.give_up()

    train(tmp_path / "old", 5)
    expected, point = content(tmp_path / "old"), 0
    while True:
        out = tmp_path / str(point)
        train(out, 5)
        if not killed_at(point, partial(fail, out)):
            break
        fail(out) if status(out) == "finished" else fail_again(out)
        if status(out) == "finished":
            assert content(out) == expected, point
        point += 1
    assert content(out) == expected and point > 10


def fail_again(out: Path) -> None:
    """The replacement was interrupted: a further try is given up, and the old run is there again."""
    run = Run.open(out, "evaluate", {}, overwrite=True)
    run.give_up()
    assert status(out) == "finished"


def test_rows_added_and_killed_anywhere_are_all_there_or_not_at_all(tmp_path: Path) -> None:
    out, point = tmp_path / "r", 0
    train(out, 5)
    before = read_rows(out)
    while killed_at(point, lambda: Run(out, {}).add_rows([{"value": 8}, {"value": 9}])):
        assert read_rows(out) in (before, [*before, {"value": 8}, {"value": 9}]) and status(out) == "finished"
        before = read_rows(out)
        point += 1
    assert point >= 5 and read_rows(out)[-2:] == [{"value": 8}, {"value": 9}]


def test_a_store_killed_anywhere_is_whole_after_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: Path, n: int, workers: int, quiet: bool, *of_levels: object) -> None:
        (levelling.measure if of_levels else decode_worker.decode)(folder, 0, 1, decode_worker.SECONDS)

    monkeypatch.setattr(builder, "_run_workers", run)
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (30, 30), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    frame = pd.DataFrame({"image_path": [str(tmp_path / f"{k}.png") for k in range(3)]})

    def prepare(out: Path) -> store.Store:
        return store.prepare(sources.load(frame), 16, 1, out, quiet=True)[1]

    expected = content(prepare(tmp_path / "alone").path)
    point = 0
    while killed_at(point, partial(prepare, tmp_path / str(point))):
        out = tmp_path / str(point)
        if out.exists():
            assert content(out) == expected
        killed_at(point // 2, partial(prepare, out))  # the next try is killed as well
        assert content(prepare(out).path) == expected, point
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(f"{point}.") and p.suffix != ".png"] == []
        point += 1
    assert point > 10


@pytest.mark.long
def test_twenty_kills_at_any_moment_lose_no_row(tmp_path: Path) -> None:
    """SIGKILL while rows are added, again and again, without regard to what is being done."""
    code = "import sys; from pathlib import Path; from scotoma.run_folder import Run\n"
    code += "for k in range(10**6): Run(Path(sys.argv[1]), {}).add_rows([{'value': k}]); print(k, flush=True)"
    out, chance, expected = tmp_path / "r", random.Random(0), 2
    train(out, 5)
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "0\n"
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        told = 1 + len(process.stdout.read().splitlines())  # a last one may have been written and not yet told
        process.wait()
        rows = read_rows(out)
        assert len(rows) - expected in (told, told + 1) and status(out) == "finished"
        assert [row["value"] for row in rows[expected:]] == list(range(len(rows) - expected))
        expected = len(rows)
    Run.open(out, "pretrain", {}, overwrite=True).give_up()
    assert [p.name for p in out.iterdir() if p.name.endswith(files.NEW)] == []
