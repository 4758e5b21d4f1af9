"""Whether attribution maps tell the truth: pure functions of maps, and of a classifier's answers to changed images.

Maps are (B, H, W), higher where more speaks for the target. Pixels are taken in the order of a map; where a map has equal values,
as Grad-CAM's zeros, chance decides, not the place in the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

STEPS = 20  # in which pixels are removed or brought in
TOLERANCE = 15 / 500  # how far beside a mask a map may point, over the image's side (Zhang et al.: 15 of about 500 pixels)
BLUR = 5 / 224  # deviation over the image's side (Petsiuk et al. 2018, in their code: 5 of 224 pixels)
# A map that ranks pixels as a network does that has learned nothing cannot be evidence of what was learned. Adebayo et al. give no
# limit; 0.5 is what Cohen (1988, section 3.2) calls a large correlation: a quarter of the ranks' variance then owes nothing to
# learning.
LARGEST_CORRELATION = 0.5


def order(maps: Tensor, noise: Tensor) -> Tensor:
    """Pixels from the most to the least important.

    Args:
        maps: (B, H, W).
        noise: (B, H, W) random numbers; of pixels with equal values the one with the smaller number comes first.

    Returns:
        (B, H W) int64, numbers of pixels, row by row.
    """
    shuffled = noise.flatten(1).argsort(1)
    return shuffled.gather(1, maps.flatten(1).gather(1, shuffled).argsort(stable=True, dim=1, descending=True))


def _places(pixels: Tensor) -> Tensor:
    """The place of each pixel in an order (B, P): (B, P)."""
    return torch.empty_like(pixels).scatter_(1, pixels, torch.arange(pixels.shape[1], device=pixels.device).expand_as(pixels))


@torch.no_grad()
def curve(probability: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, pixels: Tensor, steps: int = STEPS) -> Tensor:
    """A classifier's answers while one image turns into another, pixel by pixel (Petsiuk et al. 2018, arXiv 1806.07421).

    Deletion goes from the image to the mean colour: the sooner the probability falls, the better the map. Insertion goes from the
    blurred image to the image: the sooner it rises, the better.

    Args:
        probability: (B, C, H, W) -> (B,), of the target.
        start: (B, C, H, W).
        end: (B, C, H, W).
        pixels: (B, H W), the order in which pixels of ``end`` take the place of those of ``start``.
        steps: in which this happens, about equally many pixels in each.

    Returns:
        (B, steps + 1) probabilities, the first of ``start``, the last of ``end``.
    """
    place = _places(pixels).view(len(pixels), 1, *start.shape[2:])
    shares = (round(s * pixels.shape[1] / steps) for s in range(steps + 1))
    return torch.stack([probability(torch.where(place < share, end, start)) for share in shares], 1)


def area(values: Tensor) -> Tensor:
    """Area under curves (B, steps + 1) over [0, 1], by the trapezoidal rule: (B,)."""
    return torch.trapezoid(values, dx=1 / (values.shape[1] - 1), dim=1)


def blur(images: Tensor) -> Tensor:
    """(B, C, H, W) without its details: what insertion starts from."""
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = BLUR * images.shape[-1]
    side = 2 * min(math.ceil(3 * sigma), images.shape[-1] - 1) + 1
    return gaussian_blur(images, [side, side], [sigma, sigma])


def pointing_game(pixels: Tensor, masks: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Whether a map's maximum lies in the mask or near it (Zhang et al. 2018, arXiv 1608.00507, section 4.1).

    Args:
        pixels: (B, H W), from `order`: the first is the maximum.
        masks: (B, H, W) bool, none of them empty.
        tolerance: how far beside the mask it may lie, over the images' width; 0 for nowhere but in it.

    Returns:
        (B,) bool.
    """
    _check(masks)
    width = masks.shape[2]
    y, x = (pixels[:, 0] // width)[:, None, None], (pixels[:, 0] % width)[:, None, None]
    rows, columns = torch.arange(masks.shape[1], device=masks.device)[:, None], torch.arange(width, device=masks.device)
    near = (rows - y) ** 2 + (columns - x) ** 2 <= (tolerance * width) ** 2
    return (near & masks).flatten(1).any(1)


def mask_iou(pixels: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of the mask and of as many most important pixels: (B,).

    ``pixels`` (B, H W) are from `order`; ``masks`` (B, H, W) bool, none of them empty.
    """
    _check(masks)
    inside = masks.flatten(1)
    size = inside.sum(1)
    both = (inside & (_places(pixels) < size[:, None])).sum(1)
    return both / (2 * size - both)


def _check(masks: Tensor) -> None:
    if not bool(masks.flatten(1).any(1).all()):
        raise ValueError("a mask is empty: leave out images without a finding")


def ranks(maps: np.ndarray) -> np.ndarray:
    """(B, H, W) -> (B, H W) float32 ranks, ties shared, of mean 0 and length 1; NaN where a map is constant and ranks nothing."""
    from scipy.stats import rankdata

    found = rankdata(maps.reshape(len(maps), -1), axis=1)
    found -= found.mean(1, keepdims=True)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.divide(found, length, out=np.full_like(found, np.nan), where=length > 0).astype(np.float32)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation (B,) of maps, of which `ranks` (B, P) are given."""
    return np.einsum("bp,bp->b", first, second, dtype=np.float64)


def agreement(ranked: dict[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Spearman's correlation (B,) of every pair of methods, of whose maps `ranks` (B, P) are given."""
    return {(a, b): rank_correlation(ranked[a], ranked[b]) for a, b in combinations(ranked, 2)}


def depends_on_weights(correlation: np.ndarray) -> np.ndarray:
    """In which images a method passes the randomisation check (Adebayo et al. 2018, arXiv 1810.03292, section 3).

    ``correlation`` (B,) is Spearman's, of absolute maps of a model and of its copy with new random weights. It fails above
    ``LARGEST_CORRELATION``: what it shows is then mostly of the image and the architecture.
    """
    return correlation <= LARGEST_CORRELATION
