"""The run folder: refused, replaced, gone on with; rows whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from scotoma import run_folder as runs
from scotoma.errors import RunError, UsageError
from scotoma.run_folder import Run, read_config, read_rows, status

ARGUMENTS = {"data": "phantom:10", "steps": 5, "target": ["a", "b"], "encoder": None, "method_args": {"mask_ratio": 0.5}}


def finished(path: Path) -> Path:
    run = Run.open(path, "pretrain", ARGUMENTS)
    run.add_rows([{"metric": "loss", "value": 1.0}])
    run.finish()
    return path


def interrupted(path: Path, **resolved: object) -> Path:
    run = Run.open(path, "pretrain", ARGUMENTS)
    run.add_rows([{"metric": "loss", "value": 1.0}, {"metric": "loss", "value": 2.0}])
    if resolved:
        run.save_config(**resolved)
    run.close()
    return path


def test_config_goes_there_and_back(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a" / "b", "pretrain", {**ARGUMENTS, "labels": Path("x.csv"), "shape": (1, 2)})
    run.save_config(learning_rate=np.float32(0.5), counts=np.arange(3), nothing=float("nan"), resolved=["learning_rate"])
    run.finish()
    config = read_config(tmp_path / "a" / "b")
    assert config == {
        "command": "pretrain", **ARGUMENTS, "labels": "x.csv", "shape": [1, 2], "learning_rate": 0.5,
        "counts": [0, 1, 2], "nothing": None,
        "resolved": ["learning_rate"],
    }  # fmt: skip
    assert read_config(tmp_path / "a" / "b" / "config.yaml") == config
    raw = yaml.safe_load((tmp_path / "a" / "b" / "config.yaml").read_text())
    assert raw["versions"]["numpy"] == np.__version__
    assert raw["hardware"]["cores"] >= 1


def test_rows_go_there_and_back_with_what_is_not_finite_as_null(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "r", "evaluate", {})
    given = [
        {"value": np.float64(0.25), "n": np.int64(3)},
        {"value": float("inf")},
        {"value": -np.inf, "class": "ü\u2028x"},
        {"value": np.nan},
    ]
    assert run.add_rows(given, split="test")[0] == {"split": "test", "value": 0.25, "n": 3}
    run.add_rows([])
    run.add_rows([{"split": "val", "value": True}], split="test")
    assert read_rows(tmp_path / "r") == [
        {"split": "test", "value": 0.25, "n": 3}, {"split": "test", "value": None},
        {"split": "test", "value": None, "class": "ü\u2028x"}, {"split": "test", "value": None}, {"split": "val", "value": True},
    ]  # fmt: skip
    run.close()


def test_a_half_written_last_row_is_dropped(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "r")
    with (path / "rows.jsonl").open("a") as file:
        file.write('{"metric": "lo')
    assert [row["value"] for row in read_rows(path)] == [1.0, 2.0]
    run = Run.open(path, "pretrain", ARGUMENTS, resume=True)
    run.add_rows([{"metric": "loss", "value": 3.0}])
    run.finish()
    assert [row["value"] for row in read_rows(path)] == [1.0, 2.0, 3.0]
    assert read_rows(tmp_path) == []


def test_status(tmp_path: Path) -> None:
    assert status(tmp_path / "none") is None
    run = Run.open(tmp_path / "r", "study", {})
    assert status(tmp_path / "r") == "running"
    run.finish()
    assert status(tmp_path / "r") == "finished"


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_is_refused_until_overwritten(tmp_path: Path, resume: bool) -> None:
    path = finished(tmp_path / "r")
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(UsageError, match=r"finished run.*--overwrite"):
        Run.open(path, "pretrain", ARGUMENTS, resume=resume)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    (path / "checkpoints").mkdir()
    run = Run.open(path, "study", {"x": 1}, overwrite=True, resume=resume)
    assert not run.resumed
    assert sorted(p.name for p in path.iterdir()) == [".lock", ".replaced", "config.yaml", "status.json"]
    assert read_config(path) == {"command": "study", "x": 1}
    run.finish()
    assert sorted(p.name for p in path.iterdir()) == [".lock", "config.yaml", "status.json"]


def test_an_interrupted_run_is_refused_resumed_or_overwritten(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "r", learning_rate=0.1)
    with pytest.raises(UsageError, match="--resume to continue, or --overwrite"):
        Run.open(path, "pretrain", ARGUMENTS)
    run = Run.open(path, "pretrain", {**ARGUMENTS, "steps": None}, resume=True)
    assert run.resumed
    assert run.config == {"command": "pretrain", **ARGUMENTS, "learning_rate": 0.1}
    assert len(read_rows(path)) == 2
    run.close()
    run = Run.open(path, "pretrain", ARGUMENTS, resume=True, overwrite=True)
    assert not run.resumed
    assert read_rows(path) == []
    run.close()


@pytest.mark.parametrize(("command", "change"), [("pretrain", {"steps": 6}), ("pretrain", {"data": "other"}), ("study", {})])
def test_resuming_with_other_arguments_is_refused(tmp_path: Path, command: str, change: dict[str, object]) -> None:
    path = interrupted(tmp_path / "r")
    with pytest.raises(UsageError, match="--resume: the interrupted run had"):
        Run.open(path, command, {**ARGUMENTS, **change}, resume=True)
    assert len(read_rows(path)) == 2
    Run.open(path, "pretrain", ARGUMENTS, resume=True).close()  # the refusal let go of the lock


def test_what_became_of_an_automatic_choice_is_no_other_argument(tmp_path: Path) -> None:
    resolved = {"steps": 77, "minutes": None, "batch_size": 32, "method_args": {"mask_ratio": 0.5, "norm_pixels": False}}
    path = interrupted(tmp_path / "r", **resolved, resolved=list(resolved))
    automatic = {**ARGUMENTS, "steps": None, "minutes": 10.0, "batch_size": "auto"}
    run = Run.open(path, "pretrain", automatic, resume=True)
    assert run.config["steps"] == 77
    run.close()
    for given in ({"steps": 78}, {"batch_size": 16}):  # but what is typed is never passed over
        with pytest.raises(UsageError, match="--resume: the interrupted run had"):
            Run.open(path, "pretrain", {**automatic, **given}, resume=True)


def test_resume_where_nothing_is_starts_anew(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "r", "pretrain", ARGUMENTS, resume=True)
    assert not run.resumed
    run.finish()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "photos", tmp_path / "file"):
        with pytest.raises(UsageError, match="no run"):
            Run.open(path, "pretrain", {}, overwrite=True)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.txt"]
    with pytest.raises(RunError, match="cannot write into"):
        Run.open(tmp_path / "file" / "r", "pretrain", {})


def test_a_number_given_for_all_methods_is_that_of_each_when_resumed(tmp_path: Path) -> None:
    """A study saves what each method took; the command that began it still says one number."""
    run = Run.open(tmp_path / "r", "study", {"steps": 10})
    run.save_config(steps={"simclr": 10, "mae": 10}, resolved=["steps"])
    run.add_rows([{"value": 1}])
    run.close()
    for steps in (10, {"simclr": 10, "mae": 10}, None):
        Run.open(tmp_path / "r", "study", {"steps": steps}, resume=True).close()
    with pytest.raises(UsageError, match="the interrupted run had steps"):
        Run.open(tmp_path / "r", "study", {"steps": 11}, resume=True)


HOLD = """
import sys; from pathlib import Path; from scotoma.run_folder import Run
run = Run.open(Path(sys.argv[1]), 'pretrain', {}); run.add_rows([{'value': 1}]); print('open', flush=True); sys.stdin.read()
"""


def test_two_runs_into_one_folder_are_refused_while_the_first_lives(tmp_path: Path) -> None:
    path = tmp_path / "r"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UsageError, match="another run is writing"):
            Run.open(path, "pretrain", {}, **options)
    assert len(read_rows(path)) == 1
    process.kill()
    process.communicate()
    run = Run.open(path, "pretrain", {}, resume=True)  # the lock died with the process
    assert run.resumed
    run.close()


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    Run.open(tmp_path / "r", "pretrain", {}).close()
    assert not (tmp_path / "r").exists()
    assert interrupted(tmp_path / "s").exists()


def test_read_config_refuses_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    for name in ("absent.yaml", "list.yaml", "broken.yaml"):
        with pytest.raises(UsageError, match=r"config") as error:
            read_config(tmp_path / name)
        assert "\n" not in str(error.value)


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    runs.write_atomically(tmp_path / "a.json", "one")
    (tmp_path / "a.json").chmod(0o400)
    runs.write_atomically(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "two"
    with pytest.raises(RunError, match="cannot write"):
        runs.write_atomically(tmp_path / "absent" / "a.json", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_figure_stands_with_its_words(tmp_path: Path) -> None:
    class Figure:
        def savefig(self, path: Path, **_: object) -> None:
            path.write_bytes(b"png")

    run = Run.open(tmp_path / "r", "pretrain", {})
    run.figure("views", Figure(), "Title", "Caption", "pretraining")  # type: ignore[arg-type]
    assert (tmp_path / "r" / "figures" / "views.png").read_bytes() == b"png"
    words = json.loads((tmp_path / "r" / "figures" / "views.json").read_text())
    assert words == {"title": "Title", "caption": "Caption", "section": "pretraining"}
    run.finish()


def test_a_replaced_run_goes_when_the_new_one_is_finished_and_comes_back_when_it_is_given_up(tmp_path: Path) -> None:
    path = finished(tmp_path / "r")
    (path / "figures").mkdir()
    (path / "figures" / "a.png").write_bytes(b"old")
    before = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != "status.json"}

    def content() -> dict[str, bytes]:
        return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != "status.json"}

    run = Run.open(path, "evaluate", {}, overwrite=True)
    assert status(path) == "running"
    run.add_rows([{"value": 9}])
    run.give_up()
    assert content() == before and status(path) == "finished"
    Run.open(path, "evaluate", {}, overwrite=True).close()  # did nothing
    assert content() == before and status(path) == "finished"
    run = Run.open(path, "pretrain", {}, overwrite=True)
    run.add_rows([{"value": 9}])
    run.close()  # interrupted: it may be gone on with
    assert status(path) == "running" and read_rows(path) == [{"value": 9}]
    Run.open(path, "pretrain", {}, resume=True).finish()
    assert status(path) == "finished" and read_rows(path) == [{"value": 9}] and not (path / ".replaced").exists()


def test_the_advice_about_an_interrupted_run_is_a_flag_of_the_verb(tmp_path: Path) -> None:
    import inspect

    import scotoma

    verbs = {name for name in scotoma.__all__[1:] if "resume" in inspect.signature(getattr(scotoma, name)).parameters}
    assert verbs == set(runs.RESUMED)
    path = interrupted(tmp_path / "r")
    with pytest.raises(UsageError, match=r"interrupted run: use --overwrite to start anew"):
        Run.open(path, "evaluate", ARGUMENTS)


ADD = """
import sys; from pathlib import Path; from scotoma.studies.evaluation import replace_rows; from scotoma.run_folder import Run
print('ready', flush=True); sys.stdin.readline()
for k in range(20):
    rows = [{'evaluator': f'e{sys.argv[2]}', 'split': 'test', 'value': k, 'try': i} for i in range(50)]
    replace_rows(Run(Path(sys.argv[1]), {}), rows)
