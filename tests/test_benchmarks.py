"""Scripts under ``benchmarks`` that this machine cannot run in earnest do run, at a small size."""

from __future__ import annotations

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
