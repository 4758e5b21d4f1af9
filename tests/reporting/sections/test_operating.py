"""The report's section on a classifier in use, from made rows."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pandas as pd
import pytest
from helpers.report_runs import COMMON, Page, operating, page, row, write

from scotoma.reporting.build import build


def test_decisions_calibration_and_benefit_are_told_in_plain_words(tmp_path: Path) -> None:
    units = [row("operating", "auroc", v, unit=u, aggregation=a, n=n)
             for u, a, v, n in (("patient", "mean", 0.912, 40), ("image", "none", 0.871, 120))]  # fmt: skip
    found = page(tmp_path, [{**r, "target": "effusion"} for r in operating() + units])
    text = found.text.replace("\u00a0", " ")
    for words in (
        "effusion positive from 0.300 0.800 [0.780, 0.820] 0.900 [0.880, 0.920] 0.611",
        # of 100 with the finding 80 are found, of 900 without it 90 are called positive
        "effusion: of 1,000 images of which 100 have it, 170 would be called positive, 80 of them rightly and 90 falsely; 20 with",
        "Share with the finding PPV effusion 1 % 0.075 [0.055, 0.095] 10 % 0.471 [0.451, 0.491]",  # 0.008 / 0.107 and 0.08 / 0.17
        "effusion \u22120.234 [\u22120.254, \u22120.214] +0.612",
        "effusion: Brier score 0.200 [0.180, 0.220] 0.150 [0.130, 0.170] \u22120.050 \u25bc",
        "effusion: Log loss 0.500 [0.480, 0.520] 0.490 [0.470, 0.510] \u22120.010 \u25cb",
        "Every image for itself 120 0.871 [0.851, 0.891] One answer a patient the mean of its images 40 0.912",
        "Reliability.", "Decision curve.", "the section \u201cOperating points\u201d states more",
        "No comparison with random weights",
    ):  # fmt: skip
        assert words in text, words
    assert "No classifier was evaluated" not in text and "Nothing here was tested" not in text
    assert "operating" in found.ids and sum(a.startswith("data:image/svg") for a in found.addresses) == 2


def test_several_classifiers_and_findings_are_told_apart(tmp_path: Path) -> None:
    folders = []
    for method in ("simclr", "mae"):
        rows = [r for k in range(11) for r in operating(f"finding {k}")]
        folders.append(write(tmp_path / method, [{**r, "method": method} for r in rows], {"command": "evaluate"}))
    found = Page(build(folders, tmp_path / "both.html").read_text())
    assert "SimCLR finding 0 positive from 0.300" in found.text and "MAE finding 0 positive from 0.300" in found.text
    assert "finding 10, MAE: of 1,000 images" in found.text
    drawings = [base64.b64decode(a.partition("base64,")[2]).decode() for a in found.addresses if a.startswith("data:image/svg")]
    panels = [len(set(re.findall(r'id="axes_\d+"', drawing))) for drawing in drawings]
    assert panels == [9, 2, 9, 2]  # nine a figure


def test_what_was_not_evaluated_leaves_no_empty_table_or_figure(tmp_path: Path) -> None:
    found = page(tmp_path, [r for r in operating() if r["metric"] in ("sensitivity", "specificity")])
    assert "Per 1,000 images" in found.text
    for words in ("Reliability", "Decision curve", "Predictive values", "Calibration in numbers", "recalibration"):
        assert words not in found.text, words
    assert "img" not in found.tags
    shown = pd.read_csv(tmp_path / "run" / "tables" / "decisions.csv")
    assert set(shown["metric"]) == {"sensitivity", "specificity"} and (shown["target"] == COMMON["target"]).all()


@pytest.mark.parametrize(
    ("patients", "unit", "words"),
    [(100, "patient", "1,000 patients of whom"), (50, "patient", "1,000 images of which"), (100, "group", "1,000 images of which")],
)
def test_stories_of_patients_come_from_rates_of_patients(patients: int, unit: str, words: str, tmp_path: Path) -> None:
    told = {"evaluator": "data", "metric": "tested", "split": "test", "value": 100, "n": 100, "unit": unit, "patients": patients}
    assert words in page(tmp_path, [told, *operating()]).text


def test_proportions_have_their_counts_and_calibration_its_intervals(tmp_path: Path) -> None:
    counts = {"tp": 8, "fp": 5, "fn": 2, "tn": 45, "threshold": 0.3, "class": "effusion"}
    rows = [
        row("operating", m, v, **counts) for m, v in (("sensitivity", 0.8), ("specificity", 0.9), ("ppv", 0.615), ("npv", 0.957))
    ]
    rows += [row("operating", f"calibration_{m}", v, **{"class": "effusion"}) for m, v in (("slope", 0.612), ("in_the_large", 0.1))]
    for again, v in ((False, 0.06), (True, 0.05)):
        rows.append({**row("operating", "ece", v, recalibrated=again, **{"class": "effusion"}), "low": None, "high": None})
    rows.append({**row("operating", "ece_change", -0.01, **{"class": "effusion"}), "low": None, "high": None})
    text = page(tmp_path, rows).text.replace("\u2212", "-")
    for words in (
        "True positive False positive False negative True negative Total effusion positive from 0.300 8 5 2 45 60",
        "Sensitivity Specificity PPV NPV effusion positive from 0.300 0.800 [0.780, 0.820] 8 of 10 0.900 [0.880, 0.920] 45 of 50 "
        "0.615 [0.595, 0.635] 8 of 13 0.957 [0.937, 0.977] 45 of 47",
        "Calibration in numbers, with 95 % intervals",
        "effusion +0.100 [+0.080, +0.120] +0.612 [+0.592, +0.632]",
        "effusion: Calibration error of this class 0.060 0.050 -0.010",
    ):
        assert words in text, (words, text)
    assert "Without intervals" not in text and "-0.010 ○" not in text
    shown = pd.read_csv(tmp_path / "run" / "tables" / "decisions_in_numbers.csv")
    assert shown[["tp", "fp", "fn", "tn"]].iloc[0].tolist() == [8, 5, 2, 45]
