"""What ``finetune`` and ``study`` do to turn an encoder and a few labels into a classifier."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from scotoma import decisions, drawing, metrics
from scotoma.data.store import Store
from scotoma.data.targets import Target
from scotoma.encoders import EncoderInfo
from scotoma.errors import UsageError
from scotoma.evaluators import linear
from scotoma.evaluators.base import Draw, extract
from scotoma.losses import classification
from scotoma.methods.base import Inputs
from scotoma.methods.supervised import Supervised
from scotoma.plan import Plan, automatic_precision
from scotoma.run import Row, Run
from scotoma.training import Batches, cost_rows, fit, range_test

CHECKS = 10  # looks at the validation labels in a run
LOWER_IS_BETTER = ("loss", "brier", "ece")
PLATEAU = 2  # checks without improvement after which ``plateau`` lowers the learning rate
PLATEAU_FACTOR = 0.3
FEWEST_TO_CALIBRATE, MOST_TEMPERATURE = 20, 4.0


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Args:
        steps: optimiser steps.
        batch_size: pictures a step.
        learning_rate: peak; 0 for the one that a range test finds.
        weight_decay: of AdamW.
        schedule: of the learning rate, one of ``plan.SCHEDULES``.
        balance: one of ``plan.BALANCES``: classes count alike by weights in the loss, by drawing pictures of smaller classes again
            and again, or by leaving some of larger ones out. Several 0/1 targets know weights only.
        patience: checks of the validation rows without improvement after which training stops; the best weights are kept. 0 for the
            fixed budget.
        monitor: what is checked, ``loss`` or one of ``metrics.METRICS``.
        precision: None for the automatic one.
        seed: of order, views, head and sampling.
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
    method_args: dict[str, Any] = field(default_factory=dict)


def tune(encoder: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, target: Target, drawn: Draw, recipe: Recipe,
         run: Run | None = None, quiet: bool = True) -> tuple[Supervised, list[Row]]:  # fmt: skip
    """Train encoder and head on the labels of a draw.

    The head of a pretrained encoder starts as its linear probe (Kumar et al. 2022, "Fine-tuning can distort pretrained features and
    underperform out-of-distribution", section 4: "linear probing then full fine-tuning"), so that the first steps do not spoil the
    features for a head that knows nothing. With random weights it starts at 0: there a probe's head makes worse classifiers.

    Args:
        encoder: trained in place.
        info: of the encoder; its ``method`` says whether the weights are random.
        store: pixels of all rows.
        rows: (n,) each row's place in the store.
        target: labels of all rows.
        drawn: which labels may be seen.
        recipe: how.
        run: for checkpoints, logs and the range test's figure.
        quiet: no progress bar.

    Returns:
        The trained method (its ``encoder`` and ``head``), and rows of what training took.
    """
    L.seed_everything(recipe.seed, verbose=False)
    seen, keys = sampled(drawn, target, rows, recipe)
    soft = target.shares is not None and not target.multilabel
    inputs = Inputs(
        info.image_size, info.in_chans, info.mean, info.std, info.modality, len(target.classes),
        target.weights(drawn.train) if recipe.balance == "weights" else (), soft, pictures=len(seen),
    )  # fmt: skip
    method = Supervised(encoder, inputs, **recipe.method_args)
    if pretrained(info):
        method.head.load_state_dict(probe(encoder, info, store, rows, target, drawn).state_dict())
    plan = Plan(
        recipe.steps, recipe.batch_size, recipe.learning_rate or Supervised.learning_rate, recipe.weight_decay,
        recipe.precision or automatic_precision(info.image_size), recipe.seed, recipe.schedule,
    )  # fmt: skip
    batches = Batches(store, rows[seen], target.aims[seen], keys=keys)
    if not recipe.learning_rate:
        plan = replace(plan, learning_rate=found_rate(method, plan, batches, run))
    watcher = Watcher(method, info, store, rows[drawn.val], target.y[drawn.val], plan, recipe)
    callbacks = (watcher,) if recipe.patience or recipe.schedule == "plateau" else ()
    trained = fit(
        method, plan, batches, run.path if run else None, resume=bool(run and run.resumed), quiet=quiet, callbacks=callbacks
    )
    if recipe.patience:
        watcher.restore()
    return method, cost_rows(trained, plan, method, len(drawn.seen), 0.0)


def check(recipe: Recipe, encoder: nn.Module, info: EncoderInfo, target: Target, drawn: Draw) -> None:
    """Refuse a recipe before anything is written.

    Raises:
        UsageError: an argument is out of range or does not go with this network; validation labels are needed and there are none;
            several 0/1 targets cannot be balanced by sampling.
    """
    if target.multilabel and recipe.balance in ("oversample", "undersample"):
        raise UsageError(f"--balance {recipe.balance} is for one target: leave several 0/1 targets at weights or none")
    if target.multilabel and recipe.monitor == "mcc":
        raise UsageError("--monitor mcc is for one target: monitor auroc or balanced_accuracy of several 0/1 targets")
    if (recipe.patience or recipe.schedule == "plateau") and not len(drawn.val):
        raise UsageError("--patience and --schedule plateau need labelled validation rows: label some, or leave them out")
    Supervised(encoder, Inputs(info.image_size, info.in_chans, info.mean, info.std, info.modality, 2), **recipe.method_args)


def sampled(drawn: Draw, target: Target, rows: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions to train on, and what their random numbers are keyed by where a picture stands among them several times.

    Oversampling repeats the pictures of each class until it is as large as the largest; undersampling draws as many of each as the
    smallest has. Readers' ties belong to no class and are left out then.
    """
    if recipe.balance not in ("oversample", "undersample"):
        return drawn.seen, None
    of = [drawn.train[target.y[drawn.train] == k] for k in range(len(target.classes))]
    of = [np.random.default_rng([recipe.seed, k]).permutation(c) for k, c in enumerate(of) if len(c)]
    count = (max if recipe.balance == "oversample" else min)(map(len, of))
    copies = np.concatenate([np.arange(count) // len(c) for c in of])
    seen = np.concatenate([np.resize(c, count) for c in of])
    return seen, rows[seen] + (copies.astype(np.int64) << 40)


def found_rate(method: Supervised, plan: Plan, batches: Batches, run: Run | None) -> float:
    """The learning rate of a range test, saved in the run's configuration beside the test's figure."""
    rates, losses, chosen = range_test(method, plan, batches)
    if run is not None:
        figure = drawing.curve(rates, losses, "learning rate", "training loss, smoothed", chosen)
        caption = "Loss while the learning rate rises step by step; dashed, the rate that was taken: a tenth of the lowest point's."
        run.figure("learning_rate", figure, "Learning-rate range test", caption, "training")
        run.save_config(learning_rate=chosen, resolved=["learning_rate"])
    return chosen


def pretrained(info: EncoderInfo) -> bool:
    """Whether an encoder's weights have been trained."""
    return info.method["name"] != "random"


def probe(encoder: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, target: Target, drawn: Draw) -> nn.Linear:
    """A head fitted on the features of the frozen encoder by logistic regression, to the optimum."""
    seen = np.union1d(drawn.train, drawn.val)
    found = extract(encoder, info, store, rows[seen])
    features = np.zeros((len(rows), found.shape[1]), np.float32)
    features[seen] = found
    return linear.layer(*linear.fit(features, target, drawn))


def predict(encoder: nn.Module, head: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, multilabel: bool) -> np.ndarray:
    """(len(rows), C) probabilities."""
    features = torch.from_numpy(extract(encoder, info, store, rows))
    with torch.no_grad():
        logits = head.cpu()(features).double().numpy()
    return linear.probabilities(logits, multilabel)


def operating_point(encoder: nn.Module, head: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, target: Target,
                    drawn: Draw, rule: Any) -> tuple[float, tuple[float, ...]]:  # fmt: skip
    """Temperature and thresholds of a classifier, chosen on the validation labels of a draw.

    Returns:
        Temperature, 1 where validation labels are fewer than 20, and between 1/4 and 4: few rows can all be right, and none of them
        argues for certainty. A threshold for each class (against the rest) or label, on tempered probabilities: 0.5 where
        validation rows lack one side. Of two classes both have theirs, that of the first as if it were the finding.
    """
    y = target.y[drawn.val]
    if not len(drawn.val):
        return 1.0, ()
    p = predict(encoder, head, info, store, rows[drawn.val], target.multilabel).clip(decisions.SURE, 1 - decisions.SURE)
    temperature = 1.0
    if len(drawn.val) >= FEWEST_TO_CALIBRATE:
        fitted = decisions.temperature(y, np.log(p / (1 - p)) if target.multilabel else np.log(p))
        temperature = float(np.clip(fitted, 1 / MOST_TEMPERATURE, MOST_TEMPERATURE))
    p = decisions.tempered(p, temperature, target.multilabel)
    thresholds = []
    for k in range(len(target.classes)):
        truth = y[:, k] if target.multilabel else (y == k).astype(float)
        both = len(np.unique(truth[~np.isnan(truth)])) == 2
        thresholds.append(decisions.threshold(truth, p[:, k], rule) if both else 0.5)
    return temperature, tuple(thresholds)


class Watcher(Callback):
    """Looks at the validation rows now and then: keeps the best weights, stops training, lowers the learning rate."""

    def __init__(
        self, method: Supervised, info: EncoderInfo, store: Store, rows: np.ndarray, y: np.ndarray, plan: Plan, recipe: Recipe
    ) -> None:
        self.method, self.info, self.store, self.rows, self.y = method, info, store, rows, y
        self.every, self.recipe = max(1, plan.steps // CHECKS), recipe
        self.best, self.waited = -float("inf"), 0
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Look."""
        if trainer.global_step % self.every:
            return
        score = self.score(module.device)
        if score > self.best:
            self.best, self.waited = score, 0
            self.weights = {k: v.detach().clone() for k, v in self.method.state_dict().items()}
            return
        self.waited += 1
        trainer.should_stop = bool(self.recipe.patience) and self.waited >= self.recipe.patience
        if self.recipe.schedule == "plateau" and self.waited % PLATEAU == 0:
            scheduler = trainer.lr_scheduler_configs[0].scheduler
            scheduler.base_lrs = [rate * PLATEAU_FACTOR for rate in scheduler.base_lrs]  # a checkpoint keeps them

    @torch.no_grad()
    def score(self, device: torch.device) -> float:
        """What is monitored, higher being better; a metric without value (a class is absent) is the worst."""
        features = torch.from_numpy(extract(self.method.encoder, self.info, self.store, self.rows)).to(device)
        self.method.train()
        logits = self.method.head(features).float().cpu()
        if self.recipe.monitor == "loss":
            return -classification(logits, torch.from_numpy(self.y)).item()
        p = linear.probabilities(logits.double().numpy(), self.y.ndim == 2)
        value = float(metrics.score(self.recipe.monitor, self.y, p))
        return -float("inf") if np.isnan(value) else -value if self.recipe.monitor in LOWER_IS_BETTER else value

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
