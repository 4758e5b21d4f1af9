"""What an evaluator is given, and what every evaluator needs: features of a table's pictures, and label draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import nn

from scotoma import comparisons, metrics
from scotoma.data.splits import Split, label_fraction
from scotoma.data.store import Store
from scotoma.data.table import Dataset
from scotoma.data.targets import Target
from scotoma.encoders import EncoderInfo, width
from scotoma.errors import UsageError
from scotoma.plan import automatic_precision
from scotoma.watch import features

Row = dict[str, Any]
T = TypeVar("T")
HEADLINE = "auroc"
SUMMARY = ("auroc", "average_precision", "balanced_accuracy", "brier")
ROC_GRID = np.round(np.linspace(0, 1, 51), 2)


@dataclass(frozen=True)
class Draw:
    """The labels that one classifier may see: positions of its training rows, and of the rows by which it makes choices.

    ``tied`` are training rows of soft labels on which readers tie: only a loss that takes shares can use them.
    """

    fraction: float
    seed: int
    train: np.ndarray
    val: np.ndarray
    tied: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def seen(self) -> np.ndarray:
        """All training rows, for a loss that takes shares."""
        return np.union1d(self.train, self.tied)


@dataclass
class Context:
    """An encoder (or model), a table and its split.

    Args:
        encoder: (B, C, H, W) -> (B, D).
        info: of the encoder.
        head: of a model; None for an encoder.
        dataset: readable rows.
        store: their pixels.
        split: of the rows.
        target: what is predicted.
        fractions: label fractions.
        seeds: label draws.
        name: of the method that made the encoder, ``random`` for none.
        keep_identity: whether DICOM results carry the patient's identity, and not a pseudonym.
    """

    encoder: nn.Module
    info: EncoderInfo
    head: nn.Module | None
    dataset: Dataset
    store: Store
    split: Split
    target: Target
    fractions: tuple[float, ...] = (1.0,)
    seeds: int = 1
    name: str = "random"
    keep_identity: bool = False
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What an evaluator's rows and its figures both need, made for whichever asks first."""
        if name not in self._made:
            self._made[name] = make()
        return cast("T", self._made[name])

    @cached_property
    def features(self) -> np.ndarray:
        """(n, D) float32 features of every row, computed once."""
        return extract(self.encoder, self.info, self.store, self.dataset.table["row"].to_numpy())

    def draws(self) -> list[Draw]:
        """One draw of labels for each fraction and seed; all labels together can be drawn in one way only."""
        return [
            draw(self.target, self.split, fraction, seed)
            for fraction in self.fractions
            for seed in range(1 if fraction >= 1 else self.seeds)
        ]

    @property
    def test(self) -> np.ndarray:
        """Positions of the labelled test rows."""
        rows = self.split.rows("test")
        return rows[self.target.known[rows]]

    @property
    def common(self) -> Row:
        """Keys that every row of this context carries."""
        return {"method": self.name, "encoder": self.info.name, "target": ",".join(self.target.columns), "split": "test"}


def own_head(context: Context) -> nn.Linear | None:
    """The head of a classifier; None for an encoder.

    Raises:
        UsageError: it is a segmenter, or the classifier predicts something else than the context's target.
    """
    info, target = context.info, context.target
    if info.decoder:
        raise UsageError("a segmenter says nothing of whole pictures: use --with segmentation, or name its encoder's run")
    if target.numbers is not None or info.numeric:
        raise UsageError("numbers are predicted, not classes: use --with regression")
    if target.regional:
        raise UsageError("--target mask_path is for a segmenter: finetune one, or name a column of classes")
    if context.head is not None and (info.targets, info.classes) != (target.columns, target.classes):
        raise UsageError(
            f"the classifier tells apart {', '.join(info.classes)} of {', '.join(info.targets)}, not "
            f"{', '.join(target.classes)} of {', '.join(target.columns)}: leave --target and --classes out, or use --with linear"
        )
    return cast("nn.Linear | None", context.head)


def class_name(target: Target, k: int) -> str:
    """What a figure calls a class: ``cardiomegaly = 1`` (a bare 1 says nothing); of several 0/1 targets the target's name."""
    return target.classes[k] if target.multilabel else f"{target.columns[0]} = {target.classes[k]}"


class Evaluator(Protocol):
    """A module in ``evaluators``: a function ``evaluate`` and the version of its settings.

    One that draws also has ``figures(context: Context, run: Run) -> None``, which is called once its rows are in the run's folder.
    """

    PROTOCOL: int

    def evaluate(self, context: Context) -> list[Row]:
        """Rows of this encoder on the test rows."""
        ...


