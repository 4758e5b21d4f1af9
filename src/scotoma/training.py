"""The one Trainer set-up: batches from the store, precision, schedule, resume, loggers, progress, the collapse watch.

``Adapter`` runs any method under Lightning. Everything random is keyed by (seed, epoch, row) and every schedule by step / steps, so
a run that was killed and resumed sees what an undisturbed one sees.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from scotoma.data.store import Store
from scotoma.errors import RunError
from scotoma.methods.base import Method
from scotoma.views import Draws, plain

CHECKPOINT_SECONDS = 120
WATCH, LOOKS = 256, 10  # pictures by which features are watched, and how often in a run
METRICS = "metrics.csv"
COLUMNS = ("step", "loss", "lr", "images_per_second", "feature_spread", "effective_rank")
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Args:
        steps: optimiser steps; every schedule depends on step / steps.
        batch_size: pictures a step, over all devices.
        learning_rate: peak of the schedule (linear warm-up, then cosine to 0).
        weight_decay: of AdamW.
        precision: Lightning's name, ``bf16-mixed`` or ``32-true``.
        seed: of order, views and weights.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    precision: str
    seed: int


def automatic_precision() -> str:
    """``bf16-mixed`` where the processor multiplies bfloat16 matrices itself, else ``32-true``."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if capable else "32-true"


class Batches(Dataset[Batch]):
    """Whole batches out of the store: the item of (epoch, positions) is everything a step needs."""

    def __init__(self, store: Store, rows: np.ndarray, targets: np.ndarray | None) -> None:
        self.store, self.rows, self.targets = store, rows, targets

    def __getitem__(self, key: Any) -> Batch:
        epochs, positions = key
        rows = self.rows[positions]
        batch = {
            "images": torch.from_numpy(self.store.batch(rows)),
            "rows": torch.from_numpy(rows),
            "epochs": torch.from_numpy(epochs),
        }
        if self.targets is not None:
            batch["targets"] = torch.from_numpy(self.targets[positions])
        return batch


class Order(Sampler[Any]):
    """The batches of a run, step by step: each epoch a shuffle of its own, from any step on, this process's share.

    An epoch's last batch is filled from the next epoch, so every step has the full batch and small data sets need no other rule.
    """

    def __init__(self, count: int, plan: Plan, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.count, self.plan, self.start, self.rank, self.world = count, plan, start, rank, world

    def __len__(self) -> int:
        return self.plan.steps  # of the whole run, whatever the start: Lightning counts a resumed run's steps from its beginning

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = self.plan.batch_size
        shuffles: dict[int, np.ndarray] = {}
        for step in range(self.start, self.plan.steps):
            places = np.arange(step * size, (step + 1) * size)
            epochs = places // self.count
            shuffles = {
                epoch: shuffles[epoch] if epoch in shuffles else self._shuffle(epoch) for epoch in np.unique(epochs).tolist()
            }
            positions = np.concatenate([shuffles[e][places[epochs == e] % self.count] for e in shuffles])
            yield epochs[self.rank :: self.world], positions[self.rank :: self.world]

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.plan.seed, epoch]).permutation(self.count)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear warm-up over a share of the steps, then cosine to 0 at the last."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class Adapter(L.LightningModule):
    """Runs any method: views on the device, the loss under autocast, AdamW, the schedule, ``after_step``."""

    def __init__(self, method: Method, plan: Plan, batches: Batches) -> None:
        super().__init__()
        self.method, self.plan, self.batches = method, plan, batches

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the step that the trainer stands at."""
        order = Order(len(self.batches.rows), self.plan, self.trainer.global_step, self.global_rank, self.trainer.world_size)
        return DataLoader(self.batches, sampler=order, batch_size=None, num_workers=0, pin_memory=self.on_gpu)

    @property
    def on_gpu(self) -> bool:
        """Whether training runs on an accelerator."""
        return bool(self.trainer.strategy.root_device.type == "cuda")

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step of the method."""
        result = step_loss(self.method, batch, self.plan.seed)
        self.log_dict({k: v.detach() for k, v in result.items()}, logger=False, batch_size=self.plan.batch_size)
        return result["loss"]

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop at a loss that is no number, before it is written into the weights of a checkpoint."""
        loss = self.trainer.callback_metrics.get("loss")
        if loss is not None and not torch.isfinite(loss):
            raise RunError(f"the loss became {loss.item()} at step {self.trainer.global_step}: lower --learning_rate")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's step, then the method's own."""
        super().optimizer_step(*args, **kwargs)
        self.method.after_step(self.trainer.global_step / self.plan.steps)

    def configure_optimizers(self) -> Any:
        """AdamW over the method's groups, with the schedule."""
        optimizer = make_optimizer(self.method, self.plan)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, self.plan.steps, self.method.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def make_optimizer(method: Method, plan: Plan) -> torch.optim.Optimizer:
    """Fused AdamW over the method's parameter groups."""
    groups = method.param_groups()
    for group in groups:
        group["lr"] = plan.learning_rate * group.pop("lr_scale", 1.0)
    return torch.optim.AdamW(groups, lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=method.betas, fused=True)


