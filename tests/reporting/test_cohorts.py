"""Who was tested, and what is known of copies, stands beside the counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.report_runs import page, row

from scotoma.quality import cohort
from scotoma.reporting.cohorts import cautions, cohorts
from scotoma.reporting.csv_tables import Sheets

DATA = [
    {"evaluator": "data", "metric": "images", "split": "test", "value": 12},
    {"evaluator": "data", "metric": "groups", "split": "test", "value": 7, "unit": "study + file"},
    {"evaluator": "data", "metric": "tested", "split": "test", "value": 11, "n": 12, "rule": "all rows: none is known"},
    {"evaluator": "data", "metric": "near_duplicates_in_training", "split": "test", "overlap": "not checked: no record", "n": 12},
]


def test_the_number_tested_and_its_rule_are_told() -> None:
    columns = ["run", "target", "class"]
    rows = (
        pd.DataFrame(DATA)
        .assign(run=str(Path("run")), target=None)
        .reindex(columns=[*DATA[0], "unit", "rule", "overlap", "n", *columns])
    )
    (table,) = cohorts(rows, Sheets())
    assert table["tested"] == (
        "Tested: 11 of 12 test images, those with a label that is tested (all rows: none is known). Near-duplicates of test images "
        "in the encoder's training: not checked: no record."
    )
    assert "groups of images that belong together (study + file), and no group is in more than one" in table["apart"]
    (old,) = cohorts(rows.drop(columns=["rule", "overlap", "unit"]), Sheets())  # of an earlier version
    assert old["tested"] == "" and "(of the table, or near-duplicates)" in old["apart"]


def test_images_that_an_external_test_left_out_are_counted(tmp_path: Path) -> None:
    left = {"evaluator": "data", "metric": "left_out", "value": 5, "n": 46, "reason": "they were in the model's training"}
    assert "Left out: 5 of 46 images (they were in the model's training)." in page(tmp_path, [*DATA, left]).text


def test_what_is_in_several_sets_is_told() -> None:
    data = pd.DataFrame(
        [
            {"metric": "images", "split": "test", "value": 12},
            {"metric": "patients", "split": "test", "value": 7, "unit": "patient"},
            *({"metric": "shared_between_sides", "value": n, "what": w} for n, w in ((3, "patients"), (2, "identical images"))),
        ]
    ).assign(run="run", target=None, evaluator="data", **{"class": None})
    (table,) = cohorts(data, Sheets(), {"run"})
    assert table["apart"] == (
        "What was split are patients, but 3 patients and 2 identical images are in more than one of these sets: "
        "the run allows it, and its results may flatter."
    )
    for leaking, end in ((("other",), "more than one of these sets."), (("run",), "the run allows it.")):
        (table,) = cohorts(data[:2], Sheets(), leaking)
        assert "no patient is in more than one" in table["apart"] and table["apart"].endswith(end)


def test_few_patients_are_told_by_run() -> None:
    tested = {"evaluator": "data", "metric": "tested", "unit": "patient"}
    rows = pd.DataFrame(
        [{**tested, "run": "a", "patients": 1}, {**tested, "run": "b", "patients": 4}, {**tested, "run": "c", "patients": 40}]
    )
    assert cautions(rows) == [
        "a: all test images are of one patient, which gives no interval.",
        "b: intervals over 4 patients are unreliable.",
    ]
    assert cautions(rows[:1]) == ["All test images are of one patient, which gives no interval."]


def counted(classes: dict[str, tuple[int, int]], target: str, evaluator: str = "metrics") -> list[dict[str, object]]:
    """Rows about 60 training and 40 test images of these classes."""
    rows = [{"evaluator": "data", "metric": "images", "split": s, "value": n} for s, n in (("train", 60), ("test", 40))]
    rows += [
        {"evaluator": "data", "metric": "images", "split": s, "class": c, "value": v}
        for c, of in classes.items()
        for s, v in zip(("train", "test"), of, strict=True)
    ]
    return [*rows, row(evaluator, {"segmentation": "dice", "regression": "mae"}.get(evaluator, "auroc"), 0.7, target=target)]


@pytest.mark.parametrize(
    ("classes", "target", "evaluator", "words"),
    [
        ({"F": (20, 15), "M": (30, 25)}, "sex", "metrics", "None of these classes (images) 10 (17 %) 0 (0 %)"),
        ({"mask": (20, 40)}, "mask_path", "segmentation", "No mask (images) 40 (67 %) 0 (0 %)"),
        ({"20 to 50": (20, 10), "50 to 80": (20, 10)}, "age", "regression", "No number (images) 20 (33 %) 20 (50 %)"),
        ({"edema": (20, 15), "effusion": (30, 20)}, "edema,effusion", "metrics", ""),  # an image may have both, or none
        ({"F": (30, 15), "M": (30, 25)}, "sex", "metrics", ""),
    ],
)
def test_classes_add_up_to_the_images(
    classes: dict[str, tuple[int, int]], target: str, evaluator: str, words: str, tmp_path: Path
) -> None:
    text = page(tmp_path, counted(classes, target, evaluator)).text
    assert words in text and any(f"{what} (images)" in text for what in ("None of these classes", "No mask", "No number")) == bool(
        words
    )


def test_shares_of_several_labels_are_of_those_that_are_known(tmp_path: Path) -> None:
    rows = counted({"edema": (20, 15), "male": (30, 20)}, "edema,male")
    rows += [
        {"evaluator": "data", "metric": "missing", "split": s, "class": "male", "value": n} for s, n in (("train", 2), ("test", 0))
    ]
    text = page(tmp_path, rows).text.replace("\u00a0", " ")
    assert "edema (images) 20 (33 %) 15 (38 %) male (images) 30 (52 %) 20 (50 %) male, missing (images) 2 (3 %) 0 (0 %)" in text


def test_of_one_set_nothing_was_split(tmp_path: Path) -> None:
    rows = [
        {"evaluator": "data", "metric": m, "split": s, "value": n, "unit": "patient"}
        for m in ("images", "patients")
        for s, n in (("train", 0), ("val", 0), ("test", 34))
    ]
    text = page(tmp_path, [*rows, row("metrics", "auroc", 0.7)]).text
    assert "All images are in one set: nothing was split." in text and "What was split" not in text


def test_the_composition_of_the_sets_stands_on_the_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.integers(20, 80, 60).astype(float), "sex": rng.choice(["F", "M"], 60)})
    of = np.array(["train"] * 40 + ["test"] * 20)
    rows = cohort.compare(table, of, np.arange(60) // 2)
    text = page(tmp_path, [*rows, row("metrics", "auroc", 0.7)]).text
    median = next(r for r in rows if r["metric"] == "median" and r["split"] == "test")
    women = next(r for r in rows if r["metric"] == "share" and r["split"] == "train" and r["class"] == "F")
    numbers = f"{median['value']:.4g} ({median['lower_quartile']:.4g} to", f"F {women['count']} ({100 * women['value']:.0f} %)"
    for words in ("Composition of the sets", "Patients 20 10", "Difference, test", *numbers):
        assert words in text, (words, text)
    assert "Rows of cohort" not in text
    assert len(pd.read_csv(tmp_path / "run" / "tables" / "composition.csv")) == len(rows)


def test_missing_values_are_a_line_of_the_composition(tmp_path: Path) -> None:
    table = pd.DataFrame({"age": np.arange(60.0), "sex": ["F", "M"] * 30})
    table.loc[[0, 2, 50], "sex"], table.loc[[41], "age"] = None, None
    rows = cohort.compare(table, np.repeat(["train", "test"], 30), np.arange(60))
    text = page(tmp_path, [*rows, row("metrics", "auroc", 0.7)]).text.replace("\u00a0", " ")
    for words in ("F 13 (46 %) 14 (48 %)", "M 15 (54 %) 15 (52 %) missing 2 1", "missing 0 1"):
        assert words in text, (words, text)


def test_a_composition_without_columns_is_no_second_table_of_counts(tmp_path: Path) -> None:
    rows = [r for r in cohort.compare(pd.DataFrame(index=range(60)), np.repeat(["train", "test"], 30), np.arange(60))]
    text = page(tmp_path, [*rows, row("metrics", "auroc", 0.7)]).text
    assert rows and "Composition of the sets" not in text and "Mann-Whitney" not in text