def draw(target: Target, split: Split, fraction: float, seed: int) -> Draw:
    """Draw labels: at fraction f, training and choices use f of the training and of the validation labels."""
    train, val = (label_fraction(target.y, split.rows(name), fraction, seed) for name in ("train", "val"))
    tied = label_fraction(np.where(target.tied, 0, -1), split.rows("train"), fraction, seed)
    return Draw(fraction, seed, train, val, tied)


@torch.no_grad()
def extract(encoder: nn.Module, info: EncoderInfo, store: Store, rows: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """(n, D) float32 features of these rows, seen plainly, in the encoder's evaluation mode."""
    if not len(rows):
        return np.zeros((0, width(encoder)), np.float32)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).to(memory_format=torch.channels_last).eval()
    precision = automatic_precision(info.image_size)
    found = [
        features(
            encoder,
            torch.from_numpy(store.batch(rows[i : i + batch_size])).to(device),
            info.image_size,
            info.mean,
            info.std,
            precision,
        ).cpu()
        for i in range(0, len(rows), batch_size)
    ]
    return torch.cat(found).numpy()


Predict = Callable[[np.ndarray, Target, Draw, np.ndarray], np.ndarray]


def evaluate_draws(context: Context, inputs: np.ndarray, predict: Predict) -> list[Row]:
    """Fit and test a classifier for every fraction and draw.

    Args:
        context: the table, the target, the fractions.
        inputs: (n, D) what the classifier sees of every row.
        predict: (inputs, target, draw, rows) -> probabilities of these rows, having seen the draw's labels alone.

    Returns:
        Rows of every draw, and for each fraction over its draws.
    """
    found: list[Row] = []
    test, y = context.test, context.target.y[context.test]
    for fraction in context.fractions:
        drawn = [d for d in context.draws() if d.fraction == fraction]
        predictions = [predict(inputs, context.target, d, test) for d in drawn]
        for one, p in zip(drawn, predictions, strict=True):
            found += draw_rows(y, p, one)
        labels = len(drawn[0].train)
        found += fraction_rows(y, predictions, context.split.units[test], context.target.classes, fraction, labels)
    return found


def draw_rows(y: np.ndarray, p: np.ndarray, drawn: Draw) -> list[Row]:
    """The summary metrics of one classifier on the test rows, one row each."""
    common = {"fraction": drawn.fraction, "seed": drawn.seed, "labels": len(drawn.train), "n": len(y)}
    return [{**common, "metric": name, "value": float(metrics.score(name, y, p))} for name in SUMMARY]


def fraction_rows(y: np.ndarray, predictions: list[np.ndarray], groups: np.ndarray, classes: tuple[str, ...],
                  fraction: float, labels: int, resamples: int = 1000) -> list[Row]:  # fmt: skip
    """What the classifiers of all draws of one fraction show together.

    Args:
        y: (n,) or (n, K), labels of the test rows.
        predictions: (n, C) probabilities of each draw's classifier.
        groups: (n,) unit of each test row, over which intervals are bootstrapped.
        classes: names of the classes or 0/1 targets.
        fraction: of the labels.
        labels: how many that were.
        resamples: of the bootstrap.

    Returns:
        Means over draws with intervals, overall and per class; the ROC curve of each class; the confusion matrix.
    """
    common = {"fraction": fraction, "labels": labels}
    found = [{**common, "metric": name, **comparisons.mean_over_draws(name, y, predictions, groups, resamples)} for name in SUMMARY]
    two = y.ndim == 1 and len(classes) == 2
    for k, label in enumerate(classes):
        if two and k == 0:
            continue  # the curve of the other class is its mirror image
        truth = (y == k).astype(float) if y.ndim == 1 else y[:, k]
        known = ~np.isnan(truth)
        # one 0/1 label at a time, so that the interval of a class is made as the interval of the whole is
        scores = [p[known, k][:, None] for p in predictions]
        if len(np.unique(truth[known])) < 2:
            continue
        one = comparisons.mean_over_draws(HEADLINE, truth[known][:, None], scores, groups[known], resamples)
        found.append({**common, "metric": HEADLINE, "class": label, **one})
        curves = np.stack([metrics.roc_curve(truth[known], s[:, 0], ROC_GRID) for s in scores])
        found += [
            {**common, "metric": "roc", "class": label, "fpr": float(x), "value": float(v)}
            for x, v in zip(ROC_GRID, curves.mean(0), strict=True)
        ]
    if y.ndim == 1:
        matrix = np.mean([metrics.confusion(y, p) for p in predictions], 0)
        found += [
            {**common, "metric": "confusion", "class": classes[i], "predicted": classes[j], "value": float(matrix[i, j])}
            for i in range(len(classes))
            for j in range(len(classes))
        ]
    return found
