from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from helpers.contexts import context, draw_of

from scotoma.data.dataset import Dataset
from scotoma.data.labels.targets import Target
from scotoma.data.splits.splits import Split
from scotoma.evaluators import majority
from scotoma.tasks import base


def task_of(target: Target) -> base.Task:
    n = len(target.y)
    dataset, split = Dataset("made", pd.DataFrame({"row": range(n)})), Split(np.full(n, ""), np.arange(n), "patient", True)
    return base.task_of(dataset, None, split, target)  # type: ignore[arg-type]


def test_every_image_gets_the_shares_of_the_training_labels() -> None:
    y = np.array([0, 0, 0, 1, 1, 1, 1])
    p = majority.predict(
        np.zeros((7, 0)), task_of(Target(("t",), ("a", "b", "c"), y)), draw_of(np.arange(4), np.arange(4, 7)), np.array([5, 6])
    )
    np.testing.assert_allclose(p, [[0.75, 0.25, 0], [0.75, 0.25, 0]])
    labels = np.array([[1, np.nan], [0, 1], [0, 0], [0, 1]], np.float32)
    p = majority.predict(
        np.zeros((4, 0)), task_of(Target(("t", "u"), ("t", "u"), labels)), draw_of(np.arange(4), np.arange(0)), np.array([0])
    )
    np.testing.assert_allclose(p, [[0.25, 2 / 3]])
    ages = Target(("age",), ("20 to 60",), np.zeros(3, int), numbers=np.array([20, 40, 99], np.float32))
    p = majority.predict(np.zeros((3, 0)), task_of(ages), draw_of(np.arange(2), np.arange(0)), np.array([2]))
    assert p.tolist() == [30], "of numbers the mean of the training labels"


def test_it_ranks_nothing(tmp_path: Path) -> None:
    rows = majority.evaluate(context(tmp_path))
    assert {r["value"] for r in rows if r["metric"] in ("auroc", "balanced_accuracy")} == {0.5}
    assert majority.CONTROL
