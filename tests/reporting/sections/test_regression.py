"""The section on predicted numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers.report_runs import Page, page, row
from matplotlib.axes import Axes

from scotoma.reporting import cells, svg
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.sections import regression

COMMON = {
    "metric": "mae", "class": None, "unit": None, "use": None, "seed": None, "target": "age", "n": 40, "labels": 10, "low": 1.0,
    "high": 20.0, "encoder": None, "p_value": None, "p_holm": None, "reference": None, "control_of": None, "run": "run",
}  # fmt: skip
MAE = {  # use, method -> value at 10 % and at all labels; intervals reach 0.5 to either side
    ("majority", "control"): (12.0, 12.0), ("header", "control"): (12.25, 12.25), ("pixels", "control"): (10.0, 8.0),
    ("linear", "random"): (9.0, 7.0), ("linear", "simclr"): (7.25, 7.25), ("linear", "mae"): (9.5, 9.0),
    ("finetune", "random"): (11.0, 6.0), ("finetune", "simclr"): (12.25, 6.25), ("finetune", "mae"): (10.75, 4.0),
}  # fmt: skip


def study_rows(values: dict[tuple[str, str], tuple[float, float]] = MAE) -> list[dict[str, object]]:
    found = []
    for (use, method), of in values.items():
        given = {
            "method": method,
            "use": use,
            "target": "age",
            "n": 40,
            "draws": 3,
            "encoder": None if method == "control" else "r",
        }
        reference = values.get((use, "random"), (0.0, 0.0))
        for k, share in enumerate((0.1, 1.0)):
            at = {**given, "fraction": share, "labels": 100 * share}
            found += [row("regression", "mae", of[k], half=0.5, **at), row("regression", "r2", 0.25, **at)]
            found.append({**row("regression", "mae", 99.0, half=0.5, **at), "seed": 1})
            if method not in ("random", "control"):
                gap = of[k] - reference[k]
                told = {"reference": "random", "p_value": 0.004, "p_holm": 0.016 if abs(gap) > 0.5 else 0.9}
                found.append(row("regression", "mae_difference", gap, half=0.5, **at, **told))
    return found


def read_text(found: Page) -> str:
    return found.text.replace("\u00a0", " ").replace("\u2212", "-")


def test_a_study_says_which_encoder_errs_less_and_by_how_much(tmp_path: Path) -> None:
    """A smaller error wins: at a tenth of the labels, against random weights, the mean and the pixels."""
    text = read_text(page(tmp_path, study_rows()))
    for words in (
        "What pretraining was worth",
        "What follows holds for the 40 test images with a number in age, with 10 % of the labels (n = 10 labelled training "
        "images), measured by the mean absolute error in the unit of age (0 is perfect, lower is better). "
        "Predicting the mean of the training labels errs by 12.00 (95 % interval 11.50 to 12.50). "
        "A control that sees thumbnails of 32 pixels and uses no network errs by 10.00 (95 % interval 9.50 to 10.50).",
        "SimCLR, ridge regression on the frozen encoder: better than random weights. Mean absolute error 7.250 (95 % interval "
        "6.750 to 7.750) with pretraining, 9.000 without (difference -1.750, 95 % interval -2.250 to -1.250, Holm-corrected p = "
        "0.016). "
        "Shares of labels tried: better at 1 of 2, no difference shown at 1, worse at 0.",
        "MAE, ridge regression on the frozen encoder: did not beat random weights; not shown to be better than pixels alone "
        "(10.00). Mean absolute error 9.50 (95 % interval 9.00 to 10.00)",
        "no difference shown at 1, worse at 1. At other shares it is no better than pixels alone (at 100 %).",
        "SimCLR, fine-tuned network: worse than random weights; no better than pixels alone (10.00), mean of the training labels "
        "(12.00) and image size and header facts alone (12.25). Mean absolute error 12.25 (95 % interval 11.75 to 12.75) with "
        "pretraining, 11.00 without (difference +1.250",
        "MAE, fine-tuned network: did not beat random weights; no better than pixels alone (10.00).",
        "p-values marked Holm allow for it",
        "was read off the two intervals, not tested in pairs",
        "(3 here)",
    ):
        assert words in text, (words, text)
    for words in ("AUROC", "99.0", "is shown by a study", "control:", "Possible confounding", "Further rows"):
        assert words not in text, words


def test_tables_of_a_study_mark_a_smaller_error_as_help(tmp_path: Path) -> None:
    text = read_text(page(tmp_path, study_rows()))
    for words in (
        "10 % of labels n = 10 100 % of labels n = 100",
        "Mean of the training labels 12.00 [11.50, 12.50] 12.00 [11.50, 12.50]",
        "Pixels alone (32 px, PCA, ridge regression) 10.00 [9.50, 10.50] 8.000 [7.500, 8.500]",
        "Random weights, fine-tuned network 11.00 [10.50, 11.50] 6.000 [5.500, 6.500]",
        "SimCLR, ridge regression on the frozen encoder minus random weights -1.750 ▲ [-2.250, -1.250] p = 0.004, Holm = 0.016 "
        "+0.250 ○ [-0.250, +0.750]",
        "SimCLR, fine-tuned network minus random weights +1.250 ▼ [+0.750, +1.750]",
        "Other measures with 10 % of the labels",
        "SimCLR, fine-tuned network n = 40 0.250 [0.230, 0.270]",
        "Mean absolute error by share of labels.",
    ):
        assert words in text, (words, text)
    table = pd.read_csv(next(tmp_path.rglob("tables/mae.csv")))
    assert sorted(table["value"]) == sorted(v for of in MAE.values() for v in of)
    (card,) = tmp_path.rglob("model_card.md")
    for words in (
        "| age | SimCLR, fine-tuned network | Mean absolute error | 6.250 | 95 % interval 5.750 to 6.750 | 40 |",
        "| age | Mean of the training labels | Mean absolute error | 12.00 | 95 % interval 11.50 to 12.50 | 40 |",
    ):
        assert words in card.read_text().replace("\u00a0", " "), words


def test_the_figure_has_a_panel_a_use_on_one_scale_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    axes: list[tuple[str, Axes, list[str]]] = []

    def seen(ax: Axes) -> None:
        axes.append((ax.get_title(loc="left"), ax, [str(line.get_label()) for line in ax.get_lines()]))

    monkeypatch.setattr(svg, "grid", seen)
    rows = pd.DataFrame(study_rows()).assign(label=lambda t: t["method"].map({"simclr": "SimCLR", "mae": "MAE"}).fillna("Random"))
    rows = rows.reindex(columns=[*rows.columns, "class", "unit", "control_of", "run"])
    (figure,) = regression.describe(rows, Sheets())["figures"]
    controls = ["Mean of the training labels", "Image size and header facts alone", regression.NAMES["pixels"]]
    assert figure["uri"].startswith("data:image/svg") and figure["title"] == "Mean absolute error by share of labels"
    assert [names for _, _, names in axes] == [[*controls, "Random", "SimCLR", "MAE"]] * 2
    assert [name.replace("\n", " ") for name, _, _ in axes] == ["Ridge regression on the frozen encoder", "Fine-tuned network"]
    assert [ax.get_ylim() for _, ax, _ in axes] == [(0.0, pytest.approx(1.05 * 12.75))] * 2


def test_headers_that_predict_the_number_are_a_warning(tmp_path: Path) -> None:
    text = read_text(page(tmp_path, study_rows(MAE | {("header", "control"): (8.0, 8.0)})))
    assert (
        "Possible confounding. Image size and header facts alone, without one pixel, err by 8.000 (95 % interval 7.500 to 8.500)"
        in text
    )


def test_without_random_weights_nothing_is_said_of_pretraining(tmp_path: Path) -> None:
    rows = [r for r in study_rows() if r["method"] != "random" and r["metric"] != "mae_difference"]
    text = read_text(page(tmp_path, rows))
    assert "better than random weights" not in text and "No comparison with random weights is among these results" in text
    assert "SimCLR, fine-tuned network: Mean absolute error 12.25 (95 % interval 11.75 to 12.75); no better than pixels" in text


def test_images_without_a_number_are_counted(tmp_path: Path) -> None:
    rows = study_rows()
    for split, n, bands in (("train", 60, (30, 25)), ("test", 44, (20, 20))):
        rows.append({"evaluator": "data", "metric": "images", "split": split, "value": n})
        rows += [{"evaluator": "data", "metric": "images", "split": split, "class": c, "value": v}
                 for c, v in zip(("20 to 50", "50 to 80"), bands, strict=True)]  # fmt: skip
    text = read_text(page(tmp_path, rows))
    assert "50 to 80 (images) 25 (42 %) 20 (45 %) No number (images) 5 (8 %) 4 (9 %)" in text


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.1234, 0.1, 0.2, "0.123 [0.100, 0.200]"),
        (9.5, 9.0, 10.0, "9.50 [9.00, 10.00]"),
        (123.46, 100, 150, "123.5 [100.0, 150.0]"),
        (12345.6, 9000, 15000, "12,346 [9,000, 15,000]"),
        (0.0, 0.0, 0.0, "0.000 [0.000, 0.000]"),
        (0.000023, 0.00001, 0.00004, "0.000023 [0.000010, 0.000040]"),
    ],
)
def test_numbers_have_four_digits_at_most_and_two_at_least(value: float, low: float, high: float, text: str) -> None:
    found = cells.cell(pd.DataFrame([{"value": value, "low": low, "high": high}]))
    assert found is not None and f"{found['value']} {found['interval']}" == text


def test_shares_and_uses_of_a_study_are_lines_and_columns_of_their_own() -> None:
    values = {("simclr", "linear", 0.1): 9.0, ("simclr", "linear", 1.0): 7.0, ("simclr", "finetune", 0.1): 8.0,
              ("simclr", "finetune", 1.0): 6.0, ("control", "pixels", 0.1): 11.0, ("control", "pixels", 1.0): 10.0}  # fmt: skip
    rows = [
        COMMON | {"method": m, "label": "SimCLR" if m == "simclr" else m, "use": u, "fraction": f, "value": v}
        for (m, u, f), v in values.items()
    ]
    ((_, table, _),) = regression.describe(pd.DataFrame(rows), Sheets())["tables"]
    assert len(table["heads"]) == 2 and len(table["lines"]) == 3
    shown = [[float(cell["value"]) for cell in line["cells"]] for line in table["lines"]]
    assert shown == [[9.0, 7.0], [8.0, 6.0], [11.0, 10.0]]


def test_a_single_model_has_a_column_a_metric() -> None:
    rows = [
        COMMON | {"metric": m, "method": "simclr", "label": "SimCLR", "fraction": None, "value": v}
        for m, v in (("mae", 3.0), ("r2", 0.5))
    ]
    ((_, table, _),) = regression.describe(pd.DataFrame(rows), Sheets())["tables"]
    assert len(table["heads"]) == 2 and len(table["lines"]) == 1
