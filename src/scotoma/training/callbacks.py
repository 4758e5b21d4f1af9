"""The watch over a training: progress bar, ``metrics.csv``, TensorBoard, and whether features collapse."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from scotoma import files
from scotoma.data.io import sampling
from scotoma.data.store.store import Store
from scotoma.methods.base import Method
from scotoma.models.features import features, spread
from scotoma.training import fsdp
from scotoma.training.schedule import Plan

WATCH, LOOKS = 256, 10  # images by which features are watched, and how often in a run
AT_ONCE = 32  # of them: no more memory than a step of training takes
COLLAPSED = 2.0  # effective rank under which features say next to nothing
METRICS = "metrics.csv"
COLUMNS = ("step", "loss", "lr", "images_per_second", "feature_spread", "effective_rank")


class Watch(Callback):
    """Progress bar, ``metrics.csv`` and TensorBoard, and the watch over collapse; what it knows survives a resume."""

    def __init__(self, plan: Plan, store: Store, rows: np.ndarray, folder: Path | None, quiet: bool) -> None:
        self.plan, self.store, self.quiet = plan, store, quiet
        self.rows = rows[sampling.spread(len(rows), WATCH)]
        self.file = folder / METRICS if folder else None
        self.every = max(1, plan.steps // LOOKS) if folder else plan.steps + 1
        self.log_every = max(1, min(10, plan.steps // 50))
        self.spread, self.rank, self.warned, self.loss = math.nan, math.nan, False, math.nan
        self.before, self.began, self.idle, self.first, self.told = 0.0, math.nan, 0.0, 0, 0

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

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock and the bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, disable=self.quiet or not trainer.is_global_zero)
        self.task = self.bar.add_task("training", total=self.plan.steps, completed=trainer.global_step)
        self.bar.start()
        self.began, self.first = time.perf_counter(), trainer.global_step
        self.told = self.first
        if self.file and self.file.exists() and trainer.is_global_zero:
            drop_lines_after(self.file, self.first)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Log, look at the features now and then, move the bar."""
        step = trainer.global_step
        if step == self.told:  # a part of a step
            return
        self.told = step
        rate = (step - self.first) * self.plan.batch_size / (time.perf_counter() - self.began - self.idle)
        look = step % self.every == 0
        if look:
            began = time.perf_counter()
            adapter: Any = module
            with fsdp.gathered(adapter.method):
                self._look(adapter.method, module.device, step)
            self.idle += time.perf_counter() - began
        if look or step % self.log_every == 0 or step == self.plan.steps:
            values = {k: float(v) for k, v in trainer.callback_metrics.items()}
            self.loss = values["loss"]
            values |= {"lr": trainer.optimizers[0].param_groups[0]["lr"], "images_per_second": rate}
            self._log(trainer, step, values | ({"feature_spread": self.spread, "effective_rank": self.rank} if look else {}))
            self.bar.update(self.task, description=f"loss {self.loss:.4f}  {rate:,.0f} images/s")
        self.bar.update(self.task, completed=step)

    def _log(self, trainer: L.Trainer, step: int, values: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
        if self.file is None or not trainer.is_global_zero:
            return
        new = not self.file.exists()
        others = sorted(set(values) - set(COLUMNS))
        with self.file.open("a", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *others], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({"step": step, **values})

    @torch.no_grad()
    def _look(self, method: Method, device: torch.device, step: int) -> None:
        inputs, encoder = method.inputs, method.encoder
        images = torch.from_numpy(self.store.batch(self.rows)).to(device)
        encoder.eval()
        seen = (inputs.image_size, inputs.mean, inputs.std, self.plan.precision)
        f = torch.cat([features(encoder, part, *seen) for part in images.split(AT_ONCE)])
        encoder.train()
        self.spread, self.rank = spread(f)
        if step >= self.plan.steps // 4 and not self.rank >= COLLAPSED and not self.warned:  # early features are no verdict
            self.warned = True
            self.bar.console.print(
                f"step {step}: the encoder is collapsing: it gives nearly the same features to all images (effective rank "
                f"{self.rank:.1f}, spread {self.spread:.3f}). Pretrain with a lower --learning_rate or a larger --batch_size."
            )

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop the bar."""
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Stop the bar, so that the error's line stands by itself."""
        if hasattr(self, "bar"):
            self.bar.stop()


def drop_lines_after(file: Path, step: int) -> None:
    """Cut off what a killed run logged after its last checkpoint (those steps are taken again), and the line it was writing."""
    head, *lines = file.read_text().rpartition("\n")[0].split("\n")
    kept = [line for line in lines if int(line.partition(",")[0]) <= step]
    files.write(file, "".join(line + "\n" for line in (head, *kept) if line))
