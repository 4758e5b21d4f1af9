from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.contexts import context
from sklearn.metrics import confusion_matrix, roc_auc_score
from torch import nn

from scotoma import plugins
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw, draw
from scotoma.evaluators.base import Context, evaluate_draws
from scotoma.metrics.classification import score
from scotoma.metrics.summaries import SUMMARY, draw_rows, fraction_rows
from scotoma.models.features import extract
from scotoma.tasks.base import task_of
from scotoma.transforms.augmentation import plain


def test_features_follow_the_table_not_the_store(tmp_path: Path) -> None:
    made = context(tmp_path)
    x = made.store.pixels[made.dataset.table["row"]][..., 0] / 255
    expected = np.stack([x[:, :, :16].mean((1, 2)), x[:, :, 16:].mean((1, 2))], 1)
    np.testing.assert_allclose(made.features, expected, atol=1e-6)
    rows = made.dataset.table["row"].to_numpy()
    np.testing.assert_array_equal(extract(made.encoder, made.info, made.store, rows, batch_size=7), made.features)


def test_no_rows_have_no_features(tmp_path: Path) -> None:
    made = context(tmp_path)
    assert extract(made.encoder, made.info, made.store, np.array([], int)).shape == (0, 2)


def test_finished_models_are_run_in_float32(tmp_path: Path) -> None:
    """A layer that bfloat16 would round, within a training's autocast too; and nothing is left behind."""

    class Layer(nn.Module):
        num_features = 4

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Linear(48 * 48, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images.flatten(1))

    made = context(tmp_path, 12)
    layer, info = Layer().eval(), replace(made.info, image_size=48)
    rows = made.dataset.table["row"].to_numpy()
    x = plain(torch.from_numpy(made.store.batch(rows)), 48, info.mean, info.std).flatten(1).double()
    expected = (x @ layer.inner.weight.detach().double().T + layer.inner.bias.detach().double()).numpy()
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        found = extract(layer, info, made.store, rows)
        assert torch.is_autocast_enabled("cpu")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_draws_use_the_fraction_of_both_and_nest(tmp_path: Path) -> None:
    made = context(tmp_path, fractions=(0.1, 0.5, 1.0), seeds=3)
    draws = made.draws()
    assert [(d.fraction, d.seed) for d in draws] == [(f, s) for f in (0.1, 0.5) for s in range(3)] + [(1.0, 0)]
    for d in draws:
        assert len(d.train) == round(d.fraction * 60) and set(d.train) <= set(made.split.rows("train"))
        assert len(d.val) == 2 * max(1, round(d.fraction * 15))
        assert set(d.val) <= set(made.split.rows("val"))
    small, large = draw(made.target, made.split, 0.1, 1), draw(made.target, made.split, 0.5, 1)
    assert set(small.train) < set(large.train) and set(small.val) < set(large.val)


def test_rows_of_a_draw_hold_the_metrics(tmp_path: Path) -> None:
    made = context(tmp_path)
    rng = np.random.default_rng(0)
    y, one = made.target.y[made.test], rng.random(len(made.test))
    p = np.stack([1 - one, one], 1)
    rows = {r["metric"]: r for r in draw_rows(y, p, made.draws()[0])}
    assert set(rows) == set(SUMMARY)
    assert rows["auroc"]["value"] == pytest.approx(roc_auc_score(y, one))
    assert rows["auroc"]["labels"] == 60 and rows["auroc"]["n"] == len(y) and rows["auroc"]["fraction"] == 1.0


def test_a_class_that_all_have_is_there_without_a_value() -> None:
    y = np.array([[1.0, 0], [0, 0], [1, 0], [0, np.nan]])
    rows = fraction_rows(y, [np.full((4, 2), 0.5)] * 2, np.arange(4), ("some", "none"), 1.0, 10)
    of_class = {r["class"]: r for r in rows if r["metric"] == "auroc" and "class" in r}
    assert of_class["some"]["value"] == 0.5 and np.isnan(of_class["some"]["low"])  # alike for all, which no patient moves
    assert np.isnan(of_class["none"]["value"]) and (of_class["none"]["n"], of_class["none"]["few"]) == (3, True)


