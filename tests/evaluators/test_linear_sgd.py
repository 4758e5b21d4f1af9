from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.contexts import draw_of
from sklearn.metrics import log_loss, roc_auc_score

from scotoma.data.labels.targets import Target
from scotoma.evaluators import linear_sgd
from scotoma.models import linear_probe

TRAIN, VAL, TEST = np.arange(0, 200), np.arange(200, 260), np.arange(260, 400)
DRAW = draw_of(TRAIN, VAL)


def made(classes: int) -> tuple[np.ndarray, Target]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, 400)
    x = rng.normal(size=(400, 6)) * np.array([1, 50, 0.1, 1, 1, 1]) + 3
    x[:, 0] += 1.5 * y
    x[:, 5] = 2.0  # never changes
    return x.astype(np.float32), Target(("t",), tuple(map(str, range(classes))), y)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_comes_close_to_the_optimum_whatever_the_features_scale(classes: int) -> None:
    x, target = made(classes)
    found, best = linear_sgd.predict(x, target, DRAW, TEST), linear_probe.predict(x, target, DRAW, TEST)
    np.testing.assert_allclose(found.sum(1), 1)
    truth = target.y[TEST]
    assert log_loss(truth, found) < log_loss(truth, best) + 0.03
    score = roc_auc_score(truth, found if classes > 2 else found[:, 1], multi_class="ovr")
    assert score > roc_auc_score(truth, best if classes > 2 else best[:, 1], multi_class="ovr") - 0.02
    np.testing.assert_allclose(linear_sgd.predict(x * 7 - 3, target, DRAW, TEST), found, atol=1e-3)
    np.testing.assert_array_equal(linear_sgd.predict(x, target, DRAW, TEST), found)


def test_the_rate_is_the_one_that_validation_labels_like_best(monkeypatch: pytest.MonkeyPatch) -> None:
    x, target = made(2)
    heads = {}
    original = linear_sgd._train

    def watched(features, y, classes, rate, seed):
        heads[rate] = original(features, y, classes, rate, seed)
        return heads[rate]

    monkeypatch.setattr(linear_sgd, "_train", watched)
    found = linear_sgd.predict(x, target, DRAW, TEST)
    z = (x - x[TRAIN].mean(0)) / np.maximum(x[TRAIN].std(0), 1e-4)
    with torch.no_grad():
        p = {rate: head(torch.from_numpy(z).float()).softmax(1).numpy() for rate, head in heads.items()}
    best = min(p, key=lambda rate: log_loss(target.y[VAL], p[rate][VAL]))
    np.testing.assert_allclose(found, p[best][TEST], atol=1e-4)
    without = linear_sgd.predict(x, target, draw_of(TRAIN, VAL[:0]), TEST)
    np.testing.assert_allclose(without, p[0.1][TEST], atol=1e-4)


def test_unknown_labels_of_several_targets_are_left_out() -> None:
    x, target = made(2)
    y = np.stack([target.y, np.roll(target.y, 1)], 1).astype(np.float32)
    y[::3, 0] = np.nan
    found = linear_sgd.predict(x, Target(("t", "u"), ("t", "u"), y), DRAW, TEST)
    known = ~np.isnan(y[TEST, 0])
    assert roc_auc_score(y[TEST][known, 0], found[known, 0]) > 0.8
