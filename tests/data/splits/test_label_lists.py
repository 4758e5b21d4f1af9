"""A user's own list of labelled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma.data.dataset import Dataset
from scotoma.data.labels.targets import Target
from scotoma.data.splits.label_lists import draw_listed, read
from scotoma.data.splits.splits import Split
from scotoma.errors import UsageError

N = 20
SPLIT = Split(np.array(["train"] * 10 + ["val"] * 6 + ["test"] * 4), np.arange(N), "patient", False)
TARGET = Target(("side",), ("left", "right"), np.where(np.arange(N) == 9, -1, np.arange(N) % 2))


@pytest.fixture
def images(tmp_path: Path) -> Dataset:
    names = [f"{tmp_path}/scans/{chr(97 + i)}/film{i}.png" for i in range(N)]
    return Dataset("scans", pd.DataFrame({"row": range(N), "image_path": names, "accession": [f"A{900 + i}" for i in range(N)]}))


def listing(folder: Path, *lines: str) -> Path:
    (folder / "train10F.txt").write_text("\n".join(lines) + "\n")
    return folder / "train10F.txt"


@pytest.mark.parametrize(
    ("lines", "on"),
    [
        (["film2.png", "film5.png", "", "film8.png"], None),
        (["film8", "film2", "film5"], None),
        (["scans/c/film2.png", "scans/f/film5.png", "scans/i/film8.png"], None),
        (["5", "2", "8"], None),
        (["A902", "A905", "A908", "A902"], "accession"),
    ],
    ids=["files", "stems", "paths", "rows", "join key"],
)
def test_lines_name_images(lines: list[str], on: str | None, images: Dataset, tmp_path: Path) -> None:
    share, found = read(listing(tmp_path, *lines), images, SPLIT, TARGET, on)
    assert found.tolist() == [2, 5, 8] and share == 0.3333  # of nine labelled training images


def test_a_draw_has_the_listed_images_and_the_same_share_of_the_validation_labels(images: Dataset, tmp_path: Path) -> None:
    share, found = read(listing(tmp_path, "2", "5", "8"), images, SPLIT, TARGET)
    draws = [draw_listed(TARGET, SPLIT, share, found, seed) for seed in (0, 1)]
    for drawn in draws:
        assert drawn.train.tolist() == [2, 5, 8] and len(drawn.val) == 2 and set(SPLIT.of[drawn.val]) == {"val"}
    assert draws[0].val.tolist() != draws[1].val.tolist() or draws[0].seed != draws[1].seed


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["film2.png", "film99.png", "film5.png", "other"], r"2 of 4 lines name no image of scans \(line 2, 4\)"),
        (["film2.png", "film12.png", "film9.png"], "2 of 3 images are no labelled training images"),
        (["", " "], "names no image"),
    ],
)
def test_what_is_no_labelled_training_image_is_counted_and_refused(
    lines: list[str], message: str, images: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(listing(tmp_path, *lines), images, SPLIT, TARGET)
    assert "film99" not in str(caught.value), "a file's name may be a patient's"
