"""Tables in the docs are what the rows of results say; scripts under ``benchmarks`` can be run, one for a GPU at a small size."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
DOCS = BENCHMARKS.parent / "docs"
PAGES = [path for path in [*DOCS.glob("**/*.md"), BENCHMARKS.parent / "README.md"] if "\n<!-- table " in path.read_text()]
BESIDE = ("lightly_side", "lightly_start", "other_sides", "quality")  # import what Scotoma is measured beside


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes tables."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("tables")


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda path: path.name)
def test_tables_in_the_docs_are_those_of_the_rows(page: Path, tables: ModuleType) -> None:
    """What ``python benchmarks/tables.py check`` does."""
    text = page.read_text()
    assert tables.filled(text) == text, "python benchmarks/tables.py write"


def test_a_table_edited_by_hand_or_another_row_is_found(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / "results" / "segmentation.md").read_text()
    assert tables.filled(text.replace("| 0.902 [", "| 0.903 [", 1)) == text  # the rows are right
    changed = {"data": "lungs", "method": "random", "fraction": 0.1, "metric": "dice"}
    rows = sys.modules["cells"].read_all("evidence_segmentation")
    (row,) = [r for r in rows if changed.items() <= r.items() and r.get("seed") is None]
    row["value"] = 0.942
    shutil.copy(tables.RESULTS / "older.json", tmp_path)
    (tmp_path / "evidence_segmentation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.setattr(sys.modules["cells"], "RESULTS", tmp_path)
    assert tables.filled(text) == text.replace("| 0.902 [", "| 0.942 [", 1)


def test_rows_of_today_do_not_mix_with_those_of_an_earlier_version(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells: Any = sys.modules["cells"]
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    days = dict.fromkeys(("methods", "hiding"), "2026-11-22")
    (tmp_path / "older.json").write_text(json.dumps({"version": "0.1.0", "files": days}))
    (tmp_path / "methods.jsonl").write_text('{"method": "byol", "value": 0.5}\n')
    assert "Measured with Scotoma 0.1.0 of 2026-11-22" in cells.note("methods")
    new = {"method": "random", "control_of": "mae", "encoder": "vit_tiny_patch8", "value": 0.6}
    cells.write("methods", [*cells.read_new("methods"), new])
    assert cells.read("methods") == cells.read_new("methods") == [new] and cells.note("methods") == ""
    assert json.loads((tmp_path / "older.json").read_text())["files"] == {"hiding": "2026-11-22"}
    assert cells.name_of(new | {"control_of": "mae,simmim"}) == "random weights of MAE, SimMIM"


def test_every_method_stands_beside_its_own_control(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls that are the same network share a line; a difference over too few draws has no interval."""
    monkeypatch.setattr(sys.modules["cells"], "RESULTS", tmp_path)
    (tmp_path / "older.json").write_text('{"version": "0.1.0", "files": {}}')
    common = {"evaluator": "linear", "encoder": "resnet18", "metric": "auroc", "fraction": 0.1}
    rows: list[dict[str, Any]] = []
    for method, of_control in (("simclr", 0.6), ("vicreg", 0.6), ("byol", 0.5)):
        control = {"method": "random", "control_of": method, "value": of_control, "low": 0.4, "high": 0.7}
        difference = {
            "metric": "auroc_difference",
            "value": 0.7 - of_control,
            "low": math.nan,
            "high": math.nan,
            "reference": "random",
        }
        rows += [common | control, common | {"method": method, "value": 0.7, "low": 0.6, "high": 0.8}]
        rows += [common | {"method": method} | difference]
    sys.modules["cells"].write("methods", rows)
    lines = tables.methods_table().splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [
        "| random weights of BYOL", "| random weights of SimCLR, VICReg", "| BYOL", "| SimCLR", "| VICReg",
    ]  # fmt: skip
    assert lines[2].startswith("| BYOL | resnet18 | 0.700 [0.600, 0.800] | +0.200 |")
    assert lines[1].startswith("| random weights of SimCLR, VICReg | resnet18 | 0.600 [0.400, 0.700] |  |")


@pytest.mark.parametrize("script", sorted({p.stem for p in BENCHMARKS.glob("*.py")} - set(BESIDE)))
def test_scripts_are_imported(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = importlib.util.spec_from_file_location(f"script_{script}", BENCHMARKS / f"{script}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)
    found.loader.exec_module(module)


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
