from __future__ import annotations

import numpy as np
import pytest
from helpers.contexts import draw_of
from sklearn.neighbors import KNeighborsClassifier

from scotoma.data.labels.targets import Target
from scotoma.evaluators import knn

TRAIN, TEST = np.arange(90), np.arange(90, 130)
DRAW = draw_of(TRAIN, np.arange(0))


def made(classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, 130)
    return rng.normal(size=(130, 8)).astype(np.float32) + np.eye(8, dtype=np.float32)[y] * 2, y


@pytest.mark.parametrize("classes", [2, 4])
def test_votes_equal_scikit_learns(classes: int) -> None:
    x, y = made(classes)
    found = knn.predict(x, Target(("t",), tuple(map(str, range(classes))), y), DRAW, TEST)
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.07)).fit(
        x[TRAIN], y[TRAIN]
    )
    np.testing.assert_allclose(found, model.predict_proba(x[TEST]), atol=1e-5)


def test_several_targets_against_a_slow_loop() -> None:
    x, y = made(4)
    labels = np.stack([y % 2, y // 2], 1).astype(np.float32)
    labels[np.random.default_rng(1).random(labels.shape) < 0.4] = np.nan
    found = knn.predict(x, Target(("t", "u"), ("t", "u"), labels), DRAW, TEST)
    for i, row in enumerate(TEST):
        for k in range(2):
            votes = sorted(
                (
                    (x[row] @ x[j] / np.linalg.norm(x[row]) / np.linalg.norm(x[j]), labels[j, k])
                    for j in TRAIN
                    if labels[j, k] == labels[j, k]
                ),
                reverse=True,
            )[:20]
            weights = [np.exp(c / 0.07) for c, _ in votes]
            assert found[i, k] == pytest.approx(
                sum(w * v for w, (_, v) in zip(weights, votes, strict=True)) / sum(weights), abs=1e-4
            )


def test_fewer_labels_than_neighbours_all_vote() -> None:
    x = np.array([[1.0, 0], [0, 1], [1, 1]], np.float32)
    target = Target(("t",), ("a", "b"), np.array([0, 1, -1]))
    np.testing.assert_allclose(knn.predict(x, target, draw_of(np.array([0, 1]), np.arange(0)), np.array([2])), [[0.5, 0.5]])
