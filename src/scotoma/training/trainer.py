"""The one training loop: batches from the store, precision, schedule, several processes, checkpoints, resume.

Everything random is keyed by (seed, epoch, row) and every schedule by step / steps, so
a run that was killed and resumed sees what an undisturbed one sees.
"""

from __future__ import annotations

import math
import re
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scotoma import files
from scotoma.data.pairing import GroupPairing, SuccessorPairing
from scotoma.data.store.store import Store
from scotoma.distributed import collectives
from scotoma.errors import RunError
from scotoma.methods.base import Method
from scotoma.rng import KeyedRNG
from scotoma.run_folder import CHECKPOINTS, Row
from scotoma.training import cpu_kernels, fsdp
from scotoma.training.callbacks import Callback, TrainingLogger
from scotoma.training.schedule import Schedule, learning_rate_factor

LOWER = "lower the learning rate (--learning_rate of pretrain and finetune)"
CHECKPOINT_SECONDS = 120
PREFIX = "method."  # before the names of a checkpoint's weights
Batch = dict[str, Tensor]


class Batches:
    """Whole batches out of the store: the item of (epoch, positions) is everything a step needs.

    Args:
        store: of the pixels.
        rows: (n,) the images to train on.
        targets: (n,) or (n, K); None without.
        columns: (n, K) float32, NaN where missing; None without.
        pairs: the pairing that draws another image for each.
        masks: the store of their masks, and (n,) the rows there, -1 for none.
        seed: of the pairs.
        keys: (n,) what random numbers are keyed by where an image stands in ``rows`` more than once; by default ``rows``.
    """

    def __init__(self, store: Store, rows: np.ndarray, targets: np.ndarray | None = None, columns: np.ndarray | None = None,
                 pairs: GroupPairing | SuccessorPairing | None = None, masks: tuple[Store, np.ndarray] | None = None,
                 seed: int = 0, keys: np.ndarray | None = None) -> None:  # fmt: skip
        self.keys = rows if keys is None else keys
        self.store, self.rows, self.targets, self.columns = store, rows, targets, columns
        self.pairs, self.masks, self.seed = pairs, masks, seed

    def __getitem__(self, key: Any) -> Batch:
        epochs, positions = key
        rows = self.rows[positions]
        batch = {
            "images": torch.from_numpy(self.store.batch(rows)),
            "rows": torch.from_numpy(self.keys[positions]),
            "epochs": torch.from_numpy(epochs),
            "positions": torch.from_numpy(positions),
        }
        for name, values in (("targets", self.targets), ("columns", self.columns)):
            if values is not None:
                batch[name] = torch.from_numpy(values[positions])
        if self.pairs is not None:
            paired_images, follows = self.pairs.draw(positions, KeyedRNG(self.seed, batch["epochs"], batch["rows"]))
            batch["paired_images"] = torch.from_numpy(self.store.batch(self.rows[paired_images]))
            if follows is not None:
                batch["follows"] = torch.from_numpy(follows)
        if self.masks is not None:
            store, at = self.masks
            inside = store.batch(np.maximum(at[positions], 0))
            batch["masks"] = torch.from_numpy(np.where((at[positions] < 0)[:, None, None, None], np.uint8(0), inside))
        return batch


class Order:
    """The batches of a run, step by step: each epoch a shuffle of its own, from any step on, this process's share in its parts.

    An epoch's last batch is filled from the next epoch, so every step has the full batch and small data sets need no other rule.
    """

    def __init__(self, count: int, schedule: Schedule, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.count, self.schedule, self.start, self.rank, self.world = count, schedule, start, rank, world

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = self.schedule.batch_size
        shuffles: dict[int, np.ndarray] = {}
        for step in range(self.start, self.schedule.steps):
            places = np.arange(step * size, (step + 1) * size)
            epochs = places // self.count
            shuffles = {
                epoch: shuffles[epoch] if epoch in shuffles else self._shuffle(epoch) for epoch in np.unique(epochs).tolist()
            }
            positions = np.concatenate([shuffles[e][places[epochs == e] % self.count] for e in shuffles])
            epochs, positions = epochs[self.rank :: self.world], positions[self.rank :: self.world]
            for part in range(self.schedule.accumulate):
                yield epochs[part :: self.schedule.accumulate], positions[part :: self.schedule.accumulate]

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.schedule.seed, epoch]).permutation(self.count)


