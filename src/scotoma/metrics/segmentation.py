"""Overlap of a predicted segmentation with the true mask: scores of one image, a class at a time, on label maps."""

from __future__ import annotations

import numpy as np

OVERLAPS = ("dice", "iou", "sensitivity", "precision", "hausdorff95")


def scores(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Scores of an image's segmentation.

    Dice (the F1 of its pixels) and intersection over union are 0 where only one of the two maps has the class. Sensitivity
    (recall) is NaN where the truth has none of it, precision where the prediction has none: their denominators are 0. The Hausdorff
    distance at its 95th percentile (the larger of both directions) is the image's diagonal where one map alone has the class, the
    longest there can be, so that a missed structure is no better than a badly drawn one. All are NaN where neither has the class:
    nothing was to be found and nothing was.

    Args:
        found: (H, W) int classes.
        truth: (H, W) int classes, -1 for unknown pixels, which are left out.
        classes: how many, the background 0 included.

    Returns:
        (classes - 1, len(OVERLAPS)); distances in pixels of the maps.
    """
    known = truth >= 0
    rows = []
    for k in range(1, classes):
        a, b = (found == k) & known, truth == k
        both, seen, there = int((a & b).sum()), int(a.sum()), int(b.sum())
        if not seen and not there:
            rows.append([np.nan] * len(OVERLAPS))
            continue
        ratios = [2 * both / (seen + there), both / (seen + there - both)]
        ratios += [both / part if part else np.nan for part in (there, seen)]
        rows.append([*ratios, _hausdorff95(a, b) if seen and there else float(np.hypot(*truth.shape))])
    return np.array(rows)


def _hausdorff95(a: np.ndarray, b: np.ndarray) -> float:
    """Between the outlines of two masks, neither of them empty."""
    import torch
    from scipy.ndimage import binary_erosion, distance_transform_edt

    outlines = [mask & ~binary_erosion(mask) for mask in (a, b)]
    distances = [distance_transform_edt(~other)[own] for own, other in (outlines, outlines[::-1])]
    return max(float(torch.quantile(torch.from_numpy(d).float(), 0.95)) for d in distances)  # rounded as MONAI does
