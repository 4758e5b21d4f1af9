"""What needs no data is refused before data are read; a finished run that is gone on with is no failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scotoma import preflight
from scotoma.cli import main
from scotoma.data import datamodule, sources
from scotoma.errors import UsageError
from scotoma.run_folder import Run, status
from scotoma.training import resuming


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a finished and an interrupted run of a verb, where whoever loads data fails."""

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr(sources, "load", read)
    monkeypatch.chdir(tmp_path)
    Run.open(Path("done"), "audit", {}).finish()
    begun = Run.open(Path("begun"), "audit", {})
    begun.add_rows([{"evaluator": "data", "metric": "images", "value": 1}])
    begun.close()
    Path("empty").mkdir()
    return tmp_path


HOLDS, NOTHING = "holds a finished run", "there is no such folder or file"
STUDY = ("study", "--data", "x.csv", "--target", "label")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("evaluate", "runs/nonesuch", "--data", "x.csv"), NOTHING),
        (("evaluate", "empty", "--data", "x.csv", "--out", "new"), "no encoder.safetensors or model.safetensors there"),
        (("evaluate", "done", "--data", "x.csv", "--with", "linaer"), "did you mean"),
        (("embed", "runs/nonesuch", "--data", "x.csv"), NOTHING),
        (("report", "runs/nonesuch"), "runs/nonesuch"),
        (("finetune", "--data", "x.csv", "--target", "label", "--encoder", "runs/nonesuch"), NOTHING),
        (("pretrain", "--data", "x.csv", "--init", "runs/nonesuch"), NOTHING),
        (("pretrain", "--data", "x.csv", "--method", "simclrr"), "did you mean"),
        (("pretrain", "--data", "x.csv", "--encoder", "resnet1888", "--out", "new"), "unknown encoder"),
        (("pretrain", "--data", "x.csv", "--out", "done"), HOLDS),
        (("pretrain", "--data", "x.csv", "--out", "begun"), "use --resume to continue"),
        ((*STUDY, "--methods", "simclr", "--controls", "runs/nonesuch"), NOTHING),
        ((*STUDY, "--methods", "simclr", "--out", "done"), HOLDS),
        ((*STUDY, "--methods", "simclrr"), "did you mean"),
        (("audit", "x.csv", "--out", "done"), HOLDS),
    ],
)
def test_what_needs_no_data_is_refused_before_any_is_read(
    no_data: Path, arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 2
    assert told in capsys.readouterr().err
    assert not Path("new").exists()


def test_nothing_heavy_is_imported_for_it() -> None:
    run = "from scotoma.cli import main; import sys; code = main({}); print(code, 'torch' in sys.modules, 'timm' in sys.modules)"
    for arguments in (["evaluate", "nonesuch", "--data", "x"], ["embed", "nonesuch", "--data", "x"]):
        done = subprocess.run([sys.executable, "-c", run.format(arguments)], capture_output=True, text=True, check=True)
        assert done.stdout == "2 False False\n", arguments


def test_a_finished_run_is_done_where_arguments_and_data_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    run = Run.open(out, "pretrain", {"steps": 5, "encoder": None, "seed": 0})
    run.save_config(encoder="resnet10t", resolved=["encoder"])
    pd.DataFrame({"pixels": ["a", "b"], "split": ["1", "1"]}).to_parquet(out / "data.parquet")
    run.finish()
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    given = {"steps": 5, "encoder": None, "seed": 0}
    assert preflight.is_finished(out, "pretrain", given, False, True)
    assert not preflight.is_finished(out, "pretrain", given, True, True)
    assert not preflight.is_finished(out, "pretrain", given, False, False)
    for changed, told in (({"steps": 6}, "the finished run had steps 5, not 6"), ({"seed": 1}, "seed 0, not 1")):
        with pytest.raises(UsageError, match=told):
            preflight.is_finished(out, "pretrain", given | changed, False, True)
    with pytest.raises(UsageError, match="command 'pretrain', not 'study'"):
        preflight.is_finished(out, "study", given, False, True)
    for pixels in (["a", "b"], ["a", "z"]):
        monkeypatch.setattr(resuming, "state", lambda *_, p=pixels: pd.DataFrame({"pixels": p, "split": ["1", "1"]}))
        if pixels == ["a", "b"]:
            assert resuming.confirm_finished(out, SimpleNamespace(dataset=None)) == out  # type: ignore[arg-type]
            assert capsys.readouterr().err == "r: `resume`: the run is finished, with these arguments: nothing to do\n"
        else:
            with pytest.raises(UsageError, match="1 image changed"):
                resuming.confirm_finished(out, SimpleNamespace(dataset=None))  # type: ignore[arg-type]
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert status(out) == "finished"


def test_a_requeued_pretraining_that_had_ended_exits_well(
    grey_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = grey_folder(12), tmp_path / "r"
    command = ["pretrain", "--data", str(data), "--size", "32", "--steps", "2", "--out", str(out), "--resume", "--quiet"]
    command += ["--encoder", "resnet10t", "--batch_size", "4"]
    assert main(command) == 0
    before = (out / "encoder.safetensors").read_bytes()
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "nothing to do" in said.err
    assert (out / "encoder.safetensors").read_bytes() == before
    monkeypatch.setattr(datamodule.table, "load", lambda *_, **__: pytest.fail("data were read"))
    assert main([*command, "--seed", "3"]) == 2
    assert "the finished run had seed 0, not 3" in capsys.readouterr().err
    assert np.isfinite(len(before))
