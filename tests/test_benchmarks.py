"""Scripts under ``benchmarks`` that this machine cannot run in earnest do run, at a small size."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.long
def test_the_script_for_a_gpu_measures_both_sides(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    given = ["--small", "--minutes", "0.05", "--images", "64", "--workers", "1", "--out", str(out)]
    subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py"), *given], check=True, capture_output=True, timeout=900)
    found = json.loads(out.read_text())
    mae, moco, theirs = found["scotoma"]["mae"], found["scotoma"]["moco_v2"], found["lightly_moco_v2"]
    assert found["ratio"] == pytest.approx(moco["images_per_second"] / theirs["images_per_second"])
    share = mae["images_per_second"] * mae["gflops_a_image"] / mae["matmul_gflops"]
    assert 0 < mae["share_of_matmul"] < 1 and mae["share_of_matmul"] == pytest.approx(share)
    tokens, width, depth = 1 + 4, 192, 12  # a quarter of 4 x 4 patches and the class token: three times the forward of its blocks
    least = 3 * depth * (24 * tokens * width**2 + 4 * tokens**2 * width) / 1e9
    assert least < mae["gflops_a_image"] < 2 * least
    assert (tmp_path / "gpu_profile.txt").read_text().count("\n") > 20


@pytest.mark.parametrize(
    ("row", "false"),
    [
        ({"method": "random", "encoder": "vit_tiny_patch16", "value": 0.7}, True),
        ({"method": "random", "encoder": "vit_tiny_patch16", "value": 0.7, "control_of": "mae"}, False),
        ({"method": "random", "encoder": "resnet18", "value": 0.7}, False),
        ({"method": "mae?masking=block", "encoder": "vit_tiny_patch16", "value": 0.1, "reference": "random"}, True),
        ({"method": "mae", "encoder": "vit_tiny_patch16", "value": 0.1, "reference": "random", "over": "patients"}, False),
        ({"method": "simmim", "encoder": "vit_tiny_patch16", "value": 0.1, "reference": "random"}, False),
        ({"method": "mae", "encoder": "vit_tiny_patch16", "value": 0.8}, False),
        ({"method": "mae", "setting": "random weights"}, True),
        ({"method": "simclr", "setting": "random weights"}, False),
        ({"kind": "random weights", "value": 0.7}, True),
        ({"kind": "random", "value": 0.7}, False),
    ],
)
def test_tables_leave_out_rows_of_a_control_that_was_no_network_before_training(
    row: dict[str, object], false: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert importlib.import_module("cells").has_false_control(row) is false
