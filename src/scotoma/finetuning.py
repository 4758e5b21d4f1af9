"""What ``finetune`` and ``study`` do to turn an encoder and a few labels into a classifier."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

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
from scotoma.training import Batches, cost_rows, fit

CHECKS = 10  # looks at the validation labels in a run


def tune(encoder: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, target: Target, drawn: Draw, *, steps: int,
         batch_size: int = Supervised.batch_size, learning_rate: float = Supervised.learning_rate,
         weight_decay: float = Supervised.weight_decay, precision: str | None = None, seed: int = 0, patience: int = 0,
         balance: bool = True, drop_tokens: float = 0.0, run: Run | None = None,
         quiet: bool = True) -> tuple[Supervised, list[Row]]:  # fmt: skip
    """Train encoder and head on the labels of a draw, for a fixed number of steps.

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
        steps: optimiser steps.
        batch_size: pictures a step.
        learning_rate: peak.
        weight_decay: of AdamW.
        precision: None for the automatic one.
        seed: of order, views and head.
        patience: checks of the validation loss without improvement after which training stops; the best weights are kept. 0 for the
            fixed budget.
        balance: weight the loss so that classes count alike.
        drop_tokens: share of a vision transformer's patches that are dropped in training, by the attention of the encoder as given.
        run: for checkpoints and logs.
        quiet: no progress bar.

    Returns:
        The trained method (its ``encoder`` and ``head``), and rows of what training took.
    """
    L.seed_everything(seed, verbose=False)
    weights = target.weights(drawn.train) if balance else ()
    soft = target.shares is not None and not target.multilabel
    inputs = Inputs(
        info.image_size, info.in_chans, info.mean, info.std, info.modality, len(target.classes), weights, soft,
        pictures=len(drawn.seen),
    )  # fmt: skip
    method = Supervised(encoder, inputs, drop_tokens=drop_tokens)
    if pretrained(info):
        method.head.load_state_dict(probe(encoder, info, store, rows, target, drawn).state_dict())
    plan = Plan(steps, batch_size, learning_rate, weight_decay, precision or automatic_precision(), seed)
    if patience and not len(drawn.val):
        raise UsageError("--patience needs labelled validation rows: label some, or leave it at 0")
    stopper = (Stopper(method, info, store, rows[drawn.val], target.y[drawn.val], plan, patience),) if patience else ()
    batches = Batches(store, rows[drawn.seen], target.aims[drawn.seen])
    trained = fit(
        method, plan, batches, run.path if run else None, resume=bool(run and run.resumed), quiet=quiet, callbacks=stopper
    )
    for one in stopper:
        one.restore()
    return method, cost_rows(trained, plan, method, len(drawn.seen), 0.0)


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


class Stopper(Callback):
    """Early stopping on the validation loss, the best weights kept in memory."""

    def __init__(
        self, method: Supervised, info: EncoderInfo, store: Store, rows: np.ndarray, y: np.ndarray, plan: Plan, patience: int
    ) -> None:
        self.method, self.info, self.store, self.rows, self.y = method, info, store, rows, torch.from_numpy(y)
        self.every, self.patience = max(1, plan.steps // CHECKS), patience
        self.best, self.waited = float("inf"), 0
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Look at the validation labels now and then."""
        if trainer.global_step % self.every:
            return
        device = module.device
        features = torch.from_numpy(extract(self.method.encoder, self.info, self.store, self.rows)).to(device)
        self.method.train()
        with torch.no_grad():
            loss = classification(self.method.head(features), self.y.to(device)).item()
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.weights = {k: v.detach().clone() for k, v in self.method.state_dict().items()}
        else:
            self.waited += 1
            trainer.should_stop = self.waited >= self.patience

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
