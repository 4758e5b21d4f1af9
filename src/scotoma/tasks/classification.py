"""What ``finetune`` and ``study`` do to turn an encoder and a few labels into a classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from scotoma.data.datamodule import DataModule
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw
from scotoma.data.store.store import Store
from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import classification
from scotoma.methods.supervised import Supervised
from scotoma.metrics import calibration, operating_points
from scotoma.metrics import classification as metrics
from scotoma.metrics.summaries import draw_rows
from scotoma.models import linear_probe
from scotoma.models.features import extract
from scotoma.run_folder import Row, Run
from scotoma.tasks.base import Recipe
from scotoma.training.trainer import Batches, cost_rows

LOWER_IS_BETTER = ("loss", "brier", "ece")
FEWEST_TO_CALIBRATE, MOST_TEMPERATURE = 20, 4.0


class Job:
    """A classifier to be trained as ``finetune`` is asked to; made before anything is written.

    Args:
        network: the encoder.
        info: of it.
        material: the images and their target.
        drawn: which labels may be seen.
        recipe: how.
        rule: of the thresholds: ``youden`` or a sensitivity.
        quiet: no progress bar.

    Raises:
        UsageError: the recipe does not go with these data or this network.
    """

    head: nn.Module

    def __init__(self, network: nn.Module, info: EncoderInfo, material: DataModule, drawn: Draw, recipe: Recipe, rule: str | float,
                 quiet: bool) -> None:  # fmt: skip
        assert material.target is not None
        self.network, self.drawn, self.recipe, self.rule, self.quiet = network, drawn, recipe, rule, quiet
        self.store, self.rows, self.target = material.store, material.rows, material.target
        self.info = replace(info, targets=self.target.columns, classes=self.target.classes)
        self.evaluator = "linear" if recipe.frozen else "finetune"
        self.val = material.split.rows("val")[self.target.known[material.split.rows("val")]]
        if not recipe.frozen:
            check(recipe, network, info, self.target, drawn)

    def train(self, run: Run) -> list[Row]:
        """Train encoder and head, or fit the head alone, and choose temperature and thresholds; rows of what training took."""
        given = (self.network, self.info, self.store, self.rows, self.target, self.drawn)
        costs: list[Row] = []
        if self.recipe.frozen:
            self.head = probe(*given)
        else:
            tuned, costs = tune(*given, self.recipe, run, self.quiet)
            self.network, self.head = tuned.encoder.cpu(), tuned.head.cpu()
        chosen = operating_point(self.network, self.head, *given[1:], self.rule)
        self.info = replace(self.info, temperature=chosen[0], thresholds=chosen[1])
        return costs

    def validate(self) -> list[Row]:
        """Metrics of the validation rows."""
        if not len(self.val):
            return []
        p = predict(self.network, self.head, self.info, self.store, self.rows[self.val], self.target.multilabel)
        return draw_rows(
            self.target.y[self.val], calibration.tempered(p, self.info.temperature, self.target.multilabel), self.drawn
        )


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
    torch.manual_seed(recipe.seed)
    seen, keys = sampled(drawn, target, rows, recipe)
    soft = target.shares is not None and not target.multilabel
    inputs = Inputs(
        info.image_size, info.in_chans, info.mean, info.std, info.modality, len(target.classes),
        target.weights(drawn.train) if recipe.balance == "weights" else (), soft, images=len(seen),
    )  # fmt: skip
    method = Supervised(encoder, inputs, **recipe.method_args)
    if pretrained(info):
        method.head.load_state_dict(probe(encoder, info, store, rows, target, drawn).state_dict())
    batches = Batches(store, rows[seen], target.aims[seen], keys=keys)

    def score(device: torch.device) -> float:
        return validated(method, info, store, rows[drawn.val], target.y[drawn.val], recipe.monitor, device)

    trained, plan = recipe.train(method, batches, info.image_size, score, run, quiet)
    return method, cost_rows(trained, plan, method, len(drawn.seen), 0.0)


@torch.no_grad()
def validated(method: Supervised, info: EncoderInfo, store: Store, rows: np.ndarray, y: np.ndarray, monitor: str,
              device: torch.device) -> float:  # fmt: skip
    """What is monitored of validation rows, higher being better; a metric without value (a class is absent) is the worst."""
    logits = method.head(torch.from_numpy(extract(method.encoder, info, store, rows)).to(device)).float().cpu()
    if monitor == "loss":
        return -classification(logits, torch.from_numpy(y)).item()
    value = float(metrics.score(monitor, y, linear_probe.probabilities(logits.double().numpy(), y.ndim == 2)))
    return -float("inf") if np.isnan(value) else -value if monitor in LOWER_IS_BETTER else value


def check(recipe: Recipe, encoder: nn.Module, info: EncoderInfo, target: Target, drawn: Draw) -> None:
    """Refuse a recipe before anything is written.

    Raises:
        UsageError: an argument is out of range or does not go with this network; validation labels are needed and there are none;
            several 0/1 targets cannot be balanced by sampling.
    """
    recipe.require(("loss", *metrics.METRICS), len(drawn.val), sampling=not target.multilabel)
    if target.multilabel and recipe.monitor == "mcc":
        raise UsageError("--monitor mcc is for one target: monitor auroc or balanced_accuracy of several 0/1 targets")
    Supervised(encoder, Inputs(info.image_size, info.in_chans, info.mean, info.std, info.modality, 2), **recipe.method_args)


def sampled(drawn: Draw, target: Target, rows: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions to train on, and what their random numbers are keyed by where an image stands among them several times.

    Oversampling repeats the images of each class until it is as large as the largest; undersampling draws as many of each as the
    smallest has. Annotators' ties belong to no class and are left out then.
    """
    if recipe.balance not in ("oversample", "undersample"):
        return drawn.seen, None
    of = [drawn.train[target.y[drawn.train] == k] for k in range(len(target.classes))]
    of = [np.random.default_rng([recipe.seed, k]).permutation(c) for k, c in enumerate(of) if len(c)]
    count = (max if recipe.balance == "oversample" else min)(map(len, of))
    copies = np.concatenate([np.arange(count) // len(c) for c in of])
    seen = np.concatenate([np.resize(c, count) for c in of])
    return seen, rows[seen] + (copies.astype(np.int64) << 40)


def pretrained(info: EncoderInfo) -> bool:
    """Whether an encoder's weights have been trained."""
    return info.method["name"] != "random"


def probe(encoder: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, target: Target, drawn: Draw) -> nn.Linear:
    """A head fitted on the features of the frozen encoder by logistic regression, to the optimum."""
    seen = np.union1d(drawn.train, drawn.val)
    found = extract(encoder, info, store, rows[seen])
    features = np.zeros((len(rows), found.shape[1]), np.float32)
    features[seen] = found
    return linear_probe.layer(*linear_probe.fit(features, target, drawn))


def predict(encoder: nn.Module, head: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, multilabel: bool) -> np.ndarray:
    """(len(rows), C) probabilities."""
    features = torch.from_numpy(extract(encoder, info, store, rows))
    with torch.no_grad():
        logits = head.cpu()(features).double().numpy()
    return linear_probe.probabilities(logits, multilabel)


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
    p = predict(encoder, head, info, store, rows[drawn.val], target.multilabel).clip(calibration.SURE, 1 - calibration.SURE)
    temperature = 1.0
    if len(drawn.val) >= FEWEST_TO_CALIBRATE:
        fitted = calibration.temperature(y, np.log(p / (1 - p)) if target.multilabel else np.log(p))
        temperature = float(np.clip(fitted, 1 / MOST_TEMPERATURE, MOST_TEMPERATURE))
    p = calibration.tempered(p, temperature, target.multilabel)
    thresholds = []
    for k in range(len(target.classes)):
        truth = y[:, k] if target.multilabel else (y == k).astype(float)
        both = len(np.unique(truth[~np.isnan(truth)])) == 2
        thresholds.append(operating_points.threshold(truth, p[:, k], rule) if both else 0.5)
    return temperature, tuple(thresholds)
