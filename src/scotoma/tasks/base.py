"""``Task``: one kind of target, from training a model of it to rows; and the configuration of a fine-tuning.

A task is a module of this folder with one subclass of ``Task``; ``choose`` finds the one that fits a target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scotoma import plugins
from scotoma.data.dataset import Dataset
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw
from scotoma.data.splits.splits import Split
from scotoma.data.store.store import Store
from scotoma.errors import UsageError
from scotoma.methods.base import Method
from scotoma.methods.supervised import Supervised
from scotoma.models.features import extract
from scotoma.models.precision import automatic_precision
from scotoma.run_folder import Row, Run
from scotoma.training.callbacks import Callback
from scotoma.training.lr_finder import find_learning_rate
from scotoma.training.schedule import Schedule
from scotoma.training.trainer import Batches, Trained, Trainer, fit
from scotoma.visualization import plots

CHECKS = 10  # looks at the validation labels in a run
PLATEAU = 2  # checks without improvement after which ``plateau`` lowers the learning rate
PLATEAU_FACTOR = 0.3
Score = Callable[[torch.device], float]  # of the validation rows, higher being better


@dataclass(frozen=True)
class FineTuning:
    """The configuration of a fine-tuning.

    Args:
        steps: optimiser steps.
        batch_size: images per step.
        learning_rate: peak learning rate; 0 for the one that the learning-rate finder gives.
        weight_decay: of AdamW.
        schedule: shape of the learning rate, one of ``schedule.SCHEDULES``.
        balance: one of ``schedule.BALANCES``: classes count alike by weights in the loss, by drawing images of smaller classes
            again and again, or by leaving some of larger ones out. Several 0/1 targets know weights only.
        patience: checks of the validation rows without improvement after which training stops; the best weights are kept. 0 for the
            fixed budget.
        monitor: what is checked, ``loss`` or one of ``metrics.METRICS``, ``dice`` of masks, ``mae`` of numbers.
        precision: None for the automatic one.
        seed: of order, views, head and sampling.
        frozen: leave the encoder as it is: a head is fitted, or a decoder trained, on what it gives.
        method_args: of ``Supervised``.
        decoder: of masks, or ``auto``.
        threshold: rule of a classifier's thresholds: ``youden`` or a sensitivity.
        warmup: share of the steps over which the learning rate rises; None for the method's.
        final_learning_rate: at the last step.
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
    decoder: str = "auto"
    threshold: Literal["youden"] | float = "youden"
    warmup: float | None = None
    final_learning_rate: float = 0.0

    @property
    def encoder_args(self) -> dict[str, Any]:
        """The arguments of the method that are not at their defaults."""
        defaults = Supervised.settings({})
        return {k: v for k, v in self.method_args.items() if v != defaults[k]}

    def train(
        self, method: Method, batches: Batches, image_size: int, score: Score, run: Run | None, quiet: bool, within: str = ""
    ) -> tuple[Trained, Schedule]:
        """Train a method in place, keeping the weights that ``score`` is highest for where patience is limited.

        Args:
            method: what to train.
            batches: from which images.
            image_size: what the automatic precision is chosen by.
            score: of the validation rows.
            run: for checkpoints, logs and the learning-rate finder's figure.
            quiet: no progress bar.
            within: the folder of the run for checkpoints and logs; by default the run's own.
        """
        schedule = Schedule(
            self.steps,
            self.batch_size,
            self.learning_rate or Supervised.learning_rate,
            self.weight_decay,
            self.precision or automatic_precision(image_size),
            self.seed,
            self.schedule,
            warmup=self.warmup,
            final_learning_rate=self.final_learning_rate,
        )
        if not self.learning_rate:
            schedule = replace(schedule, learning_rate=choose_learning_rate(method, schedule, batches, run))
        stopping = EarlyStopping(method, schedule.steps, self, score)
        callbacks = (stopping,) if self.patience or self.schedule == "plateau" else ()
        resume = bool(run and run.resumed)
        folder = run.path / within if run else None
        trained = fit(method, schedule, batches, folder, resume=resume, quiet=quiet, callbacks=callbacks)
        if self.patience:
            stopping.restore()
        return trained, schedule


class Model(NamedTuple):
    """A trained network, its header, and the head or decoder behind it."""

    network: nn.Module
    info: EncoderInfo
    head: nn.Module


