"""Classification: one column of classes, or several targets of 0 and 1."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scotoma import files
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels.targets import MASKS
from scotoma.data.splits.label_draws import Draw
from scotoma.errors import RunError, UsageError, stage
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import classification
from scotoma.methods.supervised import Supervised
from scotoma.metrics import calibration, intervals, learning_curves, operating_points
from scotoma.metrics import classification as metrics
from scotoma.metrics.bootstrap import bootstrap_weights
from scotoma.metrics.summaries import HEADLINE, SUMMARY, draw_rows, fraction_rows
from scotoma.models import linear_probe
from scotoma.models.features import extract
from scotoma.run_folder import CHECKPOINTS, Row, Run
from scotoma.tasks.base import FineTuning, Model, Task
from scotoma.training.callbacks import METRICS
from scotoma.training.schedule import Schedule
from scotoma.training.trainer import Batches, Trained, cost_rows

# where a head starts, with its words; the first is usual for random weights, the last for pretrained ones
HEADS = {"zero": "zero", "probe": "its linear probe"}
LOWER_IS_BETTER = ("loss", "brier", "ece")
FEWEST_TO_CALIBRATE, MOST_TEMPERATURE = 20, 4.0


class Classification(Task):
    """Outputs are (n, C) probabilities of C classes or 0/1 targets, not calibrated; a study stores them."""

    evaluator, headline, monitors = "metrics", HEADLINE, ("loss", *metrics.METRICS)

    @staticmethod
    def fits(columns: tuple[str, ...], numbers: bool) -> bool:
        """Neither numbers nor masks."""
        return not numbers and columns != (MASKS,)

    @property
    def is_balanced_by_draws(self) -> bool:
        """Of one target alone."""
        return not self.target.multilabel

    def require(self, tuning: FineTuning, network: nn.Module, info: EncoderInfo, drawn: Draw) -> None:
        """Refuse what does not go with these classes or this network."""
        super().require(tuning, network, info, drawn)
        if self.target.multilabel and tuning.monitor == "mcc":
            raise UsageError("--monitor mcc is for one target: monitor auroc or balanced_accuracy of several 0/1 targets")
        if not tuning.frozen:
            inputs = Inputs(info.image_size, info.in_chans, info.mean, info.std, info.modality, 2)
            Supervised(network, inputs, **tuning.method_args)

    def train(
        self, network: nn.Module, info: EncoderInfo, drawn: Draw, tuning: FineTuning, run: Run | None = None
    ) -> tuple[Model, list[Row]]:
        """Train network and head, or fit the head alone.

        A head can start at zero, or as the linear probe of the network as it is given (Kumar et al. 2022, "Fine-tuning can distort
        pretrained features and underperform out-of-distribution", section 4: "linear probing then full fine-tuning"). Which is
        better depends on network, labels and weights: both are tried in full length, and the one with the lower loss on the draw's
        validation rows is kept. Time and images seen are those of both, and the rows state the kept one under ``head``.

        Balanced classes give probabilities as if all were equally frequent. The head takes that back, so that they are those of the
        training labels' shares (Elkan 2001, "The foundations of cost-sensitive learning", theorem 2).
        """
        target = self.target
        info = replace(info, targets=target.columns, classes=target.classes)
        if tuning.frozen:
            return Model(network, info, self.probe(network, info, drawn)), []
        seen, keys = self.sample(drawn, tuning)
        soft = target.shares is not None and not target.multilabel
        inputs = Inputs(
            info.image_size, info.in_chans, info.mean, info.std, info.modality, len(target.classes),
            target.weights(drawn.train) if tuning.balance == "weights" else (), soft, images=len(seen),
        )  # fmt: skip
        batches = Batches(self.store, self.rows[seen], target.aims[seen], keys=keys)
        heads = list(HEADS) if info.method["name"] == "random" else list(HEADS)[::-1]
        both = bool(len(drawn.val))  # without rows to choose by, the usual one
        given = _copy(network)
        starts: list[_Start] = []
        failed: RunError | None = None
        for head in heads if both else heads[:1]:
            stage(f"fine-tuning with a head that starts at {HEADS[head]}", self.quiet)
            network.load_state_dict(given)
            torch.manual_seed(tuning.seed)
            method = Supervised(network, inputs, **tuning.method_args)
            if head == "probe":
                method.head.load_state_dict(self.probe(network, info, drawn).state_dict())
                _add_to_bias(method.head, self.shift_of_priors(drawn, tuning))  # as the balanced loss would have it
            score = partial(self.monitor, method, info, drawn, tuning, tuning.monitor)
            within = f"{CHECKPOINTS}/{head}" if both else ""
            try:
                trained, schedule = tuning.train(method, batches, info.image_size, score, run, self.quiet, within)
            except RunError as error:  # its loss became no number
                failed = error
                continue
            loss = -self.monitor(method, info, drawn, tuning, "loss", torch.device("cpu")) if both else 0.0
            starts.append(_Start(head, loss if loss == loss else math.inf, _copy(method), trained, schedule))
            tuning = replace(tuning, learning_rate=schedule.learning_rate)  # one that was found holds for both
        if not starts:
            assert failed is not None
            raise failed
        best = min(starts, key=lambda start: start.loss)
        method.load_state_dict(best.weights)
        _add_to_bias(method.head, -self.shift_of_priors(drawn, tuning))
        if run is not None and both:
            _keep_log(run.path, best.head)
        costs = _costs(starts, best, method, len(drawn.seen))
        return Model(method.encoder.cpu(), info, method.head.cpu()), [
            {**row, "head": best.head if both else f"{best.head} (no validation rows)"} for row in costs
        ]

    @torch.no_grad()
    def monitor(
        self, method: Supervised, info: EncoderInfo, drawn: Draw, tuning: FineTuning, name: str, device: torch.device
    ) -> float:
        """What is monitored of a draw's validation rows, higher being better; a metric without value is the worst."""
        y = self.target.y[drawn.val]
        features = extract(method.encoder, info, self.store, self.rows[drawn.val])
        logits = method.head(torch.from_numpy(features).to(device)).float().cpu() - self.shift_of_priors(drawn, tuning)
        if name == "loss":
            return -classification(logits, torch.from_numpy(y)).item()
        value = float(metrics.score(name, y, linear_probe.probabilities(logits.double().numpy(), y.ndim == 2)))
        return -float("inf") if np.isnan(value) else -value if name in LOWER_IS_BETTER else value

    def shift_of_priors(self, drawn: Draw, tuning: FineTuning) -> torch.Tensor:
        """(C,) by how much balancing raises each class's logits: the logarithms of the weights, of drawing as of the loss."""
        if tuning.balance == "none":
            return torch.zeros(len(self.target.classes))
        return torch.tensor(self.target.weights(drawn.train)).log()

    def sample(self, drawn: Draw, tuning: FineTuning) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions to train on, and what their random numbers are keyed by where an image stands among them several times.

        Oversampling repeats the images of each class until it is as large as the largest; undersampling draws as many of each as
        the smallest has. Annotators' ties belong to no class and are left out then.
        """
        if tuning.balance not in ("oversample", "undersample"):
            return drawn.seen, None
        of = [drawn.train[self.target.y[drawn.train] == k] for k in range(len(self.target.classes))]
        of = [np.random.default_rng([tuning.seed, k]).permutation(c) for k, c in enumerate(of) if len(c)]
        count = (max if tuning.balance == "oversample" else min)(map(len, of))
        copies = np.concatenate([np.arange(count) // len(c) for c in of])
        seen = np.concatenate([np.resize(c, count) for c in of])
        return seen, self.rows[seen] + (copies.astype(np.int64) << 40)

    def probe(self, network: nn.Module, info: EncoderInfo, drawn: Draw) -> nn.Linear:
        """A head fitted on the features of the frozen encoder by logistic regression, to the optimum."""
        return linear_probe.layer(*linear_probe.fit(self.draw_features(network, info, drawn), self.target, drawn))

    def calibrate(self, model: Model, drawn: Draw, tuning: FineTuning) -> Model:
        """The model with temperature, offsets and thresholds, chosen on the validation labels of a draw.

        The temperature is 1 where validation labels are fewer than 20, and between 1/4 and 4: few rows can all be right, and none
        of them argues for certainty. Offsets of the classes with 20 validation rows or more are added to the head. There is a
        threshold for each class (against the rest) or label, on these probabilities: 0.5 where validation rows lack one side. Of
        two classes both have theirs, that of the first as if it were the finding.
        """
        target, y = self.target, self.target.y[drawn.val]
        if not len(drawn.val):
            return model
        p = self.outputs(model, drawn.val).clip(calibration.SURE, 1 - calibration.SURE)
        logits = np.log(p / (1 - p)) if target.multilabel else np.log(p)
        temperature = 1.0
        if len(drawn.val) >= FEWEST_TO_CALIBRATE:
            temperature = float(np.clip(calibration.temperature(y, logits), 1 / MOST_TEMPERATURE, MOST_TEMPERATURE))
        added = calibration.offsets(y, logits / temperature)
        head = copy.deepcopy(model.head)
        _add_to_bias(head, torch.from_numpy(added * temperature))
        model = model._replace(head=head)
        p = calibration.apply_temperature(self.outputs(model, drawn.val), temperature, target.multilabel)
        thresholds = []
        for k in range(len(target.classes)):
            truth = y[:, k] if target.multilabel else (y == k).astype(float)
            both = len(np.unique(truth[~np.isnan(truth)])) == 2
            thresholds.append(operating_points.threshold(truth, p[:, k], tuning.threshold) if both else 0.5)
        return model._replace(info=replace(model.info, temperature=temperature, thresholds=tuple(thresholds)))

    def outputs(self, model: Model, positions: np.ndarray) -> np.ndarray:
        """(n, C) probabilities."""
        features = torch.from_numpy(extract(model.network, model.info, self.store, self.rows[positions]))
        with torch.no_grad():
            logits = model.head.cpu()(features).double().numpy()
        return linear_probe.probabilities(logits, self.target.multilabel)

    def tabulate(self, scores: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        """``label`` and ``probability_CLASS``; of several 0/1 targets ``label_TARGET`` and ``probability_TARGET``."""
        return self.labels(positions) | {f"probability_{name}": scores[:, k] for k, name in enumerate(self.names)}

    def labels(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The class, None where it is unknown; of several 0/1 targets each."""
        y = self.target.y[positions]
        if self.target.multilabel:
            return {f"label_{name}": y[:, k] for k, name in enumerate(self.names)}
        return {"label": np.array([*self.names, None], object)[y]}

    def predict_linear(self, inputs: np.ndarray, drawn: Draw, positions: np.ndarray) -> np.ndarray:
        """By logistic regression."""
        return linear_probe.predict(inputs, self.target, drawn, positions)

    def predict_constant(self, drawn: Draw, positions: np.ndarray) -> np.ndarray:
        """The shares of the classes."""
        y = self.target.y[drawn.train]
        shares = np.nanmean(y, 0) if self.target.multilabel else np.bincount(y, minlength=len(self.target.classes)) / len(y)
        return np.tile(shares, (len(positions), 1))

    def validate(self, model: Model, drawn: Draw) -> list[Row]:
        """Summary metrics of calibrated probabilities, with intervals."""
        val = self.examples("val")
        if not len(val):
            return []
        p = calibration.apply_temperature(self.outputs(model, val), model.info.temperature, self.target.multilabel)
        y, units = self.target.y[val], self.split.units[val]
        estimates = {name: intervals.mean_over_draws(name, y, [p], units) for name in SUMMARY}
        ends = {name: {end: found[end] for end in ("low", "high")} for name, found in estimates.items()}
        return [{**row, **ends[row["metric"]]} for row in self.summarise_draw(p, val, drawn)]

    def summarise_draw(self, scores: np.ndarray, positions: np.ndarray, drawn: Draw) -> list[Row]:
        """Summary metrics."""
        return draw_rows(self.target.y[positions], scores, drawn)

    def summarise_fraction(self, scores: list[np.ndarray], positions: np.ndarray, fraction: float, labels: int) -> list[Row]:
        """Means with intervals, by class too; ROC curves; the confusion matrix."""
        return fraction_rows(self.target.y[positions], scores, self.split.units[positions], self.target.classes, fraction, labels)

    def difference(self, scores: list[np.ndarray], reference: list[np.ndarray], positions: np.ndarray) -> dict[str, Any]:
        """Of AUROC."""
        y, units = self.target.y[positions], self.split.units[positions]
        return intervals.paired_difference(self.headline, y, scores, reference, units)

    def extrapolate(self, labels: list[int], scores: list[list[np.ndarray]], positions: np.ndarray) -> list[Row]:
        """AUROC with more labels, patients and label draws resampled together."""
        if len(labels) < learning_curves.LEAST_POINTS or min(map(len, scores)) < learning_curves.LEAST_DRAWS:
            return []
        y, weights = self.target.y[positions], bootstrap_weights(self.split.units[positions], learning_curves.RESAMPLES)
        weights = np.pad(weights, ((1, 0), (0, 0)), constant_values=1)
        areas = [[metrics.score(self.headline, y, p, weights) for p in of_count] for of_count in scores]
        return learning_curves.curve_rows(labels, np.transpose(np.asarray(areas), (2, 1, 0)))

    def sample_size(self, positions: np.ndarray) -> list[Row]:
        """Of an AUROC's interval, for every class that has positive and negative rows."""
        target, y = self.target, self.target.y[positions]
        truth = y if target.multilabel else (y[:, None] == np.arange(len(target.classes))).astype(float)
        names = list(enumerate(target.classes))[0 if target.multilabel or len(target.classes) > 2 else 1 :]
        shares = ((name, float(np.nanmean(truth[:, k]))) for k, name in names)
        return [row for name, share in shares if 0 < share < 1 for row in learning_curves.width_rows(name, share)]

    def row_keys(self, mode: str) -> Row:
        """The mode, or the control, is an evaluator."""
        return {"evaluator": mode}

    def protocol(self, tuning: FineTuning) -> Row:
        """How the head starts."""
        return {"head": "the better of zero and probe"}


class _Start(NamedTuple):
    """A fine-tuning from one start of its head, and its loss on the validation rows."""

    head: str
    loss: float
    weights: dict[str, Tensor]
    trained: Trained
    schedule: Schedule


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _costs(starts: list[_Start], best: _Start, method: Supervised, images: int) -> list[Row]:
    """What the training of all starts took, and where the kept one ended."""
    seconds, steps = sum(start.trained.seconds for start in starts), sum(start.trained.steps for start in starts)
    found = cost_rows(replace(best.trained, seconds=seconds, steps=steps), best.schedule, method, images, 0.0)
    return [{**row, "value": float(best.trained.steps)} if row["metric"] == "steps" else row for row in found]


def _keep_log(run: Path, head: str) -> None:
    """Let the logs of the kept start be the run's."""
    place = run / CHECKPOINTS / head
    files.write(run / METRICS, (place / METRICS).read_bytes())
    shutil.copytree(place / "logs", run / "logs", dirs_exist_ok=True)


@torch.no_grad()
def _add_to_bias(head: nn.Module, values: torch.Tensor) -> None:
    """Raise a linear layer's outputs by (C,) values, in place."""
    assert isinstance(head, nn.Linear)
    head.bias.add_(values.to(head.bias))
