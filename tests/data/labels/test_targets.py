"""Targets: 1, 0 or missing; missing is never 0."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scotoma.data.dataset import Dataset
from scotoma.data.labels import targets
from scotoma.errors import UsageError


def dataset(**columns: object) -> Dataset:
    return Dataset("scans", pd.DataFrame(columns))


def test_classes_are_sorted_and_missing_is_unknown() -> None:
    target = targets.read(dataset(dx=["b", None, "a", "", float("nan"), "b"]), ["dx"])
    assert target.classes == ("a", "b")
    assert target.y.tolist() == [1, -1, 0, -1, -1, 1]
    assert target.known.tolist() == [True, False, True, False, False, True]
    assert not target.multilabel


@pytest.mark.parametrize(
    "column",
    [
        [1, 0, None, 1],
        [1.0, 0.0, float("nan"), 1.0],
        ["1", "0", None, "1"],
        [True, False, None, True],
        pd.array([1, 0, None, 1], "Int64"),
        pd.array([True, False, None, True], "boolean"),
        pd.array(["1", "0", None, "1"], "string"),
    ],
)
def test_one_and_zero_however_written(column: object) -> None:
    one = targets.read(dataset(y=column), ["y"])
    assert one.classes == ("0", "1")
    assert one.y.tolist() == [1, 0, -1, 1]
    two = targets.read(dataset(y=column, z=[0, 1, 1, None]), ["y", "z"])
    assert np.array_equal(two.y, [[1, 0], [0, 1], [np.nan, 1], [1, np.nan]], equal_nan=True)


def test_numbered_classes_stand_in_the_order_of_their_numbers() -> None:
    assert targets.read(dataset(y=[10, 2, 0, 1]), ["y"]).classes == ("0", "1", "2", "10")


def test_chosen_classes_leave_the_others_unlabelled() -> None:
    target = targets.read(dataset(dx=["a", "b", "c", "b"]), ["dx"], ["c", "b"])
    assert target.classes == ("c", "b")
    assert target.y.tolist() == [-1, 1, 0, 1]


def test_several_targets_keep_what_is_missing() -> None:
    target = targets.read(dataset(u=[1, None, 0, None], v=[None, None, 1, 0]), ["u", "v"])
    assert target.multilabel
    assert np.array_equal(target.y, np.array([[1, np.nan], [np.nan, np.nan], [0, 1], [np.nan, 0]], np.float32), equal_nan=True)
    assert target.known.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("columns", "names", "classes", "message"),
    [
        ({"y": [1, 1, None]}, ["y"], (), r"one class \(1\)"),
        ({"y": [None, None]}, ["y"], (), "no label"),
        ({"y": [1, 0]}, [], (), "--target COLUMN"),
        ({"cardiomegaly": [1, 0]}, ["cardiomegali"], (), "did you mean 'cardiomegaly'"),
        ({"y": [1, 0]}, ["y"], ["2"], "no row of class '2'; it has 0, 1"),
        ({"y": [0.5 * k for k in range(102)]}, ["y"], (), "102 different values"),
        ({"u": [1, 0], "v": [1, -1]}, ["u", "v"], (), "v holds '-1'"),
        ({"u": [1, 0], "v": ["yes", "no"]}, ["u", "v"], (), "v holds 'yes'"),
        ({"u": [1, 0], "v": [1, None]}, ["u", "v"], (), "v needs rows with 0 and with 1"),
        ({"u": [1, 0], "v": [1, 0]}, ["u", "v"], ["1"], "--classes"),
        ({"u": [1, 0]}, ["u", "u"], (), "'u' twice"),
        ({"mask_path": [None]}, ["mask_path"], (), "column 'mask_path' is empty"),
    ],
)
def test_what_is_no_target_is_refused(columns: dict[str, object], names: list[str], classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        targets.read(dataset(**columns), names, classes)


def test_weights_make_classes_count_alike() -> None:
    target = targets.Target(("y",), ("a", "b", "c"), np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, -1]))
    assert target.weights(np.arange(10)) == pytest.approx((9 / 18, 9 / 6, 9 / 3))
    rows = np.array([0, 6, 9])
    assert target.weights(rows) == pytest.approx((3 / 3, 3 / 3, 3 / 3))
    weights = np.array(target.weights(np.arange(10)))
    assert weights[target.y[:9]].mean() == pytest.approx(1)
    assert [weights[c] * (target.y == c).sum() for c in range(3)] == pytest.approx([3, 3, 3])


def test_weights_of_several_targets_are_negatives_over_positives() -> None:
    y = np.full((103, 3), np.nan, np.float32)
    y[:8, 0] = [1, 1, 0, 0, 0, 0, 0, 0]
    y[:, 1] = 0
    y[:3, 1] = 1
    y[:, 2] = 1
    y[0, 2] = 0
    target = targets.Target(("u", "v", "w"), ("u", "v", "w"), y)
    assert target.weights(np.arange(103)) == pytest.approx((3, 20, 0.05))  # 100 / 3 and 1 / 102 are clipped


def test_a_class_without_a_row_is_refused_by_name() -> None:
    one = targets.Target(("y",), ("a", "b"), np.array([0, 0, 1]))
    targets.require_classes(one, np.array([0, 2]), "split test")
    with pytest.raises(UsageError, match="class 'b' has no row in split test"):
        targets.require_classes(one, np.array([0, 1]), "split test")
    several = targets.Target(("u", "v"), ("u", "v"), np.array([[1, 0], [0, np.nan]], np.float32))
    with pytest.raises(UsageError, match="class 'v'"):
        targets.require_classes(several, np.arange(2), "training")


def test_an_infinite_number_is_no_target() -> None:
    dataset = Dataset("t", pd.DataFrame({"image_path": ["phantom:1"] * 4, "x": [1.0, 2.5, np.inf, np.nan]}))
    with pytest.raises(UsageError, match="x holds inf, which is no number"):
        targets.read(dataset, ["x"], numbers=True)


def test_true_and_false_are_numbers_to_predict() -> None:
    dataset = Dataset("t", pd.DataFrame({"image_path": ["phantom:1"] * 4, "x": [True, False, True, True]}))
    found = targets.read(dataset, ["x"], numbers=True)
    assert found.numbers is not None and found.numbers.tolist() == [1, 0, 1, 1]
