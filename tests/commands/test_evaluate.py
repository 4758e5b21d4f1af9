"""What ``evaluate`` does with evaluators that refuse, fail or draw; what they compute is tested beside each."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from scotoma import files
from scotoma.cli import TRACEBACK, main
from scotoma.commands.evaluate import evaluate
from scotoma.commands.finetune import finetune
from scotoma.commands.pretrain import pretrain
from scotoma.commands.report import report
from scotoma.data import encoder_header, sources
from scotoma.data.datamodule import data_rows, gather
from scotoma.data.labels import targets
from scotoma.data.splits.splits import Split
from scotoma.errors import RunError, UsageError
from scotoma.evaluators import knn, majority
from scotoma.reporting import statements
from scotoma.run_folder import read_rows, status
from scotoma.studies.evaluation import warn_other_classes


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "encoder"
    return pretrain("phantom:150", out=out, size=16, encoder="resnet10t", steps=1, batch_size=8, precision="32-true", quiet=True)


def said(folder: Path) -> set[str]:
    return {row["evaluator"] for row in read_rows(folder)} - {"cohort"}  # about the data, as "data" is


def measured(run: Path, names: list[str], **more: Any) -> list[dict[str, Any]]:
    return evaluate(run, "phantom:150", names, ["cardiomegaly"], quiet=True, **more)


def test_one_that_refuses_leaves_the_rows_of_the_others(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = f"evaluate {encoder} --data phantom:150 --target cardiomegaly --with metrics,knn,operating,majority --out {out} --quiet"
    assert main(line.split()) == 2
    *_, text = capsys.readouterr().err.splitlines()
    assert text.count("needs a classifier") == 1 and text.endswith(f"(the rows of knn, majority are in {out})")
    assert said(out) == {"data", "knn", "majority"} and status(out) == "finished"
    rows = read_rows(out)
    assert len({json.dumps(row, sort_keys=True) for row in rows}) == len(rows)


def test_where_all_refuse_nothing_is_written(encoder: Path, tmp_path: Path) -> None:
    before = (encoder / "rows.jsonl").read_bytes()
    for out in (tmp_path / "out", None):
        with pytest.raises(UsageError, match=r"or use `evaluators` linear on an encoder$"):
            measured(encoder, ["metrics"], out=out)
    assert not (tmp_path / "out").exists() and (encoder / "rows.jsonl").read_bytes() == before


def test_a_full_disk_leaves_the_rows_so_far(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> list[dict[str, Any]]:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(knn, "evaluate", fail)
    with pytest.raises(OSError, match="full"):
        measured(encoder, ["majority", "knn", "header"], out=tmp_path / "out")
    assert said(tmp_path / "out") == {"data", "majority"} and status(tmp_path / "out") == "running"


@pytest.mark.parametrize("error", [RunError("none of the masks can be read"), FileNotFoundError(errno.ENOENT, "gone")])
def test_what_one_alone_cannot_read_takes_nothing_from_the_others(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: object) -> list[dict[str, Any]]:
        raise error

    monkeypatch.setattr(knn, "evaluate", fail)
    with pytest.raises(type(error)):
        measured(encoder, ["knn", "majority"], out=tmp_path / "out")
    assert said(tmp_path / "out") == {"data", "majority"} and status(tmp_path / "out") == "finished"


def test_data_that_one_cannot_do_with_and_a_figure_that_fails_take_nothing_from_the_others(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise UsageError("no column divides these rows")

    def fail(*_: object) -> None:
        raise ValueError("no backend")

    monkeypatch.setattr(knn, "require_data", refuse, raising=False)
    with pytest.raises(UsageError, match=r"no column divides these rows \(the rows of majority, header are in"):
        measured(encoder, ["majority", "knn", "header"], out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"no column divides these rows$"):
        measured(encoder, ["knn"], out=tmp_path / "alone")
    assert not (tmp_path / "alone").exists()
    monkeypatch.setattr(majority, "figures", fail, raising=False)
    with pytest.raises(ValueError, match="no backend"):
        measured(encoder, ["majority", "header"], out=tmp_path / "drawn")
    assert said(tmp_path / "drawn") == {"data", "majority", "header"} and status(tmp_path / "drawn") == "finished"
    assert "majority failed; the rows of majority, header are in" in capsys.readouterr().err


def test_one_that_fails_unforeseen_takes_nothing_from_the_others(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> list[dict[str, Any]]:
        raise ValueError("a cell of patient 7")

    measured(encoder, ["linear"], out=tmp_path / "out")
    monkeypatch.setattr(knn, "evaluate", fail)
    with pytest.raises(ValueError, match="patient 7"):
        measured(encoder, ["majority", "knn", "header", "metrics"], out=tmp_path / "out", overwrite=True)
    assert said(tmp_path / "out") == {"data", "majority", "header"} and status(tmp_path / "out") == "finished"
    *_, text = capsys.readouterr().err.splitlines()
    assert (
        text.endswith(f"`evaluators` knn failed; the rows of majority, header are in {tmp_path / 'out'}") and "7" not in text[:40]
    )


def test_a_finished_run_is_refused_before_anything_is_computed(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(encoder, ["majority"], out=tmp_path / "out")
    monkeypatch.setattr(majority, "evaluate", lambda _: pytest.fail("computed"))
    with pytest.raises(UsageError, match="holds a finished run"):
        measured(encoder, ["majority"], out=tmp_path / "out")


def test_figures_are_drawn_once_the_rows_are_there(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(knn, "figures", lambda context, run: seen.append((context.keep_identity, said(run.path))), raising=False)
    measured(encoder, ["majority", "knn"], out=tmp_path / "out", keep_identity=True)
    assert [(keep, "knn" in names) for keep, names in seen] == [(True, True)]
    measured(encoder, ["knn"])  # into the encoder's own run
    assert seen[1][0] is False and {"pretrain", "knn"} <= seen[1][1]


def test_retrieval_from_the_command_line(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = f"evaluate {encoder / encoder_header.FILE} --data phantom:150 --target cardiomegaly --with retrieval --out {out} --quiet"
    assert main(line.split()) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^retrieval +map +0\.\d{3} +0\.\d{3} to 0\.\d{3} +30$", printed, re.MULTILINE), printed
    assert {p.name for p in (out / "figures").glob("*.png")} == {"retrieval.png", "retrieval-map.png"}


def test_a_finished_model_is_tested_on_all_of_a_table_it_has_never_seen(encoder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    model = finetune("phantom:150", ["cardiomegaly"], encoder, out=tmp_path / "model", steps=1, quiet=True)
    capsys.readouterr()
    rows = evaluate(model, "phantom:60:5", out=tmp_path / "outside", quiet=True)
    assert next(r for r in rows if r["metric"] == "auroc")["n"] == 60
    assert "phantom: tested on 60 labelled images: all rows" in capsys.readouterr().err
    about = {r["metric"]: r for r in read_rows(tmp_path / "outside") if r["evaluator"] == "data" and r.get("class") is None}
    assert (about["tested"]["value"], about["tested"]["n"]) == (60, 60)
    evaluate(model, "phantom:60:5", out=tmp_path / "part", split="test", quiet=True)
    assert "of a drawn split" in capsys.readouterr().err
    inside = evaluate(model, "phantom:150", out=tmp_path / "inside", quiet=True)
    assert 20 <= next(r for r in inside if r["metric"] == "auroc")["n"] <= 40
    with pytest.raises(UsageError, match="`split` all leaves no rows to train on"):
        evaluate(encoder, "phantom:60:5", target=["cardiomegaly"], split="all", quiet=True)


def test_patients_of_the_training_are_left_out_of_an_external_test_and_counted(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = finetune("phantom:150", ["cardiomegaly"], encoder, out=tmp_path / "model", steps=1, quiet=True)
    mine, other = (sources.read(name).table.drop(columns="mask_path") for name in ("phantom:150", "phantom:60:5"))
    used = pd.read_parquet(model / "used.parquet")
    known = mine[(used["split"] != "test").to_numpy()][:12]
    capsys.readouterr()
    table = pd.concat([other.assign(patient=[f"other {p}" for p in other["patient"]]), known], ignore_index=True)
    rows = evaluate(model, table, out=tmp_path / "external", quiet=True)
    assert (
        "table: tested on 60 labelled images: all rows but 12, which are left out: they or their patients"
        in capsys.readouterr().err
    )
    assert next(r for r in rows if r["metric"] == "auroc")["n"] == 60
    about = [r for r in read_rows(tmp_path / "external") if r["evaluator"] == "data"]
    assert [(r["value"], r["n"]) for r in about if r["metric"] == "left_out"] == [(12, 72)]
    assert {r["split"] for r in about if r["metric"] == "images"} == {"test"}
    page = report([tmp_path / "external"])
    assert (
        "Tested: 60 labelled images (all rows but 12, which are left out). Left out: 12 of 72 images (they or their"
        in page.read_text()
    )

    is_ill = table["cardiomegaly"].astype(float) == 1
    hidden = table[~is_ill | table.index.isin(range(60, 72))]
    ill = int((is_ill & (table.index >= 60)).sum())
    with pytest.raises(
        UsageError, match=f"class '1' has no row left to test: its {ill} rows are left out, as they or their patients"
    ):
        evaluate(model, hidden, out=tmp_path / "none", quiet=True)
    with pytest.raises(UsageError, match=r"none of 12 images is left to test \(.*12, which are left out"):
        evaluate(model, known.assign(image_path=other["image_path"][:12].tolist()), out=tmp_path / "none", quiet=True)


def test_predictions_are_kept_and_give_the_rows_again(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = measured(encoder, ["linear", "majority"], out=out, fractions=[0.5, 1.0], seeds=2)
    kept = pd.read_parquet(out / "predictions" / "linear.parquet")
    assert list(kept.columns[:6]) == ["row", "patient", "content", "split", "fraction", "seed"]
    assert list(kept.columns[6:]) == ["label", "probability_0", "probability_1"] and set(kept["split"]) == {"test"}
    tested = pd.read_parquet(out / "tested.parquet")
    assert kept["content"].isin(tested["content"]).all() and kept["patient"].isin(tested["patient"]).all()
    assert {p.name for p in (out / "predictions").iterdir()} == {"linear.parquet", "majority.parquet"}
    for row in rows:
        if row["evaluator"] == "linear" and row["metric"] == "auroc" and "seed" in row:
            one = kept[(kept["fraction"] == row["fraction"]) & (kept["seed"] == row["seed"])]
            assert len(one) == 30 and one["row"].is_unique
            assert row["value"] == pytest.approx(roc_auc_score(one["label"] == "1", one["probability_1"]))
    model = finetune("phantom:150", ["cardiomegaly"], encoder, out=tmp_path / "model", steps=1, quiet=True)
    (auroc,) = [r["value"] for r in evaluate(model, "phantom:150", quiet=True) if r["metric"] == "auroc" and "class" not in r]
    one = pd.read_parquet(model / "predictions" / "metrics.parquet")
    assert auroc == pytest.approx(roc_auc_score(one["label"] == "1", one["probability_1"]))


def test_classes_that_a_model_does_not_know_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"image_path": [f"{k}.png" for k in range(7)], "dx": ["a", "b", "c", "c", None, "d", "c"]})
    dataset = sources.load(frame)
    split = Split(np.array(["test"] * 6 + ["train"]), np.arange(7), "image", made=False)
    data_module = SimpleNamespace(dataset=dataset, split=split, target=targets.read(dataset, ["dx"], ["a", "b"]))
    warn_other_classes(data_module)
    assert "3 of 6 test images have another class than the model's (a, b): not tested" in capsys.readouterr().err
    data_module.target = targets.read(dataset, ["dx"])
    warn_other_classes(data_module)
    assert capsys.readouterr().err == ""


def test_a_table_that_the_run_knows_whole_leaves_none_to_test(encoder: Path, tmp_path: Path) -> None:
    model = finetune("phantom:150", ["cardiomegaly"], encoder, out=tmp_path / "model", steps=1, quiet=True)
    used = pd.read_parquet(model / "used.parquet")
    used.assign(split="train").to_parquet(model / "used.parquet")
    with pytest.raises(UsageError, match=r"none of 150 images is left to test \(.* own split\): .* that it has not seen"):
        evaluate(model, "phantom:150", out=tmp_path / "out", quiet=True)


def test_rows_of_another_test_do_not_take_the_place_of_those_of_a_run(encoder: Path, tmp_path: Path) -> None:
    """Another target, or other images, would put their rows where the first ones stood; the same images once more may."""
    run = tmp_path / "run"
    shutil.copytree(encoder, run)
    measured(run, ["majority"])
    before = read_rows(run)
    for data, target in (("phantom:150", "view"), ("phantom:150:7", "cardiomegaly")):
        with pytest.raises(
            UsageError, match="of a test on other images or of another target: name a run folder for these with `out`"
        ):
            evaluate(run, data, ["majority"], [target], quiet=True, allow_leakage=True)
        assert read_rows(run) == before
        assert evaluate(
            run, data, ["majority"], [target], out=tmp_path / data.replace(":", "-") / target, quiet=True, allow_leakage=True
        )
    measured(run, ["majority"])
    assert read_rows(run) == before


@pytest.mark.long
def test_five_evaluations_of_one_run_at_once_lose_no_row(encoder: Path, tmp_path: Path) -> None:
    """Each adds the rows of its own evaluator to the run; one whose rows are the same replaces them."""
    names = ["knn", "majority", "retrieval", "pixels", "knn"]
    alone, together = tmp_path / "alone" / "run", tmp_path / "together" / "run"  # rows hold the run's name
    for copy in (alone, together):
        shutil.copytree(encoder, copy)
    command = [sys.executable, "-m", "scotoma.cli", "evaluate", "--quiet", "--data", "phantom:150", "--target", "cardiomegaly"]
    running = [subprocess.Popen([*command, str(together), "--with", name]) for name in names]
    for name in dict.fromkeys(names):
        assert subprocess.run([*command, str(alone), "--with", name], check=False).returncode == 0
    assert [process.wait(300) for process in running] == [0] * 5

    found, expected = (sorted(json.dumps(row, sort_keys=True) for row in read_rows(run)) for run in (together, alone))
    assert found == expected and status(together) == "finished"
    assert [p.name for p in together.iterdir() if p.name.endswith(files.NEW)] == []


def test_leakage_that_was_allowed_is_in_the_rows_and_in_the_card(grey_folder) -> None:  # type: ignore[no-untyped-def]
    frame = sources.load(grey_folder(8)).table.assign(patient=[f"p{k // 2}" for k in range(16)], split=["train", "test"] * 8)
    for of, shared in ((frame["split"], 8), (["train"] * 8 + ["test"] * 8, 0)):
        made = gather(data=frame.assign(split=of), target=["label"], size=16, allow_leakage=True, quiet=True)
        rows = [{**row, "run": "r"} for row in data_rows(made)]
        assert sum(r["value"] for r in rows if r["metric"] == "shared_between_sides") == shared
        told = statements._data(pd.DataFrame(rows), False, [])["split"]
        assert told == ("By patient; but the run allows leakage." if shared else "By patient: none is in two sets.")


def test_subgroups_of_data_without_any_are_refused_and_the_others_kept(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scotoma.evaluators.subgroups._columns", lambda _: {})
    for names, there in ((["subgroups"], False), (["subgroups", "majority"], True)):
        with pytest.raises(UsageError, match=r"needs a column that divides the test rows .* or leave subgroups out"):
            measured(encoder, names, out=tmp_path / "out")
        assert (tmp_path / "out").exists() == there
    assert said(tmp_path / "out") == {"data", "majority"}


def test_the_short_table_is_printed_beside_what_failed(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> list[dict[str, Any]]:
        raise ValueError("a cell of patient 7")

    monkeypatch.setattr(knn, "evaluate", fail)
    monkeypatch.delenv(TRACEBACK, raising=False)
    given = ["evaluate", str(encoder), "phantom:150", "--target", "cardiomegaly", "--quiet", "--out", str(tmp_path / "out")]
    assert main([*given, "--with", "majority,knn"]) == 1
    told = capsys.readouterr()
    first, *lines, _, _ = told.out.splitlines()
    whole = [r for r in read_rows(tmp_path / "out") if r.get("seed") is None and not r.get("class")]
    (auroc,) = (r for r in whole if r["metric"] == "auroc")
    assert first.split() == ["evaluator", "metric", "value", "95", "%", "interval", "n"]
    assert any(line.split()[:2] == ["majority", "auroc"] and f" {auroc['value']:.3f} " in line for line in lines)
    assert "--with knn failed; the rows of majority are in" in told.err and "patient 7" not in told.out + told.err
    assert main([*given[:-1], str(tmp_path / "none"), "--with", "knn"]) == 1 and capsys.readouterr().out == ""
