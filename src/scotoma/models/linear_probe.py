"""Linear probes on frozen features: logistic regression and ridge regression, to the optimum."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_draws import Draw

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: small is strongly regularised
NEVER = -30.0  # logit of a class that the labels do not hold


def fit(features: np.ndarray, target: Target, drawn: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Fit on a draw's labels.

    Features are standardised by the training rows. The inverse strength C is the one of ``STRENGTHS`` with the lowest log loss on
    the draw's validation labels; without any, the strongest regularisation.

    Args:
        features: (n, D) of all rows.
        target: labels of all rows.
        drawn: which labels may be seen.

    Returns:
        Weight (C, D) and bias (C,) of a linear layer on the features as they are: C classes, or C 0/1 targets.
    """
    mean, scale = features[drawn.train].mean(0, dtype=np.float64), features[drawn.train].std(0, dtype=np.float64)
    scale[scale < 1e-8] = 1.0  # a feature that never changes states nothing
    train, val = ((features[r] - mean) / scale for r in (drawn.train, drawn.val))
    if not target.multilabel:
        weight, bias = _logistic(train, target.y[drawn.train], val, target.y[drawn.val], len(target.classes))
    else:
        rows = []
        for k in range(len(target.classes)):
            a, b = target.y[drawn.train, k], target.y[drawn.val, k]
            knows, chooses = ~np.isnan(a), ~np.isnan(b)
            w, c = _logistic(train[knows], a[knows].astype(int), val[chooses], b[chooses].astype(int), 2)
            rows.append((w[1] - w[0], c[1] - c[0]))
        weight, bias = np.stack([w for w, _ in rows]), np.array([c for _, c in rows])
    weight = weight / scale
    return weight, bias - weight @ mean


def layer(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    """What `fit` gives as a layer of a network."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()})
    return head


def predict(features: np.ndarray, target: Target, drawn: Draw, rows: np.ndarray) -> np.ndarray:
    """Fit on a draw's labels and give probabilities of ``rows``: (len(rows), C)."""
    weight, bias = fit(features, target, drawn)
    return probabilities(features[rows] @ weight.T + bias, target.multilabel)


def probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    """Softmax over classes, or a sigmoid for each 0/1 target."""
    if multilabel:
        from scipy.special import expit

        return np.asarray(expit(logits))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def _logistic(x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression with C chosen on validation: weight (classes, D), bias (classes,)."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    best, best_loss = (np.zeros((classes, x.shape[1])), np.zeros(classes)), np.inf
    present = np.unique(y)
    if len(present) < 2:  # nothing to distinguish: that class for every image, or any where no label is known
        best[1][:] = NEVER if len(present) else 0.0
        best[1][present] = 0.0
        return best
    model = LogisticRegression(max_iter=300, warm_start=True)  # from strong to weak, each starts where the last one ended
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=strength).fit(x, y)
        weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, NEVER)
        if len(model.classes_) == 2:  # scikit-learn gives one row, the log odds of the second class
            weight[model.classes_[1]], bias[model.classes_] = model.coef_[0], (0.0, model.intercept_[0])
        else:
            weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
        loss = _log_loss(probabilities(x_val @ weight.T + bias, False), y_val) if len(y_val) else strength
        if loss < best_loss - 1e-9:
            best, best_loss = (weight, bias), loss
    return best


def _log_loss(p: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-7, 1)).mean())


RIDGE_STRENGTHS = np.logspace(-2, 5, 15)  # scikit-learn's alpha: large is strongly regularised


def fit_ridge(features: np.ndarray, numbers: np.ndarray, drawn: Draw) -> nn.Linear:
    """Ridge regression on standardised features as a layer on the features as they are.

    Its strength is the one of ``RIDGE_STRENGTHS`` with the smallest squared error on the draw's validation rows; without any, the
    one with the smallest in leave-one-out cross-validation of the training rows; of a single training row, the strongest.

    Args:
        features: (n, D) of all rows.
        numbers: (n,) of all rows.
        drawn: which rows may be seen.
    """
    from sklearn.linear_model import Ridge, RidgeCV

    x, y = features[drawn.train].astype(np.float64), numbers[drawn.train].astype(np.float64)
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-8] = 1.0
    x = (x - mean) / scale
    if len(drawn.val):
        held, wanted = (features[drawn.val] - mean) / scale, numbers[drawn.val]
        models = [Ridge(alpha=strength).fit(x, y) for strength in RIDGE_STRENGTHS]
        model = min(models, key=lambda m: float(np.square(m.predict(held) - wanted).mean()))
    else:
        model = (RidgeCV(RIDGE_STRENGTHS) if len(x) > 1 else Ridge(alpha=RIDGE_STRENGTHS[-1])).fit(x, y)
    weight = model.coef_ / scale
    layer = nn.Linear(len(weight), 1)
    bias = np.atleast_1d(model.intercept_ - weight @ mean)
    layer.load_state_dict({"weight": torch.from_numpy(weight)[None].float(), "bias": torch.from_numpy(bias).float()})
    return layer


@torch.no_grad()
def predict_numbers(head: nn.Module, features: np.ndarray) -> np.ndarray:
    """(n,) numbers of (n, D) features."""
    return head.cpu()(torch.from_numpy(features))[:, 0].double().numpy()
