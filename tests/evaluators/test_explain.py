from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from helpers.contexts import Means, context
from PIL import Image
from scipy.integrate import trapezoid
from scipy.special import expit
from torch import Tensor, nn

from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.splits.splits import Split
from scotoma.errors import UsageError
from scotoma.evaluators import explain
from scotoma.evaluators.base import Context, Row
from scotoma.models.encoders import build
from scotoma.run_folder import Run
from scotoma.visualization import overlays

GENERIC = ["saliency", "integrated_gradients", "gradient_shap", "occlusion"]
SLOPE, THRESHOLD = 20.0, 60 / 255  # the classes' left halves have a mean of 40 and of 80


class Halves(Means):
    """The mean of each half, in the two steps that timm's networks have."""

    def forward_features(self, images: Tensor) -> Tensor:
        return images

    def forward_head(self, images: Tensor) -> Tensor:
        return self(images)


def judged(folder: Path, n: int = 48) -> Context:
    """A classifier of the left half, that is right; the left half is the mask of class 1, whatever lies there in class 0."""
    head = nn.Linear(2, 2)
    head.weight.data = torch.tensor([[0.0, 0.0], [2 * SLOPE, 0.0]])  # as a logistic regression's: class 0 always has the logit 0
    head.bias.data = torch.tensor([0.0, -2 * SLOPE * THRESHOLD])
    made = context(folder, n, encoder=Halves(), head=head)
    info = EncoderInfo("test_resnet", {}, 1, 32, (0.0,), (1.0,), targets=made.target.columns, classes=made.target.classes)
    left = np.zeros((64, 64), np.uint8)
    left[:, :32] = 255
    Image.fromarray(left).save(folder / "left.png")
    Image.fromarray(left).save(folder / "any.png")
    table = made.dataset.table.assign(mask_path=str(folder / "left.png"), image_path=str(folder / "any.png"))
    return replace(made, info=info, dataset=replace(made.dataset, table=table))


def one(rows: list[Row], metric: str, name: str) -> Row:
    (row,) = [r for r in rows if r["metric"] == metric and r["explanation"] == name]
    return row


def test_scores_of_a_classifier_that_looks_at_the_left_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = judged(tmp_path)
    table = made.dataset.table
    positive = made.test[made.target.y[made.test] == 1]
    table.loc[positive[0], "mask_path"] = str(tmp_path / "absent.png")
    table.loc[positive[1], "mask_path"] = None
    rows = explain.evaluate(made)
    assert "1 masks cannot be used and are left out (first: No such file or directory)" in capsys.readouterr().err

    # six masks of class 1 less the absent and the missing one; saliency is even over the left half and zero to the right
    pointing, iou = (one(rows, metric, "saliency") for metric in ("pointing_game", "mask_iou"))
    pointing = dict(pointing)
    assert 0 < pointing.pop("low") < 0.4  # of four patients, none of them missed
    assert pointing == {"metric": "pointing_game", "explanation": "saliency", "n": 4, "value": 1, "high": 1, "few": True}
    assert (iou["value"], iou["n"]) == (1, 4)
    assert one(rows, "pointing_game", "occlusion")["value"] == 1
    assert one(rows, "mask_iou", "random map")["value"] == pytest.approx(1 / 3, abs=0.03)  # half of each other: 1/4 over 3/4

    # the left half is taken away first, and then the rest, which changes nothing; a random map takes it away slowly
    t = np.linspace(0, 1, 21)
    for name, gone in (("saliency", np.minimum(1, 2 * t)), ("random map", t)):
        of_class = [trapezoid(expit(2 * SLOPE * s * (mean / 255 * (1 - gone) - THRESHOLD)), t) for s, mean in ((-1, 40), (1, 80))]
        deletion = one(rows, "deletion", name)
        assert deletion["value"] == pytest.approx(np.mean(of_class), abs=0.02) and deletion["n"] == 12, name
        assert deletion["low"] < deletion["value"] < deletion["high"], name
        # the blur keeps a half's mean, but at its border: nothing is left to bring in
        assert one(rows, "insertion", name)["value"] == pytest.approx(expit(2 * SLOPE * 20 / 255), abs=0.02)

    for name in GENERIC:
        sanity, passed = (one(rows, metric, name) for metric in ("sanity_correlation", "sanity_passed"))
        assert sanity["low"] <= sanity["value"] <= sanity["high"] and sanity["n"] == 12
        assert passed["n"] == 12 and passed["value"] * 12 == pytest.approx(round(passed["value"] * 12))
        assert passed["low"] < passed["high"] and (sanity["high"] > 0.5 or passed["value"] > 0.5), name
        assert 0 <= one(rows, "pointing_game_random_weights", name)["value"] <= 1
    assert one(rows, "sanity_passed", "saliency")["value"] == 1
    pairs = [(r["explanation"], r["other"]) for r in rows if r["metric"] == "agreement"]
    assert pairs == list(itertools.combinations(GENERIC, 2))
    agreed = {(r["explanation"], r["other"]): r["value"] for r in rows if r["metric"] == "agreement"}
    assert agreed["saliency", "integrated_gradients"] > 0.8  # both are zero to the right
    assert rows == explain.evaluate(made)


