"""Whatever method is trained, and whenever it is killed: what is resumed ends as what was left alone, to the bit."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.together import GIVEN
from safetensors.torch import load_file

from scotoma import plugins
from scotoma.commands.pretrain import pretrain
from scotoma.training import trainer

STEPS = 6
TIMES = ("images_per_second",)


class Killed(Exception):
    """Stands for SIGKILL, after which nothing but files is left."""


def logged(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


@pytest.mark.parametrize(("name", "accumulate"), [*((name, 1) for name in plugins.names("methods")), ("mae", 2)])
def test_a_killed_run_ends_as_one_left_alone(
    name: str, accumulate: int, clinic_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"steps": STEPS, "batch_size": 8, "size": 32, "precision": "32-true", "method_args": GIVEN.get(name), "quiet": True,
             "target": ["label"], "accumulate": accumulate,
             "encoder": "vit_tiny_patch8" if plugins.method(name).needs_vit else "resnet10t"}  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = pretrain(str(clinic_table), name, tmp_path / "alone", **given)  # type: ignore[arg-type]
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0)
    step_loss, calls = trainer.step_loss, 0
    moments = sorted(random.Random(name).sample(range(1, accumulate * STEPS), 2))

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls in moments:
            raise Killed
        return step_loss(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "step_loss", counted)
    out = tmp_path / "killed"
    for resume in (False, True):
        with pytest.raises(Killed):
            pretrain(str(clinic_table), name, out, resume=resume, **given)  # type: ignore[arg-type]
    pretrain(str(clinic_table), name, out, resume=True, **given)  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    assert calls == STEPS + 2 or accumulate > 1  # nothing was done twice but what was killed
    found, expected = (load_file(run / "encoder.safetensors") for run in (out, alone))
    assert found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())
    assert logged(out) == logged(alone)


def lightning_until(step: int) -> Callable[[trainer.Trainer], None]:
    """The loop of earlier versions, in place of ``Trainer.run``: Lightning takes so many steps, then the run is killed."""
    lightning = pytest.importorskip("lightning")

    class Adapter(lightning.LightningModule):
        def __init__(self, ours: trainer.Trainer) -> None:
            super().__init__()
            self.method, self.ours = ours.method, [ours]

        def training_step(self, batch: trainer.Batch, index: int) -> torch.Tensor:
            return trainer.step_loss(self.method, batch, 0)["loss"]

        def optimizer_step(self, *arguments: object, **named: object) -> None:
            super().optimizer_step(*arguments, **named)
            self.method.after_step(self.trainer.global_step / STEPS)

        def configure_optimizers(self) -> object:
            ours = self.ours[0]
            return {"optimizer": ours.optimizer, "lr_scheduler": {"scheduler": ours.scheduler, "interval": "step"}}

    class Watch(lightning.Callback):  # its name is the key of its state
        def state_dict(self) -> dict[str, object]:
            return {"seconds": 1.0, "loss": 0.5, "spread": 0.25, "rank": 3.0, "warned": False}

    def run(ours: trainer.Trainer) -> None:
        folder = ours.checkpoint.parent
        last = lightning.pytorch.callbacks.ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=1)
        batches = [ours.batches[key] for key in trainer.Order(len(ours.batches.rows), ours.schedule)]
        loader = torch.utils.data.DataLoader(batches, batch_size=None)
        lightning.Trainer(
            accelerator="cpu", max_steps=step, max_epochs=-1, logger=False, callbacks=[Watch(), last],
            enable_progress_bar=False, enable_model_summary=False,
        ).fit(Adapter(ours), loader)  # fmt: skip
        raise Killed

    return run


@pytest.mark.parametrize("name", ["moco_v2", "msmae"])
def test_a_checkpoint_that_lightning_wrote_is_gone_on_with(
    name: str, clinic_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"steps": STEPS, "batch_size": 8, "size": 32, "precision": "32-true", "method_args": GIVEN.get(name), "quiet": True,
             "target": ["label"], "encoder": "vit_tiny_patch8" if plugins.method(name).needs_vit else "resnet10t"}  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = pretrain(str(clinic_table), name, tmp_path / "alone", **given)  # type: ignore[arg-type]
    out = tmp_path / "earlier"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer.Trainer, "run", lightning_until(3))
        pretrain(str(clinic_table), name, out, **given)  # type: ignore[arg-type]
    assert "pytorch-lightning_version" in torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    pretrain(str(clinic_table), name, out, resume=True, **given)  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    found, expected = (load_file(run / "encoder.safetensors") for run in (out, alone))
    assert found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())
    assert logged(out) == logged(alone)[3:]


@pytest.mark.long
@pytest.mark.parametrize("name", ["moco_v2", "msmae"])
def test_a_process_killed_at_any_moment_loses_nothing(name: str, clinic_table: Path, tmp_path: Path) -> None:
    """SIGKILL, again and again, while steps are taken and checkpoints written: the last attempt ends as one left alone."""
    given = {"steps": 30, "batch_size": 8, "size": 32, "precision": "32-true", "method_args": GIVEN.get(name), "quiet": True,
             "target": ["label"], "encoder": "vit_tiny_patch8" if plugins.method(name).needs_vit else "resnet10t"}  # fmt: skip
    code = "import sys, json, torch; from scotoma.training import trainer; from scotoma.commands.pretrain import pretrain\n"
    code += (
        "torch.set_num_threads(1); trainer.CHECKPOINT_SECONDS = 0; pretrain(*sys.argv[1:4], **json.loads(sys.argv[4]), resume=True)"
    )

    def started(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(clinic_table), name, str(out), json.dumps(given)])

    assert started(tmp_path / "alone").wait(timeout=300) == 0
    out, chance, killed = tmp_path / "killed", random.Random(name), 0
    while True:
        process = started(out)
        before = steps_logged(out)
        while process.poll() is None and steps_logged(out) < before + 6:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
    assert process.returncode == 0 and killed >= 2
    expected, found = (load_file(run / "encoder.safetensors") for run in (tmp_path / "alone", out))
    assert found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())
    assert logged(out) == logged(tmp_path / "alone")


def steps_logged(run: Path) -> int:
    """The last step in the run's log; 0 where there is none yet."""
    try:
        return int((run / "metrics.csv").read_text().rpartition("\n")[0].rpartition("\n")[2].partition(",")[0])
    except (OSError, ValueError):
        return 0


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "last.ckpt"
    trainer.write_checkpoint(place, {"step": 1})

    def half(what: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch, "save", half)
        trainer.write_checkpoint(place, {"step": 2})
    assert torch.load(place) == {"step": 1}
    trainer.write_checkpoint(place, {"step": 3})
    assert torch.load(place) == {"step": 3} and [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
