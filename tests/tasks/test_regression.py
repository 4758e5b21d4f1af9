from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import pearsonr
from sklearn import metrics as sk
from sklearn.linear_model import Ridge

from scotoma.commands.evaluate import evaluate
from scotoma.commands.finetune import finetune
from scotoma.data import encoder_header, sources
from scotoma.data.datamodule import gather
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels import targets
from scotoma.data.splits.label_draws import Draw, draw
from scotoma.errors import UsageError
from scotoma.metrics import regression as metrics_regression
from scotoma.models import encoders, linear_probe
from scotoma.models.features import extract
from scotoma.run_folder import read_rows
from scotoma.tasks.base import FineTuning, Model, task_of
from scotoma.tasks.regression import Regression

COUNT = 60


@pytest.fixture(scope="module")
def ages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose brightness states the age (20 to 80); the last five have none."""
    folder, rng, rows = tmp_path_factory.mktemp("ages"), np.random.default_rng(0), []
    for i in range(COUNT):
        age = 20 + 60 * ((i * 7) % COUNT) / COUNT
        image = np.clip(rng.normal(40 + 2 * age, 12, (40, 40)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
        rows.append({"image_path": f"{i}.png", "age": f"{age:.0f}" if i < 55 else None, "patient": f"p{i}"})
    frame = pd.DataFrame(rows).assign(split=["train"] * 36 + ["val"] * 8 + ["test"] * 16)
    frame.loc[3, "age"] = "027Y"  # as DICOM has it
    frame.to_csv(folder / "table.csv", index=False)
    info = EncoderInfo("resnet10t", {}, 1, 32, (0.5,), (0.2,))
    torch.manual_seed(0)
    encoders.save(folder / encoder_header.FILE, encoders.build(info), info)
    return folder


def parts(ages: Path, **tuning: object) -> tuple[Regression, torch.nn.Module, EncoderInfo, Draw, FineTuning]:
    data = gather(data=str(ages / "table.csv"), target=["age"], numbers=True, size=32, quiet=True)
    encoder, info, _ = encoders.load(ages)
    drawn, task = draw(data.target, data.split, 1.0, 0), task_of(data.dataset, data.store, data.split, data.target)
    assert isinstance(task, Regression)
    return task, encoder, info, drawn, FineTuning(**{"precision": "32-true", "steps": 20, "batch_size": 8, **tuning})


def test_numbers_are_read_and_cut_into_bands(ages: Path) -> None:
    target = targets.read(sources.load(ages / "table.csv"), ["age"], numbers=True)
    assert target.numbers[3] == 27 and np.isnan(target.numbers[55:]).all() and target.known.sum() == 55
    counts = np.bincount(target.y[target.known])
    assert len(counts) == len(target.classes) == 5 and counts.min() >= 9
    for k, band in enumerate(target.classes):
        low, high = (float(text) for text in band.split(" to "))
        inside = target.numbers[target.y == k]
        assert low - 1 <= inside.min() <= inside.max() <= high + 1
    frame = pd.read_csv(ages / "table.csv")
    for changed, words in (({"age": "old"}, "'old', which is no number"), ({"age": 3}, "fewer than two different")):
        with pytest.raises(UsageError, match=words):
            targets.read(sources.load(frame.assign(**changed, image_path="x.png")), ["age"], numbers=True)
    with pytest.raises(UsageError, match="one column of numbers"):
        targets.read(sources.load(ages / "table.csv"), ["age", "patient"], numbers=True)


def test_errors_equal_scikit_learns_on_resamples() -> None:
    rng = np.random.default_rng(1)
    truth, found = rng.normal(50, 10, 40), rng.normal(50, 12, 40)
    weights = np.vstack([np.ones(40, int), rng.multinomial(40, np.ones(40) / 40, 3)])
    mine = metrics_regression.errors(truth, found, weights)
    for r, w in enumerate(weights):
        a, b = np.repeat(truth, w), np.repeat(found, w)
        assert mine["mae"][r] == pytest.approx(sk.mean_absolute_error(a, b))
        assert mine["rmse"][r] == pytest.approx(sk.root_mean_squared_error(a, b))
        assert mine["r2"][r] == pytest.approx(sk.r2_score(a, b))
        assert mine["pearson"][r] == pytest.approx(pearsonr(a, b).statistic)
        assert mine["bias"][r] == pytest.approx((b - a).mean())
    flat = metrics_regression.errors(np.ones(5), np.arange(5.0), np.ones((1, 5)))
    assert np.isnan(flat["r2"]) and np.isnan(flat["pearson"]) and flat["mae"] == pytest.approx(1.4)
    rows = {row["metric"]: row for row in metrics_regression.rows_of(truth, found, np.arange(40))}
    assert rows["mae"]["low"] < rows["mae"]["value"] < rows["mae"]["high"] and rows["mae"]["n"] == 40


def test_the_probe_is_ridge_regression_chosen_on_validation_rows() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(3, [1, 5, 0.1, 2], (80, 4)).astype(np.float32)
    numbers = (features @ np.array([2, 0, 30, 0]) + 7 + rng.normal(0, 0.5, 80)).astype(np.float32)
    drawn = Draw(1.0, 0, np.arange(50), np.arange(50, 65))
    layer = linear_probe.fit_ridge(features, numbers, drawn)
    found = linear_probe.predict_numbers(layer, features)
    assert np.abs(found[65:] - numbers[65:]).mean() < 0.8
    mean, std = features[:50].mean(0), features[:50].std(0)
    errors = []
    for strength in linear_probe.RIDGE_STRENGTHS:
        model = Ridge(alpha=strength).fit((features[:50] - mean) / std, numbers[:50])
        errors.append((np.square(model.predict((features[50:65] - mean) / std) - numbers[50:65]).mean(), model))
    best = min(errors, key=lambda pair: pair[0])[1]
    np.testing.assert_allclose(found, best.predict((features - mean) / std), atol=2e-3)
    alone = linear_probe.fit_ridge(features, numbers, Draw(1.0, 0, np.arange(50), np.arange(0)))
    assert np.abs(linear_probe.predict_numbers(alone, features)[65:] - numbers[65:]).mean() < 0.8


@pytest.mark.parametrize("frozen", [True, False])
def test_it_learns_the_number_in_the_tables_own_units(ages: Path, frozen: bool) -> None:
    task, encoder, info, drawn, tuning = parts(ages, frozen=frozen, learning_rate=3e-3, steps=60)
    model, costs = task.train(encoder, info, drawn, tuning)
    assert bool(costs) != frozen
    test = task.examples("test")
    assert test.tolist() == list(range(44, 55))
    found, truth = task.outputs(model, test), task.numbers[test]
    assert np.abs(found - truth).mean() < 0.5 * np.abs(truth - task.numbers[:36].mean()).mean()
    validated = {row["metric"]: row["value"] for row in task.validate(model, drawn)}
    assert set(validated) == set(metrics_regression.METRICS)
    expected = linear_probe.predict_numbers(model.head, extract(model.network, model.info, task.store, task.rows[36:44]))
    assert validated["mae"] == pytest.approx(np.abs(expected - task.numbers[36:44]).mean())


def test_the_best_weights_are_kept(ages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, torch.Tensor]] = []
    task, encoder, info, drawn, tuning = parts(ages, patience=10, monitor="mae", learning_rate=3e-2, steps=10)
    original = Regression.outputs

    def watched(self: Regression, model: Model, positions: np.ndarray) -> np.ndarray:
        found = original(self, model, positions)
        seen.append((float(np.abs(found - self.numbers[positions]).mean()), model.head.weight.clone()))
        return found

    monkeypatch.setattr(Regression, "outputs", watched)
    model, _ = task.train(encoder, info, drawn, tuning)
    best = min(seen, key=lambda pair: pair[0])
    torch.testing.assert_close(model.head.weight, best[1])


def test_from_files_to_rows_and_a_figure(ages: Path, tmp_path: Path) -> None:
    data = str(ages / "table.csv")
    run = finetune(data, ["age"], ages, tmp_path / "run", regression=True, steps=2, batch_size=8, quiet=True)
    assert {row["evaluator"] for row in read_rows(run)} == {"data", "cohort", "finetune", "regression"}
    rows = {row["metric"]: row for row in evaluate(run, data, quiet=True) if row["evaluator"] == "regression"}
    assert {*metrics_regression.METRICS, "mae_of_mean"} == set(rows) and rows["mae"]["n"] == 11 and rows["mae"]["split"] == "test"
    frame = pd.read_csv(ages / "table.csv")
    middle = pd.to_numeric(frame["age"].replace("027Y", "27"))
    assert rows["mae_of_mean"]["value"] == pytest.approx((middle[44:55] - middle[:36].mean()).abs().mean(), abs=1e-4)
    assert json.loads((run / "figures" / "regression.json").read_text())["section"] == "results"
    of_encoder = evaluate(ages, data, ["regression"], ["age"], out=tmp_path / "probe", quiet=True)
    probe = {row["metric"]: row["value"] for row in of_encoder}
    assert probe["mae"] < probe["mae_of_mean"]
    with pytest.raises(UsageError, match="use `evaluators` regression"):
        evaluate(run, data, ["metrics"], quiet=True)


def test_wrong_requests_leave_nothing(ages: Path, tmp_path: Path) -> None:
    for given, words in (
        ({"monitor": "auroc"}, "`monitor` auroc: one of loss, mae"),
        ({"balance": "undersample"}, "`balance` undersample is for one target of classes"),
        ({"method_args": {"cutmix": 1.0}}, "`method_args.'cutmix'.` is for classes"),
        ({"decoder": "unet"}, "`decoder` is for masks"),
        ({"classes": ["3", "4"]}, "without `classes`"),
    ):
        with pytest.raises(UsageError, match=words):
            finetune(str(ages / "table.csv"), ["age"], ages, tmp_path / "run", regression=True, quiet=True, **given)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="need labelled validation rows"):
        task, encoder, info, drawn, tuning = parts(ages, patience=2, monitor="mae")
        task.require(tuning, encoder, info, replace(drawn, val=drawn.val[:0]))


def test_numbers_far_from_zero_lose_no_digits() -> None:
    """Dates as numbers, ids of a scanner: R squared and correlation do not change with a constant that is added to all."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 100, 200).astype(float)
    found = truth + rng.normal(3, 20, 200)
    weights = np.ones((1, 200))
    near, far = (metrics_regression.errors(truth + offset, found + offset, weights) for offset in (0, 1e9))
    assert near["r2"][0] == pytest.approx(1 - np.mean((found - truth) ** 2) / truth.var())
    assert near["pearson"][0] == pytest.approx(np.corrcoef(truth, found)[0, 1])
    assert {k: v[0] for k, v in far.items()} == pytest.approx({k: v[0] for k, v in near.items()}, rel=1e-6)