def test_of_an_encoder_a_probe_is_explained_and_of_several_targets_the_most_probable(tmp_path: Path) -> None:
    torch.manual_seed(0)
    info = EncoderInfo("test_vit", {"img_size": 32, "patch_size": 8, "depth": 2}, 1, 32, (0.2,), (0.2,))
    made = context(tmp_path, 48, multilabel=True, info=info, encoder=build(info))
    rows = explain.evaluate(made)
    names = {*GENERIC, "grad_cam", "attention_rollout", "class_attention"}
    found = {metric: {r["explanation"] for r in rows if r["metric"] == metric} for metric in {r["metric"] for r in rows}}
    assert found["deletion"] == found["insertion"] == names | {"random map"}
    assert found["sanity_correlation"] == names
    assert "pointing_game" not in found and "mask_iou" not in found  # the table has no masks
    assert all(0 <= r["value"] <= 1 for r in rows if r["metric"] in ("deletion", "insertion"))
    cases = explain.gather(made, explain._classifier(made), made.test)
    p = explain._probabilities(made, explain._classifier(made), cases.images)
    np.testing.assert_array_equal(cases.target, p.argmax(1))
    np.testing.assert_array_equal(cases.truth, made.target.y[made.test, p.argmax(1)])
    np.testing.assert_array_equal(cases.is_positive, p.max(1) > 0.5)


def test_masks_are_of_positives_that_were_seen(tmp_path: Path) -> None:
    made = judged(tmp_path)
    cases = made.test[:6]
    made.target.y[cases[:3]] = [1, 1, 0]  # was 0, 1, 0
    assert made.target.y[cases].tolist() == [1, 1, 0, 1, 0, 1]
    sizes = explain.gather(made, explain._classifier(made), cases).masks.sum((1, 2))
    assert sizes.tolist() == [0, 512, 0, 512, 0, 512]  # the first is missed
    assert int(explain.gather(made, explain._classifier(made), cases[[0, 2, 4]]).masks.sum()) == 0


def test_where_no_mask_can_be_used_that_is_a_row(tmp_path: Path) -> None:
    made = judged(tmp_path, 16)
    made.target.y[made.test] = 0  # the finding is in no image
    rows = explain.evaluate(made)
    for metric in ("pointing_game", "mask_iou", "pointing_game_random_weights"):
        row = one(rows, metric, "saliency")
        assert np.isnan(row["value"]) and (row["n"], row["few"]) == (0, True)


def test_chosen_cases_are_of_all_classes_and_the_same_in_any_order_of_the_table(tmp_path: Path) -> None:
    made = context(tmp_path, 80, classes=2)
    made.target.y[made.test] = np.arange(20) < 5
    for count, positives in ((8, 4), (14, 5), (64, 5)):
        found = explain.choose_rows(made, count)
        assert len(found) == min(count, 20) and made.target.y[found].sum() == positives
        assert (np.diff(found) > 0).all() and np.isin(found, made.test).all()
    order = np.random.default_rng(0).permutation(80)
    turned = replace(
        made,
        dataset=replace(made.dataset, table=made.dataset.table.iloc[order].reset_index(drop=True)),
        split=Split(made.split.of[order], made.split.units[order], "patient", True),
        target=replace(made.target, y=made.target.y[order]),
    )
    assert set(order[explain.choose_rows(turned, 8)]) == set(explain.choose_rows(made, 8))


def test_maps_lie_over_colour_where_an_image_has_three_channels_and_else_over_grey() -> None:
    images = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    for channels, expected in ((1, images[:, 0]), (3, images[:, :3].permute(0, 2, 3, 1)), (4, images.mean(1))):
        np.testing.assert_allclose(explain._ground(images[:, :channels]), expected.numpy(), rtol=1e-6)


