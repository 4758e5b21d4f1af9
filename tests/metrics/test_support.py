"""On how much metrics rest, against counts by hand and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from scotoma.metrics.classification import check_cases
from scotoma.metrics.support import SHARPER, Support, effective_pairs, support_of


def test_effective_pairs_are_hanley_and_mcneils() -> None:
    a, m, n = 0.8, 12, 12
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    variance = (a * (1 - a) + (m - 1) * (q1 - a**2) + (n - 1) * (q2 - a**2)) / (m * n)
    assert float(effective_pairs(a, m, n)) == pytest.approx(a * (1 - a) / variance)
    assert effective_pairs(1.0, 1, 1) == 1


@pytest.mark.parametrize(
    ("name", "images", "groups", "fewest"),
    [
        ("sensitivity", 6, 3, 3),
        ("specificity", 14, 7, 7),
        ("accuracy", 20, 10, 10),
        ("brier", 20, 10, 3),
        ("f1", 18, 9, 3),  # three times the rarer side
        ("average_precision", 6 * SHARPER, 3, 3),
    ],
)
def test_support_of_a_binary_metric(name: str, images: float, groups: float, fewest: int) -> None:
    """Ten patients with two images each, three of them positive."""
    codes = np.repeat(np.arange(10), 2)
    cases = check_cases((codes < 3).astype(int), np.tile([0.4, 0.6], (20, 1)))
    found = support_of(name, cases, codes, [1], 0.5)
    assert (found.images, found.groups, found.fewest, found.few) == (images, groups, fewest, name != "accuracy")


def test_support_of_an_auroc_adds_its_classes() -> None:
    codes, y = np.arange(60), np.arange(60) % 3
    cases = check_cases(y, np.full((60, 3), 1 / 3))
    found = support_of("auroc", cases, codes, [0, 1, 2], 0.7)
    assert found.images == pytest.approx(SHARPER * 3 * float(effective_pairs(0.7, 20, 40)))
    assert found.groups == pytest.approx(found.images / SHARPER) and found.fewest == 3 * 19 + 1 and not found.few


def test_support_of_images() -> None:
    assert Support.of(["a", "a", "b"]) == Support(3, 2, 2, few=True)
    assert not Support.of(np.arange(10)).few and Support.of(np.arange(10), 30).few
