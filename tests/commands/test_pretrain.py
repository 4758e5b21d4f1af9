from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.report_runs import Page
from safetensors.torch import load_file

from scotoma import plugins
from scotoma.commands.pretrain import pretrain
from scotoma.data import encoder_header
from scotoma.data.encoder_header import EncoderInfo
from scotoma.errors import UsageError
from scotoma.methods.simsiam import SimSiam
from scotoma.models import encoders
from scotoma.reporting.build import build
from scotoma.run_folder import Run, read_config, read_rows
from scotoma.training import pretraining, trainer

SHORT = {"size": 16, "encoder": "resnet10t", "batch_size": 8, "precision": "32-true", "quiet": True, "method": "simclr"}


def metrics(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_file(a / encoder_header.FILE), load_file(b / encoder_header.FILE)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


TIMES = ("seconds", "seconds_preparing", "images_per_second", "peak_memory_bytes")


def untimed(path: Path) -> list[dict[str, object]]:
    return [row for row in read_rows(path) if row["metric"] not in TIMES]


def test_pretrain_leaves_what_a_run_is_and_its_configuration_repeats_it(grey_folder, tmp_path: Path) -> None:
    data = grey_folder(count=10)
    run = pretrain(data, out=tmp_path / "a", steps=12, **SHORT)
    assert run == tmp_path / "a"
    written = ("config.yaml", "rows.jsonl", "metrics.csv", encoder_header.FILE, "used.parquet", "figures/views.png", "status.json")
    for name in written:
        assert (run / name).is_file(), name
    rows = {row["metric"]: row for row in read_rows(run) if row["evaluator"] == "pretrain"}
    about = [row for row in read_rows(run) if row["evaluator"] != "pretrain"]  # of what it trained on
    assert {row["evaluator"] for row in about} == {"data", "cohort"}
    assert {row["value"] for row in about if row["metric"] == "images" and row["split"] == "train"} == {rows["images"]["value"]}
    page = Page(build([run], tmp_path / "page.html").read_text()).text
    assert f"Images {rows['images']['value']:.0f}" in page and "What each pretraining run took and gave" in page
    assert {"images_seen", "steps", "seconds", "images_per_second", "peak_memory_bytes", "loss", "feature_spread"} <= rows.keys()
    assert rows["images_seen"]["value"] == 96 and rows["steps"]["value"] == 12
    assert all(r["method"] == "simclr" and r["encoder"] == "resnet10t" for r in rows.values())
    lines = metrics(run)
    assert list(lines[0]) == ["step", "loss", "lr", "images_per_second", "feature_spread", "effective_rank"]
    assert [int(line["step"]) for line in lines] == list(range(1, 13))
    assert float(lines[-1]["loss"]) == pytest.approx(rows["loss"]["value"])
    assert float(lines[-1]["feature_spread"]) == pytest.approx(rows["feature_spread"]["value"])
    config = read_config(run)
    assert config["command"] == "pretrain" and config["steps"] == 12 and config["learning_rate"] == 1e-3
    assert config["channels"] == 1 and config["modality"] == "grey" and config["method_args"]["temperature"] == 0.2
    network, info, head = encoders.load(run)
    assert (
        head is None
        and info.method == {"name": "simclr", **config["method_args"]}
        and info.image_size == 16
        and info.in_chans == 1
        and info.seed == 0
    )
    assert sum(p.numel() for p in network.parameters()) == rows["parameters"]["value"]

    arguments = {k: v for k, v in config.items() if k not in ("command", "resolved")}
    again = pretrain(**arguments, out=tmp_path / "b", quiet=True)
    assert same_weights(run, again)
    assert untimed(again) == untimed(run)
    other = pretrain(**{**arguments, "seed": 1}, out=tmp_path / "c", quiet=True)
    assert not same_weights(run, other)


def test_minutes_become_steps(grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "measure_rate", lambda *_: 0.5)
    run = pretrain(grey_folder(count=10), out=tmp_path / "run", minutes=0.05, **SHORT)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["minutes"] is None and config["steps"] in (5, 6)  # 3 seconds, less what measuring took


def test_wrong_requests_are_refused_before_anything_is_written(grey_folder, tmp_path: Path) -> None:
    out = tmp_path / "run"
    data = grey_folder(count=6)
    for arguments, message in (
        ({"minutes": 1, "steps": 2}, "give one of"),
        ({"steps": -1}, "`steps` -1: must be above 0"),
        ({"learning_rate": 0.0}, "`learning_rate` 0.0: must be above 0"),
        ({"precision": "half"}, "precision='half': must be bf16-mixed or 32-true"),
        ({"method": "simcrl"}, "did you mean 'simclr'"),
        ({"method": "supervised"}, "name them with `target`"),
    ):
        with pytest.raises(UsageError, match=message):
            pretrain(data, out=out, **{**SHORT, **arguments})
        assert not out.exists()


DRIVER = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    from scotoma.training import trainer
    from scotoma.commands.pretrain import pretrain

    data, out, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    trainer.CHECKPOINT_SECONDS = 0
    step_loss, calls = trainer.step_loss, 0

    def counted(*arguments):
        global calls
        calls += 1
        if calls > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step_loss(*arguments)

    trainer.step_loss = counted
    pretrain(data, out=out, steps=40, size=16, encoder="resnet10t", batch_size=8, precision="32-true", quiet=True)
"""


def test_a_killed_run_resumed_equals_one_left_alone(grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before and after the middle: whatever part is left, the images of each step and the schedule are the same."""
    data = grey_folder(count=10)
    driver = tmp_path / "driver.py"
    driver.write_text(textwrap.dedent(DRIVER))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = pretrain(data, out=tmp_path / "alone", steps=40, **SHORT)
    steps: list[int] = []
    step_loss = trainer.step_loss
    monkeypatch.setattr(trainer, "step_loss", lambda *a: steps.append(1) or step_loss(*a))
    for kill_at in (9, 33):
        out = tmp_path / f"killed-{kill_at}"
        died = subprocess.run(
            [sys.executable, str(driver), str(data), str(out), str(kill_at)], env=environment, capture_output=True
        )
        assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
        assert (out / "checkpoints" / "last.ckpt").is_file()
        with pytest.raises(UsageError, match="interrupted run: use `resume`"):
            pretrain(data, out=out, steps=40, **SHORT)
        steps.clear()
        pretrain(data, out=out, steps=40, resume=True, **SHORT)
        assert len(steps) == 40 - kill_at  # nothing is done twice but the step that was killed
        assert same_weights(out, alone)
        assert untimed(out) == untimed(alone)
        for found, expected in zip(metrics(out), metrics(alone), strict=True):
            assert {k: v for k, v in found.items() if k not in TIMES} == {k: v for k, v in expected.items() if k not in TIMES}
    # killed between its last step and its end: no step is left, and the rows say what they would have said
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0)
    pretrain(data, out=tmp_path / "last", steps=4, keep_checkpoints=True, **SHORT)
    expected = untimed(tmp_path / "last")
    status = tmp_path / "last" / "status.json"
    status.write_text(status.read_text().replace("finished", "running"))
    steps.clear()
    pretrain(data, out=tmp_path / "last", steps=4, resume=True, **SHORT)
    assert not steps and untimed(tmp_path / "last") == expected
    assert not (tmp_path / "last" / "checkpoints").exists()  # of a finished run, unless they are to be kept
    torch.set_num_threads(threads)


