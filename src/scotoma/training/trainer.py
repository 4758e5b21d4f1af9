"""The one Trainer set-up: batches from the store, precision, schedule, resume, loggers.

``Adapter`` runs any method under Lightning. Everything random is keyed by (seed, epoch, row) and every schedule by step / steps, so
a run that was killed and resumed sees what an undisturbed one sees.
"""

from __future__ import annotations

import copy
import math
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scotoma import files
from scotoma.data.pairing import Partners, Successors
from scotoma.data.store.store import Store
from scotoma.distributed import collectives, launcher
from scotoma.errors import RunError
from scotoma.methods.base import Method
from scotoma.rng import KeyedRNG
from scotoma.run_folder import Row
from scotoma.training import cpu_kernels, fsdp
from scotoma.training.callbacks import Watch
from scotoma.training.schedule import Plan, schedule

LOWER = "lower the learning rate (--learning_rate of pretrain and finetune)"
CHECKPOINT_SECONDS = 120
Batch = dict[str, Tensor]


class Batches(Dataset[Batch]):
    """Whole batches out of the store: the item of (epoch, positions) is everything a step needs.

    Args:
        store: of the pixels.
        rows: (n,) the images to train on.
        targets: (n,) or (n, K); None without.
        columns: (n, K) float32, NaN where missing; None without.
        pairs: draws each image a partner.
        regions: the store of their regions, and (n,) the rows there, -1 for none.
        seed: of the pairs.
        keys: (n,) what random numbers are keyed by where an image stands in ``rows`` more than once; by default ``rows``.
    """

    def __init__(self, store: Store, rows: np.ndarray, targets: np.ndarray | None = None, columns: np.ndarray | None = None,
                 pairs: Partners | Successors | None = None, regions: tuple[Store, np.ndarray] | None = None,
                 seed: int = 0, keys: np.ndarray | None = None) -> None:  # fmt: skip
        self.keys = rows if keys is None else keys
        self.store, self.rows, self.targets, self.columns = store, rows, targets, columns
        self.pairs, self.regions, self.seed = pairs, regions, seed

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
            partners, follows = self.pairs.draw(positions, KeyedRNG(self.seed, batch["epochs"], batch["rows"]))
            batch["partners"] = torch.from_numpy(self.store.batch(self.rows[partners]))
            if follows is not None:
                batch["follows"] = torch.from_numpy(follows)
        if self.regions is not None:
            store, at = self.regions
            inside = store.batch(np.maximum(at[positions], 0))
            batch["regions"] = torch.from_numpy(np.where((at[positions] < 0)[:, None, None, None], np.uint8(0), inside))
        return batch


class Order(Sampler[Any]):
    """The batches of a run, step by step: each epoch a shuffle of its own, from any step on, this process's share in its parts.

    An epoch's last batch is filled from the next epoch, so every step has the full batch and small data sets need no other rule.
    """

    def __init__(self, count: int, plan: Plan, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.count, self.plan, self.start, self.rank, self.world = count, plan, start, rank, world

    def __len__(self) -> int:
        return self.plan.steps * self.plan.accumulate  # of the whole run, whatever the start: Lightning counts from its beginning

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
            epochs, positions = epochs[self.rank :: self.world], positions[self.rank :: self.world]
            for part in range(self.plan.accumulate):
                yield epochs[part :: self.plan.accumulate], positions[part :: self.plan.accumulate]

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.plan.seed, epoch]).permutation(self.count)


class Adapter(L.LightningModule):
    """Runs any method: views on the device, the loss under autocast, AdamW, the schedule, ``after_step``."""

    told: Tensor

    def __init__(self, method: Method, plan: Plan, batches: Batches) -> None:
        super().__init__()
        self.method, self.plan, self.batches = method, plan, batches

    def configure_model(self) -> None:
        """Deal the method out over the processes, where that is wanted."""
        if self.plan.shard:
            mesh: Any = self.device_mesh
            fsdp.shard(self.method, mesh["data_parallel"])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the step that the trainer stands at."""
        order = Order(len(self.batches.rows), self.plan, self.trainer.global_step, self.global_rank, self.trainer.world_size)
        return DataLoader(self.batches, sampler=order, batch_size=None, num_workers=0, pin_memory=self.on_gpu)

    @property
    def on_gpu(self) -> bool:
        """Whether training runs on an accelerator."""
        return bool(self.trainer.strategy.root_device.type == "cuda")

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step of the method. What networks draw by themselves (dropout, drop path) hangs on the step, as all else does."""
        part = index % self.plan.accumulate
        number = (self.plan.seed * 1_000_003 + self.trainer.global_step) * self.plan.accumulate + part
        torch.manual_seed(number * collectives.world() + collectives.rank())
        result = step_loss(self.method, batch, self.plan.seed)
        told = collectives.mean(torch.stack([v.detach().float() for v in result.values()]))
        self.told = told if part == 0 else self.told + (told - self.told) / (part + 1)  # the mean over the parts of a step
        self.log_dict(dict(zip(result, self.told, strict=True)), logger=False, batch_size=self.plan.batch_size)
        return result["loss"]

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop at a loss that is no number, before it is written into the weights of a checkpoint."""
        loss = self.trainer.callback_metrics.get("loss")
        if loss is not None and not torch.isfinite(loss):
            raise RunError(f"the loss became {loss.item()} at step {self.trainer.global_step}: {LOWER}")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's step, then the method's own. Gradients go at once, before the next forward pass fills memory."""
        super().optimizer_step(*args, **kwargs)
        self.zero_grad()
        self.method.after_step(self.trainer.global_step / self.plan.steps)

    def configure_optimizers(self) -> Any:
        """AdamW over the method's groups, with the schedule."""
        optimizer = make_optimizer(self.method, self.plan)
        factor = partial(schedule, steps=self.plan.steps, warmup=self.method.warmup, kind=self.plan.schedule)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class StepCheckpoint(ModelCheckpoint):
    """Checkpoints after whole steps only, not between the parts of one."""

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save where it is time."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent: written beside the last one, then put in its place.

    Lightning's own go through the system's folder for temporary files, from which they are copied where that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(place) as beside, beside.open("wb") as file:
            torch.save(checkpoint, file)


