"""Images unlike their peers: blank, nearly blank, inverted, of another size, shape, depth or format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scotoma.data.store.store import Store
from scotoma.quality.shortcuts import small

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

CONSTANT = 1.0  # grey levels: an image whose standard deviation is lower shows nothing
ONE_LEVEL = 0.98  # the share of pixels at one grey level above which an image is nearly blank
LEAST_PEERS = 20  # fewer images have no common look
INVERTED, COHERENT = -0.3, 0.3  # correlation with the mean image: of an inverted one, and at least of the usual one
FEW = 0.02  # a format that fewer have is odd
SIZE_RATIO, ASPECT_RATIO = 4.0, 2.0  # from the median: of the longer side, of width over height
_CATEGORIES = ("format", "bits", "channels", "photometric", "modality")


def find_blank(greys: list[Image]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool: constant images; and those that are nearly so, one grey level nearly everywhere."""
    counts = np.array([grey.histogram() for grey in greys], float).reshape(-1, 256)
    share = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256)
    mean = share @ levels
    deviation = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
    constant = deviation < CONSTANT
    return constant, (share.max(1) >= ONE_LEVEL) & ~constant


def find_inverted(store: Store, rows: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(n,) bool: images that look like a negative of their peers.

    Args:
        store: of the images.
        rows: (n,) their rows in the store.
        kinds: (n,) images of one kind (modality, view) are peers.

    Returns:
        Those whose correlation with the mean image of the other peers, at 32 px, is below ``INVERTED``; only of kinds with a
        common look, half of which correlate with that mean above ``COHERENT``. A kind of which most are inverted hides it.
    """
    import pandas as pd

    thumbs = np.stack([small(store.pixels[r]).mean(2).ravel() for r in rows.tolist()]).astype(np.float32)
    thumbs -= thumbs.mean(1, keepdims=True)
    norm = np.linalg.norm(thumbs, axis=1, keepdims=True)
    thumbs = np.divide(thumbs, norm, out=np.zeros_like(thumbs), where=norm > 1e-3)
    found = np.zeros(len(rows), bool)
    codes = pd.factorize(kinds)[0]
    for code in np.unique(codes):
        peers = np.flatnonzero(codes == code)
        if len(peers) < LEAST_PEERS:
            continue
        others = thumbs[peers].sum(0) - thumbs[peers]
        size = np.linalg.norm(others, axis=1)
        correlation = (thumbs[peers] * others).sum(1) / np.maximum(size, 1e-6)
        if np.median(correlation) >= COHERENT:
            found[peers] = correlation <= INVERTED
    return found


def find_rare(facts: pd.DataFrame) -> dict[str, np.ndarray]:
    """What is odd -> (n,) bool: a format, depth, ... that fewer than ``FEW`` have; a size or an aspect far from the median."""
    found: dict[str, np.ndarray] = {}
    if len(facts) < LEAST_PEERS:
        return found
    for column in (c for c in _CATEGORIES if c in facts.columns):
        words = facts[column].astype("string").fillna("none")
        share = words.map(words.value_counts(normalize=True)).to_numpy(float)
        for value in words[share < FEW].unique():
            found[f"{column} {value}"] = (words == value).to_numpy()
    wide, high = (facts[c].to_numpy(float) for c in ("width", "height"))
    side, aspect = np.maximum(wide, high), wide / high
    for name, values, ratio in (("size", side, SIZE_RATIO), ("aspect", aspect, ASPECT_RATIO)):
        middle = np.nanmedian(values)
        odd = (values > middle * ratio) | (values < middle / ratio)
        if odd.any() and odd.mean() < 5 * FEW:
            found[f"{name} far from the usual {middle:.0f} px" if name == "size" else f"shape far from the usual {middle:.2f}"] = (
                odd
            )
    return found
