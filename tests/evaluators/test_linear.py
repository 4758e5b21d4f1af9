from __future__ import annotations

import numpy as np
import pytest
from helpers.contexts import draw_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from scotoma.data.labels.targets import Target
from scotoma.models import linear_probe

TRAIN, VAL, TEST = np.arange(0, 80), np.arange(80, 120), np.arange(120, 160)
DRAW = draw_of(TRAIN, VAL)


def made(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, 160)
    x = rng.normal(size=(160, 6)) * np.array([1, 5, 0.1, 1, 1, 1]) + 3
    x[:, 0] += y
    x[:, 5] = 2.0  # never changes
    return x.astype(np.float32), y


def expected(x: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray) -> np.ndarray:
    """scikit-learn's own probabilities, C chosen by its log loss on the validation rows."""
    scaler = StandardScaler().fit(x[train].astype(float))
    z = scaler.transform(x.astype(float))
    models = [LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(z[train], y[train]) for c in linear_probe.STRENGTHS]
    losses = [log_loss(y[val], m.predict_proba(z[val]), labels=m.classes_) for m in models]
    return models[int(np.argmin(losses))].predict_proba(z)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_probabilities_equal_scikit_learns(classes: int) -> None:
    x, y = made(classes)
    target = Target(("t",), tuple(map(str, range(classes))), y)
    found = linear_probe.predict(x, target, DRAW, TEST)
    np.testing.assert_allclose(found, expected(x, y, TRAIN, VAL)[TEST], atol=2e-3)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_class_without_labels_is_never_predicted(missing: int) -> None:
    x, y = made(3)
    y[TRAIN] = np.where(y[TRAIN] == missing, (missing + 1) % 3, y[TRAIN])
    y[VAL] = np.where(y[VAL] == missing, (missing + 1) % 3, y[VAL])
    found = linear_probe.predict(x, Target(("t",), ("a", "b", "c"), y), DRAW, TEST)
    assert found[:, missing].max() < 1e-9
    present = [k for k in range(3) if k != missing]
    np.testing.assert_allclose(found[:, present], expected(x, y, TRAIN, VAL)[TEST], atol=2e-3)


def test_one_class_alone_is_said_of_every_image() -> None:
    x, y = made(2)
    y[TRAIN] = 1
    np.testing.assert_allclose(linear_probe.predict(x, Target(("t",), ("a", "b"), y), DRAW, TEST), [[0, 1]] * 40, atol=1e-9)
    several = np.stack([np.ones(160), np.full(160, np.nan)], 1).astype(np.float32)
    found = linear_probe.predict(x, Target(("t", "u"), ("t", "u"), several), DRAW, TEST)
    np.testing.assert_allclose(found, [[1, 0.5]] * 40, atol=1e-9)


def test_several_targets_are_fitted_on_their_known_rows() -> None:
    x, y = made(2)
    _, other = made(2, seed=1)
    labels = np.stack([y, other], 1).astype(np.float32)
    labels[np.random.default_rng(3).random(labels.shape) < 0.3] = np.nan
    found = linear_probe.predict(x, Target(("t", "u"), ("t", "u"), labels), DRAW, TEST)
    mean, scale = x[TRAIN].mean(0, dtype=float), x[TRAIN].std(0, dtype=float)
    z = (x - mean) / np.where(scale < 1e-8, 1, scale)  # standardised by all training rows, known or not
    for k in range(2):
        train, val = (rows[~np.isnan(labels[rows, k])] for rows in (TRAIN, VAL))
        models = [LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(z[train], labels[train, k]) for c in linear_probe.STRENGTHS]
        losses = [log_loss(labels[val, k], m.predict_proba(z[val]), labels=[0, 1]) for m in models]
        np.testing.assert_allclose(found[:, k], models[int(np.argmin(losses))].predict_proba(z[TEST])[:, 1], atol=2e-3)


def test_without_validation_labels_the_strongest_regularisation_is_taken() -> None:
    x, y = made(2)
    target = Target(("t",), ("a", "b"), y)
    found = linear_probe.predict(x, target, draw_of(TRAIN, VAL[:0]), TEST)
    z = StandardScaler().fit(x[TRAIN].astype(float)).transform(x.astype(float))
    model = LogisticRegression(C=min(linear_probe.STRENGTHS), max_iter=5000, tol=1e-8).fit(z[TRAIN], y[TRAIN])
    np.testing.assert_allclose(found, model.predict_proba(z[TEST]), atol=2e-3)


def test_the_layer_works_on_features_as_they_are() -> None:
    x, y = made(3)
    target = Target(("t",), ("a", "b", "c"), y)
    weight, bias = linear_probe.fit(x, target, DRAW)
    assert weight.shape == (3, 6) and bias.shape == (3,)
    shifted = linear_probe.predict(x * 3 - 7, target, DRAW, TEST)  # scale and origin of the features do not matter
    np.testing.assert_allclose(shifted, linear_probe.probabilities(x[TEST] @ weight.T + bias, False), atol=1e-4)
