from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.lookalike import column

from scotoma.data import sources
from scotoma.data.datasets import medmnist
from scotoma.data.io import read
from scotoma.errors import UsageError

COUNTS = {"train": 5, "val": 2, "test": 3}


def archive(path: Path, labels: dict[str, np.ndarray], shape: tuple[int, ...] = (28, 28)) -> Path:
    rng = np.random.default_rng(0)
    arrays = {f"{s}_images": rng.integers(0, 256, (n, *shape), dtype=np.uint8) for s, n in COUNTS.items()}
    np.savez(path, **arrays, **{f"{s}_labels": labels[s] for s in COUNTS})
    return path


def draw(high: int, columns: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {s: rng.integers(0, high, (n, columns)).astype(np.uint8) for s, n in COUNTS.items()}


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [("dermamnist", "", 7), ("organamnist", "_64", 11), ("retinamnist", "_224", 5), ("breastmnist", "", 2)],
)
def test_numbers_become_classes(tmp_path: Path, name: str, size: str, count: int) -> None:
    labels = draw(count)
    found = sources.load(f"medmnist:{archive(tmp_path / f'{name}{size}.npz', labels, (28, 28, 3))}")
    numbers = np.concatenate([labels[s][:, 0] for s in COUNTS])
    assert len(medmnist.CLASSES[name]) == count
    assert column(found, "label") == [medmnist.CLASSES[name][k] for k in numbers]
    assert column(found, "split") == [s for s, n in COUNTS.items() for _ in range(n)]
    assert read.read(found.table["image_path"][0], int(found.table["frame"][0])).pixels.shape == (28, 28, 3)


def test_the_numbers_that_are_easily_mistaken() -> None:
    """As MedMNIST's own table numbers them."""
    expected = {
        ("dermamnist", 4): "mel", ("pneumoniamnist", 1): "pneumonia", ("breastmnist", 0): "malignant", ("organsmnist", 6): "liver",
        ("octmnist", 3): "normal", ("chestmnist", 8): "consolidation", ("bloodmnist", 0): "basophil", ("pathmnist", 8):
        "colorectal adenocarcinoma epithelium", ("tissuemnist", 4): "leukocytes",
    }  # fmt: skip
    assert {(name, k): medmnist.CLASSES[name][k] for name, k in expected} == expected


def test_several_findings_become_columns(tmp_path: Path) -> None:
    labels = draw(2, 14)
    found = medmnist.load(archive(tmp_path / "chestmnist.npz", labels))
    columns = found.table[list(medmnist.CLASSES["chestmnist"])].to_numpy()
    assert np.array_equal(columns, np.concatenate([labels[s] for s in COUNTS]))
    assert not [c for c in found.table.columns if c.startswith("label")]


def test_what_is_refused(tmp_path: Path) -> None:
    for name, labels, said in (
        ("organmnist3d.npz", draw(11), "holds volumes"),
        ("nodulemnist3d_64.npz", draw(2), "holds volumes"),
        ("mymnist.npz", draw(2), "none of MedMNIST's sets"),
        ("pneumoniamnist.npz", draw(9), "not the 2 classes"),
        ("pathmnist.npz", draw(2, 3), "not the 9 classes"),
        ("chestmnist.npz", draw(2, 13), "not the 14 classes"),
    ):
        with pytest.raises(UsageError, match=said):
            medmnist.load(archive(tmp_path / name, labels))
