"""Whether a column of the table determines a target: then whoever reads the column reads the labels of all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scotoma.data.labels.targets import Target

if TYPE_CHECKING:
    import pandas as pd

AGREEMENT = 0.99  # balanced over classes, of what the column predicts with the label
LEAST_ROWS = 10  # on which that is measured; on fewer it would be chance
COVERED = 0.2  # of the labelled rows at least, or the column states nothing of most
FOLDS, LEAVES = 5, 32


def find_determined(cells: pd.Series, target: Target, units: np.ndarray) -> str | None:
    """The target (or the one of several) that a column determines, exactly or nearly; None where it determines none.

    A value is known by the rows of *other* units that have it, so that a patient's own name, whose images have one label, predicts
    nothing. Of a number, a tree of a few thresholds is tried too, by cross-validation over units.

    Args:
        cells: the column, of n rows.
        target: their labels.
        units: (n,) what belongs together.
    """
    import pandas as pd

    cells = cells.reset_index(drop=True)
    numbers = pd.to_numeric(cells, errors="coerce") if cells.dtype != bool else cells.astype(float)
    numeric = int(numbers.notna().sum()) == int(cells.notna().sum()) and numbers.nunique() > 2
    if target.numbers is not None:
        both = numbers.notna().to_numpy() & ~np.isnan(target.numbers)
        if not numeric or both.sum() < LEAST_ROWS:
            return None
        ranks = pd.DataFrame({"a": numbers[both].to_numpy(float), "b": target.numbers[both]}).rank()
        return target.columns[0] if abs(float(ranks["a"].corr(ranks["b"]))) >= AGREEMENT else None
    values = pd.factorize(cells.astype(object).where(cells.notna(), None).map(str, na_action="ignore"))[0]
    for k, name in enumerate(target.columns):
        y = target.y if not target.multilabel else np.where(np.isnan(target.y[:, k]), -1, target.y[:, k]).astype(np.int64)
        if _by_value(values, y, units) or (numeric and _by_threshold(numbers.to_numpy(float), y, units)):
            return name
    return None


def _by_value(values: np.ndarray, y: np.ndarray, units: np.ndarray) -> bool:
    known = (values >= 0) & (y >= 0)
    v, labels = values[known], y[known]
    if not len(v):
        return False
    own = np.unique(np.stack([v, units[known]]), axis=1, return_inverse=True)[1].ravel()
    shape = int(labels.max()) + 1
    total, mine = np.zeros((int(v.max()) + 1, shape)), np.zeros((int(own.max()) + 1, shape))
    np.add.at(total, (v, labels), 1)
    np.add.at(mine, (own, labels), 1)
    others = total[v] - mine[own]
    covered = others.sum(1) > 0
    most = others.max(1, keepdims=True)
    predicted = np.where((others == most).sum(1) == 1, others.argmax(1), -1)  # between two classes it states nothing
    return covered.mean() >= COVERED and _agrees(predicted[covered], labels[covered], labels)


def _by_threshold(numbers: np.ndarray, y: np.ndarray, units: np.ndarray) -> bool:
    from sklearn.model_selection import GroupKFold
    from sklearn.tree import DecisionTreeClassifier

    known = ~np.isnan(numbers) & (y >= 0)
    x, labels, groups = numbers[known][:, None], y[known], units[known]
    if len(x) < LEAST_ROWS or len(np.unique(groups)) < FOLDS:
        return False
    predicted = np.full(len(x), -1)
    for train, test in GroupKFold(FOLDS).split(x, labels, groups):
        tree = DecisionTreeClassifier(max_leaf_nodes=LEAVES, class_weight="balanced", random_state=0)
        predicted[test] = tree.fit(x[train], labels[train]).predict(x[test])
    return _agrees(predicted, labels, labels)


def _agrees(predicted: np.ndarray, y: np.ndarray, every: np.ndarray) -> bool:
    """Whether predictions agree with labels, balanced over the classes, of which none may be missing and two must be there."""
    classes = np.unique(every)
    if len(y) < LEAST_ROWS or len(classes) < 2 or len(np.unique(y)) < len(classes):
        return False
    return float(np.mean([(predicted[y == c] == c).mean() for c in classes])) >= AGREEMENT
