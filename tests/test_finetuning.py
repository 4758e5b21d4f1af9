from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scotoma import encoders, finetuning
from scotoma.data.splits import Split
from scotoma.data.store import Store
from scotoma.data.targets import Target
from scotoma.encoders import EncoderInfo
from scotoma.errors import UsageError
from scotoma.evaluators import linear
from scotoma.evaluators.base import Draw, draw, extract
from scotoma.finetuning import Stopper, predict, probe, tune
from scotoma.losses import classification

N = 60


@pytest.fixture
def made(tmp_path: Path) -> tuple[torch.nn.Module, EncoderInfo, Store, np.ndarray, Target, Draw]:
    """Pictures of which class 1 is brighter on the left; rows of the store in reverse."""
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
    head = probe(network, info, store, rows, target, drawn)
    test = np.arange(50, N)
    expected = linear.predict(extract(network, info, store, rows), target, drawn, test)
    np.testing.assert_allclose(predict(network, head, info, store, rows[test], False), expected, atol=1e-4)


def test_tuning_learns_and_repeats(made) -> None:
    network, info, store, rows, target, drawn = made
    start = {k: v.clone() for k, v in network.state_dict().items()}
    test = np.arange(50, N)

    def go(seed: int) -> np.ndarray:
        network.load_state_dict(start)
        method, costs = tune(network, info, store, rows, target, drawn, steps=20, batch_size=16, precision="32-true", seed=seed)
        assert {r["metric"]: r["value"] for r in costs}["steps"] == 20
        return predict(method.encoder, method.head, info, store, rows[test], False)

    first = go(0)
    assert (first.argmax(1) == target.y[test]).mean() >= 0.9
    np.testing.assert_array_equal(go(0), first)
    assert not np.array_equal(go(1), first)


def test_the_head_starts_as_the_probe_of_trained_weights_and_at_zero_with_random_ones(made) -> None:
    network, info, store, rows, target, drawn = made
    start = {k: v.clone() for k, v in network.state_dict().items()}
    trained = replace(info, method={"name": "simclr"})
    expected = probe(network, trained, store, rows, target, drawn)
    for which, weight in ((trained, expected.weight), (info, torch.zeros_like(expected.weight))):
        network.load_state_dict(start)
        method, _ = tune(network, which, store, rows, target, drawn, steps=1, learning_rate=1e-9, precision="32-true")
        torch.testing.assert_close(method.head.weight, weight, atol=1e-6, rtol=0)


def test_labels_outside_the_draw_are_not_seen(made) -> None:
    network, info, store, rows, target, drawn = made
    start = {k: v.clone() for k, v in network.state_dict().items()}
    found = []
    for outside in (0, 1):
        y = target.y.copy()
        y[50:] = outside
        network.load_state_dict(start)
        method, _ = tune(network, info, store, rows, Target(("side",), target.classes, y), drawn, steps=3, precision="32-true")
        found.append({k: v.clone() for k, v in method.state_dict().items()})
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_early_stopping_puts_the_best_weights_back(made, monkeypatch: pytest.MonkeyPatch) -> None:
    network, info, store, rows, target, drawn = made
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []
    losses = iter([0.7, 0.5, 0.6, 0.55, 0.4])  # the best at the second look; two without improvement end it

    def scripted(*_: object) -> torch.Tensor:
        value = next(losses)
        seen.append((value, {k: v.clone() for k, v in stoppers[0].method.state_dict().items()}))
        return torch.tensor(value)

    stoppers: list[Stopper] = []
    original = Stopper.__init__
    monkeypatch.setattr(Stopper, "__init__", lambda self, *a: (stoppers.append(self), original(self, *a))[1])
    monkeypatch.setattr(finetuning, "classification", scripted)
    method, costs = tune(network, info, store, rows, target, drawn, steps=30, batch_size=8, precision="32-true", patience=2)
    assert [value for value, _ in seen] == [0.7, 0.5, 0.6, 0.55]
    assert {r["metric"]: r["value"] for r in costs}["steps"] == 12  # looks every 3 steps
    best = seen[1][1]
    assert all(torch.equal(v, best[k]) for k, v in method.state_dict().items())
    other = Stopper.__new__(Stopper)
    other.load_state_dict(stoppers[0].state_dict())
    assert (other.best, other.waited) == (pytest.approx(0.5), 2) and other.weights.keys() == best.keys()


def test_the_validation_loss_is_that_of_the_plain_pictures(made) -> None:
    network, info, store, rows, target, drawn = made
    method, _ = tune(network, info, store, rows, target, drawn, steps=2, precision="32-true")
    expected = classification(
        method.head(torch.from_numpy(extract(method.encoder, info, store, rows[drawn.val]))), torch.from_numpy(target.y[drawn.val])
    )
    stopper = Stopper(method, info, store, rows[drawn.val], target.y[drawn.val], finetuning.Plan(10, 4, 1e-3, 0, "32-true", 0), 1)

    class At:
        global_step, should_stop = 1, False

    class On:
        device = torch.device("cpu")

    stopper.on_train_batch_end(At(), On())
    assert stopper.best == pytest.approx(expected.item(), rel=1e-5)
    assert method.training
    with pytest.raises(UsageError, match="--patience needs labelled validation rows"):
        tune(network, info, store, rows, target, Draw(1, 0, drawn.train, drawn.val[:0]), steps=2, patience=1)


def test_soft_labels_train_towards_the_readers_shares_ties_included(made) -> None:
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
        method, _ = tune(network, info, store, rows, tested, drawn, steps=30, batch_size=16, precision="32-true", balance=False)
        assert len(drawn.train) == 44
        assert drawn.tied.tolist() == ([] if tested.shares is None else list(range(6)))
        assert method.inputs.soft == (tested.shares is not None)
        return float(predict(method.encoder, method.head, info, store, rows[50:], False).max(1).mean())

    soft, plain = replace(target, y=y, shares=shares), replace(target, y=y)
    assert sure(soft) < sure(plain) - 0.05
    assert len(draw(soft, split, 0.5, 0).tied) == 3
    assert set(draw(soft, split, 0.2, 0).tied) <= set(draw(soft, split, 0.5, 0).tied)
    hidden = soft.only(np.array([7, 8]))
    assert hidden.known.sum() == (~np.isnan(hidden.shares).all(1)).sum() == 2
