"""The title and the summary state what was run, and what was not tested."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.report_runs import CONFIG, Page, row, write

from scotoma.reporting.build import build


def text_of(tmp_path: Path, rows: list[dict[str, object]], config: dict[str, object] | None = None) -> str:
    folder = write(tmp_path / "run", rows, {"command": "evaluate"} if config is None else config)
    return Page(build([folder]).read_text()).text.replace("\u00a0", " ").replace("\u2212", "-")


TESTED = [
    {"evaluator": "data", "metric": "tested", "split": "test", "value": 100, "n": 109, "unit": "patient", "patients": 50},
    {"evaluator": "data", "metric": "patients", "split": "test", "value": 54, "unit": "patient"},
]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("metrics", "auroc", 0.8)], "How well the classifier does"),
        ([row("linear", "auroc", 0.8), row("header", "auroc", 0.6, method="control")], "How well the encoder does"),
        ([row("segmentation", "dice", 0.8, unit="image")], "How well the segmenter does"),
        ([row("regression", "mae", 0.8), row("retrieval", "map", 0.5)], "How well the model of numbers does"),
        ([row("metrics", "auroc", 0.8), row("segmentation", "dice", 0.8)], "How well the models do"),
        ([row("operating", "sensitivity", 0.8, threshold=0.3)], "How well the classifier does"),
        ([row("linear", "auroc", 0.8), row("linear", "auroc", 0.6, method="random")], "What pretraining was worth"),
        ([{"evaluator": "pretrain", "metric": "loss", "value": 1.0, "split": "train"}], "What the pretraining did"),
    ],
)
def test_the_title_fits_what_was_run(rows: list[dict[str, object]], words: str, tmp_path: Path) -> None:
    assert f"{words}: " in text_of(tmp_path, rows)


@pytest.mark.parametrize(("low", "high", "told"), [(0.45, 0.61, True), (0.5, 0.61, True), (0.51, 0.61, False), (0.3, 0.49, False)])
def test_what_cannot_be_told_from_chance_is_called_so(low: float, high: float, told: bool, tmp_path: Path) -> None:
    auroc = {**row("metrics", "auroc", (low + high) / 2, n=100), "low": low, "high": high}
    text = text_of(tmp_path, [*TESTED, auroc])
    assert ("which cannot be told from chance" in text) == told
    assert "on 100 test images of 50 patients." in text


def test_the_summary_names_every_model_and_encoder(tmp_path: Path) -> None:
    """Those that have not the summary's share of the labels, with their own."""
    at = {"labels": 29, "n": 33, "draws": 1}
    rows = [
        row("linear", "auroc", 0.778, **at, fraction=1.0),
        row("pixels", "auroc", 0.7, **at, fraction=1.0, method="control", encoder=None),
    ]
    tuned = write(tmp_path / "model", [row("metrics", "auroc", 0.772, n=33)], CONFIG)
    encoder = write(tmp_path / "encoder", rows, {"command": "evaluate"})
    text = Page(build([tuned, encoder]).read_text()).text.replace("\u00a0", " ").partition("Contents")[0]
    for words in (
        "SimCLR, linear classifier on the frozen encoder: AUROC 0.778",
        "SimCLR, trained classifier, with the labels that it was trained on: AUROC 0.772 (95 % interval 0.752 to 0.792), on "
        "33 test images.",
    ):
        assert words in text, (words, text)
    study = [row("linear", "auroc", v, **at, fraction=f, method="mae") for f, v in ((0.1, 0.61), (1.0, 0.68))]
    text = Page(build([write(tmp_path / "study", study, {"methods": ["mae"]}), encoder]).read_text()).text.replace("\u00a0", " ")
    for words in (
        "MAE, linear classifier on the frozen encoder: AUROC 0.610",
        "SimCLR, linear classifier on the frozen encoder, with all labels: AUROC 0.778",
    ):
        assert words in text, (words, text)


def test_summaries_of_masks_and_numbers_hold_value_interval_and_n_beside_a_classifier(tmp_path: Path) -> None:
    rows = [
        row("metrics", "auroc", 0.8, n=60),
        row("segmentation", "dice", 0.249, n=100, unit="image", target="mask_path"),
        row("regression", "mae", 12.07, half=2, n=90, target="age"),
        row("regression", "mae_of_mean", 11.59, half=2, n=90, target="age"),
    ]
    summary = text_of(tmp_path, [*TESTED, *rows]).partition("Contents")[0]
    for words in (
        "SimCLR, trained classifier: AUROC 0.800 (95 % interval 0.780 to 0.820), on 60 test images.",
        "SimCLR: Dice 0.249 (95 % interval 0.229 to 0.269) on 100 test images of 50 patients. 1 is perfect, 0 is none.",
        "SimCLR: Mean absolute error 12.07 (95 % interval 10.07 to 14.07) on 90 test images. Always predicting the mean of the "
        "training images errs by 11.59 (95 % interval 9.59 to 13.59).",
    ):
        assert words in summary, (words, summary)


@pytest.mark.parametrize(
    ("evaluator", "target", "more"), [("segmentation", "mask_path", {}), ("regression", "age", {"regression": True})]
)
def test_a_model_that_was_never_tested_is_called_not_tested(
    evaluator: str, target: str, more: dict[str, object], tmp_path: Path
) -> None:
    metric = {"segmentation": "dice", "regression": "mae"}[evaluator]
    val = row(evaluator, metric, 0.371, target=target, split="val", n=13)
    text = text_of(tmp_path, [val], CONFIG | {"target": [target], **more})
    model = {"segmentation": "segmenter", "regression": "model of numbers"}[evaluator]
    assert f"How the {model} was trained" in text and f"Not tested: the {model} of {target} (run)." in text
    before, _, after = text.partition("On the validation images")
    assert "0.371" not in before and "0.371" in after
    card = (tmp_path / "run" / "model_card.md").read_text()
    assert "Not tested" in card and "0.371" not in card
    tested = text_of(
        tmp_path / "both", [val, row(evaluator, metric, 0.249, target=target, n=40)], CONFIG | {"target": [target], **more}
    )
    assert "Not tested" not in tested and "0.249" in tested.partition("On the validation images")[0]


def test_one_thing_with_two_values_is_a_warning(tmp_path: Path) -> None:
    rows = [row("metrics", "auroc", 0.527), row("robustness", "auroc", 0.516, corruption="clean", severity=0)]
    assert "One thing with two values. SimCLR, label (run): the AUROC on the same test images is 0.527 (metrics), 0.516" in text_of(
        tmp_path, rows
    )
    same = [row("metrics", "auroc", 0.527), row("robustness", "auroc", 0.527, corruption="clean", severity=0)]
    assert "One thing with two values" not in text_of(tmp_path / "same", same)


def test_rows_that_state_no_set_are_no_test_results(tmp_path: Path) -> None:
    text = text_of(tmp_path, [row("metrics", "auroc", 0.777, split=None), row("metrics", "auroc", 0.622)])
    assert "0.777" not in text.partition("do not state their set")[0] and "0.622" in text
    assert "0.777" in text.partition("do not state their set")[2]
