"""The package's shape: the order of packages, no circles, what stays free of heavy imports, how long modules are, their tests."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import scotoma
from scotoma import cli, plugins

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scotoma"
# A package imports only what stands on a line above its own; modules of the first line import one another.
ORDER = (
    (
        "errors",
        "files",
        "processes",
        "arguments",
        "rng",
        "packaged_weights",
        "preflight",
        "distributed",
        "run_folder",
        "result",
        "plugins",
    ),
    ("data",),
    ("transforms", "metrics", "visualization"),
    ("models", "quality"),
    ("methods", "explain", "reporting"),
    ("training",),
    ("tasks",),
    ("evaluators",),
    ("studies",),
    ("serving",),
    ("commands",),
    ("help_page",),
    ("cli",),
    ("__main__",),
)
HEAVY = ("torch", "timm", "lightning", "torchvision")
# Modules whose test has another name: what they do is seen in another module's.
TESTED_BY = {
    "__main__": "test_processes.py",
    "errors": "test_cli.py",
    "plugins": "test_cli.py",
    "commands.list": "test_cli.py",
    "data.patient_rows": "commands/test_purge.py",
    "data.evaluated_images": "commands/test_purge.py",
    "rng": "transforms/test_augmentation.py",
    "distributed.launcher": "distributed/test_collectives.py",
    "commands.find": "commands/test_purge.py",
    "commands.report": "reporting/test_build.py",
    "data.dataset": "data/test_sources.py",
    "data.encoder_header": "models/test_encoders.py",
    "data.modalities": "transforms/test_augmentation.py",
    "data.withdrawal": "commands/test_purge.py",
    "data.io.burned_in_text": "quality/test_findings.py",
    "data.io.dicom": "data/io/test_read.py",
    "data.io.base": "data/io/test_read.py",
    "data.io.dicom_codecs": "data/io/test_conformance.py",
    "data.io.dicom_elements": "data/io/test_bounds.py",
    "data.io.dicom_headers": "data/io/test_read.py",
    "data.io.dicom_phi": "commands/test_audit.py",
    "data.io.dicom_seg": "data/io/test_alignment.py",
    "data.io.geometry": "data/io/test_alignment.py",
    "data.io.levels": "data/io/test_read.py",
    "data.io.raster": "data/io/test_read.py",
    "data.io.tiff": "data/io/test_read.py",
    "data.io.volumes": "data/io/test_read.py",
    "data.labels.delimited": "data/labels/test_spreadsheets.py",
    "data.labels.matching": "data/labels/test_joining.py",
    "data.labels.workbook": "data/labels/test_spreadsheets.py",
    "data.phantom.drawing": "data/phantom/test_phantom.py",
    "data.phantom.radiograph": "data/phantom/test_phantom.py",
    "data.splits.label_draws": "evaluators/test_base.py",
    "data.store.builder": "data/store/test_store.py",
    "data.store.decode_worker": "data/store/test_store.py",
    "evaluators.segmentation": "tasks/test_segmentation.py",
    "evaluators.regression": "tasks/test_regression.py",
    "methods.base": "methods/test_contract.py",
    "methods.parts.inputs": "methods/test_contract.py",
    "metrics.summaries": "evaluators/test_base.py",
    "models.checkpoints": "models/test_pretrained_weights.py",
    "models.features": "training/test_trainer.py",
    "models.linear_probe": "evaluators/test_linear.py",
    "models.precision": "training/test_trainer.py",
    "quality.outliers": "quality/test_findings.py",
    "quality.shortcuts": "quality/test_findings.py",
    "reporting.audit": "commands/test_audit.py",
    "reporting.cells": "reporting/test_build.py",
    "reporting.training": "reporting/test_build.py",
    "reporting.figures": "reporting/test_build.py",
    "reporting.naming": "reporting/test_build.py",
    "reporting.page": "reporting/test_build.py",
    "reporting.provenance": "reporting/test_model_card.py",
    "reporting.reading": "reporting/test_build.py",
    "reporting.sections.base": "reporting/test_plugins.py",
    "reporting.parts": "reporting/test_plugins.py",
    "reporting.sections.explain": "reporting/sections/test_robustness.py",
    "reporting.sections.subgroups": "reporting/sections/test_robustness.py",
    "reporting.sections.retrieval": "reporting/sections/test_segmentation.py",
    "reporting.statements": "reporting/test_model_card.py",
    "reporting.svg": "reporting/test_build.py",
    "studies.evaluation": "commands/test_evaluate.py",
    "data.splits.table_split": "commands/test_split.py",
    "data.store.prepared": "commands/test_prepare.py",
    "models.embedding": "commands/test_embed.py",
    "quality.audit": "commands/test_audit.py",
    "studies.arms": "commands/test_study.py",
    "studies.runner": "commands/test_study.py",
    "studies.summary": "commands/test_study.py",
    "tasks.base": "tasks/test_classification.py",
    "training.callbacks": "training/test_trainer.py",
    "training.ending": "commands/test_finetune.py",
    "training.fsdp": "distributed/test_collectives.py",
    "training.lr_finder": "training/test_trainer.py",
    "training.pretraining": "commands/test_pretrain.py",
    "training.schedule": "training/test_trainer.py",
    "visualization.plots": "commands/test_study.py",
    **{f"transforms.corruptions.{name}": "transforms/test_corruptions.py" for name in ("base", *plugins.names("corruptions"))},
    **{f"explain.attributions.{name}": "explain/test_attributions.py" for name in ("base", *plugins.names("attributions"))},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(p): p for p in sorted(SOURCE.rglob("*.py"))}


def level(module: str) -> int:
    return next(i for i, packages in enumerate(ORDER) if module.split(".")[0] in packages)


def imported(path: Path) -> set[str]:
    """Scotoma's modules that a file imports anywhere, inside functions too; not what is for the type checker alone."""
    tree = ast.parse(path.read_text())
    checks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    ignored = {id(inner) for check in checks for inner in ast.walk(check)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("scotoma.") for a in node.names if a.name.startswith("scotoma.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "scotoma":
            package = node.module.removeprefix("scotoma").lstrip(".")
            for alias in node.names:
                inner = f"{package}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else package)
    return found - {""}


IMPORTS = {module: imported(path) for module, path in MODULES.items()}


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_a_package_imports_only_packages_before_it(module: str) -> None:
    package = module.split(".")[0]
    others = {other for other in IMPORTS[module] if other.split(".")[0] != package}
    assert {other for other in others if level(other) >= level(module)} <= {o for o in others if level(o) == level(module) == 0}


def test_no_circle_of_imports() -> None:
    waiting = {module: set(others) & set(MODULES) for module, others in IMPORTS.items()}
    while free := [module for module, others in waiting.items() if not others & set(waiting)]:
        for module in free:
            del waiting[module]
    assert not waiting


def test_packages_hold_no_imports() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module:
            assert not IMPORTS[module], module


def test_nothing_directly_in_the_package_has_a_verbs_name() -> None:
    """Python would bind it over the verb: every module is imported, and then each verb is still a function."""
    for module in MODULES:
        if module != "__main__":
            importlib.import_module(f"scotoma.{module}".rstrip("."))
    for verb in (v for v in cli.VERBS if v != "list"):
        assert getattr(scotoma, verb) is cli.function_of(verb) and verb in dir(scotoma)


@pytest.mark.parametrize(
    "statement",
    [
        "import scotoma.data.io.read",
        "import scotoma.data.store.decode_worker",
        "import scotoma.data.store.store, scotoma.data.splits.splits, scotoma.data.labels.targets, scotoma.run_folder",
        "import scotoma.data.datamodule, scotoma.data.encoder_header",
        "from scotoma.cli import main; assert main(['--help']) == 0",
        "from scotoma.cli import main; assert main(['list', 'methods']) == 0",
        "import scotoma.reporting.build",
    ],
)
def test_starts_without_torch(statement: str) -> None:
    heavy = f"[m for m in {HEAVY} if m in sys.modules]"
    check = f"import sys; {statement}; found = {heavy}; sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v not in ("pretrain", "finetune")])
def test_help_imports_nothing_heavy(verb: str) -> None:
    """Not even numpy, but for the verbs whose methods have arguments of their own."""
    heavy = ("numpy", "pandas", *HEAVY)
    found = f"str([m for m in {heavy} if m in sys.modules] or 0)"
    check = f"import sys; from scotoma.cli import main; main([{verb!r}, '--help']); sys.exit({found})"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0", done.stderr


def test_commands_import_nothing_heavy_for_the_type_checker_either() -> None:
    """The parser of flags runs these blocks."""
    for module, path in MODULES.items():
        if module.startswith("commands."):
            assert "TYPE_CHECKING" not in path.read_text(), module


def test_decoding_processes_and_help_start_without_pandas() -> None:
    for statement in ("import scotoma.data.store.decode_worker", "from scotoma.cli import main; main(['--help'])"):
        check = f"import sys; {statement}; sys.exit('pandas' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", check], stdout=subprocess.DEVNULL, check=False).returncode == 0, statement


def test_no_module_is_long() -> None:
    lengths = {m: len(p.read_text().splitlines()) for m, p in MODULES.items()}
    assert {m: n for m, n in lengths.items() if n > 400} == {}


def test_every_module_has_its_test() -> None:
    tests = ROOT / "tests"
    expected = {
        m: TESTED_BY.get(m) or str(Path(*m.split(".")[:-1], f"test_{m.split('.')[-1]}.py"))
        for m, p in MODULES.items()
        if p.name != "__init__.py"
    }
    assert {m: t for m, t in expected.items() if not (tests / t).exists()} == {}
    assert {m for m in TESTED_BY if (tests / Path(*m.split(".")[:-1], f"test_{m.split('.')[-1]}.py")).exists()} == set()
