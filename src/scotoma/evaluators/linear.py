"""Linear probe: logistic regression on frozen features, to the optimum, its strength chosen on validation labels."""

from __future__ import annotations

import numpy as np

from scotoma.data.targets import Target
from scotoma.evaluators.base import Context, Draw, Row, evaluate_draws

PROTOCOL = 1
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: small is strongly regularised


def predict(features: np.ndarray, target: Target, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """Fit on a draw's labels and give probabilities.

    Features are standardised by the training rows. The inverse strength C is the one of ``STRENGTHS`` with the lowest log loss on
    the draw's validation labels (the strongest regularisation among equals).

    Args:
        features: (n, D) of all rows.
        target: labels of all rows.
        drawn: which labels may be seen.
        rows: positions to predict.

    Returns:
        (len(rows), C) probabilities; for several 0/1 targets (len(rows), K).
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features[drawn.train])
    train, val, wanted = (scaler.transform(features[r]).astype(np.float64) for r in (drawn.train, drawn.val, rows))
    if not target.multilabel:
        return _fit(train, target.y[drawn.train], val, target.y[drawn.val], wanted, len(target.classes))
    columns = []
    for k in range(len(target.classes)):
        a, b = target.y[drawn.train, k], target.y[drawn.val, k]
        knows, chooses = ~np.isnan(a), ~np.isnan(b)
        p = _fit(train[knows], a[knows].astype(int), val[chooses], b[chooses].astype(int), wanted, 2)
        columns.append(p[:, 1])
    return np.stack(columns, 1)


def _fit(x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, wanted: np.ndarray, classes: int) -> np.ndarray:
    """Logistic regression with C chosen on validation; (len(wanted), classes) probabilities, 0 for a class never seen."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    best, best_loss = None, np.inf
    with warnings.catch_warnings(), threadpool_limits(1 if len(x) < 2000 else None):
        warnings.simplefilter("ignore", ConvergenceWarning)
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=300, tol=1e-4).fit(x, y)
            loss = _log_loss(_complete(model, x_val, classes), y_val) if len(y_val) else strength
            if loss < best_loss - 1e-9:
                best, best_loss = model, loss
    return _complete(best, wanted, classes)


def _complete(model: object, x: np.ndarray, classes: int) -> np.ndarray:
    p = np.zeros((len(x), classes))
    p[:, model.classes_] = model.predict_proba(x)  # type: ignore[attr-defined]
    return p


def _log_loss(p: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-7, 1)).mean())


def evaluate(context: Context) -> list[Row]:
    """Rows for every fraction and draw, and for each fraction over its draws."""
    return evaluate_draws(context, context.features, predict)
