"""What a verb returns is the path of its run folder, with its results."""

from __future__ import annotations

import json
import os
from pathlib import Path

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


def test_metrics_are_those_of_the_test_set_where_there_is_one() -> None:
    rows = Rows([
        {"evaluator": "finetune", "metric": "loss", "value": 9.0, "split": "train"},
        {"evaluator": "finetune", "metric": "auroc", "value": 0.7, "split": "val"},
    ])  # fmt: skip
    assert rows[:1] and Rows(rows[:1]).metrics == {"loss": 9.0}
    assert rows.metrics == {"auroc": 0.7}
    assert Rows([*rows, {"evaluator": "metrics", "metric": "auroc", "value": 0.6, "split": "test"}]).metrics == {"auroc": 0.6}
