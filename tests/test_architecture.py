"""The package's shape: who imports whom, what stays free of torch, how long modules are, and that each has its test."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scotoma"
# One line a layer: a module imports only modules of the layers above its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("files", "processes", "encoder_header", "encoder_shapes"),
    ("arguments", "plugins", "launch", "across", "cpu"),
    ("data.identity", "data.fields", "data.sampling", "data.stratify", "data.readings", "data.phi"),
    ("data.delimited", "data.workbook"),
    ("data.sheets",),
    ("data.columns", "data.matching"),
    ("data.joining",),
    ("provenance",),
    ("data.classes",),
    ("data.formats.base",),
    ("data.formats.levels",),
    ("data.formats.codecs", "data.formats.elements", "data.formats.geometry", "data.formats.headers"),
    ("data.formats.dicom", "data.formats.tiff"),
    ("data.formats.*",),
    ("data.radiograph", "data.text_detector"),
    ("data.phantom",),
    ("data.images", "data.hashes"),
    ("data.alignment",),
    ("data.known", "data.folders"),
    ("data.table",),
    ("data.slices",),
    ("data.datasets.base",),
    ("data.datasets.*",),
    ("data.levelling",),
    ("data.decode",),
    ("data.looking",),
    ("data.building", "data.caches"),
    ("data.store",),
    ("data.targets", "data.regions"),
    ("data.duplicates",),
    ("data.copies", "data.cohort", "data.lettering", "data.shortcuts"),
    ("data.oddities",),
    ("data.units", "data.determined"),
    ("data.splits",),
    ("data.audit",),
    ("run",),
    ("preflight",),
    ("views",),
    ("partners", "corruptions", "mixing"),
    ("masks",),
    ("encoders", "checkpoints"),
    ("initial", "decoders", "sharding"),
    ("nets",),
    ("losses",),
    ("methods.base",),
    ("attention", "hiding", "inpainting"),
    ("methods.*",),
    ("lookalikes", "evaluated_images"),
    ("material",),
    ("label_columns",),
    ("metrics", "overlap", "resuming"),
    ("comparisons",),
    ("confounding", "drawing", "decisions", "extrapolation", "overlays", "secondary"),
    ("featuremap",),
    ("plan",),
    ("watch",),
    ("training",),
    ("rehearsal",),
    ("asides",),
    ("attributions", "faithfulness"),
    ("tuning",),
    ("evaluators.base",),
    ("segmenting",),
    ("evaluators.linear", "evaluators.metrics"),
    ("evaluators.*",),
    ("judging",),
    ("pretraining", "finetuning", "regressing"),
    ("report", "report.*"),
    ("audit", "prepare", "split", "pretrain"),
    ("patient_rows",),
    ("withdrawal",),
    ("find",),
    ("finetune", "evaluate", "embed", "purge"),
    ("studying",),
    ("study",),
    ("demo",),
    ("listing",),
    ("cli",),
)
TOGETHER = {"report"}  # a package whose modules are one layer
# Modules whose test has another name, or that another test covers.
TESTED_BY = {
    "checkpoints": "test_initial.py",
    "encoder_header": "test_encoders.py",
    "errors": "test_cli.py",
    "evaluated_images": "test_purge.py",
    "withdrawal": "test_purge.py",
    "patient_rows": "test_purge.py",
    "find": "test_purge.py",
    "plugins": "test_cli.py",
    "plan": "test_training.py",
    "listing": "test_cli.py",
    "launch": "test_across.py",
    "sharding": "test_across.py",
    "rehearsal": "test_training.py",
    "watch": "test_training.py",
    "drawing": "test_study.py",
    "evaluators.metrics": "evaluators/test_metrics_evaluator.py",
    "evaluators.segmentation": "test_segmenting.py",
    "tuning": "test_finetuning.py",
    "judging": "test_segmenting.py",
    "evaluators.regression": "test_regressing.py",
    "methods.base": "methods/test_contract.py",
    "confounding": "data/test_audit_checks.py",
    "data.audit": "data/test_audit_checks.py",
    "data.lettering": "data/test_audit_checks.py",
    "data.oddities": "data/test_audit_checks.py",
    "data.shortcuts": "data/test_audit_checks.py",
    "data.formats.elements": "data/test_bounds.py",
    "data.formats.identifying": "test_audit.py",
    "report.audit": "test_audit.py",
    "data.decode": "data/test_store.py",
    "data.delimited": "data/test_sheets.py",
    "data.workbook": "data/test_sheets.py",
    "data.matching": "data/test_joining.py",
    "data.building": "data/test_store.py",
    "data.datasets.base": "data/datasets/test_dataset_base.py",
    "data.fields": "data/test_phantom.py",
    "data.radiograph": "data/test_phantom.py",
    "data.formats.base": "data/test_images.py",
    "data.formats.codecs": "data/test_conformance.py",
    "data.formats.dicom": "data/test_images.py",
    "data.formats.equalize": "data/test_equalize.py",
    "data.formats.geometry": "data/test_alignment.py",
    "data.formats.headers": "data/test_images.py",
    "data.formats.levels": "data/test_images.py",
    "data.formats.raster": "data/test_images.py",
    "data.formats.tiff": "data/test_images.py",
    "data.formats.segmentation": "data/test_alignment.py",
    "data.formats.volumes": "data/test_images.py",
    "report.build": "report/test_report.py",
    "report.page": "report/test_report.py",
    "report.figures": "report/test_report.py",
    "report.canvas": "report/test_report.py",
    "report.course": "report/test_report.py",
    "report.results": "report/test_report.py",
    "report.facts": "report/test_card.py",
    "report.recipe": "report/test_card.py",
    "studying": "test_study.py",
    "pretraining": "test_pretrain.py",
    "finetuning": "test_finetune.py",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(p): p for p in sorted(SOURCE.rglob("*.py"))}


def layer_of(module: str) -> int:
    exact = [i for i, layer in enumerate(LAYERS) if module in layer]
    found = exact or [i for i, layer in enumerate(LAYERS) if any(fnmatch.fnmatch(module, pattern) for pattern in layer)]
    return found[0] if found else -1


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


@pytest.mark.parametrize("module", [m for m, p in MODULES.items() if p.name != "__init__.py" or m == "report"])
def test_a_module_imports_only_modules_above_it(module: str) -> None:
    own = layer_of(module)
    assert own >= 0, f"{module} has no layer: name it in LAYERS"
    below = {
        other
        for other in imported(MODULES[module])
        if layer_of(other) >= own and other != module and module.split(".")[0] not in TOGETHER & {other.split(".")[0]}
    }
    assert not below


def test_packages_hold_no_imports() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module not in ("", "report"):
            assert not imported(path), module


@pytest.mark.parametrize(
    "statement",
    [
        "import scotoma.data.images",
        "import scotoma.data.decode",
        "import scotoma.data.store, scotoma.data.splits, scotoma.data.targets, scotoma.run",
        "from scotoma.cli import main; assert main(['--help']) == 0",
        "from scotoma.cli import main; assert main(['list', 'methods']) == 0",
        "from scotoma.cli import main; assert main(['prepare', '--help']) == 0",
        "import scotoma.report.build",
    ],
)
def test_starts_without_torch(statement: str) -> None:
    heavy = "[m for m in ('torch', 'timm', 'lightning', 'torchvision') if m in sys.modules]"
    check = f"import sys; {statement}; found = {heavy}; sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_decoding_processes_and_help_start_without_pandas() -> None:
    for statement in ("import scotoma.data.decode", "from scotoma.cli import main; main(['--help'])"):
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


def test_the_verbs_are_the_functions() -> None:
    """`scotoma.prepare` stays the function after a module of that name was imported."""
    check = (
        "import scotoma, scotoma.prepare, scotoma.evaluate; from scotoma.prepare import prepare; "
        "assert scotoma.prepare is prepare and callable(scotoma.evaluate) and scotoma.prepare is prepare"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
