"""The report's section on more labels, from the rows that a study writes of made curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from helpers.report_runs import COMMON, page

from scotoma.metrics import learning_curves
from scotoma.metrics.learning_curves import Curve


def rows(labels: list[int], curves: np.ndarray, use: str = "finetune") -> list[dict[str, object]]:
    common = {**COMMON, "evaluator": "extrapolation", "use": use}
    return [{**common, **r} for r in learning_curves.curve_rows(labels, np.stack([curves] * 20))]


def test_labels_that_are_needed_and_what_more_would_give(tmp_path: Path) -> None:
    labels, curve = [10, 30, 100, 300, 1000], Curve(0.97, 0.8, 0.5)
    widths = [{**COMMON, "evaluator": "extrapolation", **r} for r in learning_curves.width_rows("effusion", 0.1)]
    made = page(tmp_path, [*rows(labels, np.stack([curve.at(labels)] * 3)), *widths])
    text = made.text.replace("\u00a0", " ")
    # (0.8 / 0.07)^2 = 131 labels for 0.9, (0.8 / 0.02)^2 = 1600 for 0.95, none for 0.99; 0.97 - 0.8 / sqrt(2000) = 0.952
    assert "130 \u2713 [130, 130]" in text and "1,600 [1,600, 1,600] out of reach" in text
    assert "131" not in text, "two digits, as it is a guess"
    assert "n = 2,000" in text and "0.952 [0.952, 0.952]" in text
    assert "show what test patients and label draws leave open" in text
    needed = learning_curves.labels_for_width(0.9, 0.05, 0.1)
    assert "effusion 10 % have it; interval 0.05 wide" in text and f"{needed:,}" in text
    for words in ("Nothing checks this law", "The law does not fit", "No prediction for more labels"):
        assert words not in text, words


def test_a_fit_that_says_nothing_is_told_as_such(tmp_path: Path) -> None:
    flat = np.full((5, 3), 0.7)
    text = page(tmp_path / "few", rows([10, 100, 1000], np.stack([[0.6, 0.7, 0.75]] * 3))).text
    assert "Nothing checks this law here" in text
    text = page(tmp_path / "flat", rows([10, 100, 1000], flat)).text
    assert "No prediction for more labels: SimCLR, the fine-tuned network." in text
    for words in ("out of reach", "Nothing checks this law", "AUROC expected with more", "Further rows"):
        assert words not in text, words
    bent = np.stack([[0.5, 0.5, 0.5, 0.7, 0.9]] * 5)
    text = page(tmp_path / "bent", rows([10, 30, 100, 300, 1000], bent, "linear")).text
    assert "The law does not fit" in text and "SimCLR, the linear classifier on the frozen encoder (0.137)" in text


def test_a_curve_that_is_not_continued_has_no_row_beside_one_that_is(tmp_path: Path) -> None:
    labels = [10, 30, 100, 300, 1000]
    grows = [{**r, "method": "mae"} for r in rows(labels, np.stack([Curve(0.97, 0.8, 0.5).at(labels)] * 3))]
    made = page(tmp_path, [*rows(labels, np.full((5, 5), 0.7)), *grows])
    assert "No prediction for more labels: SimCLR, the fine-tuned network." in made.text
    tables = made.text.partition("AUROC expected with more training labels")
    assert "n = 2,000 n = 5,000 n = 10,000 Fine-tuned network MAE 0.952" in tables[2] and "0.700 [0.700, 0.700]" not in tables[2]
    for name in ("labels_needed", "more_labels"):
        assert set(pd.read_csv(next(tmp_path.rglob(f"tables/{name}.csv")))["method"]) == {"mae"}


def test_what_lies_far_beyond_the_labels_is_no_number(tmp_path: Path) -> None:
    labels, slow = [10, 30, 100, 300, 1000], Curve(1.0, 0.6, 0.1)  # 0.8 with 59,049 labels, 0.85 with a million, 0.95 with 6e10
    text = page(tmp_path, rows(labels, np.stack([slow.at(labels)] * 3))).text
    assert "59,000 [59,000, 59,000] out of reach out of reach" in text


def test_without_curves_there_is_no_section(tmp_path: Path) -> None:
    clean = {**COMMON, "evaluator": "metrics", "metric": "auroc", "value": 0.8}
    assert "extrapolation" not in page(tmp_path, [clean]).ids