class Trainer:
    """The training loop: views on the device, the loss under autocast, AdamW, the schedule, ``after_step``, checkpoints.

    What networks draw by themselves (dropout, drop path) is seeded by the step, as all else is. Loss and gradients of several
    processes are averaged (DDP); with ``schedule.shard`` what is trained is a sharded copy of the method (FSDP).

    Args:
        method: what to train, in place.
        schedule: its length, learning rate and precision.
        batches: from which images.
        callbacks: called after each step, in order.
        checkpoint: the file to write every ``CHECKPOINT_SECONDS``; None for none.
    """

    def __init__(
        self, method: Method, schedule: Schedule, batches: Batches, callbacks: Sequence[Callback], checkpoint: Path | None
    ) -> None:
        self.schedule, self.batches, self.callbacks, self.checkpoint = schedule, batches, callbacks, checkpoint
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        self.step, self.should_stop = 0, False
        self.metrics: dict[str, float] = {}
        if schedule.shard:
            self.method = fsdp.shard_copy(method, self.device)
        else:
            self.method = method.to(memory_format=torch.channels_last).to(self.device)
        self.method.train()
        self.forward: nn.Module = _Loss(self.method, schedule.seed)
        if (
            collectives.world() > 1 and not schedule.shard
        ):  # all that a method keeps is the same in every process: no buffers to send
            self.forward = DistributedDataParallel(self.forward, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = make_optimizer(self.method, schedule)
        warmup = method.warmup if schedule.warmup is None else schedule.warmup
        final = schedule.final_learning_rate / schedule.learning_rate if schedule.final_learning_rate else 0.0
        factor = partial(learning_rate_factor, steps=schedule.steps, warmup=warmup, kind=schedule.kind, final=final)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def run(self) -> None:
        """Take the steps that are left.

        Raises:
            RunError: a loss is not finite; it is not written into the weights.
        """
        saved = time.monotonic()
        order = Order(len(self.batches.rows), self.schedule, self.step, collectives.rank(), collectives.world())
        try:
            for callback in self.callbacks:
                callback.on_train_start(self)
            for index, key in enumerate(order):
                part = index % self.schedule.accumulate
                self._accumulate(key, part)
                if part + 1 < self.schedule.accumulate:
                    continue
                self.optimizer.step()
                self.method.zero_grad()  # at once, before the next forward pass fills memory
                self.method.after_step(self.step / self.schedule.steps)
                self.scheduler.step()
                self.step += 1
                for callback in self.callbacks:
                    callback.on_step_end(self)
                due = time.monotonic() - saved >= CHECKPOINT_SECONDS
                if self.checkpoint and (collectives.broadcast(due) if self.schedule.shard else due):  # sharded, all take part
                    self.save(self.checkpoint)
                    saved = time.monotonic()
                if self.should_stop:
                    break
        finally:
            for callback in self.callbacks:
                callback.on_train_end(self)

    def _accumulate(self, key: Any, part: int) -> None:
        """Add the gradient of one part of a step's batch."""
        number = (self.schedule.seed * 1_000_003 + self.step) * self.schedule.accumulate + part
        torch.manual_seed(number * collectives.world() + collectives.rank())
        batch = self.batches[key]
        if self.device.type == "cuda":
            batch = {k: v.pin_memory().to(self.device, non_blocking=True) for k, v in batch.items()}
        last = part + 1 == self.schedule.accumulate
        with nullcontext() if last or not isinstance(self.forward, DistributedDataParallel) else self.forward.no_sync():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.precision == "bf16-mixed"):
                result: dict[str, Tensor] = self.forward(batch)
            means = collectives.all_reduce_mean(torch.stack([v.detach().float() for v in result.values()])).tolist()
            for name, value in zip(result, means, strict=True):  # the mean over the parts of a step
                self.metrics[name] = value if part == 0 else self.metrics[name] + (value - self.metrics[name]) / (part + 1)
            if not math.isfinite(self.metrics["loss"]):
                raise RunError(f"the loss became {self.metrics['loss']} at step {self.step}: {LOWER}")
            (result["loss"] / self.schedule.accumulate).backward()

    def save(self, place: Path) -> None:
        """Write a checkpoint; its parts are called as in those of Lightning, which earlier versions wrote."""
        if self.schedule.shard:
            model, optimizer = fsdp.states(self.method, self.optimizer)
        else:
            model, optimizer = self.method.state_dict(), self.optimizer.state_dict()
        if collectives.rank() == 0:
            write_checkpoint(
                place,
                {
                    "global_step": self.step,
                    "state_dict": {PREFIX + name: value for name, value in model.items()},
                    "optimizer_states": [optimizer],
                    "lr_schedulers": [self.scheduler.state_dict()],
                    "callbacks": {callback.key: callback.state_dict() for callback in self.callbacks},
                },
            )

    def load(self, place: Path) -> None:
        """Go on from a checkpoint."""
        found = torch.load(place, map_location="cpu", weights_only=True)
        model = {name.removeprefix(PREFIX): value for name, value in found["state_dict"].items()}
        model = {re.sub(r"^hiding\.", "mask_strategy.", name): value for name, value in model.items()}  # as earlier versions say
        if self.schedule.shard:
            fsdp.load_states(self.method, self.optimizer, model, found["optimizer_states"][0])
        else:
            self.method.load_state_dict(model)
            self.optimizer.load_state_dict(found["optimizer_states"][0])
        self.scheduler.load_state_dict(found["lr_schedulers"][0])
        self.step = found["global_step"]
        for callback in self.callbacks:
            if callback.key in found["callbacks"]:
                callback.load_state_dict(found["callbacks"][callback.key])


