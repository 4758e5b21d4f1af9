"""What an evaluator is given, and what every evaluator needs: features of a table's images, and label draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from scotoma.data.dataset import Dataset
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.evaluated_images import Predictions
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw, draw
from scotoma.data.splits.splits import Split
from scotoma.data.splits.units import plural
from scotoma.data.store.store import Store
from scotoma.errors import UsageError, notice
from scotoma.metrics import calibration
from scotoma.metrics.intervals import caution
from scotoma.models import linear_probe
from scotoma.models.features import extract
from scotoma.tasks.base import Model, Task, task_of

Row = dict[str, Any]
T = TypeVar("T")


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
        join_key: whether predictions carry what the user's own table calls each image.
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
    join_key: bool = False
    predictions: list[Predictions] = field(default_factory=list, init=False, repr=False)
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What an evaluator's rows and its figures both need, made for whichever needs it first."""
        if name not in self._made:
            self._made[name] = make()
        return cast("T", self._made[name])

    def keep(self, scores: np.ndarray, positions: np.ndarray, drawn: Draw | None = None) -> None:
        """Keep what a model gives for these rows (``Task.score``), of a draw of labels or of all, in the run's ``predictions``."""
        self.predictions.append(Predictions(positions, self.task.tabulate(scores, positions), drawn))

    @cached_property
    def features(self) -> np.ndarray:
        """(n, D) float32 features of every row, computed once."""
        return extract(self.encoder, self.info, self.store, self.dataset.table["row"].to_numpy())

    @cached_property
    def task(self) -> Task:
        """The kind of the target."""
        return task_of(self.dataset, self.store, self.split, self.target, self.info.mask_classes)

    @property
    def model(self) -> Model:
        """Encoder and head."""
        assert self.head is not None
        return Model(self.encoder, self.info, self.head)

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
        return self.task.examples("test")

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
        raise UsageError("a segmenter does not classify whole images: use --with segmentation, or name its encoder's run")
    if info.numeric:
        raise UsageError("numbers are predicted, not classes: use --with regression")
    context.task.require_classes()
    if context.head is not None and (info.targets, info.classes) != (target.columns, target.classes):
        raise UsageError(
            f"the classifier distinguishes {', '.join(info.classes)} of {', '.join(info.targets)}, not "
            f"{', '.join(target.classes)} of {', '.join(target.columns)}: leave --target and --classes out, or use --with linear"
        )
    return cast("nn.Linear | None", context.head)


def probabilities_of(context: Context, logits: Tensor) -> np.ndarray:
    """(n, C) float64 probabilities of a classifier's logits at its temperature: every evaluator takes them from here."""
    p = linear_probe.probabilities(logits.double().cpu().numpy(), context.target.multilabel)
    return calibration.apply_temperature(p, context.info.temperature, context.target.multilabel)


def decisions_of(context: Context, p: np.ndarray) -> np.ndarray:
    """(n, C) bool: which classes a classifier calls, each at its own threshold; of two classes exactly one.

    Without thresholds (an encoder's probe has none): the most probable class, of 0/1 targets those above 0.5.
    """
    if not context.info.thresholds:
        return p > 0.5 if context.target.multilabel else p.argmax(1)[:, None] == np.arange(p.shape[1])
    called = p >= np.array(context.info.thresholds)
    return np.stack([~called[:, 1], called[:, 1]], 1) if not context.target.multilabel and p.shape[1] == 2 else called


def class_name(target: Target, k: int) -> str:
    """What a figure calls a class: ``cardiomegaly = 1`` (a bare 1 states nothing); of several 0/1 targets the target's name."""
    return target.classes[k] if target.multilabel else f"{target.columns[0]} = {target.classes[k]}"


Predict = Callable[[np.ndarray, Task, Draw, np.ndarray], np.ndarray]


def evaluate_draws(context: Context, inputs: np.ndarray, predict: Predict) -> list[Row]:
    """Fit and test a model for every fraction and draw.

    Args:
        context: the table, the target, the fractions.
        inputs: (n, D) what the model sees of every row.
        predict: (inputs, task, draw, rows) -> outputs for these rows, having seen the draw's labels alone.

    Returns:
        Rows of every draw, and for each fraction over its draws.
    """
    found: list[Row] = []
    task, test = context.task, context.test
    if not task.is_of_images:
        task.require_classes()
    for fraction in context.fractions:
        drawn = [d for d in context.draws() if d.fraction == fraction]
        outputs = [predict(inputs, task, d, test) for d in drawn]
        for one, p in zip(drawn, outputs, strict=True):
            found += task.summarise_draw(p, test, one)
            context.keep(p, test, one)
        found += task.summarise_fraction(outputs, test, fraction, len(drawn[0].train))
    return found


def warn_few_units(data_module: Any) -> None:
    """Say where so few patients (or other units) are tested that intervals over them are unreliable."""
    test, split = data_module.split.rows("test"), data_module.split
    count = len({*split.units[test[data_module.target.known[test]]].tolist()})
    if text := caution(count, split.unit, plural(split.unit)):
        notice(data_module.dataset.name, text)
