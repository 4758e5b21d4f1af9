"""Linear classifier by SGD: trained for 90 epochs, as papers report theirs; ``linear`` goes to the optimum instead.

Protocol of MoCo v3 (arXiv 2104.02057, appendix, "Linear probing": SGD, 90 epochs, no weight decay, the learning rate swept) on
features normalised without affine parameters (MAE, arXiv 2111.06377, appendix A.1). The rate with the lowest log loss on the draw's
validation labels is taken. Features are those of the plain images, so nothing is augmented.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw
from scotoma.evaluators.base import Context, Row, evaluate_draws
from scotoma.methods.parts.losses import classification
from scotoma.models import linear_probe
from scotoma.training.schedule import learning_rate_factor

PROTOCOL = 1
EPOCHS, MOMENTUM = 90, 0.9
RATES = (0.01, 0.1, 1.0)
MOST, FEWEST_STEPS = 1024, 10  # images per batch, and batches per epoch: a paper's batch of thousands would be all of a few labels


def predict(features: np.ndarray, target: Target, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """Train on a draw's labels and give probabilities of ``rows``: (len(rows), C)."""
    x = torch.from_numpy(features).float()
    y = torch.from_numpy(target.y)
    mean, scale = x[drawn.train].mean(0), x[drawn.train].std(0, unbiased=False)
    x = (x - mean) / scale.masked_fill(scale < 1e-4, 1.0)
    heads = [_train(x[drawn.train], y[drawn.train], len(target.classes), rate, drawn.seed) for rate in RATES]
    chosen = heads[1]
    if len(drawn.val):
        with torch.no_grad():
            losses = [float(classification(head(x[drawn.val]), y[drawn.val])) for head in heads]
        chosen = heads[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]
    with torch.no_grad():
        return linear_probe.probabilities(chosen(x[rows]).double().numpy(), target.multilabel)


def _train(x: Tensor, y: Tensor, classes: int, rate: float, seed: int) -> nn.Linear:
    """A layer that starts at 0, its learning rate falling as a cosine."""
    head = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=MOMENTUM)
    order = torch.Generator().manual_seed(seed)
    size = max(1, min(MOST, len(x) // FEWEST_STEPS))
    parts = [part for _ in range(EPOCHS) for part in torch.randperm(len(x), generator=order).split(size)]
    for step, part in enumerate(parts):
        optimizer.param_groups[0]["lr"] = rate * learning_rate_factor(step, len(parts), 0.0)
        optimizer.zero_grad()
        classification(head(x[part]), y[part]).backward()
        optimizer.step()
    return head


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    context.task.require_classes()
    return evaluate_draws(context, context.features, lambda x, task, drawn, rows: predict(x, task.target, drawn, rows))
