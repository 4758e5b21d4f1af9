"""Occlusion: how far the logit falls when a window takes the mean colour (Zeiler & Fergus 2014, arXiv 1311.2901, section 4.2).

Signed. The window is an eighth of the image wide and moves by half of that; a pixel gets the mean over the windows that hide it.
"""

from __future__ import annotations

from captum.attr import Occlusion
from torch import Tensor, nn

from scotoma.explain.attributions.base import AT_ONCE

ORDER = 4
WINDOWS = 8  # occluding windows side by side; they move by half their side


def attribute(classifier: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """(B, H, W) maps of ``target`` (B,)."""
    channels, height, width = images.shape[1:]
    window = [max(1, n // WINDOWS) for n in (height, width)]
    steps = [max(1, n // 2) for n in window]
    found = Occlusion(classifier).attribute(
        images.detach(),
        sliding_window_shapes=(channels, *window),
        strides=(channels, *steps),
        baselines=0,
        target=target,
        perturbations_per_eval=max(1, AT_ONCE // len(images)),
    )
    return found[:, 0]  # a window hides all channels, which therefore have one value
