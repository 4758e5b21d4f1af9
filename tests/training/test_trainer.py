from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from scotoma.data.store.store import Store
from scotoma.errors import RunError, UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.supervised import Supervised
from scotoma.models.features import features, spread
from scotoma.models.precision import automatic_precision
from scotoma.training import lr_finder, trainer
from scotoma.training.callbacks import Callback, drop_lines_after
from scotoma.training.lr_finder import measure_rate
from scotoma.training.schedule import Schedule, learning_rate_factor
from scotoma.training.trainer import Batches, Order, step_loss

INPUTS = Inputs(16, 1, (0.4,), (0.2,), outputs=2)


def plan_of(steps: int = 10, batch_size: int = 4, seed: int = 0, learning_rate: float = 1e-3) -> Schedule:
    return Schedule(steps, batch_size, learning_rate, 0.01, "32-true", seed)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "pixels.npy", rng.integers(0, 256, (30, 20, 20, 1), dtype=np.uint8))
    return Store(tmp_path, 20, 1)


def supervised() -> Supervised:
    torch.manual_seed(0)
    return Supervised(timm.create_model("resnet10t", num_classes=0, in_chans=1), INPUTS)


def test_schedule_rises_linearly_and_falls_as_a_cosine() -> None:
    values = [learning_rate_factor(step, 100, 0.1) for step in range(101)]
    np.testing.assert_allclose(values[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(values[10:], 0.5 * (1 + np.cos(np.pi * np.arange(91) / 90)), atol=1e-12)
    assert values[55] == pytest.approx(0.5) and values[100] == pytest.approx(0)
    assert [learning_rate_factor(step, 1, 0.05) for step in (0, 1)] == [1.0, 1.0]
    assert learning_rate_factor(500, 1000, 0.1) == learning_rate_factor(50, 100, 0.1)  # depends on step / steps alone
    assert [learning_rate_factor(step, 100, 0.0) for step in (0, 1)] == [1.0, 1.0]  # none at all
    falling = [learning_rate_factor(step, 100, 0.1, final=0.2) for step in range(101)]
    np.testing.assert_allclose(falling[:10], values[:10])
    np.testing.assert_allclose(falling[10:], 0.2 + 0.8 * np.array(values[10:]), atol=1e-12)
    assert learning_rate_factor(100, 100, 0.1, "one_cycle", 0.2) == pytest.approx(0.2)


@pytest.mark.parametrize(("count", "size"), [(10, 4), (7, 3), (3, 8), (8, 8)])
def test_every_epoch_shows_every_image_once(count: int, size: int) -> None:
    schedule = plan_of(steps=4 * count, batch_size=size, seed=3)
    batches = list(Order(count, schedule))
    assert len(batches) == schedule.steps and all(len(e) == len(p) == size for e, p in batches)
    epochs, positions = np.concatenate([e for e, _ in batches]), np.concatenate([p for _, p in batches])
    assert (np.diff(epochs) >= 0).all()
    np.testing.assert_array_equal(epochs, np.arange(len(epochs)) // count)
    orders = [positions[epochs == e] for e in range(epochs[-1])]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    other = np.concatenate([p for _, p in Order(count, plan_of(4 * count, size, seed=4))])
    assert (other != positions).any()


def test_order_from_any_step_is_the_tail_and_ranks_share_a_batch() -> None:
    schedule = plan_of(steps=20, batch_size=6)
    whole = list(Order(10, schedule))
    for start in (0, 1, 9, 19):
        tail = list(Order(10, schedule, start))
        assert len(tail) == 20 - start
        for (e, p), (whole_e, whole_p) in zip(tail, whole[start:], strict=True):
            assert np.array_equal(e, whole_e) and np.array_equal(p, whole_p)
    ranks = [list(Order(10, schedule, rank=r, world=3)) for r in range(3)]
    for step, (epochs, positions) in enumerate(whole):
        shares = [r[step] for r in ranks]
        assert all(len(p) == 2 for _, p in shares)
        assert sorted(np.concatenate([p for _, p in shares])) == sorted(positions)
        assert sorted(np.concatenate([e for e, _ in shares])) == sorted(epochs)


def test_batches_bring_pixels_rows_epochs_and_targets(store: Store) -> None:
    rows, targets = np.arange(29, -1, -2), np.arange(15) % 2
    batch = Batches(store, rows, targets)[np.array([0, 1]), np.array([3, 14])]
    assert batch["rows"].tolist() == [23, 1] and batch["epochs"].tolist() == [0, 1] and batch["targets"].tolist() == [1, 0]
    assert np.array_equal(batch["images"].numpy(), store.pixels[[23, 1]].transpose(0, 3, 1, 2))
    assert "targets" not in Batches(store, rows, None)[np.array([0]), np.array([0])]


def test_spread_has_its_closed_forms() -> None:
    assert spread(torch.ones(20, 8)) == pytest.approx((0, 1), abs=1e-6)
    deviation, rank = spread(torch.eye(9))
    assert deviation == pytest.approx(math.sqrt(1 - 1 / 9), abs=1e-5) and rank == pytest.approx(8, abs=1e-3)
    line = torch.linspace(-1, 1, 50)[:, None] * torch.tensor([[3.0, 4.0]])
    assert spread(line)[1] == pytest.approx(1, abs=1e-3)  # one direction
    sphere = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    deviation, rank = spread(sphere)
    assert deviation == pytest.approx(1, abs=0.01) and rank == pytest.approx(16, abs=0.1)
    assert spread(sphere * 100)[0] == pytest.approx(deviation, abs=1e-5)
    assert all(math.isnan(v) for v in spread(torch.tensor([[1.0, float("nan")], [0.0, 1.0]])))


def test_measuring_the_rate_changes_nothing(store: Store) -> None:
    method = supervised()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    generator = torch.get_rng_state()
    seconds = measure_rate(method, plan_of(), Batches(store, np.arange(30), np.arange(30) % 2))
    assert 0 < seconds < 10
    assert before.keys() == method.state_dict().keys()
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert all(p.grad is None for p in method.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


class Witness(Supervised):
    """Sees its weights and gradients at the start of every step."""

    def loss(self, views, batch):  # type: ignore[no-untyped-def]
        seen = self.__dict__.setdefault("seen", [])
        seen.append(([p.detach().clone() for p in self.parameters()], [p.grad for p in self.parameters()]))
        return super().loss(views, batch)


def witness() -> Witness:
    torch.manual_seed(0)
    return Witness(timm.create_model("resnet10t", num_classes=0, in_chans=1), INPUTS)


def test_weights_rest_while_the_rate_is_measured_so_that_no_copy_of_them_is_needed(store: Store) -> None:
    method, batches = witness(), Batches(store, np.arange(30), np.arange(30) % 2)
    before = [p.detach().clone() for p in method.parameters()]
    measure_rate(method, plan_of(), batches)
    lr_finder.fits(method, plan_of(), batches)
    assert len(method.seen) == 6 + 3
    assert all(torch.equal(p, q) for weights, _ in method.seen for p, q in zip(weights, before, strict=True))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_gradients_take_memory_while_a_forward_pass_fills_it(store: Store, accumulate: int) -> None:
    method = witness()
    schedule = dataclasses.replace(plan_of(3), accumulate=accumulate)
    trainer.fit(method, schedule, Batches(store, np.arange(30), np.arange(30) % 2), None, quiet=True)
    assert len(method.seen) == 3 * accumulate
    for part, (_, gradients) in enumerate(method.seen):  # but those that are being summed
        assert all((g is None) == (part % accumulate == 0) for g in gradients)


def test_a_step_does_not_depend_on_the_order_within_the_batch(store: Store) -> None:
    method = supervised().eval()
    nn.init.normal_(method.head.weight)
    batches = Batches(store, np.arange(30), np.arange(30) % 2)
    epochs, positions = np.array([0, 0, 1, 1]), np.array([3, 8, 8, 2])
    forward = step_loss(method, batches[epochs, positions], 5)["loss"]
    backward = step_loss(method, batches[epochs[::-1].copy(), positions[::-1].copy()], 5)["loss"]
    torch.testing.assert_close(forward, backward)
    assert not torch.allclose(step_loss(method, batches[epochs, positions], 6)["loss"], forward)


def test_a_loss_that_is_no_number_stops_the_run(store: Store) -> None:
    class Broken(Supervised):
        def loss(self, views, batch):  # type: ignore[no-untyped-def]
            result = super().loss(views, batch)
            self.calls = getattr(self, "calls", 0) + 1
            return {"loss": result["loss"] * (math.nan if self.calls == 3 else 1)}

    torch.manual_seed(0)
    method = Broken(timm.create_model("resnet10t", num_classes=0, in_chans=1), INPUTS)
    with pytest.raises(RunError, match=r"the loss became nan at step 2: lower the learning rate"):
        trainer.fit(method, plan_of(), Batches(store, np.arange(30), np.arange(30) % 2), None, quiet=True)
    assert all(v.isfinite().all() for v in method.state_dict().values())


def test_fit_reaches_the_same_weights_as_a_loop_by_hand(store: Store) -> None:
    schedule = plan_of(steps=6)
    batches = Batches(store, np.arange(30), np.arange(30) % 2)
    by_hand = supervised().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        [
            {**g, "lr": schedule.learning_rate * g.get("lr_scale", 1), "weight_decay": g.get("weight_decay", schedule.weight_decay)}
            for g in by_hand.param_groups()
        ],
        fused=True,
    )
    peaks = [g["lr"] for g in optimizer.param_groups]
    for step, key in enumerate(Order(30, schedule)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate_factor(step, 6, by_hand.warmup)
        optimizer.zero_grad()
        step_loss(by_hand, batches[key], schedule.seed)["loss"].backward()
        optimizer.step()
    method = supervised()
    trained = trainer.fit(method, schedule, batches, None, quiet=True)
    assert trained.steps == 6 and trained.seconds > 0
    for name, value in method.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], atol=1e-6, rtol=1e-5, msg=name)


def test_warm_up_and_last_rate_of_the_schedule_reach_the_optimiser(store: Store) -> None:
    schedule = dataclasses.replace(plan_of(steps=8), warmup=0.5, final_learning_rate=2e-4)
    rates: list[float] = []

    class Seen(Callback):
        key = "seen"

        def on_step_end(self, trainer: trainer.Trainer) -> None:
            rates.append(trainer.optimizer.param_groups[0]["lr"])

    trainer.fit(supervised(), schedule, Batches(store, np.arange(30), np.arange(30) % 2), None, quiet=True, callbacks=[Seen()])
    np.testing.assert_allclose(rates, [1e-3 * learning_rate_factor(k, 8, 0.5, final=0.2) for k in range(1, 9)], rtol=1e-9)
    assert rates[2] == pytest.approx(1e-3) and rates[-1] == pytest.approx(2e-4)


def test_lines_after_the_last_checkpoint_are_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss\n10,1.5\n20,1.25\n30,1.0\n4")
    drop_lines_after(file, 20)
    assert file.read_text() == "step,loss\n10,1.5\n20,1.25\n"
    drop_lines_after(file, 0)
    assert file.read_text() == "step,loss\n"


def test_features_are_those_of_the_plain_view(store: Store) -> None:
    encoder = nn.Flatten()
    images = torch.from_numpy(store.batch(np.arange(3)))
    found = features(encoder, images, 20, (0.25,), (0.5,), "32-true")
    torch.testing.assert_close(found, ((images / 255 - 0.25) / 0.5).flatten(1))


def test_small_images_are_not_in_bfloat16_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for capable in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda c=capable: c)
        assert automatic_precision(28) == "32-true"
        assert automatic_precision(96) == ("bf16-mixed" if capable else "32-true")


def test_schedules_in_closed_form() -> None:
    assert [learning_rate_factor(s, 100, 0.1, "constant") for s in (0, 4, 9, 10, 99)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [learning_rate_factor(s, 100, 0.1, "plateau") for s in (0, 50)] == pytest.approx([0.1, 1])
    cycle = [learning_rate_factor(s, 100, 0.1, "one_cycle") for s in (0, 15, 30, 65, 100)]
    assert cycle == pytest.approx([0.04, 0.52, 1, 0.5, 0], abs=1e-9)


def test_the_largest_batch_is_found_by_doubling() -> None:
    tried: list[int] = []

    def fitting(size: int) -> bool:
        tried.append(size)
        return size <= 100

    assert lr_finder.largest(fitting, 4, 10**6) == 64 and tried == [4, 8, 16, 32, 64, 128]
    assert lr_finder.largest(fitting, 4, 40) == 32
    with pytest.raises(UsageError, match="a batch of 128 does not fit"):
        lr_finder.largest(fitting, 128, 10**6)


def test_a_batch_fits_unless_memory_runs_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batches = supervised(), Batches(store, np.arange(30), np.zeros(30, np.int64))
    before = {k: v.clone() for k, v in method.state_dict().items()}
    assert lr_finder.fits(method, plan_of(batch_size=4), batches)
    throw_away_step = lr_finder._throw_away_step

    def limited(method: nn.Module, schedule: Schedule, *rest: object) -> float:
        if schedule.batch_size > 4:
            raise torch.OutOfMemoryError
        return throw_away_step(method, schedule, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(lr_finder, "_throw_away_step", limited)
    assert lr_finder.fits(method, plan_of(batch_size=4), batches) and not lr_finder.fits(method, plan_of(batch_size=8), batches)
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())


def test_the_watch_looks_at_few_images_at_once_and_sees_what_one_look_at_all_sees(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 20, 20, 1), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    store, method, seen = Store(tmp_path, 20, 1), supervised(), []
    method.encoder.register_forward_pre_hook(lambda network, given: None if network.training else seen.append(len(given[0])))
    trained = trainer.fit(
        method, plan_of(steps=1), Batches(store, np.arange(70), targets=np.arange(70) % 2), tmp_path / "run", quiet=True
    )
    assert seen == [32, 32, 6]
    looked = features(method.encoder.eval(), torch.from_numpy(store.batch(np.arange(70))), 16, (0.4,), (0.2,), "32-true")
    assert (trained.feature_spread, trained.effective_rank) == pytest.approx(spread(looked.detach()), rel=1e-4)
