from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.report_runs import Page
from PIL import Image

from scotoma.commands.evaluate import evaluate
from scotoma.commands.finetune import finetune
from scotoma.commands.study import study
from scotoma.data import encoder_header
from scotoma.data.datamodule import gather
from scotoma.data.dataset import Dataset
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels.masks import Masks
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw, draw
from scotoma.data.splits.splits import Split
from scotoma.errors import UsageError
from scotoma.evaluators import segmentation as shown
from scotoma.methods.parts import losses
from scotoma.methods.parts.inputs import Inputs
from scotoma.metrics.segmentation import OVERLAPS
from scotoma.models import encoders, segmentation_decoders
from scotoma.reporting.build import build
from scotoma.rng import KeyedRNG
from scotoma.run_folder import read_rows
from scotoma.tasks.base import FineTuning, Model, task_of
from scotoma.tasks.segmentation import Segmentation, Segmenter

SIDE, COUNT = 48, 30


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs (region 1) and brighter squares (region 2) in noise; two images a patient; the last five have no map."""
    folder, rng, rows = tmp_path_factory.mktemp("discs"), np.random.default_rng(0), []
    y, x = np.mgrid[:SIDE, :SIDE]
    for i in range(COUNT):
        centre = rng.uniform(22, 38, 2)
        labels = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 64).astype(np.uint8)
        labels[2:14, 2:14] = 2
        pixels = rng.normal(60, 10, (SIDE, SIDE)) + np.array([0, 70, 140])[labels]
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        Image.fromarray(labels).save(folder / f"{i}-map.png")
        split = "train" if i < 16 else "val" if i < 20 else "test"
        mask = f"{i}-map.png" if i < 25 else None
        rows.append({"image_path": f"{i}.png", "mask_path": mask, "patient": f"p{i // 2}", "split": split})
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    info = EncoderInfo("resnet10t", {}, 1, 32, (0.35,), (0.2,))
    torch.manual_seed(0)
    encoders.save(folder / encoder_header.FILE, encoders.build(info), info)
    return folder


def parts(discs: Path, **tuning: object) -> tuple[Segmentation, torch.nn.Module, EncoderInfo, Draw, FineTuning]:
    data = gather(data=str(discs / "table.csv"), target=["mask_path"], size=32, quiet=True)
    encoder, info, _ = encoders.load(discs)
    drawn, task = draw(data.target, data.split, 1.0, 0), task_of(data.dataset, data.store, data.split, data.target)
    assert isinstance(task, Segmentation)
    return task, encoder, info, drawn, FineTuning(**{"precision": "32-true", "steps": 8, "batch_size": 4, **tuning})


def untrained(task: Segmentation, encoder: torch.nn.Module, info: EncoderInfo, tuning: FineTuning) -> Model:
    return Model(encoder, info, task.decoder(tuning, encoder, info))


def of_units(units: np.ndarray, classes: tuple[int, ...], names: tuple[str, ...] = ()) -> Segmentation:
    """A task without images, of classes beside the background."""
    dataset = Dataset("made", pd.DataFrame({"row": np.arange(len(units))}))
    split = Split(np.full(len(units), "test"), units, "patient", False)
    task = Segmentation(dataset, None, split, Target(("mask_path",), ("mask",), np.zeros(len(units), int)))  # type: ignore[arg-type]
    task.__dict__["masks"] = Masks(None, np.zeros(len(units), int), (0, *classes), names=names)  # type: ignore[arg-type]
    return task


def test_views_and_labels_are_warped_alike(discs: Path) -> None:
    """An image that is its own label map comes out as its own label map."""
    task, encoder, info, _, tuning = parts(discs)
    inputs = Inputs(32, 1, (0.0,), (1.0,), "dermoscopy", 3)
    method = Segmenter(encoder, inputs, task.decoder(tuning, encoder, info), task.masks.codes, jitter=0.0)
    labels = torch.zeros(6, 1, 40, 40, dtype=torch.uint8)
    labels[:, :, 5:25, 8:20] = 1
    views = method.views(labels * 255, KeyedRNG(0, 0, torch.arange(6)), labels)
    inside = views["view"][:, 0]
    assert views["labels"].dtype == torch.int64 and views["labels"].shape == (6, 32, 32)
    sure = (inside < 0.05) | (inside > 0.95)
    assert torch.equal(inside[sure] > 0.5, views["labels"][sure] == 1)
    assert sure.float().mean() > 0.8 and 0.05 < views["labels"].float().mean() < 0.8


def test_it_learns_what_the_masks_show_and_beats_an_untrained_one(discs: Path) -> None:
    task, encoder, info, drawn, tuning = parts(discs, steps=60, learning_rate=3e-3)
    assert len(drawn.train) == 16
    before = task.measure(untrained(task, encoder, info, tuning), np.arange(20, 25))[:, :, 0].mean(0)
    model, costs = task.train(encoder, info, drawn, tuning)
    after = task.measure(model, np.arange(20, 25))[:, :, 0].mean(0)
    assert (after > 0.7).all() and (after > before + 0.3).all(), (before, after)
    assert {row["metric"]: row["value"] for row in costs}["steps"] == 60
    assert model.info.classes == ("background", "1", "2") and model.info.decoder == "unet"


def test_scores_are_those_of_the_maps_that_it_predicts(discs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, encoder, info, _, tuning = parts(discs)
    model = untrained(task, encoder, info, tuning)
    rows = np.arange(16, 28)  # the last three have no map
    logits = torch.cat([part for part, _ in task.logits(model, rows)])
    np.testing.assert_array_equal(task.outputs(model, rows), logits.argmax(1).numpy())
    monkeypatch.setattr(task, "outputs", lambda _, part: np.roll(task.masks.maps(part), -3, 2))
    scores = task.measure(model, rows)
    truth = task.masks.maps(rows[:9])
    both = ((np.roll(truth, -3, 2) == 1) & (truth == 1)).sum((1, 2))
    np.testing.assert_allclose(scores[:9, 0, 0], both / (truth == 1).sum((1, 2)))
    assert np.isnan(scores[9:]).all()
    distance = OVERLAPS.index("hausdorff95")
    np.testing.assert_allclose(scores[:9, 0, distance], 3 * SIDE / task.store.side, rtol=0.2)
    # a file twice as large has distances twice as long
    twice = replace(task.store)
    twice.__dict__["facts"] = task.store.facts.assign(width=2 * SIDE)
    task.store = twice
    np.testing.assert_allclose(task.measure(model, rows)[:9, :, distance], 2 * scores[:9, :, distance])
    # a class in one map alone is as far away as the file's image is long
    monkeypatch.setattr(task, "outputs", lambda _, part: np.where(task.masks.maps(part) == 2, 0, task.masks.maps(part)))
    missed = task.measure(model, rows)[:9]
    has = (truth == 2).any((1, 2))
    assert has.any()
    np.testing.assert_allclose(missed[has, 1, distance], np.hypot(SIDE, 2 * SIDE))
    assert (missed[has, 0, distance] == 0).all() and np.isnan(missed[has, 1, OVERLAPS.index("precision")]).all()


def test_what_is_frozen_stays_and_what_is_not_moves(discs: Path) -> None:
    for given, moves in (({"frozen": True}, False), ({}, True), ({"method_args": {"trained_stages": 1}}, True)):
        task, encoder, info, drawn, tuning = parts(discs, steps=2, **given)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        model, _ = task.train(encoder, info, drawn, tuning)
        changed = {k for k, v in model.network.state_dict().items() if not torch.equal(v, before[k])}
        assert bool(changed) == moves, given
        if "method_args" in given:
            assert all(name.startswith("layer4") for name in changed)


def test_the_best_weights_by_dice_are_kept(discs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, encoder, info, drawn, tuning = parts(discs, steps=10, patience=5, monitor="dice")
    seen: list[tuple[float, torch.Tensor]] = []
    original = Segmentation.monitor

    def monitor(self: Segmentation, model: Model, val: np.ndarray, name: str) -> float:
        seen.append((original(self, model, val, name), model.head.head.weight.detach().clone()))
        return seen[-1][0]

    monkeypatch.setattr(Segmentation, "monitor", monitor)
    model, _ = task.train(encoder, info, drawn, tuning)
    best = max(seen, key=lambda pair: pair[0])
    assert torch.equal(model.head.head.weight, best[1])
    assert best[0] == pytest.approx(np.nanmean(task.measure(model, drawn.val)[:, :, 0]), abs=1e-6)
    logits = torch.cat([part for part, _ in task.logits(model, drawn.val)])
    loss = float(losses.segmentation(logits, torch.from_numpy(task.masks.maps(drawn.val))))
    assert original(task, model, drawn.val, "loss") == pytest.approx(-loss, abs=1e-5)


def test_summaries_are_means_of_images_and_of_patients() -> None:
    found = np.full((4, 2, len(OVERLAPS)), np.nan)
    found[:, 0, 0] = [1.0, 0.5, 0.6, np.nan]
    found[:, 1, 0] = [0.2, 0.4, np.nan, np.nan]
    rows = {
        (r["metric"], r["unit"], r.get("class")): r for r in of_units(np.array([0, 0, 1, 2]), (1, 2)).summarise(found, np.arange(4))
    }
    assert rows["dice", "image", "1"]["value"] == pytest.approx(0.7) and rows["dice", "image", "1"]["n"] == 3
    assert rows["dice", "image", "2"]["value"] == pytest.approx(0.3)
    assert rows["dice", "image", None]["value"] == pytest.approx(0.5)
    assert rows["dice", "patient", "1"]["value"] == pytest.approx((0.75 + 0.6) / 2) and rows["dice", "patient", "1"]["n"] == 2
    assert rows["dice", "image", "1"]["low"] <= 0.7 <= rows["dice", "image", "1"]["high"]
    assert np.isnan(rows["iou", "image", None]["value"]) and rows["iou", "image", None]["n"] == 0
    single = of_units(np.arange(4), (1,)).summarise(found[:, :1], np.arange(4))
    assert {r["unit"] for r in single} == {"image"} and not any("class" in r for r in single)
    named = of_units(np.arange(4), (1,), ("vessel",))
    assert {r.get("class") for r in named.summarise(found[:, :1], np.arange(4))} == {None, "vessel"}
    of_study = {
        (r["metric"], r.get("class")): r["value"] for r in named.summarise_fraction([found[:, :1]] * 3, np.arange(4), 0.1, 3)
    }
    assert of_study["dice", "vessel"] == of_study["dice", None] == pytest.approx(0.7)


def test_from_files_to_rows_and_a_figure(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finetune(str(discs / "table.csv"), ["mask_path"], discs, tmp_path / "run", steps=3, batch_size=4, quiet=True)
    rows = read_rows(run)
    assert {r["evaluator"] for r in rows} == {"finetune", "segmentation", "data", "cohort"}
    assert all(r["split"] == "val" for r in rows if r["evaluator"] == "segmentation")
    scored, measure = [], Segmentation.measure
    monkeypatch.setattr(Segmentation, "measure", lambda *given: scored.append(measure(*given)) or scored[-1])
    found = evaluate(run, str(discs / "table.csv"), quiet=True)
    assert len(scored) == 1, "rows and figure share what was predicted"
    dice = [r for r in found if r["metric"] == "dice" and r["unit"] == "image" and "class" not in r]
    assert len(dice) == 1 and dice[0]["n"] == 5 and dice[0]["split"] == "test"
    assert json.loads((run / "figures" / "segmentation.json").read_text())["section"] == "results"
    with pytest.raises(UsageError, match="use `evaluators` segmentation"):
        evaluate(run, str(discs / "table.csv"), ["metrics"], quiet=True)
    with pytest.raises(UsageError, match="needs a segmenter"):
        evaluate(discs, str(discs / "table.csv"), ["segmentation"], ["mask_path"], out=tmp_path / "other", quiet=True)
    named = finetune(
        str(discs / "table.csv"), ["mask_path"], discs, tmp_path / "named", classes=["2=tumour", "1=disc"], steps=1, batch_size=4,
        quiet=True,
    )  # fmt: skip
    info = encoder_header.read_info(named)
    assert (info.classes, info.mask_values) == (("background", "tumour", "disc"), (0, 2, 1))
    found = evaluate(named, str(discs / "table.csv"), quiet=True)
    assert {r.get("class") for r in found if r["metric"] == "dice"} == {None, "tumour", "disc"}
    kept = pd.read_parquet(named / "predictions" / "segmentation.parquet")
    (dice,) = [r["value"] for r in found if (r["metric"], r.get("class"), r.get("unit")) == ("dice", "tumour", "image")]
    assert dice == pytest.approx(kept["dice_tumour"].mean())
    vessel = finetune(
        str(discs / "table.csv"), ["mask_path"], discs, tmp_path / "vessel", classes=["1=vessel"], steps=1, batch_size=4, quiet=True
    )
    found = [*read_rows(vessel), *evaluate(vessel, str(discs / "table.csv"), quiet=True)]
    assert {(r["split"], r.get("class")) for r in found if r["metric"] == "dice"} == {
        (split, name) for split in ("val", "test") for name in (None, "vessel")
    }
    page = Page(build([vessel], tmp_path / "vessel.html").read_text()).text
    assert "vessel, n = 5" in page and "vessel, a patient" in page
    with pytest.raises(UsageError, match="leave `classes` out"):
        evaluate(named, str(discs / "table.csv"), classes=["1=disc"], quiet=True)
    larger = finetune(
        str(discs / "table.csv"), ["mask_path"], discs, tmp_path / "larger", size=48, decoder="deeplabv3plus", steps=1,
        batch_size=4, quiet=True,
    )  # fmt: skip
    info = encoder_header.read_info(larger)
    assert (info.image_size, info.decoder, info.timm_kwargs) == (48, "deeplabv3plus", {"output_stride": 16})
    assert len(evaluate(larger, str(discs / "table.csv"), quiet=True)) > 0


def test_wrong_requests_leave_nothing(discs: Path, tmp_path: Path) -> None:
    def tried(**given: object) -> None:
        finetune(str(discs / "table.csv"), ["mask_path"], discs, tmp_path / "run", quiet=True, **given)

    for given, words in (
        ({"monitor": "auroc"}, "`monitor` auroc: one of loss, dice"),
        ({"balance": "oversample"}, "`balance` oversample is for one target of classes"),
        ({"method_args": {"mixup": 0.5}}, "`method_args.'mixup'.` is for classifiers"),
        ({"decoder": "setr_pup"}, "does not go with a convolutional network"),
        ({"decoder": "pspnet"}, "decoder='pspnet': must be auto"),
        ({"decoder": "deeplabv3plus", "size": 40}, "multiple of 16"),
    ):
        with pytest.raises(UsageError, match=words):
            tried(**given)
        assert not (tmp_path / "run").exists()


def test_regions_that_a_model_does_not_know_are_left_out(discs: Path) -> None:
    task, encoder, info, _, _ = parts(discs)
    known = Masks(task.masks.store, task.masks.at, (0, 1))
    codes = known.maps(np.arange(2))
    assert set(np.unique(codes)) == {-1, 0, 1}
    loss = losses.segmentation(torch.zeros(2, 2, *codes.shape[1:]), torch.from_numpy(codes))
    assert torch.isfinite(loss)
    assert segmentation_decoders.load(discs, encoder, info) is None


def test_a_study_of_regions_compares_draw_by_draw(discs: Path, tmp_path: Path) -> None:
    small = {"fractions": [0.25, 1.0], "seeds": 2, "steps": 2, "size": 32, "finetune_steps": 2, "finetune_batch_size": 4}
    small |= {"encoder": "resnet10t", "quiet": True}
    table = str(discs / "table.csv")
    run = study(table, ["mask_path"], ["simclr"], tmp_path / "run", finetune_size=48, **small)
    rows = pd.DataFrame([row for row in read_rows(run) if row["evaluator"] == "segmentation"])
    dice = rows[(rows["metric"] == "dice") & rows["class"].isna() & (rows["fraction"] == 0.25)]
    drawn, mean = dice[dice["seed"].notna()], dice[dice["seed"].isna()].set_index("method")["value"]
    assert drawn.groupby("method").size().to_dict() == {"random": 2, "simclr": 2}
    assert set(drawn["labels"]) == {4} and set(dice["n"]) == {5}
    by = drawn.groupby("method")["value"].mean()
    assert mean["simclr"] == pytest.approx(by["simclr"]) and mean["random"] == pytest.approx(by["random"])
    difference = rows[(rows["metric"] == "dice_difference") & (rows["fraction"] == 0.25)]
    assert difference["value"].item() == pytest.approx(by["simclr"] - by["random"]) and difference["reference"].item() == "random"
    assert {"1", "2"} <= set(rows["class"].dropna())
    assert "48" in (run / "config.yaml").read_text()
    for given, words in (
        ({"methods": ["supervised"]}, "supervised reads labels or masks"),
        ({"methods": ["autoencoder?region_weight=2"]}, "reads labels or masks"),
        ({"controls": ["pixels"]}, "`controls` pixels does not apply to masks"),
        ({"modes": ["linear"]}, "unknown mode 'linear'; one of finetune"),
    ):
        with pytest.raises(UsageError, match=words):
            study(table, ["mask_path"], **{"methods": ["simclr"], **given}, out=tmp_path / "other", **small)
        assert not (tmp_path / "other").exists()
    with pytest.raises(UsageError, match="`decoder` is for masks"):
        study(table, ["split"], ["simclr"], tmp_path / "other", decoder="unet", **small)


def test_a_study_compares_masks_by_dice() -> None:
    rng, task, test = np.random.default_rng(0), of_units(np.repeat(np.arange(10), 2), (1, 2)), np.arange(20)
    ours, theirs = ([rng.uniform(low, 1, (20, 2, len(OVERLAPS))) for _ in range(3)] for low in (0.5, 0.0))
    found = task.difference(ours, theirs, test)
    assert found["value"] == pytest.approx(
        np.mean([o[:, :, 0].mean() - t[:, :, 0].mean() for o, t in zip(ours, theirs, strict=True)])
    )
    assert found["low"] > 0 and found["p_value"] < 0.05
    rows = {(r["metric"], r.get("class")): r for r in task.summarise_fraction(ours, test, 0.1, 3)}
    assert rows["iou", "2"]["value"] == pytest.approx(np.mean([o[:, 1, 1].mean() for o in ours])) and rows["iou", "2"]["draws"] == 3
    single = {r["metric"]: r["value"] for r in task.summarise_draw(ours[1], test, Draw(0.1, 1, np.arange(3), np.arange(0)))}
    assert single["precision"] == pytest.approx(ours[1][:, :, OVERLAPS.index("precision")].mean())


def test_a_image_is_shown_with_the_dice_of_the_regions_that_it_has(discs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    scores = np.full((2, 2, len(OVERLAPS)), np.nan)
    scores[0, 0, 0] = 0.8  # its other region is absent, and was not marked
    task = of_units(np.arange(2), (1, 2))
    monkeypatch.setattr(Masks, "maps", lambda self, rows: np.zeros((len(rows), 4, 4), int))
    monkeypatch.setattr(shown, "_parts", lambda context: (task, np.arange(2)))
    monkeypatch.setattr(shown, "_scores", lambda context: scores)
    monkeypatch.setattr(task, "outputs", lambda model, rows: np.zeros((2, 4, 4), np.uint8))
    monkeypatch.setattr(shown, "draw_outlines", lambda images, truth, maps, words: titles.extend(words))
    context = SimpleNamespace(model=None, store=SimpleNamespace(batch=lambda rows: np.zeros((len(rows), 1, 4, 4), np.uint8)))
    shown.figures(context, SimpleNamespace(figure=lambda *_: None))
    assert titles == ["nothing to find", "Dice 0.80"]