class Task:
    """One kind of target: how a model of it is trained, and what its outputs are worth.

    Positions are those of rows of the table; ``outputs`` are arrays with one line per example.

    Args:
        dataset: readable rows.
        store: their pixels.
        split: of the rows.
        target: what is predicted.
        classes: those that a trained model distinguishes; by default all that the labels hold.
        quiet: no progress bar.
    """

    evaluator: ClassVar[str]  # which tests a model
    headline: ClassVar[str]  # metric by which models are compared
    monitors: ClassVar[tuple[str, ...]]  # values of ``--monitor``
    modes: ClassVar[tuple[str, ...]] = ("linear", "finetune")  # how a study uses encoders
    controls: ClassVar[tuple[str, ...]] = ("random", "majority", "pixels", "header")  # of a study
    is_of_images: ClassVar[bool] = True  # whether a label describes a whole image

    def __init__(
        self, dataset: Dataset, store: Store, split: Split, target: Target, classes: tuple[str, ...] = (), quiet: bool = True
    ) -> None:
        self.dataset, self.store, self.split, self.target, self.quiet = dataset, store, split, target, quiet
        self.rows, self.classes = dataset.table["row"].to_numpy(), classes

    @staticmethod
    def fits(columns: tuple[str, ...], numbers: bool) -> bool:
        """Whether a target of these columns, of numbers or not, is one of this kind."""
        raise NotImplementedError

    @classmethod
    def check(cls, tuning: FineTuning) -> None:
        """Refuse a configuration that does not go with this kind of target, whatever the data.

        Raises:
            UsageError: naming what to change.
        """
        if tuning.decoder != "auto" and cls.is_of_images:
            raise UsageError("--decoder is for masks: --target mask_path")
        if tuning.monitor not in cls.monitors:
            raise UsageError(f"--monitor {tuning.monitor}: one of {', '.join(cls.monitors)}")

    @classmethod
    def check_study(cls, methods: list[str], modes: list[str], controls: list[str]) -> None:
        """Refuse modes, controls and methods of a study that this kind of target does not know.

        Raises:
            UsageError: naming which.
        """
        unknown = next((mode for mode in modes if mode not in cls.modes), None)
        if unknown:
            raise UsageError(f"unknown mode {unknown!r}; one of {', '.join(cls.modes)}")

    def examples(self, part: str) -> np.ndarray:
        """Positions of the labelled examples of a part of the split: each is one image."""
        rows = self.split.rows(part)
        return rows[self.target.known[rows]]

    def require_classes(self) -> None:
        """Refuse an evaluator of classes where none are predicted.

        Raises:
            UsageError: naming what to use.
        """

    def require(self, tuning: FineTuning, network: nn.Module, info: EncoderInfo, drawn: Draw) -> None:
        """Refuse a configuration that does not go with these data or this network, before anything is written.

        Raises:
            UsageError: naming what to change.
        """
        self.check(tuning)
        if tuning.balance in ("oversample", "undersample") and not self.is_balanced_by_draws:
            raise UsageError(f"--balance {tuning.balance} is for one target of classes: leave it at weights or none")
        if (tuning.patience or tuning.schedule == "plateau") and not len(drawn.val):
            raise UsageError("--patience and --schedule plateau need labelled validation rows: label some, or leave them out")

    @property
    def is_balanced_by_draws(self) -> bool:
        """Whether classes can be balanced by drawing images."""
        return False

    def train(
        self, network: nn.Module, info: EncoderInfo, drawn: Draw, tuning: FineTuning, run: Run | None = None
    ) -> tuple[Model, list[Row]]:
        """Train a network in place, and a head, on the labels of a draw; the model, and rows of what training took."""
        raise NotImplementedError

    def draw_features(self, network: nn.Module, info: EncoderInfo, drawn: Draw) -> np.ndarray:
        """(n, D) features of the rows of a draw, 0 elsewhere."""
        seen = np.union1d(drawn.train, drawn.val)
        found = extract(network, info, self.store, self.rows[seen])
        features = np.zeros((len(self.rows), found.shape[1]), np.float32)
        features[seen] = found
        return features

    def calibrate(self, model: Model, drawn: Draw, tuning: FineTuning) -> Model:
        """The model with what its header keeps of the draw's validation labels."""
        return model

    def outputs(self, model: Model, positions: np.ndarray) -> np.ndarray:
        """What a model gives for these images; no label is read."""
        raise NotImplementedError

    def score(self, outputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """What a study stores of outputs, (n, ...): by default they themselves, else their scores beside the truth."""
        return outputs

    def tabulate(self, scores: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        """What `score` gives of these examples as columns of a table of predictions, their labels first."""
        raise NotImplementedError

    def labels(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of the labels of these examples, as they are predicted; none of masks."""
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        """What a score's columns, its second axis, are of: classes or 0/1 targets; none of numbers."""
        return self.target.classes

    def measure(self, model: Model, positions: np.ndarray) -> np.ndarray:
        """The score of a model's outputs."""
        return self.score(self.outputs(model, positions), positions)

    def predict_linear(self, inputs: np.ndarray, drawn: Draw, positions: np.ndarray) -> np.ndarray:
        """Outputs of a linear model of inputs (n, D), fitted on the labels of a draw."""
        raise NotImplementedError

    def predict_constant(self, drawn: Draw, positions: np.ndarray) -> np.ndarray:
        """Outputs that are the same for every image: the mean of the labels of a draw."""
        raise NotImplementedError

    def validate(self, model: Model, drawn: Draw) -> list[Row]:
        """Metrics of all labelled validation rows."""
        raise NotImplementedError

    def summarise_draw(self, scores: np.ndarray, positions: np.ndarray, drawn: Draw) -> list[Row]:
        """One row per metric of one draw's model."""
        raise NotImplementedError

    def summarise_fraction(self, scores: list[np.ndarray], positions: np.ndarray, fraction: float, labels: int) -> list[Row]:
        """What the models of all draws of one fraction show together: means with intervals."""
        raise NotImplementedError

    def difference(self, scores: list[np.ndarray], reference: list[np.ndarray], positions: np.ndarray) -> dict[str, Any]:
        """The headline metric less that of other models of the same draws, paired by patient."""
        raise NotImplementedError

    def extrapolate(self, labels: list[int], scores: list[list[np.ndarray]], positions: np.ndarray) -> list[Row]:
        """What more labels would give, out of the models of each draw at each number of labels."""
        return []

    def sample_size(self, positions: np.ndarray) -> list[Row]:
        """How many patients a test needs for an interval of a given width."""
        return []

    def row_keys(self, mode: str) -> Row:
        """By which a study's rows say what was used: an encoder in a mode, or a control."""
        return {"evaluator": self.evaluator}

    def protocol(self, tuning: FineTuning) -> Row:
        """Of the protocol of a fine-tuning what this kind of target adds."""
        return {"head": "zero"}


def choose(columns: Sequence[str], numbers: bool) -> type[Task]:
    """The kind of a target, by its columns and whether it is a number."""
    found = (plugins.class_of("tasks", name, Task) for name in plugins.names("tasks"))
    return next(task for task in found if task is not None and task.fits(tuple(columns), numbers))


def task_of(
    dataset: Dataset, store: Store, split: Split, target: Target, classes: tuple[str, ...] = (), quiet: bool = True
) -> Task:
    """The task of a target."""
    return choose(target.columns, target.numbers is not None)(dataset, store, split, target, classes, quiet)


def choose_learning_rate(method: Method, schedule: Schedule, batches: Batches, run: Run | None) -> float:
    """The learning rate that the finder gives, saved in the run's configuration beside its figure."""
    rates, losses, chosen = find_learning_rate(method, schedule, batches)
    if run is not None:
        figure = plots.curve(rates, losses, "learning rate", "training loss, smoothed", chosen)
        caption = "Loss while the learning rate rises step by step; dashed, the rate that was taken: a tenth of the lowest point's."
        run.figure("learning_rate", figure, "Learning-rate finder", caption, "training")
        run.save_config(learning_rate=chosen, resolved=[*run.config.get("resolved", []), "learning_rate"])
    return chosen


class EarlyStopping(Callback):
    """Early stopping on the validation set: keeps the best weights, stops training, lowers the learning rate of ``plateau``."""

    key = "Watcher"  # its name in checkpoints

    def __init__(self, method: Method, steps: int, tuning: FineTuning, score: Score) -> None:
        self.method, self.tuning, self.score = method, tuning, score
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
        trainer.should_stop = bool(self.tuning.patience) and self.waited >= self.tuning.patience
        if self.tuning.schedule == "plateau" and self.waited % PLATEAU == 0:
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
