"""Verdict, mark and summary are read off the corrected p-value; controls that are as good are named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers.report_runs import Page, row, write

from scotoma.reporting.build import build
from scotoma.reporting.verdicts import find_verdicts, mark_of, verdict

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "p_holm", "better", "expected", "mark"),
    [
        (0.03, 0.01, 1, 1, "▲"), (0.03, 0.12, 1, 0, "○"), (-0.03, 0.01, 1, -1, "▼"), (-0.03, 0.01, -1, 1, "▲"),
        (0.03, NAN, 1, None, ""), (NAN, 0.01, 1, None, ""), (0.03, 0.05, 1, 0, "○"),
    ],
)  # fmt: skip
def test_a_verdict_is_the_corrected_p_and_never_the_interval(
    value: float, p_holm: float, better: int, expected: int | None, mark: str
) -> None:
    found = pd.Series({"value": value, "low": value - 0.01, "high": value + 0.01, "p_holm": p_holm})
    assert (verdict(found, better), mark_of(found, better)) == (expected, mark)


def study(
    tmp_path: Path, values: dict[tuple[str, str], float], pairs: list[dict[str, object]], methods: str = "simclr", **config: object
) -> str:
    """A page on AUROCs of (evaluator, method) at a tenth of the labels, with differences."""
    common = {"fraction": 0.1, "labels": 30, "n": 200, "draws": 3}
    rows = [
        row(e, "auroc", v, **{**common, "method": m, "encoder": None if m == "control" else "r"}) for (e, m), v in values.items()
    ]
    rows += [row("linear", "auroc_difference", p.pop("value"), **{**common, "encoder": "r", **p}) for p in map(dict, pairs)]
    folder = write(tmp_path / "run", rows, {"methods": methods.split(","), **config})
    return Page(build([folder]).read_text()).text.replace("\u00a0", " ").replace("\u2212", "-")


def test_a_control_that_is_as_good_is_the_headline(tmp_path: Path) -> None:
    values = {("linear", "simclr"): 0.633, ("linear", "random"): 0.552, ("header", "control"): 0.689, ("pixels", "control"): 0.6,
              ("majority", "control"): 0.5}  # fmt: skip
    pairs = [
        {"value": 0.081, "reference": "random", "p_value": 0.001, "p_holm": 0.004},
        {"value": -0.056, "reference": "header", "p_value": 0.02},
        {"value": 0.033, "half": 0.04, "reference": "pixels", "p_value": 0.1},
        {"value": 0.133, "reference": "majority", "p_value": 0.001},
    ]
    text = study(tmp_path, values, pairs)
    for words in (
        "This one pretraining of SimCLR, linear classifier on the frozen encoder: better than random weights; no better than image "
        "size and header facts alone (0.689); not shown to be better than pixels alone (0.600).",
        "From image size and header facts alone: difference -0.056, 95 % interval -0.076 to -0.036.",
        "SimCLR minus random weights +0.081 ▲ [+0.061, +0.101] p = 0.001, Holm = 0.004",
        # an interval that excludes zero, without a corrected p: no mark
        "SimCLR minus majority class alone +0.133 [+0.113, +0.153] p = 0.001",
        "from other controls, with 95 % intervals, without verdict",
    ):
        assert words in text, (words, text)


@pytest.mark.parametrize(
    ("control", "pair", "better", "sure"),
    [
        (14.7, {"value": -2.41, "low": -8.28, "high": 3.45}, -1, False),  # an error that is smaller, which is not shown
        (14.7, {"value": -2.41, "low": -4.0, "high": -0.5}, -1, None),
        (14.7, {"value": -2.41, "low": NAN, "high": NAN}, -1, False),  # two draws
        (12.28, {"value": 0.0, "low": -4.0, "high": 4.0}, -1, True),
        (12.0, {"value": 0.28, "low": -4.0, "high": 4.0}, -1, True),
        (12.0, {"value": 0.28, "low": -4.0, "high": 4.0}, 1, False),
        (14.7, None, -1, False),  # the two intervals meet
        (20.0, None, -1, None),
    ],
)
def test_no_better_is_a_control_of_as_good_a_value(
    control: float, pair: dict[str, float] | None, better: int, sure: bool | None
) -> None:
    """And not shown to be better one of a worse value, where the difference has no interval or one that holds 0."""
    rows = [
        {"label": "M", "kind": "method", "method": "mae", "value": 12.28},
        {"label": "Pixels alone", "kind": "pixels", "value": control},
    ]
    values = pd.DataFrame(
        {"fraction": f, "use": "linear", "low": r["value"] - 3, "high": r["value"] + 3, **r} for r in rows for f in (0.1, 1.0)
    ).assign(control_of=None, encoder="r", run="run")
    told = [{"label": "M", "use": "linear", "reference": "pixels", "fraction": f, **pair} for f in (0.1, 1.0)] if pair else []
    differences = pd.DataFrame(told, columns=["label", "use", "reference", "fraction", "value", "low", "high", "p_holm"])
    (found,) = find_verdicts(values, differences, 0.1, better)
    assert [(c["short"], c["sure"]) for c in found["as_good"]] == ([] if sure is None else [("pixels alone", sure)])
    there = [("pixels alone", ["100\u00a0%"])]
    assert found["elsewhere"] == [there if sure else [], there if sure is False else []]


def test_an_interval_that_excludes_zero_is_no_verdict_where_the_corrected_p_is_not(tmp_path: Path) -> None:
    pairs = [{"value": 0.03, "reference": "random", "p_value": 0.02, "p_holm": 0.16}]
    text = study(tmp_path, {("linear", "simclr"): 0.7, ("linear", "random"): 0.67}, pairs)
    assert "SimCLR, linear classifier on the frozen encoder: did not beat random weights." in text
    assert "95 % interval +0.010 to +0.050, Holm-corrected p = 0.160" in text
    assert "+0.030 ○" in text and "+0.030 ▲" not in text


@pytest.mark.parametrize("stated", [True, False], ids=["of an earlier version", "without"])
def test_a_difference_over_fewer_than_three_draws_has_no_interval(stated: bool, tmp_path: Path) -> None:
    told = {"p_value": 0.01, "p_holm": 0.02} if stated else {"low": None, "high": None}
    pairs = [{"value": 0.1, "reference": "random", "draws": 2, **told}]
    text = study(tmp_path, {("linear", "simclr"): 0.7, ("linear", "random"): 0.6}, pairs)
    assert "no verdict against random weights" in text and "+0.100, which over 2 draws has no interval" in text
    assert "its own random weights" not in text  # of which it was said that there is no verdict
    assert "+0.100 ▲" not in text and "[+0.080" not in text and "better than random weights" not in text.partition("Contents")[0]
    assert "a difference over fewer than three draws has no interval" in text


def test_weights_given_as_a_control_have_no_verdict_and_are_not_called_pretrained(tmp_path: Path) -> None:
    values = {("linear", "simclr"): 0.7, ("linear", "plain.pt"): 0.795, ("linear", "random"): 0.78}
    pairs = [
        {"value": -0.08, "reference": "random", "p_value": 0.01, "p_holm": 0.02},
        {"value": -0.095, "reference": "plain.pt", "p_value": 0.01},
        {"value": 0.015, "method": "plain.pt", "reference": "random", "p_value": 0.1},
    ]
    text = study(tmp_path, values, pairs)
    for words in (
        "SimCLR, linear classifier on the frozen encoder: worse than random weights; no better than plain.pt (0.795). AUROC 0.700 "
        "(95 % interval 0.680 to 0.720) with pretraining, 0.780 without",
        "plain.pt, linear classifier on the frozen encoder: weights given as a control, without verdict against random weights. "
        "AUROC 0.795 (95 % interval 0.775 to 0.815) with these weights, 0.780 with random ones (difference +0.015, 95 % "
        "interval -0.005 to +0.035).",
    ):
        assert words in text, (words, text)
    worse = study(tmp_path / "worse", values | {("linear", "random"): 0.81}, [*pairs[:2], pairs[2] | {"value": -0.015}])
    assert "without verdict against random weights; no better than its own random weights (0.810). AUROC" in worse
    assert worse.count("difference -0.015") == 1


@pytest.mark.parametrize(("config", "folders", "once"), [({}, 1, True), ({"pretrainings": 1}, 1, True),
                                                         ({"pretrainings": 3}, 3, False), ({}, 4, False)])  # fmt: skip
def test_one_pretraining_is_not_the_method(config: dict[str, object], folders: int, once: bool, tmp_path: Path) -> None:
    """Nor is a method that was pretrained anew for each draw one pretraining."""
    for i in range(folders):
        write(tmp_path / "run" / "pretrain" / f"simclr-{i}", (), {"command": "pretrain", "method": "simclr"})
    (tmp_path / "run" / "pretrain").rename(tmp_path / "inner")
    (tmp_path / "run").rmdir()
    pairs = [{"value": 0.1, "reference": "random", "p_holm": 0.02}]
    study(tmp_path, {("linear", "simclr"): 0.7, ("linear", "random"): 0.6}, pairs, **config)
    (tmp_path / "inner").rename(tmp_path / "run" / "pretrain")
    text = Page(build([tmp_path / "run"]).read_text()).text
    assert ("This one pretraining of SimCLR" in text) == once and "SimCLR, linear classifier on the frozen encoder: better" in text


def test_every_method_stands_beside_its_own_untrained_network(tmp_path: Path) -> None:
    common = {"fraction": 0.1, "labels": 30, "n": 200, "draws": 3, "encoder": "r"}
    rows = [row("linear", "auroc", v, **common, method=m) for m, v in (("simclr", 0.8), ("moco", 0.81), ("mae", 0.7))]
    rows += [
        row("linear", "auroc", v, **common, method="random", control_of=c) for c, v in ((["simclr", "moco"], 0.61), (["mae"], 0.72))
    ]
    rows += [row("linear", "auroc_difference", v, **common, method=m, reference="random", p_holm=p)
             for m, v, p in (("simclr", 0.19, 0.01), ("moco", 0.2, 0.01), ("mae", -0.02, 0.9))]  # fmt: skip
    text = Page(build([write(tmp_path / "run", rows, {"methods": ["simclr", "moco", "mae"]})]).read_text()).text
    for words in ("0.700 (95 % interval 0.680 to 0.720) with pretraining, 0.720 without", "with pretraining, 0.610 without",
                  "Random weights, as SimCLR and moco begin 0.610", "Random weights, as MAE begins 0.720"):  # fmt: skip
        assert words in text, (words, text)
