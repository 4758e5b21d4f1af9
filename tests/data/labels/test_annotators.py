"""Several readers' labels: the majority, ties, shares, agreement."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma.data import dataset, sources
from scotoma.data.labels import annotators, targets
from scotoma.errors import UsageError


def cells(frame: pd.DataFrame, column: str) -> list[object]:
    return sources.values(frame[column])


def test_the_majority_of_each_image_and_how_many_read_and_agreed() -> None:
    frame = pd.DataFrame(
        {
            "dx": ["a", "b", "a", "b", "a", None, "b", "c", "c"],
            "reader": ["R1", "R2", "R3", "R1", "R2", "R3", "R1", "R1", "R2"],
            "age": [50, 50, 50, 60, 60, 60, 70, None, 80],
        }
    )
    found = annotators.combine("t", frame, np.array([1, 1, 1, 2, 2, 2, 3, 4, 4]), "majority")
    assert list(found.columns) == ["dx", "dx_annotators", "dx_agreement", "age"]
    assert cells(found, "dx") == ["a", None, "b", "c"]  # the second is a tie
    assert found["dx_annotators"].tolist() == [3, 2, 1, 2]
    assert found["dx_agreement"].tolist() == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert cells(found, "age") == [50, 60, 70, 80]


def test_soft_readings_keep_the_share_of_each_class() -> None:
    frame = pd.DataFrame({"dx": [1.0, 0.0, 1.0, np.nan, 0.0, 1.0], "u": [1, 1, 1, 0, 0, 0]})
    found = annotators.combine("t", frame, np.array(["x", "x", "x", "x", "y", "y"]), "soft")
    assert [json.loads(v) for v in found["dx_shares"]] == [
        {"1": pytest.approx(2 / 3), "0": pytest.approx(1 / 3)},
        {"0": 0.5, "1": 0.5},
    ]
    assert cells(found, "dx") == [1.0, None]
    one = targets.read(dataset.Dataset("t", found.assign(dx=[1, 0])), ["dx"])
    assert one.shares == pytest.approx(np.array([[1 / 3, 2 / 3], [0.5, 0.5]]))
    assert one.aims is one.shares


@pytest.mark.parametrize("seed", range(4))
def test_as_a_slow_count_of_each_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 40, 150)
    values = rng.choice(np.array(["a", "b", "c", None], object), 150)
    found = annotators.combine("t", pd.DataFrame({"dx": values}), image, "soft")
    for row, name in enumerate(dict.fromkeys(image.tolist())):
        votes = Counter(v for v, p in zip(values, image, strict=True) if p == name and v is not None)
        best = [v for v in votes if votes[v] == max(votes.values())]
        assert cells(found, "dx")[row] == (best[0] if len(best) == 1 else None)
        assert found["dx_annotators"][row] == votes.total()
        if votes:
            assert found["dx_agreement"][row] == pytest.approx(max(votes.values()) / votes.total())
            assert json.loads(found["dx_shares"][row]) == pytest.approx({v: c / votes.total() for v, c in votes.items()})


def test_one_row_a_image_is_left_as_it_is() -> None:
    frame = pd.DataFrame({"dx": ["a", "b"]})
    assert annotators.combine("t", frame, np.array([0, 1]), "soft") is frame


def test_annotators_cannot_differ_on_whose_image_it_is() -> None:
    with pytest.raises(UsageError, match=r"differ in patient, in 1 images"):
        annotators.combine("t", pd.DataFrame({"patient": ["P", "Q", "P"]}), np.array([0, 0, 1]), "majority")


def test_fleiss_kappa_of_his_own_example_and_of_plain_cases() -> None:
    """The worked example that goes with Fleiss' formula: ten subjects, fourteen readers, five classes, kappa 0.210."""
    example = np.array(
        [
            [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
        ]
    )  # fmt: skip
    assert annotators.fleiss_kappa(example) == pytest.approx(0.210, abs=5e-4)
    assert annotators.fleiss_kappa(np.array([[3, 0], [0, 3]])) == 1
    assert annotators.fleiss_kappa(np.array([[1, 1], [1, 1]])) == -1  # two readers who always differ: 0 of 1/2
    assert np.isnan(annotators.fleiss_kappa(np.array([[3, 0], [2, 0]])))
    assert annotators.fleiss_kappa(np.vstack([example, [[1, 0, 0, 0, 0]]])) == annotators.fleiss_kappa(example)


@pytest.fixture
def sheet(grey_folder, tmp_path: Path) -> tuple[Path, Path]:  # type: ignore[no-untyped-def]
    root = grey_folder(3, classes=())
    pd.DataFrame(
        {"scan": ["scan_0"] * 3 + ["scan_1"] * 2 + ["scan_2"], "patient": ["007"] * 3 + ["8"] * 2 + ["9"],
         "reader": list("ABCABA"), "dx": ["x", "x", "y", "x", "y", "y"]}
    ).to_csv(tmp_path / "l.csv", index=False)  # fmt: skip
    return root, tmp_path / "l.csv"


def test_a_spreadsheet_of_readings_is_joined_when_told_how(sheet: tuple[Path, Path], capsys) -> None:  # type: ignore[no-untyped-def]
    root, labels = sheet
    with pytest.raises(UsageError, match=r"rows 2 and 3 have one scan .*--annotators majority"):
        sources.load(root, labels, "scan")
    found = sources.load(root, labels, "scan", "majority").table
    assert cells(found, "dx") == ["x", None, "y"]
    assert found["dx_annotators"].tolist() == [3, 2, 1]
    assert found["patient"].nunique() == 3
    assert "reader" not in found
    assert "l.csv: dx: 3 images read 1 to 3 times" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--annotators mean: majority or soft"):
        sources.load(root, labels, "scan", "mean")


def test_a_table_with_several_rows_of_a_image(grey_folder) -> None:  # type: ignore[no-untyped-def]
    paths = sources.load(grey_folder(2, classes=())).table["image_path"].tolist()
    frame = pd.DataFrame({"image_path": [paths[0], paths[1], paths[0], paths[0]], "u": [1, 0, 0, 1], "v": [0, 1, 0, 0]})
    found = sources.load(frame, annotators="soft").table
    assert found["image_path"].tolist() == paths
    assert found["u"].tolist() == [1, 0]
    target = targets.read(dataset.Dataset("t", found), ["u", "v"])
    assert target.shares == pytest.approx(np.array([[2 / 3, 0], [0, 1]], np.float32))


def test_a_column_in_which_no_rows_agree_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"label": ["a", "a", "b", "a"], "size": [1.0, 1.5, 3.0, 3.5]})
    found = annotators.combine("t", frame, np.array([0, 0, 1, 1]), "majority")
    assert "size" not in found.columns and found["label"].iloc[0] == "a" and pd.isna(found["label"].iloc[1])
    assert "t: left out, as no two rows of an image agree in it: size\n" in capsys.readouterr().err
