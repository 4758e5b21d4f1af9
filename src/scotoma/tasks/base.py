"""How a classifier or a segmenter is trained on labels: the recipe, its learning rate, and the watch over validation rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from scotoma.errors import UsageError
from scotoma.methods.base import Method
from scotoma.methods.supervised import Supervised
from scotoma.models.precision import automatic_precision
from scotoma.run_folder import Run
from scotoma.training.callbacks import Callback
from scotoma.training.lr_finder import range_test
from scotoma.training.schedule import Plan
from scotoma.training.trainer import Batches, Trained, Trainer, fit
from scotoma.visualization import plots

CHECKS = 10  # looks at the validation labels in a run
PLATEAU = 2  # checks without improvement after which ``plateau`` lowers the learning rate
PLATEAU_FACTOR = 0.3
Score = Callable[[torch.device], float]  # of the validation rows, higher being better


@dataclass(frozen=True)
class Recipe:
    """How a classifier or a segmenter is trained.

    Args:
        steps: optimiser steps.
        batch_size: images a step.
        learning_rate: peak; 0 for the one that a range test finds.
        weight_decay: of AdamW.
        schedule: of the learning rate, one of ``plan.SCHEDULES``.
        balance: one of ``plan.BALANCES``: classes count alike by weights in the loss, by drawing images of smaller classes again
            and again, or by leaving some of larger ones out. Several 0/1 targets know weights only.
        patience: checks of the validation rows without improvement after which training stops; the best weights are kept. 0 for the
            fixed budget.
        monitor: what is checked, ``loss`` or one of ``metrics.METRICS``, or ``dice`` of regions.
        precision: None for the automatic one.
        seed: of order, views, head and sampling.
        frozen: leave the encoder as it is: a head is fitted, or a decoder trained, on what it gives.
        method_args: of ``Supervised``.
    """

    steps: int = 100
    batch_size: int = Supervised.batch_size
    learning_rate: float = Supervised.learning_rate
    weight_decay: float = Supervised.weight_decay
    schedule: str = "cosine"
    balance: str = "weights"
    patience: int = 0
    monitor: str = "loss"
    precision: str | None = None
    seed: int = 0
    frozen: bool = False
    method_args: dict[str, Any] = field(default_factory=dict)

    @property
    def encoder_args(self) -> dict[str, Any]:
        """The arguments of the method that are not at their defaults."""
        defaults = Supervised.settings({})
        return {k: v for k, v in self.method_args.items() if v != defaults[k]}

    def require(self, monitors: tuple[str, ...], validation: int, sampling: bool) -> None:
        """Refuse what does not go with a kind of target, before anything is written.

        Args:
            monitors: what can be monitored of it.
            validation: how many validation rows there are to look at.
            sampling: whether its classes can be balanced by drawing images.

        Raises:
            UsageError: saying what to change.
        """
        if self.monitor not in monitors:
            raise UsageError(f"--monitor {self.monitor}: one of {', '.join(monitors)}")
        if self.balance in ("oversample", "undersample") and not sampling:
            raise UsageError(f"--balance {self.balance} is for one target of classes: leave it at weights or none")
        if (self.patience or self.schedule == "plateau") and not validation:
            raise UsageError("--patience and --schedule plateau need labelled validation rows: label some, or leave them out")

    def train(self, method: Method, batches: Batches, image_size: int, score: Score, run: Run | None,
              quiet: bool) -> tuple[Trained, Plan]:  # fmt: skip
        """Train a method in place, keeping the weights that ``score`` likes best where patience is limited.

        Args:
            method: what to train.
            batches: from which images.
            image_size: what the automatic precision is chosen by.
            score: of the validation rows.
            run: for checkpoints, logs and the range test's figure.
            quiet: no progress bar.
        """
        plan = Plan(
            self.steps, self.batch_size, self.learning_rate or Supervised.learning_rate, self.weight_decay,
            self.precision or automatic_precision(image_size), self.seed, self.schedule,
        )  # fmt: skip
        if not self.learning_rate:
            plan = replace(plan, learning_rate=found_rate(method, plan, batches, run))
        watcher = Watcher(method, plan.steps, self, score)
        callbacks = (watcher,) if self.patience or self.schedule == "plateau" else ()
        resume = bool(run and run.resumed)
        trained = fit(method, plan, batches, run.path if run else None, resume=resume, quiet=quiet, callbacks=callbacks)
        if self.patience:
            watcher.restore()
        return trained, plan


def found_rate(method: Method, plan: Plan, batches: Batches, run: Run | None) -> float:
    """The learning rate of a range test, saved in the run's configuration beside the test's figure."""
    rates, losses, chosen = range_test(method, plan, batches)
    if run is not None:
        figure = plots.curve(rates, losses, "learning rate", "training loss, smoothed", chosen)
        caption = "Loss while the learning rate rises step by step; dashed, the rate that was taken: a tenth of the lowest point's."
        run.figure("learning_rate", figure, "Learning-rate range test", caption, "training")
        run.save_config(learning_rate=chosen, resolved=["learning_rate"])
    return chosen


class Watcher(Callback):
    """Looks at the validation rows now and then: keeps the best weights, stops training, lowers the learning rate."""

    key = "Watcher"

    def __init__(self, method: Method, steps: int, recipe: Recipe, score: Score) -> None:
        self.method, self.recipe, self.score = method, recipe, score
        self.every = max(1, steps // CHECKS)
        self.best, self.waited = -float("inf"), 0
        self.weights: dict[str, Tensor] = {}

    def on_step_end(self, trainer: Trainer) -> None:
        """Look."""
        if trainer.step % self.every:
            return
        score = self.score(trainer.device)
        self.method.train()
        if score > self.best:
            self.best, self.waited = score, 0
            self.weights = {k: v.detach().clone() for k, v in self.method.state_dict().items()}
            return
        self.waited += 1
        trainer.should_stop = bool(self.recipe.patience) and self.waited >= self.recipe.patience
        if self.recipe.schedule == "plateau" and self.waited % PLATEAU == 0:
            trainer.scheduler.base_lrs = [rate * PLATEAU_FACTOR for rate in trainer.scheduler.base_lrs]  # a checkpoint keeps them

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run stops and restores as one left alone."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what a checkpoint kept."""
        self.best, self.waited, self.weights = state_dict["best"], state_dict["waited"], state_dict["weights"]

    def restore(self) -> None:
        """Put the best weights back."""
        if self.weights:
            self.method.load_state_dict(self.weights)