def step_loss(method: Method, batch: Batch, seed: int) -> dict[str, Tensor]:
    """Views of a batch, drawn from (seed, epoch, row), and their loss."""
    images = batch["images"]
    rng = Draws(seed, batch["epochs"], batch["rows"])
    with torch.autocast(images.device.type, enabled=False):
        views = method.views(images, rng)
    views = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in views.items()}
    return method.loss(views, batch)


def measure_rate(method: Method, plan: Plan, batches: Batches, warm: int = 2, timed: int = 4) -> float:
    """Seconds a step, from a few throw-away steps; weights, buffers and torch's random numbers are as before afterwards.

    On the device that training will use, under the same precision.
    """
    with torch.random.fork_rng():
        return _measure_rate(method, plan, batches, warm, timed)


def _measure_rate(method: Method, plan: Plan, batches: Batches, warm: int, timed: int) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    saved = {k: v.detach().clone() for k, v in method.state_dict().items()}
    method.to(device).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(method, plan)
    order = iter(Order(len(batches.rows), plan))
    seconds = []
    for _ in range(min(warm + timed, plan.steps)):
        began = time.perf_counter()
        batch = {k: v.to(device) for k, v in batches[next(order)].items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16-mixed"):
            loss = step_loss(method, batch, plan.seed)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - began)
    method.load_state_dict(saved)
    return float(np.median(seconds[warm:]))


def features(encoder: nn.Module, images: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...],
             precision: str) -> Tensor:  # fmt: skip
    """(B, D) float32 features of (B, C, H, W) uint8 pictures, seen plainly."""
    x = plain(images, size, mean, std).contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        return encoder(x).float()


def spread(f: Tensor) -> tuple[float, float]:
    """How far features are from collapse.

    Returns:
        Feature spread: the mean standard deviation of the L2-normalised features' coordinates times sqrt(D), 0 when all pictures
        look alike and near 1 when they fill the sphere (SimSiam, section 4.1). Effective rank: exp of the entropy of the
        normalised singular values of the centred features (Roy & Vetterli 2007), between 1 and D. Both are NaN where a feature is
        no number.
    """
    f = f.float()
    if not f.isfinite().all():
        return math.nan, math.nan
    unit = nn.functional.normalize(f, dim=1)
    singular = torch.linalg.svdvals(f - f.mean(0))
    p = singular / singular.sum().clamp(min=1e-12)
    entropy = -(p * p.clamp(min=1e-12).log()).sum()
    return float(unit.std(0, unbiased=False).mean() * math.sqrt(f.shape[1])), float(entropy.exp())