class _Loss(nn.Module):
    """What several processes run forward together."""

    def __init__(self, method: Method, seed: int) -> None:
        super().__init__()
        self.method, self.seed = method, seed

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch."""
        return step_loss(self.method, batch, self.seed)


def write_checkpoint(place: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint that is whole or absent: beside the last one, then put in its place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(place) as beside, beside.open("wb") as file:
        torch.save(checkpoint, file)


def make_optimizer(method: Method, schedule: Schedule) -> torch.optim.Optimizer:
    """Fused AdamW over the method's parameter groups."""
    groups = method.param_groups()
    for group in groups:
        group["lr"] = schedule.learning_rate * group.pop("lr_scale", 1.0)
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=method.betas, fused=True)


def step_loss(method: Method, batch: Batch, seed: int) -> dict[str, Tensor]:
    """The loss of the views of a batch."""
    return method.loss(make_views(method, batch, seed), batch)


def make_views(method: Method, batch: Batch, seed: int) -> Batch:
    """Views of a batch, drawn from (seed, epoch, row)."""
    images = batch["images"]
    rng = KeyedRNG(seed, batch["epochs"], batch["rows"])
    others = {name: batch[name] for name in ("paired_images", "masks") if name in batch}
    with torch.autocast(images.device.type, enabled=False):
        views = method.views(images, rng, **others)
    return {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in views.items()}


def tune_for_cpu(method: Method, precision: str) -> None:
    """Have the method's networks do what a CPU does fast, where there is no GPU."""
    patch: Any = getattr(method.encoder, "patch_embed", None)
    side = getattr(patch, "patch_size", None)
    tokens = (method.inputs.image_size // side[0]) ** 2 if side else 0
    cpu_kernels.tune(method, torch.bfloat16 if precision == "bf16-mixed" else torch.float32, tokens)


@dataclass(frozen=True)
class Trained:
    """What training leaves beside the weights: seconds and steps (those before a resume too), last loss, spread and rank."""

    seconds: float
    steps: int
    loss: float
    feature_spread: float
    effective_rank: float


def cost_rows(trained: Trained, schedule: Schedule, method: Method, images: int, preparing: float) -> list[Row]:
    """What a training cost and where it ended.

    Args:
        trained: what ``fit`` gave.
        schedule: by which it was trained.
        method: trained.
        images: how many different ones it had.
        preparing: seconds that decoding took; ``images_per_second`` counts them in.

    Raises:
        RunError: the loss is no number.
    """
    if not math.isfinite(trained.loss):
        raise RunError(f"the loss became {trained.loss}: {LOWER}")
    # Linux counts in KiB, and counts file-backed pages of the store in
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seen = trained.steps * schedule.batch_size
    values = {
        "images": images,
        "images_seen": seen,
        "steps": trained.steps,
        "seconds": trained.seconds,
        "seconds_preparing": preparing,
        "images_per_second": seen / (trained.seconds + preparing),
        "processes": collectives.world(),
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident,
        "parameters": sum(p.numel() for p in method.encoder.parameters()),
        "loss": trained.loss,
        "feature_spread": trained.feature_spread,
        "effective_rank": trained.effective_rank,
    }
    return [{"metric": name, "value": float(value), "split": "train"} for name, value in values.items()]


def fit(method: Method, schedule: Schedule, batches: Batches, folder: Path | None, resume: bool = False, quiet: bool = False,
        callbacks: Sequence[Callback] = ()) -> Trained:  # fmt: skip
    """Train a method.

    Args:
        method: what to train, in place.
        schedule: its length, learning rate and precision.
        batches: from which images.
        folder: the run folder, for checkpoints and logs; None has none of them.
        resume: go on from ``checkpoints/last.ckpt`` where there is one.
        quiet: no progress bar.
        callbacks: further ones.
    """
    logger = TrainingLogger(schedule, batches.store, batches.rows, folder, quiet)
    if not method.own_statistics:
        collectives.share_norms(method)
    tune_for_cpu(method, schedule.precision)
    last = folder / CHECKPOINTS / "last.ckpt" if folder else None
    try:
        trainer = Trainer(method, schedule, batches, [logger, *callbacks], last)
        if resume and last and last.exists():
            trainer.load(last)
        trainer.run()
    finally:
        cpu_kernels.restore(method)
    if schedule.shard:
        found = fsdp.state(trainer.method)
        if collectives.rank() == 0:
            method.load_state_dict(found)
    method.cpu()
    return Trained(logger.seconds, trainer.step, logger.loss, logger.spread, logger.rank)
