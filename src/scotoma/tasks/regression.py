"""Regression: one column of numbers (an age, an ejection fraction)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.splits.label_draws import Draw
from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.supervised import Supervised
from scotoma.metrics import intervals, regression
from scotoma.models import linear_probe
from scotoma.models.features import extract
from scotoma.run_folder import Row, Run
from scotoma.tasks.base import FineTuning, Model, Task
from scotoma.training.trainer import Batches, cost_rows

FOR_CLASSES = ("mixup", "cutmix", "smoothing", "focal")


class Regression(Task):
    """Outputs are (n,) numbers in the table's own units; a study stores them."""

    evaluator, headline, monitors = "regression", "mae", ("loss", "mae")

    @staticmethod
    def fits(columns: tuple[str, ...], numbers: bool) -> bool:
        """Numbers."""
        return numbers

    @classmethod
    def check(cls, tuning: FineTuning) -> None:
        """Refuse what is for classes."""
        super().check(tuning)
        wrong = next((name for name in tuning.encoder_args if name in FOR_CLASSES), None)
        if wrong:
            raise UsageError(f"--method.{wrong} is for classes: leave it out with --regression")

    @property
    def numbers(self) -> np.ndarray:
        """(n,) of all rows, NaN unknown."""
        assert self.target.numbers is not None
        return self.target.numbers

    def require_classes(self) -> None:
        """Refuse."""
        raise UsageError("numbers are predicted, not classes: use --with regression")

    def train(
        self, network: nn.Module, info: EncoderInfo, drawn: Draw, tuning: FineTuning, run: Run | None = None
    ) -> tuple[Model, list[Row]]:
        """Train network and head, or fit the head alone.

        Numbers are standardised by the training rows while it learns; the head that is kept gives them as they are in the table.
        """
        info, seen = replace(info, targets=self.target.columns, classes=()), drawn.train
        torch.manual_seed(tuning.seed)
        if tuning.frozen:
            return Model(network, info, linear_probe.fit_ridge(self.draw_features(network, info, drawn), self.numbers, drawn)), []
        mean, std = float(self.numbers[seen].mean()), float(self.numbers[seen].std()) or 1.0
        inputs = Inputs(info.image_size, info.in_chans, info.mean, info.std, info.modality, 1, images=len(seen))
        # The head starts at 0, which predicts the mean. A ridge regression's weights can be huge where features hardly vary in use;
        # under the batch statistics of training they do vary, and an unbounded output does not recover from such a start.
        method = Supervised(network, inputs, **tuning.method_args)
        aims = ((self.numbers - mean) / std).astype(np.float32)
        batches = Batches(self.store, self.rows[seen], aims[seen])

        def score(_: torch.device) -> float:
            found = self.outputs(Model(network, info, _rescale(method.head, std, mean)), drawn.val)
            error = found - self.numbers[drawn.val]
            return -float(np.abs(error).mean() if tuning.monitor == "mae" else np.square(error).mean())

        trained, schedule = tuning.train(method, batches, info.image_size, score, run, self.quiet)
        model = Model(method.encoder.cpu(), info, _rescale(method.head.cpu(), std, mean))
        return model, cost_rows(trained, schedule, method, len(seen), 0.0)

    def outputs(self, model: Model, positions: np.ndarray) -> np.ndarray:
        """(n,) numbers."""
        return linear_probe.predict_numbers(model.head, extract(model.network, model.info, self.store, self.rows[positions]))

    def tabulate(self, scores: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        """``label`` and ``prediction``."""
        return self.labels(positions) | {"prediction": scores}

    def labels(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The numbers."""
        return {"label": self.truth(positions)}

    @property
    def names(self) -> tuple[str, ...]:
        """None."""
        return ()

    def predict_linear(self, inputs: np.ndarray, drawn: Draw, positions: np.ndarray) -> np.ndarray:
        """By ridge regression."""
        inputs = inputs.astype(np.float32)
        return linear_probe.predict_numbers(linear_probe.fit_ridge(inputs, self.numbers, drawn), inputs[positions])

    def predict_constant(self, drawn: Draw, positions: np.ndarray) -> np.ndarray:
        """The mean of the training labels."""
        return np.full(len(positions), float(self.numbers[drawn.train].mean()))

    def validate(self, model: Model, drawn: Draw) -> list[Row]:
        """Errors with intervals."""
        val = self.examples("val")
        return regression.rows_of(self.truth(val), self.outputs(model, val), self.split.units[val]) if len(val) else []

    def truth(self, positions: np.ndarray) -> np.ndarray:
        """(n,) float64 labels."""
        return self.numbers[positions].astype(np.float64)

    def summarise_draw(self, scores: np.ndarray, positions: np.ndarray, drawn: Draw) -> list[Row]:
        """One row per metric."""
        common = {"fraction": drawn.fraction, "seed": drawn.seed, "labels": len(drawn.train), "n": len(positions)}
        found = regression.errors(self.truth(positions), scores, np.ones((1, len(positions))))
        return [{**common, "metric": name, "value": float(value[0])} for name, value in found.items()]

    def summarise_fraction(self, scores: list[np.ndarray], positions: np.ndarray, fraction: float, labels: int) -> list[Row]:
        """Means with intervals."""
        common, units = {"fraction": fraction, "labels": labels}, self.split.units[positions]
        found = regression.means_over_draws(self.truth(positions), scores, units)
        return [{**common, "metric": name, **values} for name, values in found.items()]

    def difference(self, scores: list[np.ndarray], reference: list[np.ndarray], positions: np.ndarray) -> dict[str, Any]:
        """Of the mean absolute error: below 0 where these models are better."""
        truth, units = self.truth(positions), self.split.units[positions]
        errors, others = ([np.abs(p - truth) for p in side] for side in (scores, reference))
        return intervals.paired_difference(None, units, errors, others, units)

    def row_keys(self, mode: str) -> Row:
        """Rows of every mode and control are those of one evaluator."""
        return {"evaluator": self.evaluator, "use": mode}


@torch.no_grad()
def _rescale(head: nn.Linear, scale: float, shift: float) -> nn.Linear:
    """A copy of a layer whose outputs are scaled, then shifted."""
    found = nn.Linear(head.in_features, 1)
    found.load_state_dict({"weight": head.weight.cpu() * scale, "bias": head.bias.cpu() * scale + shift})
    return found
