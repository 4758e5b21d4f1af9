from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scotoma.data.dataset import Dataset
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw, draw
from scotoma.data.splits.splits import Split
from scotoma.data.store.store import Store
from scotoma.errors import RunError, UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import classification
from scotoma.methods.supervised import Supervised
from scotoma.metrics import calibration, operating_points
from scotoma.metrics import classification as metrics
from scotoma.models import encoders, linear_probe
from scotoma.models.features import extract
from scotoma.tasks import base
from scotoma.tasks import classification as module
from scotoma.tasks.base import EarlyStopping, FineTuning, Model
from scotoma.tasks.classification import Classification
from scotoma.training.lr_finder import find_learning_rate
from scotoma.training.schedule import Schedule
from scotoma.training.trainer import Batches, Trainer

N = 60


def task_of(store: Store | None, rows: np.ndarray, target: Target) -> Classification:
    split = Split(np.full(len(rows), ""), np.arange(len(rows)), "patient", True)
    return Classification(Dataset("made", pd.DataFrame({"row": rows})), store, split, target)


@pytest.fixture
def made(tmp_path: Path) -> tuple[torch.nn.Module, EncoderInfo, Store, np.ndarray, Target, Draw]:
    """Images of which class 1 is brighter on the left; rows of the store in reverse."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    pixels = rng.integers(0, 120, (N, 20, 20, 1))
    pixels[:, :, :10] += (y * 90)[:, None, None, None]
    np.save(tmp_path / "pixels.npy", pixels.astype(np.uint8)[::-1])
    info = EncoderInfo("resnet10t", {}, 1, 16, (0.3,), (0.25,))
    torch.manual_seed(0)
    target = Target(("side",), ("right", "left"), y)
    return (
        encoders.build(info),
        info,
        Store(tmp_path, 20, 1),
        np.arange(N)[::-1].copy(),
        target,
        Draw(1.0, 0, np.arange(40), np.arange(40, 50)),
    )


def test_a_probe_gives_the_linear_probes_probabilities(made) -> None:
    network, info, store, rows, target, drawn = made
    head = task_of(store, rows, target).probe(network, info, drawn)
    test = np.arange(50, N)
    expected = linear_probe.predict(extract(network, info, store, rows), target, drawn, test)
    np.testing.assert_allclose(task_of(store, rows, target).outputs(Model(network, info, head), test), expected, atol=1e-4)


def test_tuning_learns_and_repeats(made) -> None:
    network, info, store, rows, target, drawn = made
    start = {k: v.clone() for k, v in network.state_dict().items()}
    test = np.arange(50, N)

    def go(seed: int) -> np.ndarray:
        network.load_state_dict(start)
        method, costs = task_of(store, rows, target).train(network, info, drawn, FineTuning(20, 16, precision="32-true", seed=seed))
        assert {r["metric"]: r["value"] for r in costs}["steps"] == 20
        return task_of(store, rows, target).outputs(method, test)

    first = go(0)
    assert (first.argmax(1) == target.y[test]).mean() >= 0.9
    np.testing.assert_array_equal(go(0), first)
    assert not np.array_equal(go(1), first)


def test_without_validation_rows_the_head_starts_at_zero_for_random_weights_and_at_the_probe_for_trained_ones(made) -> None:
    network, info, store, rows, target, drawn = made
    start = {k: v.clone() for k, v in network.state_dict().items()}
    drawn = replace(drawn, val=drawn.val[:0])
    trained = replace(info, method={"name": "simclr"})
    expected = task_of(store, rows, target).probe(network, trained, drawn)
    zero = torch.zeros_like(expected.weight)
    for which, weight, head in ((trained, expected.weight, "probe"), (info, zero, "zero")):
        network.load_state_dict(start)
        method, costs = task_of(store, rows, target).train(
            network, which, drawn, FineTuning(1, learning_rate=1e-9, precision="32-true")
        )
        torch.testing.assert_close(method.head.weight, weight, atol=1e-6, rtol=0)
        assert {row["head"] for row in costs} == {f"{head} (no validation rows)"}


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("steps", [1, 25])
def test_both_starts_of_the_head_are_tried_and_the_better_on_validation_rows_is_kept(
    made, pretrained: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, info, store, rows, target, drawn = made
    task, tuning = task_of(store, rows, target), FineTuning(steps, 16, precision="32-true")
    info = replace(info, method={"name": "simclr"}) if pretrained else info
    start = {k: v.clone() for k, v in network.state_dict().items()}

    def go() -> tuple[np.ndarray, float, dict[str, float], str]:
        network.load_state_dict(start)
        model, costs = task.train(network, info, drawn, tuning)
        logits = model.head(torch.from_numpy(extract(model.network, info, store, rows[drawn.val]))).detach()
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target.y[drawn.val])).item()
        (head,) = {row["head"] for row in costs}
        return logits.numpy(), loss, {row["metric"]: row["value"] for row in costs}, head

    logits, loss, costs, head = go()
    alone = {}
    for one in ("zero", "probe"):
        monkeypatch.setattr(module, "HEADS", {one: one})
        alone[one] = go()
    assert head == min(alone, key=lambda one: alone[one][1]) and loss == pytest.approx(alone[head][1])
    assert alone["zero"][1] != pytest.approx(alone["probe"][1])
    np.testing.assert_array_equal(logits, alone[head][0])
    assert costs["steps"] == steps and costs["images_seen"] == 2 * 16 * steps
    assert costs["images_per_second"] == pytest.approx(costs["images_seen"] / costs["seconds"])


def test_a_start_whose_loss_is_no_number_leaves_the_other(made, monkeypatch: pytest.MonkeyPatch) -> None:
    network, info, store, rows, target, drawn = made
    task = task_of(store, rows, target)
    monkeypatch.setattr(Classification, "probe", lambda *_: _filled(2, float("nan")))
    _, costs = task.train(network, info, drawn, FineTuning(2, 16, precision="32-true"))
    assert {row["head"] for row in costs} == {"zero"}
    monkeypatch.setattr(module, "HEADS", {"probe": "probe"})
    with pytest.raises(RunError, match="the loss became nan"):
        task.train(network, info, drawn, FineTuning(2, 16, precision="32-true"))


def _filled(outputs: int, value: float) -> torch.nn.Linear:
    head = torch.nn.Linear(512, outputs)
    torch.nn.init.constant_(head.weight, value)
    return head


def test_labels_outside_the_draw_are_not_seen(made) -> None:
    network, info, store, rows, target, drawn = made
    start = {k: v.clone() for k, v in network.state_dict().items()}
    found = []
    for outside in (0, 1):
        y = target.y.copy()
        y[50:] = outside
        network.load_state_dict(start)
        method, _ = task_of(store, rows, Target(("side",), target.classes, y)).train(
            network, info, drawn, FineTuning(3, precision="32-true")
        )
        found.append({k: v.clone() for part in (method.network, method.head) for k, v in part.state_dict().items()})
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_early_stopping_puts_the_best_weights_back(made, monkeypatch: pytest.MonkeyPatch) -> None:
    network, info, store, rows, target, drawn = made
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []
    losses = iter([0.7, 0.5, 0.6, 0.55, 0.4])  # the best at the second look; two without improvement end it

    def scripted(*_: object) -> torch.Tensor:
        value = next(losses)
        seen.append((value, {k: v.clone() for k, v in stoppers[0].method.state_dict().items()}))
        return torch.tensor(value)

    stoppers: list[EarlyStopping] = []
    original = EarlyStopping.__init__
    monkeypatch.setattr(EarlyStopping, "__init__", lambda self, *a: (stoppers.append(self), original(self, *a))[1])
    monkeypatch.setattr(module, "classification", scripted)
    monkeypatch.setattr(module, "HEADS", {"zero": "zero"})
    method, costs = task_of(store, rows, target).train(network, info, drawn, FineTuning(30, 8, precision="32-true", patience=2))
    assert [value for value, _ in seen[:4]] == [0.7, 0.5, 0.6, 0.55] and len(seen) == 5  # the last is that of the best weights
    assert {r["metric"]: r["value"] for r in costs}["steps"] == 12  # looks every 3 steps
    best = seen[1][1]
    assert all(torch.equal(v, best[f"encoder.{k}"]) for k, v in method.network.state_dict().items())
    other = EarlyStopping.__new__(EarlyStopping)
    other.load_state_dict(stoppers[0].state_dict())
    assert (other.best, other.waited) == (pytest.approx(-0.5), 2) and other.weights.keys() == best.keys()


def test_the_validation_loss_is_that_of_the_plain_images(made) -> None:
    network, info, store, rows, target, drawn = made
    task = task_of(store, rows, target)
    method = Supervised(network, Inputs(info.image_size, info.in_chans, info.mean, info.std, outputs=2))
    torch.nn.init.normal_(method.head.weight)
    expected = classification(
        method.head(torch.from_numpy(extract(method.encoder, info, store, rows[drawn.val]))), torch.from_numpy(target.y[drawn.val])
    )
    found = task.monitor(method, info, drawn, FineTuning(), "loss", torch.device("cpu"))
    assert -found == pytest.approx(expected.item(), rel=1e-5)
    stopper = EarlyStopping(method.eval(), 10, FineTuning(patience=1), lambda _: found)

    class At:
        step, should_stop, device = 1, False, torch.device("cpu")

    stopper.on_step_end(At())
    assert stopper.best == found and method.training
    with pytest.raises(UsageError, match="--patience and --schedule plateau need labelled validation rows"):
        task.require(FineTuning(patience=1), network, info, Draw(1, 0, drawn.train, drawn.val[:0]))


def test_soft_labels_train_towards_the_annotators_shares_ties_included(made) -> None:
    """Readers who agree by 3 to 1 leave a network that never sees certainty less certain than one told the majority."""
    network, info, store, rows, target, _ = made
    start = {k: v.clone() for k, v in network.state_dict().items()}
    shares = np.full((N, 2), 0.25, np.float32)
    shares[np.arange(N), target.y] = 0.75
    y = target.y.copy()
    y[:6], shares[:6] = -1, 0.5  # ties
    split = Split(np.array(["train"] * 50 + ["test"] * 10), np.arange(N), "patient", False)

    def sure(tested: Target) -> float:
        network.load_state_dict(start)
        drawn = draw(tested, split, 1.0, 0)
        model, _ = task_of(store, rows, tested).train(network, info, drawn, FineTuning(30, 16, precision="32-true", balance="none"))
        assert len(drawn.train) == 44
        assert drawn.tied.tolist() == ([] if tested.shares is None else list(range(6)))
        return float(task_of(store, rows, tested).outputs(model, np.arange(50, N)).max(1).mean())

    soft, plain = replace(target, y=y, shares=shares), replace(target, y=y)
    assert sure(soft) < sure(plain) - 0.05
    assert len(draw(soft, split, 0.5, 0).tied) == 3
    assert set(draw(soft, split, 0.2, 0).tied) <= set(draw(soft, split, 0.5, 0).tied)
    hidden = soft.only(np.array([7, 8]))
    assert hidden.known.sum() == (~np.isnan(hidden.shares).all(1)).sum() == 2


def test_sampling_makes_classes_alike_and_copies_differ(made) -> None:
    _, _, _, rows, target, _ = made
    drawn = Draw(1.0, 0, np.array([0, 1, 2, 3, 4, 6, 8, 10]), np.zeros(0, int), np.array([12]))
    counts = np.bincount(target.y[drawn.train])
    for how, count in (("oversample", counts.max()), ("undersample", counts.min())):
        seen, keys = task_of(None, rows, target).sample(drawn, FineTuning(balance=how))
        assert np.bincount(target.y[seen]).tolist() == [count, count]
        assert set(seen) <= set(drawn.train), "what annotators tie on belongs to no class"
        assert keys is not None and len(set(keys)) == len(keys), "an image that comes again must be seen another way"
        if how == "oversample":
            assert set(seen) == set(drawn.train)
            spread = np.bincount(seen)[drawn.train]
            assert np.ptp(spread[target.y[drawn.train] == counts.argmin()]) <= 1
    assert task_of(None, rows, target).sample(drawn, FineTuning())[0].tolist() == sorted([*drawn.train, 12])


def test_the_metric_that_is_monitored_is_that_of_the_validation_rows(made) -> None:
    network, info, store, rows, target, drawn = made
    task = task_of(store, rows, target)
    method = Supervised(network, Inputs(info.image_size, info.in_chans, info.mean, info.std, outputs=2))
    torch.nn.init.normal_(method.head.weight)
    p = task.outputs(Model(method.encoder, info, method.head), drawn.val)
    for name, sign in (("auroc", 1), ("balanced_accuracy", 1), ("brier", -1)):
        found = task.monitor(method, info, drawn, FineTuning(), name, torch.device("cpu"))
        assert found == pytest.approx(sign * metrics.score(name, target.y[drawn.val], p), abs=1e-5)
    alone = replace(drawn, val=drawn.val[target.y[drawn.val] == 0])
    assert task.monitor(method, info, alone, FineTuning(), "auroc", torch.device("cpu")) == -float("inf")


def test_a_plateau_lowers_the_learning_rate_and_does_not_stop(made, monkeypatch: pytest.MonkeyPatch) -> None:
    network, info, store, rows, target, drawn = made
    rates: list[float] = []

    trainers: list[Trainer] = []

    def scripted(*_: object) -> float:
        rates.append(trainers[0].optimizer.param_groups[0]["lr"])
        return -len(rates)  # worse and worse

    monkeypatch.setattr(Classification, "monitor", scripted)
    monkeypatch.setattr(module, "HEADS", {"zero": "zero"})
    monkeypatch.setattr(EarlyStopping, "on_train_start", lambda self, trainer: trainers.append(trainer), raising=False)
    _, costs = task_of(store, rows, target).train(
        network, info, drawn, FineTuning(20, 8, 1e-3, precision="32-true", schedule="plateau")
    )
    assert {r["metric"]: r["value"] for r in costs}["steps"] == 20
    assert [round(rate / 1e-3, 4) for rate in rates[:10]] == [1, 1, 1, 0.3, 0.3, 0.09, 0.09, 0.027, 0.027, 0.0081]


def test_the_range_test_finds_a_rate_and_leaves_no_trace(made) -> None:
    network, info, store, rows, target, drawn = made
    method = Supervised(network, Inputs(info.image_size, info.in_chans, info.mean, info.std, outputs=2))
    schedule = Schedule(10, 16, 1e-3, 0.0, "32-true", 0)
    batches = Batches(store, rows[drawn.train], target.y[drawn.train])
    before = {k: v.clone() for k, v in method.state_dict().items()}
    torch.manual_seed(5)
    rates, losses, chosen = find_learning_rate(method, schedule, batches, steps=30)
    drawn_after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn_after, torch.rand(1)), "random numbers go on as if nothing had been"
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert rates[0] == pytest.approx(1e-6) and np.allclose(np.diff(np.log(rates)), np.diff(np.log(rates))[0])
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3), "a head of zeros states one half"
    assert rates[0] < chosen == pytest.approx(rates[losses.argmin()] / 10) and losses.min() < losses[0]


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        (FineTuning(method_args={"mixup": -1.0}), "--method.mixup"),
        (FineTuning(method_args={"erasing": 2.0}), "--method.erasing"),
        (FineTuning(method_args={"smoothing": 1.0}), "--method.smoothing"),
        (FineTuning(method_args={"drop_tokens": 0.5, "mixup": 0.8}), "drops by one image's attention"),
    ],
)
def test_tunings_are_refused_by_the_flag_that_is_wrong(made, tuning: FineTuning, message: str) -> None:
    network, info, store, rows, target, drawn = made
    with pytest.raises(UsageError, match=message):
        task_of(store, rows, target).require(tuning, network, info, drawn)


def test_several_targets_are_not_sampled(made) -> None:
    network, info, store, rows, target, drawn = made
    several = Target(("a", "b"), ("a", "b"), np.stack([target.y, target.y], 1).astype(np.float32))
    with pytest.raises(UsageError, match="--balance oversample is for one target"):
        task_of(store, rows, several).require(FineTuning(balance="oversample"), network, info, drawn)
    with pytest.raises(UsageError, match="--monitor mcc is for one target"):
        task_of(store, rows, several).require(FineTuning(monitor="mcc"), network, info, drawn)


def test_temperature_and_thresholds_are_chosen_on_validation_rows(made) -> None:
    network, info, store, rows, target, drawn = made
    task = task_of(store, rows, target)
    model = Model(network, info, task.probe(network, info, drawn))

    def chosen(seen: Draw, rule: str | float) -> tuple[float, tuple[float, ...]]:
        found = task.calibrate(model, seen, FineTuning(threshold=rule)).info
        return found.temperature, found.thresholds

    many = Draw(1.0, 0, drawn.train, np.arange(20, 50))
    temperature, thresholds = chosen(many, "youden")
    p, y = task.outputs(model, many.val), target.y[many.val]
    expected = np.clip(calibration.temperature(y, np.log(p)), 0.25, 4)
    assert temperature == pytest.approx(expected, rel=1e-3)
    tempered = calibration.apply_temperature(p, temperature, False)
    assert thresholds == tuple(
        pytest.approx(operating_points.threshold(y == k, tempered[:, k], "youden"), abs=1e-6) for k in range(2)
    )
    assert chosen(drawn, 0.9)[0] == 1.0, "ten rows do not calibrate"
    assert chosen(Draw(1.0, 0, drawn.train, drawn.val[:0]), 0.9) == (1.0, ())
    alone = Draw(1.0, 0, drawn.train, drawn.val[target.y[drawn.val] == 1])
    assert chosen(alone, "youden")[1] == (0.5, 0.5)


@pytest.mark.parametrize("balance", ["weights", "oversample", "undersample"])
def test_balancing_is_taken_back_in_the_probabilities(made, balance: str) -> None:
    """Without a step a head of zeros gives each class its share of the training labels, and a probe's what the probe gives."""
    network, info, store, rows, target, _ = made
    train = np.concatenate([np.flatnonzero(target.y[:40] == 0)[:5], np.flatnonzero(target.y[:40] == 1)[:15]])
    task, tuning = task_of(store, rows, target), FineTuning(1, 8, 1e-12, weight_decay=0.0, balance=balance, precision="32-true")
    drawn = Draw(1.0, 0, train, np.zeros(0, int))
    model, _ = task.train(network, info, drawn, tuning)
    assert task.outputs(model, np.arange(40, 60)) == pytest.approx(np.tile([0.25, 0.75], (20, 1)), abs=1e-4)
    pretrained = replace(info, method={"name": "simclr"})
    probe = task.probe(network, pretrained, drawn)
    model, _ = task.train(network, pretrained, drawn, tuning)
    for found, expected in zip(model.head.parameters(), probe.parameters(), strict=True):
        assert found.detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_weights_of_several_targets_are_taken_back(made) -> None:
    network, info, store, rows, _, _ = made
    y = np.stack([np.arange(N) % 5 == 0, np.arange(N) % 2 == 0], 1).astype(float)
    task = task_of(store, rows, Target(("a", "b"), ("a", "b"), y))
    tuning = FineTuning(1, 8, 1e-12, weight_decay=0.0, precision="32-true")
    model, _ = task.train(network, info, Draw(1.0, 0, np.arange(40), np.zeros(0, int)), tuning)
    assert task.outputs(model, np.arange(40, 60)) == pytest.approx(np.tile([0.2, 0.5], (20, 1)), abs=1e-4)


