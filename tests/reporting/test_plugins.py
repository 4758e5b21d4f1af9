"""A method, a data set, an evaluator, a corruption and an explanation that nobody knows are found, run, and shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from helpers.contexts import Context, context
from helpers.extensions import added
from helpers.report_runs import BASE, Page, row, write
from PIL import Image

from scotoma import plugins
from scotoma.cli import main
from scotoma.evaluators import explain, robustness
from scotoma.reporting.build import build
from scotoma.run_folder import read_rows

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
}


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[None]:
    """A module ``echo`` of every kind, in folders of its own."""
    modules = {kind: f'"""Echo of {kind}: what nobody knows."""\n\n{code}' for kind, code in MODULES.items()}
    with added(tmp_path / "plugins", modules):
        yield


@pytest.mark.usefixtures("echo")
def test_what_nobody_knows_is_found_run_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "choose_rows", lambda context: context.test[:4])
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


@pytest.fixture
def documented(tmp_path: Path) -> Iterator[None]:
    """The modules that the page on extensions shows, word for word, where it says that they belong."""
    page = (Path(__file__).parents[2] / "docs" / "how_to" / "extend.md").read_text()
    found = re.findall(r"`src/scotoma/([\w/]+)/echo\.py`.*?```python\n(.*?)```", page, flags=re.DOTALL)
    kinds = {folder: kind for kind, folder in plugins.FOLDERS.items()}
    assert [kinds[folder] for folder, _ in found] == ["methods", "datasets", "evaluators"]
    with added(tmp_path / "plugins", {kinds[folder]: code for folder, code in found}):
        yield


@pytest.mark.usefixtures("documented")
def test_the_examples_of_the_documentation_do_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A method of one's own is pretrained on a data set of one's own, audited before and evaluated after; all are on the pages."""
    rng, root = np.random.default_rng(0), tmp_path / "sounds"
    (root / "images").mkdir(parents=True)
    for i in range(60):
        pixels = rng.integers(0, 120, (32, 32)) + 100 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{i}.png")
    frame = pd.DataFrame({"image": range(60), "patient": [f"p{i // 2}" for i in range(60)], "sure": 1})
    frame = frame.assign(label=["low" if i % 2 == 0 else "high" for i in range(60)], age=40)
    frame.loc[:3, "sure"] = 0
    frame.to_csv(root / "echo.csv", index=False)
    flags = ["--target", "label", "--size", "32", "--steps", "2", "--quiet"]
    assert main(["audit", f"echo:{root}", "--target", "label", "--out", str(tmp_path / "audit"), "--quiet"]) == 0
    assert "60 images" in Page((tmp_path / "audit" / "audit.html").read_text()).text.replace("\u00a0", " ")
    given = ["--encoder", "resnet10t", "--modes", "linear", "--controls", "random", "--fractions", "1", "--seeds", "1"]
    assert main(["study", "--data", f"echo:{root}?unsure=1", "--methods", "echo,echo?strength=0.2", *given, *flags,
                 "--out", str(tmp_path / "study")]) == 0  # fmt: skip
    page = Page((tmp_path / "study" / "report.html").read_text())
    for words in (
        "echo:",
        "Echo, linear classifier on the frozen encoder",
        "Echo (strength 0.2)",
        "Methods Echo, Echo (strength 0.2)",
    ):
        assert words in page.text, words
    rows = pd.DataFrame(read_rows(tmp_path / "study"))
    steps = rows[(rows["evaluator"] == "pretrain") & (rows["metric"] == "steps")].set_index("method")["value"]
    assert steps.to_dict() == {"echo": 2, "echo?strength=0.2": 2}
    images = rows[(rows["evaluator"] == "data") & (rows["metric"] == "images")]
    assert images[images["class"].isna()]["value"].sum() == images[images["class"].notna()]["value"].sum() == 60
    encoder = tmp_path / "study" / "pretrain" / "echo_strength=0.2"
    data = ["--data", f"echo:{root}", "--target", "label", "--with", "echo", "--out", str(tmp_path / "test"), "--quiet"]
    assert main(["evaluate", str(encoder), *data]) == 0
    (row,) = [r for r in read_rows(tmp_path / "test") if r["evaluator"] == "echo"]
    assert row["low"] <= row["value"] <= row["high"] and row["method"] == "echo"
    assert main(["report", str(tmp_path / "test")]) == 0
    assert f"loudness {row['value']:.3f}" in Page((tmp_path / "test" / "report.html").read_text()).text
    capsys.readouterr()
    for kind, words in (("methods", "the features of two views of an image agree"), ("evaluators", "how loud the features are"),
                        ("datasets", "policies: unsure=0|1")):  # fmt: skip
        assert main(["list", kind]) == 0
        assert words in capsys.readouterr().out


def test_a_measure_of_pretraining_that_nobody_knows_is_shown(tmp_path: Path) -> None:
    rows = [row("pretrain", "steps", 40.0), row("pretrain", "teacher_agreement", 0.7315)]
    text = Page(build([write(tmp_path / "run", rows, {"command": "pretrain"})]).read_text()).text
    assert "Steps 40" in text and "Teacher agreement 0.7315" in text
