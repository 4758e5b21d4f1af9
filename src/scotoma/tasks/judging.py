"""What a study says of the files that its classifiers and segmenters left: probabilities of classes, or scores of regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scotoma.data.splits.label_draws import Draw
from scotoma.metrics import bootstrap
from scotoma.metrics.classification import score
from scotoma.metrics.segmentation import OVERLAPS
from scotoma.metrics.summaries import HEADLINE, draw_rows, fraction_rows
from scotoma.run_folder import Row
from scotoma.tasks import segmentation

Predictions = list[np.ndarray]


@dataclass(frozen=True)
class OfClasses:
    """Judges (n, C) probabilities of the test rows, an array a label draw.

    Args:
        y: (n,) or (n, K) labels.
        units: (n,) over which intervals are bootstrapped.
        classes: their names.
    """

    y: np.ndarray
    units: np.ndarray
    classes: tuple[str, ...]
    headline: str = HEADLINE

    def value(self, p: np.ndarray) -> float:
        """AUROC."""
        return float(score(self.headline, self.y, p))

    def of_draw(self, p: np.ndarray, drawn: Draw) -> list[Row]:
        """Summary metrics."""
        return draw_rows(self.y, p, drawn)

    def of_fraction(self, predictions: Predictions, fraction: float, labels: int) -> list[Row]:
        """Means with intervals, by class too; ROC curves; the confusion matrix."""
        return fraction_rows(self.y, predictions, self.units, self.classes, fraction, labels)

    def difference(self, predictions: Predictions, reference: Predictions) -> dict[str, Any]:
        """Of AUROC."""
        return bootstrap.paired_difference(self.headline, self.y, predictions, reference, self.units)


@dataclass(frozen=True)
class OfRegions:
    """Judges (n, regions, len(OVERLAPS)) scores of the test rows, an array a label draw.

    Args:
        units: (n,) over which intervals are bootstrapped.
        classes: names of the regions, the background's first.
    """

    units: np.ndarray
    classes: tuple[str, ...]
    headline: str = OVERLAPS[0]

    def value(self, p: np.ndarray) -> float:
        """Dice."""
        return float(bootstrap.image_means(p[:, :, 0], np.ones((1, len(p))))[0])

    def of_draw(self, p: np.ndarray, drawn: Draw) -> list[Row]:
        """Means over images and regions."""
        return segmentation.draw_rows(p, drawn)

    def of_fraction(self, predictions: Predictions, fraction: float, labels: int) -> list[Row]:
        """Means with intervals, by region too."""
        return segmentation.fraction_rows(predictions, self.units, self.classes, fraction, labels)

    def difference(self, predictions: Predictions, reference: Predictions) -> dict[str, Any]:
        """Of Dice."""
        first, second = ([p[:, :, 0] for p in side] for side in (predictions, reference))
        return bootstrap.paired_difference(None, self.units, first, second, self.units)


Judge = OfClasses | OfRegions