def test_it_goes_on_from_given_weights(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = grey_folder(count=10)
    first = pretrain(data, out=tmp_path / "a", steps=4, **SHORT)
    rest = {k: v for k, v in SHORT.items() if k != "encoder"}
    second = pretrain(
        data, out=tmp_path / "b", init=str(first), steps=1, learning_rate=1e-12, weight_decay=0.0, **rest | {"method": "byol"}
    )
    before, after = (encoders.load(run)[0].state_dict() for run in (first, second))
    assert encoder_header.read_info(second).name == "resnet10t" and read_config(second)["init"] == str(first)
    assert all(torch.allclose(after[k], v) for k, v in before.items() if "running" not in k and "batches" not in k)
    with pytest.raises(UsageError, match="not weights of a resnet18"):
        pretrain(data, out=tmp_path / "c", init=str(first), encoder="resnet18", steps=1, **rest)
    assert not (tmp_path / "c").exists()


def test_the_papers_preset_stands_where_nothing_else_was_said(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = grey_folder(count=10)
    run = pretrain(
        data, out=tmp_path / "a", preset="reference", steps=1, method_args={"jitter": 0.1}, **SHORT | {"method": "simsiam"}
    )
    config = read_config(run)
    paper = SimSiam.reference
    assert (config["encoder"], config["steps"], config["batch_size"]) == ("resnet10t", 1, SHORT["batch_size"])
    assert config["learning_rate"] == pytest.approx(paper["learning_rate"] * SHORT["batch_size"] / paper["batch_size"])
    assert (config["weight_decay"], config["warmup"], config["size"]) == (paper["weight_decay"], 0.0, 16)
    assert config["method_args"] == SimSiam.settings(paper["method_args"] | {"jitter": 0.1})
    with pytest.raises(UsageError, match="preset='large': must be small or reference"):
        pretrain(data, out=tmp_path / "b", preset="large", **SHORT)


@pytest.mark.parametrize(("size", "method", "network"), [(32, "mae", "vit_tiny_patch4"), (64, "ijepa", "vit_tiny_patch8_avg")])
def test_the_default_vision_transformer_has_patches_for_its_size(  # type: ignore[no-untyped-def]
    size: int, method: str, network: str, grey_folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain(grey_folder(count=4), method, tmp_path / "run", size=size, steps=1, batch_size=4, quiet=True)
    assert f"scans: `encoder` {network}: the default at {size} pixels\n" in capsys.readouterr().err
    assert read_config(run)["encoder"] == network == encoder_header.read_info(run).name
    assert (plugins.method(method).encoder_at(128), plugins.method("simclr").encoder_at(64)) == (
        network.replace("patch4", "patch16").replace("patch8", "patch16"), "resnet18",
    )  # fmt: skip
    pretrain(grey_folder(count=4), method, tmp_path / "named", size=size, steps=1, batch_size=4, quiet=True, encoder=network)
    assert "the default" not in capsys.readouterr().err


def test_activations_computed_again_change_nothing(grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from timm.models.vision_transformer import Block

    data, given = grey_folder(count=10), SHORT | {"method": "simmim", "encoder": "vit_tiny_patch8", "method_args": {"mask_unit": 8}}
    forward, calls = Block.forward, []
    monkeypatch.setattr(Block, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    runs, counts = [], []
    for checkpointing in (False, True):
        calls.clear()
        runs.append(pretrain(data, out=tmp_path / str(checkpointing), steps=3, checkpointing=checkpointing, **given))
        counts.append(len(calls))
    assert counts[1] == counts[0] + 3 * 12  # each of the twelve blocks once more a step
    assert same_weights(*runs) and metrics(runs[0])[-1]["loss"] == metrics(runs[1])[-1]["loss"]
    with pytest.raises(UsageError, match="`checkpointing` is not for networks with batch norm"):
        pretrain(data, out=tmp_path / "c", steps=1, checkpointing=True, **SHORT)


@pytest.mark.long
def test_a_compiled_step_is_the_same_step(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data, given = grey_folder(count=10), SHORT | {"method": "mae", "encoder": "vit_tiny_patch8"}
    losses = [
        [float(line["loss"]) for line in metrics(pretrain(data, out=tmp_path / str(c), steps=4, compile=c, **given))]
        for c in (False, True)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_batch_in_parts_is_the_same_step(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data, given = grey_folder(count=10), SHORT | {"method": "mae", "encoder": "vit_tiny_patch8"}
    traces, lines = [], []
    for parts in (1, 2, 4):
        run = pretrain(data, out=tmp_path / str(parts), steps=4, accumulate=parts, **given)
        traces.append([float(line["loss"]) for line in metrics(run)])
        lines.append({row["metric"]: row["value"] for row in read_rows(run)})
    assert len(set(traces[0])) == 4
    np.testing.assert_allclose(traces[1:], [traces[0]] * 2, rtol=1e-5)
    assert all(found["images_seen"] == 32 and found["steps"] == 4 for found in lines)
    with pytest.raises(UsageError, match="`batch_size` 8: must be a multiple of 3"):
        pretrain(data, out=tmp_path / "c", steps=1, accumulate=3, **given)
    with pytest.raises(UsageError, match="`accumulate` 0: must be at least 1"):
        pretrain(data, out=tmp_path / "c", steps=1, accumulate=0, **given)
    assert not (tmp_path / "c").exists()


def test_an_argument_left_out_on_resume_that_makes_another_network_or_method_is_named(tmp_path: Path) -> None:
    saved = {"encoder": "resnet10t", "channels": 1, "modality": "grey", "method_args": {"temperature": 0.2, "sizes": [1, 2]}}
    run = Run(tmp_path, {**saved, "resolved": [*saved, "steps"]}, resumed=True)
    same = EncoderInfo("resnet10t", {}, 1, 32, (0.0,), (1.0,), method={"name": "simclr", "temperature": 0.2, "sizes": (1, 2)})
    pretraining._require_same(run, same)
    for change, told in (
        ({"timm_name": "resnet18"}, "encoder resnet10t: name it again"),
        ({"in_chans": 3}, "channels 1"),
        ({"method": {**same.method, "temperature": 0.1}}, r"method.temperature 0.2: name it again"),
    ):
        with pytest.raises(UsageError, match=f"--resume: the interrupted run had {told}"):
            pretraining._require_same(run, replace(same, **change))
        pretraining._require_same(Run(tmp_path, run.config), replace(same, **change))  # no resumed run
