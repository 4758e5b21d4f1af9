"""A column that states the target is found, whatever it is called; one that merely goes with it, or names patients, is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scotoma.data.labels.targets import Target
from scotoma.data.splits.determined import find_determined

RNG = np.random.default_rng(5)
N = 200
UNITS = np.arange(N) // 2
Y = RNG.permutation(np.repeat([0, 1, 2, 1], N // 8))[UNITS]  # a label a patient
TARGET = Target(("dx",), ("a", "b", "c"), Y)


def noisy(share: float) -> np.ndarray:
    return np.where(RNG.random(N) < share, (Y + 1) % 3, Y)


@pytest.mark.parametrize(
    ("name", "cells", "found"),
    [
        ("its code", Y + 10, True),
        ("its code in words", np.array(["normal", "benign", "malignant"])[Y], True),
        ("many words a class", [f"{'abc'[k]}{i % 4}" for i, k in enumerate(Y // 1)], True),
        ("its code with gaps", np.where(RNG.random(N) < 0.5, np.nan, Y), True),
        ("nearly", noisy(0.004), True),
        ("one in ten otherwise", noisy(0.1), False),
        ("a score that thresholds tell", Y * 10 + RNG.uniform(0, 9, N), True),
        ("a score that overlaps", Y * 10 + RNG.uniform(0, 15, N), False),
        ("patients, each with one label", [f"P{u}" for u in UNITS], False),
        ("a text of every row", [f"text {i}" for i in range(N)], False),
        ("age", RNG.integers(20, 90, N), False),
        ("sex", RNG.choice(["F", "M"], N), False),
        ("nothing", [None] * N, False),
        ("one class only", np.where(Y == 1, "b", None), False),
    ],
)
def test_a_column_that_determines_the_target(name: str, cells: object, found: bool) -> None:
    assert find_determined(pd.Series(cells), TARGET, UNITS) == ("dx" if found else None), name


def test_one_of_several_targets_and_a_rare_one() -> None:
    y = np.stack([RNG.random(N) < 0.5, RNG.random(N) < 0.04], 1).astype(np.float32)
    y[:3, 1] = np.nan
    y[20:24, 1] = 1
    target = Target(("u", "v"), ("u", "v"), y)
    assert find_determined(pd.Series(y[:, 1]), target, np.arange(N)) == "v"
    assert find_determined(pd.Series(np.where(y[:, 1] == 1, "yes", "no")), target, np.arange(N)) == "v"
    missed = np.where((y[:, 1] == 1) & (np.arange(N) % 2 == 0), 0, y[:, 1])  # half of the few positives, 2 % of all rows
    assert find_determined(pd.Series(missed), target, np.arange(N)) is None


def test_a_number_that_is_another_in_other_units() -> None:
    age = RNG.uniform(20, 90, N).astype(np.float32)
    target = Target(("age",), ("young", "old"), (age > 55).astype(np.int64), numbers=age)
    assert find_determined(pd.Series(age * 12 + RNG.uniform(0, 1, N)), target, UNITS) == "age"
    assert find_determined(pd.Series(age + RNG.normal(0, 10, N)), target, UNITS) is None


def test_a_few_rows_say_nothing() -> None:
    assert find_determined(pd.Series(["F", "M"] * 4), Target(("dx",), ("a", "b"), np.array([0, 1] * 4)), np.arange(8)) is None
