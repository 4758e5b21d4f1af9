"""The control of a method is its own network before its first step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import null_study
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from scotoma import plugins
from scotoma.commands.study import study
from scotoma.data.datamodule import DataModule, gather
from scotoma.models import encoders
from scotoma.run_folder import read_rows
from scotoma.studies import controls
from scotoma.studies.arms import arms_of, pretraining_of
from scotoma.training.pretraining import assemble
from scotoma.training.schedule import Schedule
from scotoma.training.trainer import fit

SIZE = 32
CONFIG = {"data": "phantom:60", "target": ["cardiomegaly"], "size": SIZE, "seed": 3, "controls": ["random"], "steps": 3}


@pytest.fixture(scope="module")
def data_module() -> DataModule:
    return gather(data="phantom:60", target=["cardiomegaly"], size=SIZE, quiet=True)


def run_of(folder: Path, methods: list[str], **more: Any) -> Any:
    (folder / "pretrain").mkdir(parents=True)
    return SimpleNamespace(path=folder, config=CONFIG | {"methods": methods, "encoder": None} | more)


CASES = [(name, "vit_tiny_patch8" if plugins.method(name).needs_vit else "resnet10t") for name in plugins.names("methods")]


@pytest.mark.parametrize(("name", "network"), CASES)
def test_three_steps_at_a_rate_of_zero_leave_the_control(name: str, network: str, data_module: DataModule, tmp_path: Path) -> None:
    run = run_of(tmp_path, [name], encoder=network)
    control, info = controls.build(run, data_module, name, 2)
    seed = CONFIG["seed"] + controls.FIRST_SEED + 2
    parts = assemble(pretraining_of(run.config, name) | {"seed": seed}, data_module)
    fit(parts.method, Schedule(3, 16, 0.0, 0.0, "32-true", seed), parts.batches, None, quiet=True)
    trained = dict(parts.method.encoder.named_parameters())
    own = dict(control.named_parameters())
    assert own.keys() == trained.keys() and info.name == parts.info.name == network and info.seed == seed
    assert [n for n in own if not torch.equal(own[n], trained[n])] == []
    assert not control.training
    norms = [m for m in control.modules() if isinstance(m, BatchNorm)]
    assert bool(norms) == (network == "resnet10t")
    for norm in norms:
        assert norm.running_mean.isfinite().all() and norm.running_var.isfinite().all() and norm.momentum == 0.1
        assert norm.running_mean.abs().max() > 0 and not torch.equal(norm.running_var, torch.ones_like(norm.running_var))


def test_methods_with_the_same_untrained_network_share_their_control(data_module: DataModule, tmp_path: Path) -> None:
    methods = ["mae", "mae?mask_ratio=0.6", "dino", "supervised", "ijepa"]
    run = run_of(tmp_path, methods, encoder="vit_tiny_patch8")
    first = {"mae": "mae", "mae?mask_ratio=0.6": "mae", "dino": "dino", "supervised": "dino", "ijepa": "ijepa"}
    assert controls.share(run, data_module) == first  # DINO and supervised leave the network as timm makes it
    assert sorted(p.name for p in (tmp_path / "pretrain").glob("random-*")) == [
        "random-dino-s0",
        "random-ijepa-s0",
        "random-mae-s0",
    ]
    arms = list(arms_of(run.config | {"modes": ["linear"]}, dict.fromkeys(methods, "vit_tiny_patch8"), first))
    assert [a.control_of for a in arms if a.method == "random"] == [
        ("mae", "mae?mask_ratio=0.6"),
        ("dino", "supervised"),
        ("ijepa",),
    ]


def test_other_views_give_other_batch_statistics_and_another_control(data_module: DataModule, tmp_path: Path) -> None:
    run = run_of(tmp_path, ["simclr", "simclr?temperature=0.5", "simclr?jitter=0.1"], encoder="resnet10t")
    first = {"simclr": "simclr", "simclr?temperature=0.5": "simclr", "simclr?jitter=0.1": "simclr?jitter=0.1"}
    assert controls.share(run, data_module) == first
    assert controls.share(run_of(tmp_path / "x", ["simclr"], controls=["header"]), data_module) == {}


def test_batch_statistics_are_means_over_the_batches() -> None:
    norm, batches = torch.nn.BatchNorm1d(2), torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    controls.estimate_statistics(norm, lambda: [norm(batch) for batch in batches])
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(norm.running_var, batches.var(1).mean(0))
    assert norm.momentum == 0.1


@pytest.mark.parametrize(("method", "encoder", "most"), [("mae", "vit_tiny_patch16", 0.01), ("simclr", "resnet10t", 0.1)])
def test_a_study_of_a_method_that_learns_nothing_finds_no_difference(
    method: str, encoder: str, most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pretraining starts where its draw's control does: at a rate of almost 0 they end with the same classifiers.

    All but for batch statistics, which of a pretraining are moving averages.
    """
    monkeypatch.setattr(controls, "FIRST_SEED", 0)
    monkeypatch.setattr(plugins.method(method), "learning_rate", 1e-12)
    given = {"fractions": [1.0], "seeds": 3, "pretrainings": 3, "steps": 12, "size": 32, "modes": ["linear"], "quiet": True}
    run = study("phantom:120", ["cardiomegaly"], [method], tmp_path / "run", encoder=encoder, controls=["random"], **given)
    (found,) = (row for row in read_rows(run) if row["metric"] == "auroc_difference")
    assert (found["reference"], found["pretrainings"]) == ("random", 3)
    assert abs(found["value"]) < most
    assert found["p_holm"] is None or found["p_holm"] > 0.05  # None: of different models, but no patient moves the difference
    costs = [row for row in read_rows(run) if row["evaluator"] == "pretrain"]
    lasts = {row["pretraining"]: row["value"] for row in costs if row["metric"] == "loss"}
    inner = [read_rows(run / "pretrain" / f"{method}{k}") for k in ("", "-p1", "-p2")]
    assert lasts == {i: next(row["value"] for row in rows if row["metric"] == "loss") for i, rows in enumerate(inner, 1)}
    assert sorted(p.name for p in (run / "pretrain").glob(f"{method}*")) == [method, f"{method}-p1", f"{method}-p2"]
    assert [encoders.load(run / "pretrain" / f"{method}{k}")[1].seed for k in ("", "-p1", "-p2")] == [0, 1, 2]


@pytest.mark.long
@pytest.mark.parametrize("method", ["mae", "simclr"])
def test_a_method_that_learns_nothing_does_not_beat_its_untrained_network_on_real_images(
    method: str, data_root: Path, tmp_path: Path
) -> None:
    """With timm's initialisation as the control an MAE at this rate "beat random weights" at 3 of 3 shares."""
    found = null_study.differences(method, data_root, tmp_path)
    print(found[["fraction", "value", "low", "high", "p_value", "p_holm"]])
    assert len(found) == 3 and not (found["p_holm"] < 0.05).any()
    assert (found["value"].abs() < 0.03).all()
