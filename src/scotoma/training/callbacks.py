"""Callbacks of a training: progress bar, ``metrics.csv``, TensorBoard, and the monitor of collapse."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from scotoma import files
from scotoma.data.io import sampling
from scotoma.data.store.store import Store
from scotoma.distributed import collectives
from scotoma.errors import notice, stage
from scotoma.methods.base import Method
from scotoma.models.features import features, spread
from scotoma.training import fsdp
from scotoma.training.schedule import Schedule

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from scotoma.training.trainer import Trainer

MONITOR_IMAGES, MONITOR_TIMES = 256, 10  # images by which collapse is monitored, and how often in a run
AT_ONCE = 32  # of them: no more memory than a step of training takes
COLLAPSED = 2.0  # effective rank under which features say next to nothing
METRICS = "metrics.csv"
COLUMNS = ("step", "loss", "lr", "images_per_second", "feature_spread", "effective_rank")


class Callback:
    """What happens beside the steps of a training; its state lies in the checkpoints, under ``key``."""

    key: ClassVar[str]

    def on_train_start(self, trainer: Trainer) -> None:
        """Before the first step, of a resumed run too."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After each step."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last step, and where one failed."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what a checkpoint kept."""


class TrainingLogger(Callback):
    """Progress bar, ``metrics.csv`` and TensorBoard, and the monitor of collapse; what it knows survives a resume."""

    key = "Watch"  # its name in checkpoints

    def __init__(self, schedule: Schedule, store: Store, rows: np.ndarray, folder: Path | None, quiet: bool) -> None:
        self.schedule, self.store, self.folder, self.quiet = schedule, store, folder, quiet
        self.rows = rows[sampling.spread(len(rows), MONITOR_IMAGES)]
        self.every = max(1, schedule.steps // MONITOR_TIMES) if folder else schedule.steps + 1
        self.log_every = max(1, min(10, schedule.steps // 50))
        self.spread, self.rank, self.warned, self.loss = math.nan, math.nan, False, math.nan
        self.before, self.began, self.idle, self.first = 0.0, math.nan, 0.0, 0
        self.bar: Any = None
        self.writer: SummaryWriter | None = None

    @property
    def seconds(self) -> float:
        """What the steps took, without the looks; those before a resume too."""
        return self.before + (0.0 if math.isnan(self.began) else time.perf_counter() - self.began - self.idle)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds, "loss": self.loss, "spread": self.spread, "rank": self.rank, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what a checkpoint kept."""
        self.before, self.loss, self.warned = state_dict["seconds"], state_dict["loss"], state_dict["warned"]
        self.spread, self.rank = state_dict["spread"], state_dict["rank"]

    def on_train_start(self, trainer: Trainer) -> None:
        """Start the clock and the bar."""
        stage(f"training, {self.schedule.steps - trainer.step} steps", self.quiet)
        if not self.quiet and collectives.rank() == 0:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar.add_task("training", total=self.schedule.steps, completed=trainer.step)
            self.bar.start()
        self.began, self.first = time.perf_counter(), trainer.step
        if self.folder and (self.folder / METRICS).exists() and collectives.rank() == 0:
            drop_lines_after(self.folder / METRICS, self.first)

    def on_step_end(self, trainer: Trainer) -> None:
        """Log, look at the features now and then, move the bar."""
        step = trainer.step
        rate = (step - self.first) * self.schedule.batch_size / (time.perf_counter() - self.began - self.idle)
        description = {}
        look = step % self.every == 0
        if look:
            began = time.perf_counter()
            with fsdp.gather(trainer.method):
                self._look(trainer.method, trainer.device, step)
            self.idle += time.perf_counter() - began
        if look or step % self.log_every == 0 or step == self.schedule.steps:
            self.loss = trainer.metrics["loss"]
            values = trainer.metrics | {"lr": trainer.optimizer.param_groups[0]["lr"], "images_per_second": rate}
            self._log(step, values | ({"feature_spread": self.spread, "effective_rank": self.rank} if look else {}))
            description = {"description": f"loss {self.loss:.4f}  {rate:,.0f} images per second"}
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=step, **description)

    def _log(self, step: int, values: dict[str, float]) -> None:
        if self.folder is None or collectives.rank():
            return
        file = self.folder / METRICS
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        others = sorted(set(values) - set(COLUMNS))
        with file.open("a", newline="") as opened:
            writer = csv.DictWriter(opened, [*COLUMNS, *others], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({"step": step, **values})
        if self.writer is None:  # not before the first step, which would wait for the import
            began = time.perf_counter()
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "logs"))
            self.idle += time.perf_counter() - began
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    @torch.no_grad()
    def _look(self, method: Method, device: torch.device, step: int) -> None:
        inputs, encoder = method.inputs, method.encoder
        images = torch.from_numpy(self.store.batch(self.rows)).to(device)
        encoder.eval()
        seen = (inputs.image_size, inputs.mean, inputs.std, self.schedule.precision)
        f = torch.cat([features(encoder, part, *seen) for part in images.split(AT_ONCE)])
        encoder.train()
        self.spread, self.rank = spread(f)
        if step >= self.schedule.steps // 4 and not self.rank >= COLLAPSED and not self.warned:  # early features are no verdict
            self.warned = True
            notice(
                f"step {step}",
                f"the encoder is collapsing: it gives nearly the same features to all images (effective rank {self.rank:.1f}, "
                f"spread {self.spread:.3f}). Pretrain with a lower --learning_rate or a larger --batch_size.",
            )

    def on_train_end(self, trainer: Trainer) -> None:
        """Stop the bar, so that an error's line stands by itself; write the log out."""
        if self.bar:
            self.bar.stop()
        if self.writer:
            self.writer.close()


def drop_lines_after(file: Path, step: int) -> None:
    """Cut off what a killed run logged after its last checkpoint (those steps are taken again), and the line it was writing."""
    head, *lines = file.read_text().rpartition("\n")[0].split("\n")
    kept = [line for line in lines if int(line.partition(",")[0]) <= step]
    files.write(file, "".join(line + "\n" for line in (head, *kept) if line))
