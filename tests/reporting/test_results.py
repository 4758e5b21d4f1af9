"""Tables of classifiers: what two classes are, at which threshold they were decided, and what too few images leave open."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers.report_runs import Page, page, row, write
from matplotlib.axes import Axes

from scotoma.reporting import svg
from scotoma.reporting.build import build
from scotoma.reporting.results import split_evenly


def text_of(found: Page) -> str:
    return found.text.replace("\u2212", "-")


def binary(**more: object) -> list[dict[str, object]]:
    """A classifier of two classes, as its evaluator writes it: each class, and the whole, which is the second's."""
    rows = []
    for name, auroc, sensitivity, specificity in (("F", 0.7, 0.6, 0.9), ("M", 0.7, 0.9, 0.6), (None, 0.7, 0.9, 0.6)):
        rows += [
            row("metrics", "auroc", auroc, **{"class": name, "n": 100}),
            row("metrics", "sensitivity", sensitivity, **{"class": name, "n": 100, **more}),
            row("metrics", "specificity", specificity, **{"class": name, "n": 100, **more}),
        ]
    for name in ("F", "M"):
        rows += [{**row("metrics", "roc", x), "class": name, "fpr": x, "low": None, "high": None} for x in (0.0, 1.0)]
    return rows


def confusion(decision: str | None, counts: tuple[int, int, int, int]) -> list[dict[str, object]]:
    pairs = [(a, b) for a in ("F", "M") for b in ("F", "M")]
    return [
        {**row("metrics", "confusion", None), "class": a, "predicted": b, "value": v, "decision": decision}
        for (a, b), v in zip(pairs, counts, strict=True)
    ]


def test_of_two_classes_the_positive_one_is_named_and_has_its_metrics_alone(tmp_path: Path) -> None:
    text = text_of(page(tmp_path, binary() + confusion(None, (20, 10, 5, 65))))
    assert "AUROC on the test images, with 95 % intervals, class M" in text and "Other measures, class M" in text
    assert "SimCLR 0.900 [0.880, 0.920] 0.600 [0.580, 0.620]" in text
    assert "of each class against the rest" not in text and "0.600 [0.580, 0.620] 0.900" not in text
    assert not list(tmp_path.rglob("tables/*by_class.csv"))


def test_three_classes_and_two_findings_keep_theirs(tmp_path: Path) -> None:
    for name, target, classes in (("three", "label", ("a", "b", "c")), ("two", "edema,effusion", ("edema", "effusion"))):
        rows = [row("metrics", "auroc", 0.7, target=target)]
        rows += [row("metrics", "auroc", 0.6 + i / 10, target=target, **{"class": c}) for i, c in enumerate(classes)]
        text = text_of(page(tmp_path / name, rows))
        each = "each class against the rest" if name == "three" else "each finding"
        assert f"AUROC of {each}" in text and "0.600 [0.580, 0.620] 0.700 [0.680, 0.720]" in text
        assert "macro AUROC" in text


def test_decisions_at_the_threshold_stand_beside_those_of_the_highest_probability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []
    real = Axes.pcolormesh

    def draw(ax: Axes, share: object, **more: object) -> object:
        seen.append(("", float(share[1, 1])))  # type: ignore[index]
        return real(ax, share, **more)  # type: ignore[arg-type]

    titles: list[str] = []
    monkeypatch.setattr(Axes, "pcolormesh", draw)
    monkeypatch.setattr(svg, "title", lambda text, columns: titles.append(text) or text)
    argmax = [{**r, "value": 0.5, "decision": "argmax"} for r in binary() if r["metric"] == "sensitivity"]
    matrices = confusion("argmax", (0, 30, 0, 70)) + confusion("threshold", (24, 6, 35, 35))
    text = text_of(page(tmp_path, binary(threshold=0.976) + argmax + matrices))
    assert [v for _, v in seen] == [0.5, 1.0], "the matrix at the threshold first"
    assert [t for t in titles if "\n" in t] == ["SimCLR\nat the threshold", "SimCLR\nmost probable"]
    assert "at the threshold stored in the model, chosen on validation images, and by the most probable class." in text
    heads = "Sensitivity at the threshold of 0.976 Specificity at the threshold of 0.976 Sensitivity most probable"
    assert heads in text and "0.900 [0.880, 0.920] 0.600 [0.580, 0.620] 0.500 [0.880, 0.920]" in text


