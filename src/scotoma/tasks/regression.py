"""What ``finetune --regression`` does: an encoder and a column of numbers -> a model that predicts the number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from scotoma.data.datamodule import DataModule
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.splits.label_draws import Draw
from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.supervised import Supervised
from scotoma.metrics import regression
from scotoma.models import linear_probe
from scotoma.models.features import extract
from scotoma.run_folder import Row, Run
from scotoma.tasks.base import Recipe
from scotoma.training.trainer import Batches, cost_rows

MONITORS = ("loss", "mae")
FOR_CLASSES = ("mixup", "cutmix", "smoothing", "focal")


class Job:
    """A regressor to be trained as ``finetune`` is asked to; made before anything is written.

    The numbers are standardised by the training rows while it learns; the head that is kept gives them as they are in the table.

    Args:
        network: the encoder.
        info: of it.
        material: the images and their target.
        drawn: which rows may be seen.
        recipe: how.
        quiet: no progress bar.

    Raises:
        UsageError: the recipe does not go with numbers.
    """

    evaluator = "regression"
    head: nn.Linear

    def __init__(
        self, network: nn.Module, info: EncoderInfo, material: DataModule, drawn: Draw, recipe: Recipe, quiet: bool
    ) -> None:
        assert material.target is not None and material.target.numbers is not None
        check(recipe, drawn)
        self.network, self.drawn, self.recipe, self.quiet = network, drawn, recipe, quiet
        self.store, self.rows, self.split, self.target = material.store, material.rows, material.split, material.target
        self.numbers = material.target.numbers
        self.info = replace(info, targets=self.target.columns, classes=())

    def train(self, run: Run | None) -> list[Row]:
        """Train encoder and head, or fit the head alone; rows of what training took."""
        info, seen = self.info, self.drawn.train
        torch.manual_seed(self.recipe.seed)
        if self.recipe.frozen:
            self.head = self._probe()
            return []
        mean, std = float(self.numbers[seen].mean()), float(self.numbers[seen].std()) or 1.0
        inputs = Inputs(info.image_size, info.in_chans, info.mean, info.std, info.modality, 1, images=len(seen))
        # The head starts at 0, which says the mean. A ridge regression's weights can be huge where features hardly vary in use;
        # under the batch statistics of training they do vary, and an unbounded output does not recover from such a start.
        method = Supervised(self.network, inputs, **self.recipe.method_args)
        aims = ((self.numbers - mean) / std).astype(np.float32)
        batches = Batches(self.store, self.rows[seen], aims[seen])

        def score(_: torch.device) -> float:
            found = self._predict(_scaled(method.head, std, mean), self.drawn.val)
            error = found - self.numbers[self.drawn.val]
            return -float(np.abs(error).mean() if self.recipe.monitor == "mae" else np.square(error).mean())

        trained, plan = self.recipe.train(method, batches, info.image_size, score, run, self.quiet)
        self.network, self.head = method.encoder.cpu(), _scaled(method.head.cpu(), std, mean)
        return cost_rows(trained, plan, method, len(seen), 0.0)

    def validate(self) -> list[Row]:
        """Errors on the validation rows."""
        val = self.split.rows("val")[self.target.known[self.split.rows("val")]]
        if not len(val):
            return []
        truth, predicted = self.numbers[val].astype(np.float64), self._predict(self.head, val)
        return regression.rows_of(truth, predicted, self.split.units[val])

    def _probe(self) -> nn.Linear:
        seen = np.union1d(self.drawn.train, self.drawn.val)
        found = extract(self.network, self.info, self.store, self.rows[seen])
        features = np.zeros((len(self.rows), found.shape[1]), np.float32)
        features[seen] = found
        return linear_probe.fit_ridge(features, self.numbers, self.drawn)

    def _predict(self, head: nn.Linear, positions: np.ndarray) -> np.ndarray:
        return linear_probe.predict_numbers(head, extract(self.network, self.info, self.store, self.rows[positions]))


def check(recipe: Recipe, drawn: Draw) -> None:
    """Refuse a recipe before anything is written.

    Raises:
        UsageError: an argument is for classes, or validation rows are needed and there are none.
    """
    wrong = next((name for name in recipe.encoder_args if name in FOR_CLASSES), None)
    if wrong:
        raise UsageError(f"--method.{wrong} is for classes: leave it out with --regression")
    recipe.require(MONITORS, len(drawn.val), sampling=False)


@torch.no_grad()
def _scaled(head: nn.Linear, scale: float, shift: float) -> nn.Linear:
    """A copy of a layer whose outputs are scaled, then shifted."""
    found = nn.Linear(head.in_features, 1)
    found.load_state_dict({"weight": head.weight.cpu() * scale, "bias": head.bias.cpu() * scale + shift})
    return found