def test_rows_of_a_fraction_average_its_draws(tmp_path: Path) -> None:
    made = context(tmp_path, classes=3)
    rng = np.random.default_rng(0)
    y = made.target.y[made.test]
    predictions = [rng.dirichlet(np.ones(3), len(y)) for _ in range(3)]
    rows = fraction_rows(y, predictions, made.split.units[made.test], made.target.classes, 0.5, 30)
    overall = next(r for r in rows if r["metric"] == "auroc" and "class" not in r)
    assert overall["value"] == pytest.approx(np.mean([score("auroc", y, p) for p in predictions]))
    assert overall["low"] < overall["value"] < overall["high"] and overall["labels"] == 30
    for k, label in enumerate(made.target.classes):
        one = next(r for r in rows if r["metric"] == "auroc" and r.get("class") == label)
        assert one["value"] == pytest.approx(np.mean([roc_auc_score(y == k, p[:, k]) for p in predictions]))
        curve = [r["value"] for r in rows if r["metric"] == "roc" and r["class"] == label]
        assert len(curve) == 51 and curve[-1] == 1 and np.all(np.diff(curve) >= -1e-12)
    matrix = np.mean([confusion_matrix(y, p.argmax(1)) for p in predictions], 0)
    found = [r["value"] for r in rows if r["metric"] == "confusion"]
    np.testing.assert_allclose(np.reshape(found, (3, 3)), matrix)


def test_a_classifier_sees_the_labels_of_its_draw_alone(tmp_path: Path) -> None:
    made = context(tmp_path, fractions=(0.2, 1.0), seeds=2)
    seen: list[tuple[float, int]] = []

    def predict(inputs, target, drawn, rows):  # type: ignore[no-untyped-def]
        assert inputs is given and np.array_equal(rows, made.test)
        seen.append((drawn.fraction, drawn.seed))
        return np.full((len(rows), 2), 0.5)

    given = np.zeros((120, 1))
    rows = evaluate_draws(made, given, predict)
    assert seen == [(0.2, 0), (0.2, 1), (1.0, 0)]
    assert {r["value"] for r in rows if r["metric"] == "auroc"} == {0.5}


MODULES = {n: plugins.module("evaluators", n) for n in plugins.names("evaluators")}
TRAINED = [n for n, m in MODULES.items() if getattr(m, "TRAINS", True) and hasattr(m, "predict")]


def _predicted(module: Any, made: Context, target: Target, inputs: np.ndarray, drawn: Draw) -> np.ndarray:
    """What an evaluator predicts of the test rows; ``knn`` and ``linear_sgd`` know targets of classes only."""
    by_class = inspect.signature(module.predict).parameters.get("target") is not None
    given = target if by_class else task_of(made.dataset, made.store, made.split, target)
    return module.predict(inputs, given, drawn, made.test)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("multilabel", [False, True])
def test_hiding_labels_outside_the_draw_changes_nothing(name: str, multilabel: bool, tmp_path: Path) -> None:
    made = context(tmp_path, multilabel=multilabel)
    module = plugins.module("evaluators", name)
    inputs = module.inputs(made) if hasattr(module, "inputs") else made.features
    drawn = draw(made.target, made.split, 0.5, 0)
    y = np.full_like(made.target.y, np.nan if multilabel else -1)
    shown = np.concatenate([drawn.train, drawn.val])
    y[shown] = made.target.y[shown]
    hidden = type(made.target)(made.target.columns, made.target.classes, y)
    p, again = (_predicted(module, made, target, inputs, drawn) for target in (made.target, hidden))
    np.testing.assert_array_equal(again, p)
    assert p.shape == (len(made.test), 2) and (p >= 0).all() and (p <= 1).all()
    assert multilabel or np.allclose(p.sum(1), 1)
