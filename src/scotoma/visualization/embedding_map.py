"""A map of features: images that an encoder takes for alike lie close together on a plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma.data.io.sampling import spread
from scotoma.data.labels.targets import Target
from scotoma.visualization.plots import scatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 1500  # images on a map, at most
LEAST = 4  # below that there is nothing to arrange
COMPONENTS = 50  # principal components that the map starts from


def choose_points(rows: np.ndarray) -> np.ndarray:
    """At most ``POINTS`` of these rows, from all over them."""
    return rows[spread(len(rows), POINTS)]


def figure(features: dict[str, np.ndarray], target: Target, rows: np.ndarray) -> tuple[Figure, str]:
    """A panel for each encoder, coloured by class, and the caption that states how points were placed.

    Args:
        features: name of the encoder -> (len(rows), D).
        target: labels of all rows; of several 0/1 targets the first gives the colours.
        rows: positions of the images on the map, at least ``LEAST``.
    """
    labels = np.nan_to_num(target.y[rows, 0], nan=-1).astype(int) if target.multilabel else target.y[rows]
    classes = (f"no {target.classes[0]}", target.classes[0]) if target.multilabel else target.classes
    placed = {name: place(x) for name, x in features.items()}
    caption = (
        f"{method()} of the features of {len(rows)} test images, in a panel for each encoder. Images that an encoder takes for "
        "alike lie close together. Distances between clusters and their sizes mean nothing; no label was used to place a point."
    )
    return scatter(placed, labels, classes), caption


def method() -> str:
    """``UMAP`` where the package umap-learn is installed, else ``t-SNE``."""
    return "t-SNE" if _umap() is None else "UMAP"


def place(features: np.ndarray) -> np.ndarray:
    """(n, D) features -> (n, 2) points, by ``method``, of their standardised principal components; the same points every time."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = (features - features.mean(0)) / (features.std(0) + 1e-6)
    x = PCA(min(COMPONENTS, *x.shape), random_state=0).fit_transform(x)
    umap = _umap()
    if umap is not None:
        return np.asarray(umap(random_state=0, n_neighbors=min(15, len(x) - 1)).fit_transform(x))
    start = "pca" if x.shape[1] > 1 else "random"
    return np.asarray(TSNE(random_state=0, perplexity=min(30, (len(x) - 1) / 3), init=start).fit_transform(x))


def _umap() -> Any:
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP
