"""The paper's values reach a run from the command line, from Python and from a configuration alike."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from scotoma import plugins
from scotoma.cli import main
from scotoma.commands.pretrain import pretrain
from scotoma.errors import UsageError, in_python
from scotoma.methods.base import Method
from scotoma.methods.mae import MAE
from scotoma.methods.parts.inputs import Inputs
from scotoma.models import encoders
from scotoma.run_folder import read_config
from scotoma.training import presets, pretraining
from scotoma.training.presets import Preset
from scotoma.training.schedule import Schedule
from scotoma.training.trainer import Batches

IMAGES = 20
METHODS = plugins.names("methods")


class Stopped(Exception):
    """All is decided, nothing is trained yet."""


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The configurations of the pretrainings that begin; networks are not built, and no step is taken."""
    found: list[dict[str, Any]] = []

    def stop(method: Method, schedule: Schedule, batches: Batches, folder: Path, **_: Any) -> None:
        found.append(read_config(folder))
        raise Stopped

    def bare(init: Any) -> Any:
        """A constructor of these arguments that builds nothing."""

        @functools.wraps(init)
        def start(self: Method, encoder: nn.Module, inputs: Inputs, **_: Any) -> None:
            Method.__init__(self, encoder, inputs)

        return start

    for name in METHODS:
        chosen = plugins.method(name)
        monkeypatch.setattr(chosen, "__init__", bare(chosen.__init__))
    monkeypatch.setattr(encoders, "build", lambda *_, **__: nn.Identity())
    monkeypatch.setattr(pretraining, "fit", stop)
    monkeypatch.chdir(tmp_path)
    return found


def begin(*arguments: Any, **named: Any) -> None:
    """A pretraining as far as its first step, by the command line where it is a list of words."""
    with pytest.raises(Stopped):
        main(["pretrain", *arguments[0]]) if isinstance(arguments[0], list) else pretrain(*arguments, **named)


def table(folder: Path) -> Path:
    """What any method needs beside images."""
    lines = ["image_path,split,label,age,sex,patient"]
    for k, path in enumerate(sorted(folder.rglob("*.png"))):
        side = "train" if k < IMAGES else "val" if k < IMAGES + 2 else "test"
        lines.append(f"{path},{side},{'ab'[k % 2]},{40 + k % 7},{'mf'[k % 3 > 0]},p{k // 2}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def flags(name: str, value: Any) -> list[str]:
    """An argument as it is typed."""
    return [f"--{name}", ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]


@pytest.mark.parametrize("name", METHODS)
def test_all_doors_lead_to_the_papers_values(
    name: str, decided: list[dict[str, Any]], grey_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = plugins.method(name)
    data, preset = table(grey_folder(count=12)), dict(chosen.reference)
    given = {"target": ["label"]} if chosen.requirements(chosen.settings(preset.get("method_args", {}))).labels else {}
    begin(data, name, "run", preset="reference", quiet=True, **given)
    said = capsys.readouterr().err
    typed = [x for key, value in given.items() for x in flags(key, value)]
    begin([str(data), "--method", name, "--preset", "reference", "--out", "run", "--overwrite", "--quiet", *typed])
    request = {"data": str(data), "method": name, "preset": "reference", "out": "run", "overwrite": True, "quiet": True, **given}
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(request))
    begin(["--config", "request.yaml"])
    (tmp_path / "kept.yaml").write_text(yaml.safe_dump(decided[0]))  # what a run writes down is a request for the same
    begin(["--config", "kept.yaml", "--out", "run", "--overwrite", "--quiet"])
    first, *others = decided
    assert others == [first, first, {k: v for k, v in first.items() if k != "scaled"}]  # a configuration has given both
    assert first["method_args"] == {
        k: list(v) if isinstance(v, tuple) else v for k, v in chosen.settings(preset.pop("method_args", {})).items()
    }
    epochs, batch, rate, rule = (preset.pop(k) for k in ("epochs", "batch_size", "learning_rate", "scaling"))
    final = preset.pop("final_learning_rate", 0.0)
    assert {k: first[k] for k in preset} == preset
    used = min(batch, IMAGES // 2)
    ratio = used / batch
    assert first["batch_size"] == used and first["steps"] == round(epochs * IMAGES / used)
    assert first["learning_rate"] == pytest.approx(rate * (ratio if rule == "linear" else ratio**0.5))
    assert first["final_learning_rate"] == pytest.approx(min(final, first["learning_rate"]))
    assert used < batch and f"--batch_size {batch} of the paper's preset became {used}" in first["scaled"]
    assert said == f"scans: {in_python(first['scaled'])}\n"


def test_a_flag_beside_the_preset_wins(
    decided: list[dict[str, Any]], grey_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = table(grey_folder(count=12))
    own = {"encoder": "vit_tiny_patch16", "size": 64, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.1, "warmup": 0.2}
    own |= {"final_learning_rate": 1e-5, "steps": 7}
    typed = [x for key, value in {**own, "method.mask_ratio": 0.5}.items() for x in flags(key, value)]
    command = [str(data), "--method", "mae", "--preset", "reference", "--quiet", "--out", "run", "--overwrite"]
    begin([*command, *typed])
    assert {k: decided[0][k] for k in own} == own
    assert decided[0]["method_args"] == MAE.settings(MAE.reference["method_args"] | {"mask_ratio": 0.5})
    assert "scaled" not in decided[0] and decided[0]["preset"] == "reference"  # both were given
    assert "became" not in capsys.readouterr().err
    begin([*command, "--batch_size", "8", "--steps", "1"])  # the rate by the paper's rule
    assert decided[1]["learning_rate"] == pytest.approx(2.4e-3 * 8 / 4096)
    said = capsys.readouterr().err
    assert "the paper's preset at --batch_size 8: --learning_rate 0.0024 became 4.69e-06 by its linear scaling rule" in said
    assert "--batch_size 4096" not in said
    with pytest.raises(UsageError, match=r"`final_learning_rate` 0.1: must be at most the peak learning rate, 0.001"):
        pretrain(data, "mae", tmp_path / "no", final_learning_rate=0.1, learning_rate=1e-3, size=64, steps=1, quiet=True)
    assert not (tmp_path / "no").exists()


def test_the_small_preset_is_the_methods_own_values() -> None:
    assert presets.preset(MAE, None) == presets.preset(MAE, "small") == Preset(64, 2.5e-4, 0.05, 0.05)
    assert presets.preset(MAE, "small").rate(2) == 2.5e-4  # chosen at small batches, it follows none
    paper = presets.preset(MAE, "reference")
    assert (paper.size, paper.warmup, paper.epochs, paper.rate(256)) == (224, 0.025, 1600, pytest.approx(1.5e-4))
    assert Preset(64, 1e-3, 0.0, 0.0, scaling="sqrt").rate(16) == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("name", "share"),
    [("mae", 0.025), ("msmae", 0.133), ("msn", 0.019), ("simmim", 0.0125), ("vicreg", 0.01), ("simclr", 0.01), ("byol", 0.01),
     ("moco_v1", 0.0), ("moco_v2", 0.0), ("simsiam", 0.0)],
)  # fmt: skip
def test_warm_up_is_the_published_one(name: str, share: float) -> None:
    assert presets.preset(plugins.method(name), "reference").warmup == share
