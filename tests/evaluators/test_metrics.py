from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.contexts import context
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score
from torch import nn

from scotoma.errors import UsageError
from scotoma.evaluators import metrics


def head(outputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, outputs)


def test_values_are_those_of_the_heads_probabilities(tmp_path: Path) -> None:
    made = context(tmp_path, classes=3, head=head(3))
    rows = metrics.evaluate(made)
    test = made.test
    logits = made.features[test] @ made.head.weight.detach().numpy().T + made.head.bias.detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(metrics.probabilities(made)[test], p, atol=1e-5)
    y = made.target.y[test]
    for k, label in enumerate(made.target.classes):
        row = next(r for r in rows if r["metric"] == "auroc" and r.get("class") == label)
        assert row["value"] == pytest.approx(roc_auc_score(y == k, p[:, k]), abs=1e-6)
        assert row["low"] <= row["value"] <= row["high"]
    one_hot = np.eye(3)[y]
    for name, reference in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        row = next(r for r in rows if r["metric"] == f"{name}_micro")
        assert row["value"] == pytest.approx(reference(one_hot, p, average="micro"), abs=1e-6)
        assert row["low"] <= row["value"] <= row["high"]
    matrix = [r["value"] for r in rows if r["metric"] == "confusion"]
    assert np.array_equal(np.reshape(matrix, (3, 3)), confusion_matrix(y, p.argmax(1)))


def test_several_targets_use_what_is_known(tmp_path: Path) -> None:
    made = context(tmp_path, multilabel=True, head=head(2))
    rows = metrics.evaluate(made)
    y, p = made.target.y[made.test], metrics.probabilities(made)[made.test]
    known = ~np.isnan(y[:, 1])
    row = next(r for r in rows if r["metric"] == "auroc" and r.get("class") == "coin")
    assert row["value"] == pytest.approx(roc_auc_score(y[known, 1], p[known, 1]), abs=1e-6) and row["n"] == known.sum()
    assert not any(r["metric"] == "confusion" for r in rows)


def test_a_target_without_negatives_has_no_curve(tmp_path: Path) -> None:
    made = context(tmp_path, multilabel=True, head=head(2))
    y = made.target.y.copy()
    y[made.split.rows("test"), 0] = 1
    made.target = replace(made.target, y=y)
    assert {r["class"] for r in metrics.evaluate(made) if r["metric"] == "roc"} == {"coin"}


def test_an_encoder_or_another_target_is_refused(tmp_path: Path) -> None:
    made = context(tmp_path)
    with pytest.raises(UsageError, match="needs a classifier"):
        metrics.evaluate(made)
    made.head = head(2)
    made.target = replace(
        made.target, classes=made.target.classes[::-1], y=1 - made.target.y
    )  # the same classes the other way round
    with pytest.raises(UsageError, match="the classifier distinguishes class 0, class 1 of kind, not class 1, class 0 of kind"):
        metrics.evaluate(made)


def thresholds_of(rows: list[dict[str, object]]) -> dict[tuple[object, object, object], object]:
    return {(r["metric"], r.get("class"), r.get("predicted")): r.get("threshold") for r in rows if r.get("decision") == "threshold"}


def test_decisions_at_a_threshold_state_it(tmp_path: Path) -> None:
    two = context(tmp_path / "two", head=head(2))
    two.info = replace(two.info, thresholds=(0.5, 0.3))
    rows = metrics.evaluate(two)
    found = thresholds_of(rows)
    assert found["sensitivity", None, None] == found["mcc", None, None] == found["sensitivity", "class 1", None] == 0.3
    assert found["specificity", "class 0", None] == pytest.approx(0.7), "the first class is called above 1 - 0.3"
    assert found["confusion", "class 0", "class 1"] == 0.3
    assert not any("threshold" in r for r in rows if r.get("decision") != "threshold")
    p, y = metrics.probabilities(two)[two.test], two.target.y[two.test]
    (cell,) = (
        r
        for r in rows
        if r["metric"] == "confusion" and r["decision"] == "threshold" and (r["class"], r["predicted"]) == ("class 0", "class 1")
    )
    assert cell["value"] == int(((p[:, 1] >= 0.3) & (y == 0)).sum())

    three = context(tmp_path / "three", classes=3, head=head(3))
    three.info = replace(three.info, thresholds=(0.2, 0.3, 0.4))
    found = thresholds_of(metrics.evaluate(three))
    assert [found["sensitivity", f"class {k}", None] for k in range(3)] == [0.2, 0.3, 0.4]
    assert found["sensitivity", None, None] is None, "a mean over classes has no threshold of its own"

    several = context(tmp_path / "several", multilabel=True, head=head(2))
    found = thresholds_of(metrics.evaluate(several))
    assert found["sensitivity", "coin", None] == 0.5, "without stored thresholds that of probabilities"
    assert found["f1", None, None] is None