def test_thresholds_that_differ_stand_beneath_each_decision(tmp_path: Path) -> None:
    rows = binary(threshold=0.976) + [{**r, "method": "mae"} for r in binary(threshold=0.5)]
    text = text_of(page(tmp_path, rows))
    assert "Sensitivity at the threshold Specificity at the threshold" in text
    assert "0.900 [0.880, 0.920] positive from 0.976 0.600 [0.580, 0.620] positive from 0.976" in text
    assert "0.900 [0.880, 0.920] positive from 0.500" in text


def test_a_rule_of_decision_is_explained_where_it_was_used(tmp_path: Path) -> None:
    text = text_of(page(tmp_path, binary(threshold=0.5)))
    assert "At the threshold: the one stored" in text and "Most probable:" not in text


def test_wide_tables_stand_in_parts_of_like_width() -> None:
    assert [list(part) for part in split_evenly(list("abcdefghijklm"), 7)] == [list("abcdef"), list("ghijklm")]
    assert [len(part) for part in split_evenly(range(15), 7)] == [5, 5, 5] and split_evenly([], 7) == []


def test_what_has_no_value_is_shown_with_its_n_and_few_patients_are_marked(tmp_path: Path) -> None:
    told = {"evaluator": "data", "metric": "tested", "split": "test", "value": 56, "n": 56, "unit": "patient", "patients": 40}
    rows = [told, row("metrics", "auroc", 0.7, n=56)]
    for name, value, n, few in (("a", 0.8, 30, False), ("b", None, 9, True), ("c", 0.6, 17, True)):
        rows.append(row("metrics", "auroc", value, n=n, few=few, **{"class": name}))
    for name, value, n in (("40-59", 0.7, 39), ("60-79", None, 17)):
        rows.append(
            row("subgroups", "auroc", value, column="age", subgroup=name, n=n, patients=n - 2, small=True, few=value is None)
        )
    text = text_of(page(tmp_path, rows))
    assert "SimCLR 0.800 [0.780, 0.820] too few n = 9 0.600 [0.580, 0.620] too few patients" in text
    assert "60-79 (small) 15 17 too few n = 17" in text
    shown = pd.read_csv(tmp_path / "run" / "tables" / "auroc_by_class.csv")
    assert shown["class"].tolist() == ["a", "b", "c"] and shown["few"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(("unit", "words"), [("patient", "patients"), ("group", "groups of images"), ("image", "images"),
                                             (None, "patients or groups of images")])  # fmt: skip
def test_patients_are_spoken_of_only_where_they_are_known(unit: str | None, words: str, tmp_path: Path) -> None:
    told = (
        [{"evaluator": "data", "metric": "tested", "split": "test", "value": 9, "n": 9, "unit": unit, "patients": 9}]
        if unit
        else []
    )
    rows = [*told, row("metrics", "auroc", 0.7, few=True), row("subgroups", "auroc", 0.7, column="sex", subgroup="F", patients=9)]
    text = page(tmp_path, rows).text
    assert f"They cover chance in which {words} are in the test set" in text and f"too few {words}" in text
    assert f"{words.capitalize()} Images AUROC F 9" in text


def test_footnotes_stand_where_their_marks_do(tmp_path: Path) -> None:
    alone = page(tmp_path / "one", [row("metrics", "auroc", 0.7)]).text
    assert "†" not in alone and "▲" not in alone and "(small)" not in alone
    two = page(tmp_path / "two", [row("linear", "auroc", 0.7), row("linear", "auroc", 0.6, method="mae")]).text
    assert two.count("†") == 2


def test_two_runs_with_other_classes_are_told_apart(tmp_path: Path) -> None:
    first = write(tmp_path / "sex", [{**r, "target": "sex"} for r in binary()], {"command": "evaluate"})
    second = write(tmp_path / "view", [row("metrics", "auroc", 0.8, target="view")], {"command": "evaluate"})
    text = text_of(Page(build([first, second], tmp_path / "both.html").read_text()))
    assert "AUROC on the test images, with 95 % intervals, class M" in text and "sex" in text and "view" in text