def test_shown_are_the_surest_and_the_least_sure(tmp_path: Path) -> None:
    made = judged(tmp_path / "data")
    cases = made.test[:5]
    made.target.y[cases[3:]] = 1 - made.target.y[cases[3:]]  # now the classifier is wrong of these two
    found = explain.choose_shown(made, cases)
    numbers = made.dataset.table["row"].to_numpy()[cases]
    seen = explain.gather(made, explain._classifier(made), cases)
    maps = explain.explain(explain._classifier(made), seen, explain.find_attributions(explain._classifier(made), seen.images[:1]))
    pixels = made.store.batch(numbers)[:, 0] / 255
    for case in found:
        place = numbers.tolist().index(case.row)
        assert case.probability == pytest.approx(seen.probability[place])
        assert case.label == f"kind = {made.target.classes[int(seen.target[place])]}"
        np.testing.assert_allclose(case.image, pixels[place], atol=1e-6)
        assert list(case.maps) == GENERIC
        np.testing.assert_allclose(case.maps["saliency"], maps["saliency"][place], atol=1e-6)
    groups = {g: {c.row for c in found if c.group == g} for g in {c.group for c in found}}
    right, wrong = (numbers[k][np.argsort(-seen.probability[k])].tolist() for k in (slice(0, 3), slice(3, 5)))
    assert groups == {
        "right_confident": set(right[:2]), "right_unsure": {right[2]},
        "wrong_confident": {wrong[0]}, "wrong_unsure": {wrong[1]},
    }  # fmt: skip
    for case in found:  # the true class is stated where it is another
        assert bool(case.truth) == case.group.startswith("wrong") and case.truth != case.label


def test_figures_are_sheets_and_a_folder_of_overlays_in_place_of_those_before(tmp_path: Path) -> None:
    made, run = judged(tmp_path / "data"), Run.open(tmp_path / "run", "evaluate", {})
    old = tmp_path / "run" / "figures" / "explanations" / "explain-999-saliency.png"
    old.parent.mkdir(parents=True)
    old.touch()
    (old.parents[1] / "explanations-wrong_confident.json").touch()
    (old.parents[1] / "features.png").touch()  # another's
    explain.figures(made, run)
    shown = explain.choose_shown(made, explain.choose_rows(made))
    assert {p.name for p in old.parent.iterdir()} == {f"explain-{c.row}-{m}.png" for c in shown for m in GENERIC}
    assert Image.open(next(old.parent.iterdir())).size[0] > 200
    names = {f"explanations-{c.group}" for c in shown}
    assert names == {"explanations-right_confident", "explanations-right_unsure"}  # it is never wrong
    assert {p.name for p in old.parents[1].iterdir()} == {"explanations", "features.png"} | {
        f"{n}.{s}" for n in names for s in ("png", "json")
    }
    words = json.loads((old.parents[1] / "explanations-right_unsure.json").read_text())
    assert words["section"] == "explanations" and "right but unsure" in words["caption"]
    assert not list(tmp_path.rglob("*.dcm"))  # the images were PNG


@pytest.mark.parametrize("keep", [False, True])
def test_of_dicom_images_overlays_are_dicom_too(tmp_path: Path, write_dicom: Callable[..., Path], keep: bool) -> None:
    made, run = judged(tmp_path / "data"), Run.open(tmp_path / "run", "evaluate", {})
    facts = pd.read_parquet(tmp_path / "data" / "facts.parquet")
    facts.assign(format="DICOM").to_parquet(tmp_path / "data" / "facts.parquet")
    rows = made.dataset.table["row"]
    for row in rows:
        write_dicom(tmp_path / f"{row}.dcm", np.zeros((4, 4), np.uint8), PatientID=f"secret {row}", PatientName="Secret^Name")
    patients = [None if row % 2 else f"hash {row}" for row in rows]
    table = made.dataset.table.assign(image_path=[str(tmp_path / f"{row}.dcm") for row in rows], patient=patients)
    made = replace(made, dataset=replace(made.dataset, table=table), keep_identity=keep)
    explain.figures(made, run)
    shown = {c.row: c for c in explain.choose_shown(made, explain.choose_rows(made))}
    files = sorted((tmp_path / "run" / "figures" / "explanations").glob("*.dcm"))
    assert {p.stem for p in files} == {f"explain-{row}-{m}" for row in shown for m in GENERIC}
    assert {row % 2 for row in shown} == {0, 1}
    for path in files:
        row, method = int(path.stem.split("-")[1]), path.stem.split("-")[2]
        ds = pydicom.dcmread(path)
        pseudonym = facts["content"].iloc[row] if row % 2 else f"hash {row}"
        assert ds.PatientID == (f"secret {row}" if keep else pseudonym)
        assert (b"ecret" in path.read_bytes()) == keep
        np.testing.assert_array_equal(ds.pixel_array, overlays.blend(shown[row].image, shown[row].maps[method]))
        assert shown[row].title in ds.DerivationDescription


def test_identity_is_asked_for_before_anything_is_computed(tmp_path: Path) -> None:
    made = judged(tmp_path)
    table = made.dataset.table.drop(columns="image_path")
    kept = replace(made, encoder=nn.Identity(), dataset=replace(made.dataset, table=table), keep_identity=True)
    with pytest.raises(UsageError, match="not a prepared store"):
        explain.evaluate(kept)
