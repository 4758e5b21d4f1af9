"""Runs of an earlier version (``fixtures/runs``) are read, evaluated and reported as they were by that version."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scotoma.cli import main

RUNS = Path(__file__).parent / "fixtures" / "runs"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runs, with the key under which they were made."""
    shutil.copytree(RUNS, tmp_path / "runs")
    monkeypatch.setenv("SCOTOMA_KEY_FILE", str(tmp_path / "runs" / "key"))
    return tmp_path / "runs"


INTERVAL = ("value", "low", "high", "few", "over")  # which were bootstrapped then
SINCE = ("decision", "protocol", "rule")  # decisions were the most probable class alone; rules were worded otherwise


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    return sorted((row for row in found if row.get("decision") != "threshold"), key=named)


def named(row: dict[str, Any]) -> str:
    """A row without its numbers."""
    return json.dumps({k: v for k, v in row.items() if k not in (*INTERVAL, *SINCE)}, sort_keys=True)


@pytest.mark.parametrize(
    ("name", "more"), [("encoder", ["--target", "cardiomegaly", "--with", "linear,knn"]), ("model", [])], ids=["encoder", "model"]
)
def test_an_older_run_is_evaluated_with_the_same_rows(
    name: str, more: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = runs / "again"
    assert main(["evaluate", str(runs / name), "--data", "phantom:80", "--out", str(out), "--quiet", *more]) == 0
    assert "in the training of" not in capsys.readouterr().err  # the images by which it made its choices are no news
    found, expected = [row for row in rows(out) if row["evaluator"] != "cohort"], rows(runs / f"tested_{name}")
    assert [named(row) for row in found] == [named(row) for row in expected]
    for row, old in zip(found, expected, strict=True):
        if name == "model" and row["evaluator"] == "metrics" and row["metric"] not in ("brier", "ece"):
            continue  # probabilities were rounded to float32 then, in which this model's of all images were tied
        assert row["value"] == pytest.approx(old["value"], abs=1e-4, nan_ok=True), row
        assert row.get("low") is None or row["low"] <= row["value"] <= row["high"]


def test_older_runs_are_reported_with_the_same_tables(runs: Path) -> None:
    names = [str(runs / name) for name in ("encoder", "model", "tested_encoder", "tested_model")]
    assert main(["report", *names, "--out", str(runs / "again.html")]) == 0
    expected = {path.name: list(csv.reader(path.open())) for path in (runs / "page_tables").iterdir()}
    found = {path.name: list(csv.reader(path.open())) for path in (runs / "again_tables").iterdir()}
    for table in (found["index.csv"], expected["index.csv"]):
        table[1:] = [[cell.replace("again_tables", "page_tables") for cell in row] for row in table[1:]]
    # measures of the classifier that stood on no page of before, as an encoder was tested with other shares of labels
    names, *lines = found.pop("metrics.csv")
    assert {line[names.index("metric")] for line in lines} == {"accuracy", "ece", "f1", "mcc", "sensitivity", "specificity"}
    del expected["data_2.csv"]  # counts equal to those of the first are shown once
    # and measures of the pretraining that no page of before showed
    (name,) = (name for name in found if name.startswith("pretraining_costs"))
    names, *lines = found[name]
    found[name] = [
        names,
        *(line for line in lines if line[names.index("metric")] not in ("images", "processes", "seconds_preparing")),
    ]
    for tables in (found, expected):
        tables["index.csv"] = [row for row in tables["index.csv"] if row[0] not in ("metrics.csv", "data_2.csv", name)]
    assert found == expected