"""


def test_five_writers_at_once_lose_no_row(tmp_path: Path) -> None:
    path = finished(tmp_path / "r")
    given = [[sys.executable, "-c", ADD, str(path), str(k)] for k in range(5)]
    writers = [subprocess.Popen(one, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for one in given]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [w.wait(60) for w in writers] == [0] * 5
    rows = read_rows(path)
    assert rows[0] == {"metric": "loss", "value": 1.0}
    found = sorted((row["evaluator"], row["try"]) for row in rows[1:])
    assert found == sorted((f"e{k}", i) for k in range(5) for i in range(50))
    assert {row["value"] for row in rows[1:]} == {19}
    assert sorted(p.name for p in path.iterdir()) == [".lock", "config.yaml", "rows.jsonl", "status.json"]


def test_a_configuration_without_end_is_refused_in_a_line(tmp_path: Path) -> None:
    """Nine lists of nine names each are 9 ** 9 values; brackets nest without end; and a file can be large."""
    letters = "abcdefghi"
    names = [f"{a}: &{a} [{', '.join([f'*{b}'] * 9) if b else 'x'}]" for a, b in zip(letters, ["", *letters], strict=False)]
    for text, reason in (
        ("\n".join(names), "aliases"),
        ("a: &a\n  b: 1\nc:\n  <<: *a\n", "aliases"),
        ("a: " + "[" * 5000, "no configuration there"),
        ("a: 1\n" + "#" * (1 << 23), "larger"),
        ("\x00", "no configuration there"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UsageError, match=reason) as caught:
            read_config(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_configuration_with_one_list_twice_is_written_without_aliases(tmp_path: Path) -> None:
    shared = ["a"]
    run = Run.open(tmp_path / "run", "study", {"target": shared, "methods": shared, "same": {"x": shared}})
    run.save_config()
    assert read_config(tmp_path / "run")["methods"] == ["a"]
    run.close()
