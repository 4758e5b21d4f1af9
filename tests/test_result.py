"""What a verb returns is the path of its run folder, with its results."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from scotoma.errors import UsageError
from scotoma.result import Rows, RunResult


def test_a_result_is_a_path_with_metrics_weights_and_a_table(tmp_path: Path) -> None:
    rows = [
        {"evaluator": "data", "metric": "images", "value": 3},
        {"evaluator": "metrics", "metric": "auroc", "value": 0.8},
        {"evaluator": "metrics", "metric": "auroc", "value": 0.1, "class": "a"},
        {"evaluator": "metrics", "metric": "auroc", "value": 0.2, "subgroup": "F"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = RunResult(tmp_path)
    assert run == tmp_path and os.fspath(run) == str(tmp_path) and run / "x" == tmp_path / "x"
    assert type(run.path) is type(tmp_path)
    assert run.metrics == {"auroc": 0.8}
    assert list(run.rows["value"]) == [3, 0.8, 0.1, 0.2]
    with pytest.raises(UsageError, match=r"no encoder\.safetensors or model\.safetensors"):
        run.encoder  # noqa: B018
    (tmp_path / "encoder.safetensors").write_bytes(b"x")
    assert run.encoder == tmp_path / "encoder.safetensors"


def test_a_metric_with_several_values_is_refused_not_chosen(tmp_path: Path) -> None:
    rows = [{"evaluator": "metrics", "metric": "auroc", "value": value, "fraction": value} for value in (0.1, 0.8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match="auroc has several values here"):
        RunResult(tmp_path).metrics  # noqa: B018


def test_the_short_table_has_the_headlines_of_each_evaluator() -> None:
    row = {"evaluator": "linear", "metric": "auroc", "value": np.float64(0.8), "low": 0.7, "high": 0.9, "n": 30}
    group = {"evaluator": "subgroups", "column": "site"}
    patient = {"evaluator": "operating", "unit": "patient", "aggregation": "mean", "value": None, "low": None, "few": True}
    rows = Rows([
        {"evaluator": "data", "metric": "images", "value": 3},
        row | {"fraction": 0.1}, row | {"seed": 1}, row | {"class": "a"},
        *(row | {"metric": name} for name in "bcdef"),
        *(row | group | {"subgroup": name, "metric": m} for name in "AB" for m in ("auroc", "brier")),
        row | patient, row | {"evaluator": "operating", "metric": "net_benefit", "class": "x"},
        *(row | {"evaluator": "operating", "metric": "sensitivity", "class": f"k{k}", "threshold": 0.5} for k in range(13)),
    ])  # fmt: skip
    assert [" ".join(line.split()) for line in rows.summary.splitlines()[:9]] == [
        "evaluator metric value 95 % interval n",
        "linear auroc at 10% of the labels 0.800 0.700 to 0.900 30",
        "linear b 0.800 0.700 to 0.900 30",
        "linear c 0.800 0.700 to 0.900 30",
        "linear d 0.800 0.700 to 0.900 30",
        "subgroups auroc site A 0.800 0.700 to 0.900 30",
        "subgroups auroc site B 0.800 0.700 to 0.900 30",
        "operating auroc by patient (mean) (too few) - 30",
        "operating sensitivity k0 0.800 0.700 to 0.900 30",
    ]
    assert len({line.index("0.800") for line in rows.summary.splitlines() if "0.800" in line}) == 1  # in columns
    assert rows.summary.splitlines()[-1] == "operating  and 2 more"
    rows.note = "rows: 30"
    assert rows.summary.splitlines()[-2:] == ["operating  and 2 more", "rows: 30"]


def test_metrics_are_those_of_the_test_set_where_there_is_one() -> None:
    rows = Rows([
        {"evaluator": "finetune", "metric": "loss", "value": 9.0, "split": "train"},
        {"evaluator": "finetune", "metric": "auroc", "value": 0.7, "split": "val"},
    ])  # fmt: skip
    assert rows[:1] and Rows(rows[:1]).metrics == {"loss": 9.0}
    assert rows.metrics == {"auroc": 0.7}
    assert Rows([*rows, {"evaluator": "metrics", "metric": "auroc", "value": 0.6, "split": "test"}]).metrics == {"auroc": 0.6}