def make_optimizer(method: Method, plan: Plan) -> torch.optim.Optimizer:
    """Fused AdamW over the method's parameter groups."""
    groups = method.param_groups()
    for group in groups:
        group["lr"] = plan.learning_rate * group.pop("lr_scale", 1.0)
    return torch.optim.AdamW(groups, lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=method.betas, fused=True)


def step_loss(method: Method, batch: Batch, seed: int) -> dict[str, Tensor]:
    """The loss of the views of a batch."""
    return method.loss(make_views(method, batch, seed), batch)


def make_views(method: Method, batch: Batch, seed: int) -> Batch:
    """Views of a batch, drawn from (seed, epoch, row)."""
    images = batch["images"]
    rng = KeyedRNG(seed, batch["epochs"], batch["rows"])
    others = {name: batch[name] for name in ("partners", "regions") if name in batch}
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


def cost_rows(trained: Trained, plan: Plan, method: Method, images: int, preparing: float) -> list[Row]:
    """What a training cost and where it ended.

    Args:
        trained: what ``fit`` gave.
        plan: by which it went.
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
    seen = trained.steps * plan.batch_size
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


def fit(method: Method, plan: Plan, batches: Batches, folder: Path | None, resume: bool = False, quiet: bool = False,
        callbacks: tuple[Callback, ...] = ()) -> Trained:  # fmt: skip
    """Train a method.

    Args:
        method: what to train, in place.
        plan: how.
        batches: from which images.
        folder: the run folder, for checkpoints, logs and the watch over collapse; None has none of them.
        resume: go on from ``checkpoints/last.ckpt`` where there is one.
        quiet: no progress bar.
        callbacks: further Lightning callbacks.
    """
    watch = Watch(plan, batches.store, batches.rows, folder, quiet)
    trainer = make_trainer(plan, folder, [watch, *callbacks])
    last = folder / "checkpoints" / "last.ckpt" if folder else None
    if not method.own_statistics:
        collectives.share_norms(method)
    tune_for_cpu(method, plan.precision)
    # what is dealt out is a copy; the method waits on the CPU for its weights
    trained = copy.deepcopy(method) if plan.shard else method.to(memory_format=torch.channels_last)
    adapter = Adapter(trained.train(), plan, batches)
    try:
        trainer.fit(adapter, ckpt_path=str(last) if resume and last and last.exists() else None, weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning makes an exit of Ctrl-C; the command line has a word to say about it
            raise KeyboardInterrupt from None
        raise
    if plan.shard:
        found = fsdp.state(trained)
        if collectives.rank() == 0:
            method.load_state_dict(found)
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
            StepCheckpoint(
                folder / "checkpoints",
                save_last=True,
                save_top_k=0,
                train_time_interval=timedelta(seconds=CHECKPOINT_SECONDS),
                enable_version_counter=False,
            ),
        ]
    precision: Any = plan.precision
    processes: dict[str, Any] = {"plugins": [WholeCheckpoints()]}
    if collectives.world() > 1:  # all that a method keeps is the same in every process: nothing to send but gradients
        from lightning.pytorch.plugins.environments import TorchElasticEnvironment
        from lightning.pytorch.strategies import DDPStrategy

        ddp = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
        strategy = fsdp.strategy() if plan.shard else ddp
        processes = {**launcher.layout(), "strategy": strategy, "plugins": [WholeCheckpoints(), TorchElasticEnvironment()]}
    return L.Trainer(
        max_steps=plan.steps, max_epochs=-1, precision=precision, callbacks=callbacks, logger=loggers or False,
        enable_checkpointing=bool(folder), enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        accumulate_grad_batches=plan.accumulate, log_every_n_steps=1, num_sanity_val_steps=0, gradient_clip_val=None, **processes,
    )  # fmt: skip