class Watch(Callback):
    """Progress bar, ``metrics.csv`` and TensorBoard, and the watch over collapse; what it knows survives a resume."""

    def __init__(self, method: Method, plan: Plan, store: Store, rows: np.ndarray, folder: Path | None, quiet: bool) -> None:
        self.method, self.plan, self.store, self.quiet = method, plan, store, quiet
        self.rows = rows[np.linspace(0, len(rows) - 1, min(WATCH, len(rows))).astype(int)]
        self.file = folder / METRICS if folder else None
        self.every = max(1, plan.steps // LOOKS) if folder else plan.steps + 1
        self.log_every = max(1, min(10, plan.steps // 50))
        self.spread, self.rank, self.warned, self.loss = math.nan, math.nan, False, math.nan
        self.before, self.began, self.idle, self.first = 0.0, math.nan, 0.0, 0

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
        if self.file and self.file.exists() and trainer.is_global_zero:
            drop_lines_after(self.file, self.first)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Log, look at the features now and then, move the bar."""
        step = trainer.global_step
        rate = (step - self.first) * self.plan.batch_size / (time.perf_counter() - self.began - self.idle)
        look = step % self.every == 0
        if look:
            began = time.perf_counter()
            self._look(module, step)
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
    def _look(self, module: L.LightningModule, step: int) -> None:
        inputs, encoder = self.method.inputs, self.method.encoder
        images = torch.from_numpy(self.store.batch(self.rows)).to(module.device)
        encoder.eval()
        f = features(encoder, images, inputs.image_size, inputs.mean, inputs.std, self.plan.precision)
        encoder.train()
        self.spread, self.rank = spread(f)
        if (self.spread < 0.05 or self.rank < 2) and not self.warned:
            self.warned = True
            self.bar.console.print(
                f"step {step}: the encoder is collapsing: it gives nearly the same features to all pictures (spread "
                f"{self.spread:.3f}, effective rank {self.rank:.1f}). Lower the learning rate, or use a larger batch."
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
    file.write_text("".join(line + "\n" for line in (head, *kept) if line))


@dataclass(frozen=True)
class Trained:
    """What training leaves beside the weights: seconds and steps (those before a resume too), last loss, spread and rank."""

    seconds: float
    steps: int
    loss: float
    feature_spread: float
    effective_rank: float


def fit(method: Method, plan: Plan, batches: Batches, folder: Path | None, resume: bool = False, quiet: bool = False,
        callbacks: tuple[Callback, ...] = ()) -> Trained:  # fmt: skip
    """Train a method.

    Args:
        method: what to train, in place.
        plan: how.
        batches: from which pictures.
        folder: the run folder, for checkpoints, logs and the watch over collapse; None has none of them.
        resume: go on from ``checkpoints/last.ckpt`` where there is one.
        quiet: no progress bar.
        callbacks: further Lightning callbacks.
    """
    watch = Watch(method, plan, batches.store, batches.rows, folder, quiet)
    trainer = make_trainer(plan, folder, [watch, *callbacks])
    last = folder / "checkpoints" / "last.ckpt" if folder else None
    adapter = Adapter(method.to(memory_format=torch.channels_last), plan, batches)
    method.train()
    try:
        trainer.fit(adapter, ckpt_path=str(last) if resume and last and last.exists() else None, weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning makes an exit of Ctrl-C; the command line has a word to say about it
            raise KeyboardInterrupt from None
        raise
    return Trained(watch.seconds, trainer.global_step, watch.loss, watch.spread, watch.rank)


def make_trainer(plan: Plan, folder: Path | None, callbacks: list[Callback]) -> L.Trainer:
    """Lightning's Trainer, the same for every verb that trains."""
    import logging
    import warnings

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    loggers = [TensorBoardLogger(folder, name="", version="logs")] if folder else []
    if folder:
        callbacks = [
            *callbacks,
            ModelCheckpoint(
                folder / "checkpoints",
                save_last=True,
                save_top_k=0,
                train_time_interval=timedelta(seconds=CHECKPOINT_SECONDS),
                enable_version_counter=False,
            ),
        ]
    precision: Any = plan.precision
    return L.Trainer(
        max_steps=plan.steps, max_epochs=-1, precision=precision, callbacks=callbacks, logger=loggers or False,
        enable_checkpointing=bool(folder), enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        log_every_n_steps=1, num_sanity_val_steps=0, gradient_clip_val=None,
    )  # fmt: skip
