"""The report's sections on regions, numbers and neighbours, from made rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers.report_runs import page, row


def segmented(method: str, values: dict[float, float]) -> list[dict[str, object]]:
    given = {"method": method, "encoder": "resnet18", "target": "mask_path", "split": "test", "n": 40, "draws": 3}
    return [row("segmentation", "dice", v, half=0.02, **given, fraction=f, labels=100 * f) for f, v in values.items()]


def test_a_study_of_regions_says_what_pretraining_was_worth(tmp_path: Path) -> None:
    rows = segmented("random", {0.1: 0.7, 1.0: 0.9}) + segmented("simclr", {0.1: 0.8, 1.0: 0.9})
    common = {"method": "simclr", "encoder": "resnet18", "target": "mask_path", "split": "test", "reference": "random"}
    told = {0.1: 0.01, 1.0: 1.0}
    rows += [
        row("segmentation", "dice_difference", v, half=h, **common, fraction=f, labels=100 * f, p_holm=told[f])
        for f, v, h in ((0.1, 0.1, 0.03), (1.0, 0.0, 0.02))
    ]
    given = {"method": "simclr", "encoder": "resnet18", "target": "mask_path", "n": 40, "draws": 3}
    rows += [row("segmentation", "iou", f / 2, **given, fraction=f, labels=100 * f) for f in (0.1, 1.0)]
    rows += [row("segmentation", "dice", 0.66, **given, fraction=0.1, labels=10, **{"class": "lung"})]
    found = page(tmp_path, rows)
    text = found.text.replace("\u00a0", " ")
    for words in (
        "What pretraining was worth",
        "Other measures, and single classes, with 10 % of the masks",
        "What follows holds for the 40 test images with masks, with 10 % of the masks (n = 10 labelled training images)",
        "SimCLR n = 40 0.800 [0.780, 0.820] 0.050 [0.030, 0.070] SimCLR lung, n = 40 0.660 [0.640, 0.680] \u2013",
        "SimCLR: better than random weights. Dice 0.800 (95 % interval 0.780 to 0.820) with pretraining, 0.700 without "
        "(difference +0.100, 95 % interval +0.070 to +0.130, Holm-corrected p = 0.010). Shares of masks tried: better "
        "at 1 of 2, no difference shown at 1, worse at 0.",
        "10 % of masks n = 10 100 % of masks n = 100",
        "SimCLR 0.800 [0.780, 0.820] 0.900 [0.880, 0.920]",
        "SimCLR minus random weights +0.100 ▲ [+0.070, +0.130] Holm = 0.010 0.000 ○",
        "Dice by number of masks.",
    ):
        assert words in text, (words, text)
    assert "Further rows" not in text and "No comparison with controls" not in text and "AUROC" not in text
    table = pd.read_csv(next(tmp_path.rglob("tables/dice.csv")))
    assert set(table["value"]) == {0.7, 0.8, 0.9} and set(table["method"]) == {"random", "simclr"}


def test_one_segmenter_is_told_by_region_and_patient(tmp_path: Path) -> None:
    common = {"method": "simclr", "encoder": "resnet18", "target": "mask_path", "split": "test", "n": 12}
    rows = [row("segmentation", m, v, half=0.01, unit="image", **common) for m, v in (("dice", 0.8), ("hausdorff95", 4.5))]
    rows += [row("segmentation", "dice", 0.77, half=0.01, unit="patient", **{**common, "n": 5})]
    rows += [row("segmentation", "dice", 0.6, half=0.01, unit="image", **{**common, "class": "2"})]
    text = page(tmp_path, rows).text.replace("\u00a0", " ")
    for words in (
        "How well the segmenter does", "Results: segmentation", "n = 12 0.800 [0.790, 0.810] 4.500 [4.490, 4.510]",
        "a patient, n = 5 0.770 [0.760, 0.780] \u2013", "class 2, n = 12 0.600",
        "a study shows whether the pretraining helped",
        "SimCLR: Dice 0.800 (95 % interval 0.790 to 0.810) on 12 test images. 1 is perfect, 0 is none.",
    ):  # fmt: skip
        assert words in text, (words, text)
    assert not list(tmp_path.rglob("tables/dice*.csv")), "a study's tables, of which there are no rows"
    assert not [file for file in tmp_path.rglob("tables/*.csv") if len(pd.read_csv(file)) == 0]
    (card,) = tmp_path.rglob("model_card.md")
    assert "| mask_path | SimCLR | Dice | 0.800 | 95 % interval 0.790 to 0.810 | 12 |" in card.read_text()
    (checklist,) = tmp_path.rglob("checklist.md")
    assert "SimCLR: Dice 0.800 (95 % interval 0.790 to 0.810)." in checklist.read_text()


def test_numbers_and_neighbours_have_their_sections(tmp_path: Path) -> None:
    common = {"method": "simclr", "encoder": "resnet18", "split": "test", "n": 30}
    rows = [
        row("regression", m, v, half=0.5, target="age", **common) for m, v in (("mae", 6.0), ("mae_of_mean", 12.0), ("r2", 0.7))
    ]
    rows += [
        row("retrieval", m, v, half=0.05, target="sex", **common) for m, v in (("precision_at_5", 0.7), ("precision_chance", 0.5))
    ]
    found = page(tmp_path, rows)
    text = found.text.replace("\u00a0", " ")
    for words in (
        "Results: errors of the predicted number",
        "6.000 [5.500, 6.500] 12.00 [11.50, 12.50] 0.700", "… of always predicting the mean",
        "5 nearest By chance", "0.700 [0.650, 0.750] 0.500 [0.450, 0.550]",
    ):  # fmt: skip
        assert words in text, (words, text)
    assert {"regression", "features"} <= set(found.ids)


@pytest.mark.parametrize(("evaluator", "metric", "target"), [("segmentation", "dice", "mask_path"), ("regression", "mae", "age")])
def test_what_a_training_said_of_its_validation_images_is_no_test_result(
    evaluator: str, metric: str, target: str, tmp_path: Path
) -> None:
    common = {"method": "simclr", "encoder": "resnet18", "target": target, "unit": "image"}
    val = row(evaluator, metric, 0.912, half=0.01, **{**common, "split": "val", "n": 9})
    test = row(evaluator, metric, 0.634, half=0.01, **{**common, "split": "test", "n": 31})
    both = page(tmp_path / "both", [val, test])
    results, _, training = both.text.partition("On the validation images")
    assert "n = 31 0.634 [0.624, 0.644]" in results and "0.912" not in results
    assert "n = 9 0.912 [0.902, 0.922]" in training and "0.634" not in training
    for name, value in (("segmentation" if evaluator == "segmentation" else "errors_of_numbers", 0.634), ("validation", 0.912)):
        assert pd.read_csv(next(tmp_path.rglob(f"tables/{name}.csv")))["value"].tolist() == [value]
    trained = page(tmp_path / "trained", [val])
    assert "No model was tested on test images" in trained.text and not {"segmentation", "regression"} & set(trained.ids)
