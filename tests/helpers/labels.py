"""Labels and probabilities, drawn and by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from scotoma.metrics import classification

NAN = float("nan")
ROWS = 157
SCORES = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.4, 0.4, 0.2])
TRUTH = np.array([1.0, 1, 0, 1, 0, 1, 0, 0])


def categorical(classes: int, seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and probabilities with many ties (multiples of 1/12), related but imperfect."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    y[:classes] = np.arange(classes)
    p = np.array([rng.multinomial(12, np.where(np.arange(classes) == c, 2.0, 1.0) / (classes + 1)) for c in y]) / 12
    return y, p


def one_label(seed: int = 0, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Known labels and tied probabilities, the label likelier the higher they are."""
    rng = np.random.default_rng(seed)
    p = rng.integers(1, 20, rows) / 20
    return (rng.random(rows) < p**2).astype(float), p


def with_unknown(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same rows among others whose label is unknown."""
    return np.concatenate([[NAN], y, [NAN, NAN]]), np.concatenate([[0.99], p, [0.01, 0.5]])


def classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Class ids drawn from softmax(z), and 2.5 z: logits too sure by that factor."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(400, 3)) * 1.5
    return (softmax(z, 1).cumsum(1) < rng.random((400, 1))).sum(1), 2.5 * z


def auroc(y01: ArrayLike, score: ArrayLike, weights: np.ndarray | None = None) -> float | np.ndarray:
    """Area under the ROC curve of one label, by the package's own function: a label is a column."""
    return classification.score("auroc", np.asarray(y01, float)[:, None], np.asarray(score)[:, None], weights)


def average_precision(y01: ArrayLike, score: ArrayLike, weights: np.ndarray | None = None) -> float | np.ndarray:
    """Average precision of one label, as ``auroc``."""
    return classification.score("average_precision", np.asarray(y01, float)[:, None], np.asarray(score)[:, None], weights)


def per_class(name: str, y: ArrayLike, p: ArrayLike, weights: np.ndarray | None = None) -> np.ndarray:
    """A metric of every class or label: (C,), or (R, C) with ``weights``."""
    cases = classification.check_cases(y, p)
    counts = classification.check_weights(weights, len(cases.truth))
    values = classification.classwise(name, cases, counts, range(cases.truth.shape[1]))
    return values[0] if weights is None else values
