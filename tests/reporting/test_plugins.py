"""A method, a data set, an evaluator, a corruption and an explanation that nobody knows are found, run, and shown."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from helpers.contexts import Context, context
from helpers.report_runs import BASE, Page, row, write

from scotoma import plugins
from scotoma.cli import main
from scotoma.evaluators import explain, robustness
from scotoma.reporting.build import build

MODULES = {
    "methods": """\
from scotoma.methods.simsiam import SimSiam


class Echo(SimSiam):
    pass
""",
    "datasets": """\
LAYOUT = "echo/\\n  image.png"
SOURCE = "nowhere"
TERMS = "none"


def load(root):
    raise NotImplementedError
""",
    "evaluators": """\
PROTOCOL = 1


def evaluate(context):
    common = {"metric": "loud_ness", "n": 9}
    return [{**common, "octave": k, "value": v, "low": v - 0.1, "high": v + 0.1} for k, v in ((2, 0.321), (3, 0.654))]
""",
    "corruptions": """\
def corrupt(images, severity, rng):
    return images * (1 - severity / 10)
""",
    "attributions": """\
def attribute(classifier, images, target):
    return images.mean(1)
""",
    "sections": "",
}


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module ``echo`` of every kind, in folders of its own."""
    for kind, code in MODULES.items():
        package = importlib.import_module(f"scotoma.{plugins.FOLDERS[kind].replace('/', '.')}")
        folder = tmp_path / "plugins" / kind
        folder.mkdir(parents=True)
        if code:
            (folder / "echo.py").write_text(f'"""Echo of {kind}: what nobody knows."""\n\n{code}')
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    plugins.titles.cache_clear()
    yield
    plugins.titles.cache_clear()
    for name in [n for n in sys.modules if n.startswith("scotoma.") and n.endswith(".echo")]:
        del sys.modules[name]


@pytest.mark.usefixtures("echo")
def test_what_nobody_knows_is_found_run_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "chosen", lambda context: context.test[:4])
    torch.manual_seed(0)
    made = context(tmp_path / "data", n=32, encoder=timm.create_model("resnet10t", in_chans=1, num_classes=0).eval())
    for kind in plugins.LISTED:
        assert main(["list", kind]) == 0
        assert "echo" in capsys.readouterr().out
    assert plugins.method("echo").__name__ == "Echo"
    assert plugins.module("datasets", "echo").SOURCE == "nowhere"
    rows = [*_rows_of("echo", made), *_rows_of("robustness", made), *_rows_of("explain", made)]
    assert len([r for r in rows if r.get("corruption") == "echo"]) == 11
    assert {r["metric"] for r in rows if r.get("explanation") == "echo"} >= {"deletion", "insertion", "sanity_correlation"}
    path = build([write(tmp_path / "run", rows, {"command": "evaluate", "data": "echo"})])
    page = Page(path.read_text())
    drop = next(r for r in rows if r["metric"] == "mean_auroc_relative_drop" and r["corruption"] == "echo")
    deletion = next(r for r in rows if r["metric"] == "deletion" and r["explanation"] == "echo")
    assert {"of_echo", "robustness", "explanations"} <= set(page.ids)
    for words in (
        "Echo of evaluators",
        "loud ness 2 0.321 [0.221, 0.421] 9 loud ness 3 0.654 [0.554, 0.754] 9",
        f"Echo of corruptions {drop['value']:.3f}".replace("-", "\u2212"),
        f"echo {deletion['value']:.3f}",
        "Echo of methods",
    ):
        assert words in page.text, words
    tables = {file.stem: pd.read_csv(file) for file in (tmp_path / "run" / "tables").glob("*.csv")}
    assert tables["echo"]["octave"].tolist() == [2, 3] and tables["echo"]["value"].tolist() == [0.321, 0.654]
    assert "echo" in set(tables["robustness"]["corruption"]) and "echo" in set(tables["explanations"]["explanation"])


def _rows_of(name: str, made: Context) -> list[dict[str, object]]:
    module = {"robustness": robustness, "explain": explain}.get(name) or plugins.module("evaluators", name)
    common = made.common | {"evaluator": name, "protocol": 1, "method": "echo"}
    return [{**common, **r} for r in module.evaluate(made)]


@pytest.mark.parametrize("evaluator", ["linear", "robustness", "operating", "segmentation", "linear_sgd"])
def test_rows_with_a_key_or_metric_that_nobody_knows_are_shown_and_not_merged(evaluator: str, tmp_path: Path) -> None:
    """Beside the rows that each evaluator is known to write."""
    known = [row(evaluator, "auroc", 0.811, corruption="clean"), row(evaluator, "dice", 0.811)]
    odd = [row(evaluator, "auroc", v, colour=c) for v, c in ((0.321, "green"), (0.654, "blue"))]
    path = build([write(tmp_path / "run", [*known, *odd, row(evaluator, "odd_metric", 0.777)], {"command": "evaluate"})])
    text = Page(path.read_text()).text
    for words in ("0.811", "green", "0.321", "blue", "0.654", "odd metric", "0.777"):
        assert words in text, words
    found = pd.concat([pd.read_csv(f) for f in (tmp_path / "run" / "tables").glob("*.csv") if f.stem != "index"])
    assert set(found["colour"].dropna()) == {"green", "blue"} and "odd_metric" in set(found["metric"])


def test_an_evaluator_of_classifiers_stands_beside_its_controls(tmp_path: Path) -> None:
    rows = [{**BASE, "evaluator": e, "metric": "auroc", "method": m, "fraction": 1.0, "value": v, "low": v - 0.01, "high": v + 0.01}
            for e, m, v in (("linear_sgd", "mae", 0.765), ("nobody", "mae", 0.543), ("pixels", "control", 0.432))]  # fmt: skip
    text = Page(build([write(tmp_path / "run", rows)]).read_text()).text
    for words in ("Linear classifier by SGD MAE 0.765", "nobody MAE 0.543", "Controls that use no encoder Pixels alone"):
        assert words in text, words
