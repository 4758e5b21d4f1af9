from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from scotoma.data.labels.targets import Target
from scotoma.visualization import embedding_map
from scotoma.visualization.plots import scatter


def clusters(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng, y = np.random.default_rng(0), np.arange(n) % 3
    return (rng.normal(size=(n, 12)) + 12 * np.eye(12)[y]).astype(np.float32), y


@pytest.fixture(autouse=True)
def _no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)


def test_clusters_stay_apart_on_the_map_and_it_is_the_same_every_time() -> None:
    x, y = clusters()
    placed = embedding_map.place(x)
    assert placed.shape == (60, 2) and silhouette_score(placed, y) > 0.5
    np.testing.assert_array_equal(placed, embedding_map.place(x))


@pytest.mark.parametrize("shape", [(embedding_map.LEAST, 5), (9, 1)])
def test_few_images_or_features_are_placed_too(shape: tuple[int, int]) -> None:
    assert np.isfinite(embedding_map.place(np.random.default_rng(0).normal(size=shape))).all()


def test_the_figure_names_the_method_and_leaves_unknown_labels_out() -> None:
    x, y = clusters(12)
    target = Target(("t",), ("a", "b", "c"), np.where(np.arange(12) == 0, -1, y))
    figure, caption = embedding_map.figure({"mae": x, "random": x}, target, np.arange(12))
    assert caption.startswith("t-SNE of the features of 12 test images")
    assert [axis.get_title() for axis in figure.axes] == ["mae", "random"]
    assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [3, 4, 4]


def test_umap_is_used_and_named_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class UMAP:
        def __init__(self, random_state: int, n_neighbors: int) -> None:
            assert (random_state, n_neighbors) == (0, 11)

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            return x[:, :2] * 0 + 7

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    x, y = clusters(12)
    two = np.stack([y == 0, np.full(12, np.nan)], 1).astype(np.float32)
    figure, caption = embedding_map.figure({"mae": x}, Target(("u", "v"), ("u", "v"), two), np.arange(12))
    assert caption.startswith("UMAP of")
    assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [8, 4]
    assert (figure.axes[0].collections[0].get_offsets() == 7).all()


def test_at_most_so_many_are_shown_from_all_over() -> None:
    rows = np.arange(10_000) + 5
    found = embedding_map.choose_points(rows)
    edges = np.arange(embedding_map.POINTS + 1) * len(rows) // embedding_map.POINTS  # one of each of so many equal stretches
    assert len(found) == embedding_map.POINTS
    assert ((found - 5 >= edges[:-1]) & (found - 5 < edges[1:])).all()
    assert embedding_map.choose_points(rows[:7]).tolist() == rows[:7].tolist()


def test_many_encoders_stand_three_in_a_row_under_their_names() -> None:
    names = [*(f"encoder {k}" for k in range(3)), "MSMAE (label free true, warmup epochs 1, attention interval 1)"]
    points = {name: np.zeros((2, 2)) for name in names}
    axes = [axis for axis in scatter(points, np.zeros(2, int), ("a",)).axes if axis.get_visible()]
    assert [axis.get_title().replace("\n", " ") for axis in axes] == names and "\n" in axes[3].get_title()
    assert [axis.get_subplotspec().is_first_col() for axis in axes] == [True, False, False, True]  # type: ignore[union-attr]