def test_offsets_are_added_to_the_head(made) -> None:
    network, info, store, rows, target, _ = made
    task, tuning = task_of(store, rows, target), FineTuning()
    head = torch.nn.Linear(512, 2)
    torch.nn.init.zeros_(head.weight)
    head.bias.data[:] = torch.tensor([1.0, -1.0])  # far too sure of class 0
    model = Model(network, info, head)
    val = np.arange(0, 60)
    found = task.calibrate(model, Draw(1.0, 0, np.arange(0), val), tuning)
    p = calibration.apply_temperature(task.outputs(found, val), found.info.temperature, False)
    before = calibration.apply_temperature(task.outputs(model, val), found.info.temperature, False)
    assert abs(p[:, 1].mean() - 0.5) < 0.05 < abs(before[:, 1].mean() - 0.5)
    assert head.bias.tolist() == [1.0, -1.0], "the model that was given is left as it is"


def test_a_task_is_chosen_by_its_target() -> None:
    kinds = {("mask_path",): "Segmentation", ("age",): "Regression", ("dx",): "Classification", ("a", "b"): "Classification"}
    assert {c: base.choose(c, c == ("age",)).__name__ for c in kinds} == kinds
    assert base.choose(("mask_path",), True).__name__ == "Regression"


def test_outputs_see_no_label(made) -> None:
    network, info, store, rows, target, drawn = made
    model = Model(network, info, torch.nn.Linear(512, 2))
    given = [task_of(store, rows, t).outputs(model, drawn.val) for t in (target, replace(target, y=1 - target.y))]
    np.testing.assert_array_equal(*given)
