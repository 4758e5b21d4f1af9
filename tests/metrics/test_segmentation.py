from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from sklearn.metrics import f1_score, precision_score, recall_score

from scotoma.metrics.segmentation import OVERLAPS, scores


def test_scores_equal_monais_and_scikit_learns_on_random_maps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        found, truth = (rng.integers(0, 4, (18, 23)) for _ in range(2))
        mine = scores(found, truth, 4)
        assert mine.shape == (3, len(OVERLAPS))
        a, b = (torch.nn.functional.one_hot(torch.from_numpy(m), 4).movedim(-1, 0)[None].float() for m in (found, truth))
        ours = dict(zip(OVERLAPS, mine.T, strict=True))
        np.testing.assert_allclose(ours["dice"], compute_dice(a, b, include_background=False)[0], atol=1e-6)
        np.testing.assert_allclose(ours["iou"], compute_iou(a, b, include_background=False)[0], atol=1e-6)
        expected = compute_hausdorff_distance(a, b, include_background=False, percentile=95)[0]
        np.testing.assert_array_equal(ours["hausdorff95"], expected)
        given = {"labels": [1, 2, 3], "average": None}
        np.testing.assert_allclose(ours["sensitivity"], recall_score(truth.ravel(), found.ravel(), **given))
        np.testing.assert_allclose(ours["precision"], precision_score(truth.ravel(), found.ravel(), **given))
        np.testing.assert_allclose(ours["dice"], f1_score(truth.ravel(), found.ravel(), **given))


def test_distances_are_those_of_the_whole_image() -> None:
    found, truth = np.zeros((40, 40), int), np.zeros((40, 40), int)
    found[3:9, 3:9] = truth[3:9, 10:16] = 1
    assert scores(found, truth, 2)[0, -1] == 7
    touching = np.zeros((40, 40), int)
    touching[:6, :6] = 1  # at the image's border
    shifted = np.zeros((40, 40), int)
    shifted[:6, 2:8] = 1
    whole = compute_hausdorff_distance(
        *(torch.from_numpy(m)[None, None].float() for m in (touching, shifted)), include_background=True, percentile=95
    )
    assert scores(touching, shifted, 2)[0, -1] == pytest.approx(float(whole))


def test_what_is_absent() -> None:
    empty, some = np.zeros((8, 8), int), np.eye(8, dtype=int)
    assert np.isnan(scores(empty, empty, 2)).all()
    diagonal, none = 8 * 2**0.5, np.nan
    np.testing.assert_allclose(scores(empty, some, 2)[0], [0, 0, 0, none, diagonal])  # missed: nothing was called, no precision
    np.testing.assert_allclose(scores(some, empty, 2)[0], [0, 0, none, 0, diagonal])  # nothing was there to be found
    assert scores(some, some, 2)[0].tolist() == [1, 1, 1, 1, 0]


def test_unknown_pixels_are_left_out() -> None:
    found, truth = np.ones((4, 4), int), np.ones((4, 4), int)
    truth[0] = -1
    assert scores(found, truth, 2)[0, 0] == 1
    truth[1] = 0
    assert scores(found, truth, 2)[0, 0] == pytest.approx(2 * 8 / (12 + 8))
