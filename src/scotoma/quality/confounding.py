"""How well a target can be predicted without looking at the patient: from header facts alone, and from the border alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from scotoma.data.labels.targets import Target
from scotoma.metrics import bootstrap

FOLDS = 5
CLEARLY = 0.55  # an interval that begins above it is no chance
COMPONENTS = 30


def predictability(x: np.ndarray, target: Target, groups: np.ndarray, trees: bool, resamples: int = 1000) -> dict[str, Any] | None:
    """Cross-validated AUROC with its 95 % interval.

    Args:
        x: (n, D) what is predicted from.
        target: one categorical column.
        groups: (n,) int: a group (patient, near-duplicates) lies in one fold; the bootstrap resamples groups.
        trees: a forest (few features, in which exact values count) or else 30 principal components and logistic regression.
        resamples: of the bootstrap.

    Returns:
        ``value, low, high, n``; more than two classes: the mean over classes. None where a class has fewer than ``FOLDS`` groups or
        nothing varies.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    known = np.flatnonzero(target.known)
    x, y, groups = x[known], target.y[known], groups[known]
    present = np.unique(y)
    x = x[:, x.std(0) > 1e-9]
    if len(present) < 2 or min(len(np.unique(groups[y == c])) for c in present) < FOLDS or not x.shape[1]:
        return None
    y = np.searchsorted(present, y)
    p = np.zeros((len(y), len(present)))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(x, y, groups):
        model = (_forest() if trees else _logistic(min(COMPONENTS, len(train) - 1, x.shape[1]))).fit(x[train], y[train])
        p[np.ix_(test, model.classes_)] = model.predict_proba(x[test])
    row = bootstrap.evaluate(y, p, groups, names=["auroc"], resamples=resamples)[0]
    return {k: row[k] for k in ("value", "low", "high", "n")}


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, min_samples_leaf=5, random_state=0)


def _logistic(components: int) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), PCA(components, random_state=0), LogisticRegression(C=0.01, max_iter=500))


def telling(columns: dict[str, np.ndarray], target: Target, most: int = 3) -> list[tuple[str, float]]:
    """The single facts that tell classes apart best: names with their AUROC (0.5 or more, of the best class), best first."""
    from scipy.stats import rankdata

    known = np.flatnonzero(target.known)
    y, found = target.y[known], []
    for name, values in columns.items():
        if name.startswith("log ") or np.ptp(values[known]) == 0:
            continue  # the logarithm of a size has its order
        ranks, best = rankdata(values[known]), 0.5
        for c in np.unique(y):
            inside = y == c
            n, m = int(inside.sum()), int((~inside).sum())
            area = (ranks[inside].sum() - n * (n + 1) / 2) / (n * m)
            best = max(best, area, 1 - area)
        found.append((name, float(best)))
    return sorted(found, key=lambda item: -item[1])[:most]
