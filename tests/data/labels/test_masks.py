from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma.commands.prepare import prepare
from scotoma.data import sources
from scotoma.data.labels import masks, targets
from scotoma.data.store import store
from scotoma.errors import UsageError


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Six images; the first four have maps: of 0 and 3 in the left half, of 7 in a corner of the second."""
    rng, rows = np.random.default_rng(0), []
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        labels = np.zeros((40, 40), np.uint8)
        labels[:, : 5 * i] = 3
        labels[30:, 30:] = 7 if i == 1 else 0
        Image.fromarray(labels).save(tmp_path / f"{i}-map.png")
        rows.append(
            {"image_path": f"{i}.png", "mask_path": f"{i}-map.png" if i < 4 else None, "split": "train" if i < 3 else "test"}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_every_value_becomes_a_class(scans: Path) -> None:
    dataset, images = store.prepare(sources.load(scans), 32, quiet=True)
    found = masks.read(dataset, images.side)
    assert found.values == (0, 3, 7) and found.classes == ("background", "3", "7")
    assert (found.at >= 0).tolist() == [True] * 4 + [False] * 2
    maps = found.maps(np.array([1, 3]))
    side = images.side
    assert maps.shape == (2, side, side)
    assert maps[1].mean() == pytest.approx(15 / 40, abs=0.03), "three eighths of the last one's columns are 3, class 1"
    assert maps[0, -1, -1] == 2 and maps[0, 0, 0] == 1 and maps[0, 0, -1] == 0
    fewer = masks.read(dataset, images.side, ("background", "3"))
    assert fewer.maps(np.array([1]))[0, -1, -1] == masks.UNKNOWN, "a value that a model does not know is no background"


def test_classes_have_names(scans: Path) -> None:
    dataset, images = store.prepare(sources.load(scans), 32, quiet=True)
    plain = masks.read(dataset, images.side)
    for classes in (
        ["liver", "tumour"],
        ["background", "liver", "tumour"],
        ["3=liver", "7=tumour"],
        ["0=air", "3=liver", "7=tumour"],
    ):
        found = masks.read(dataset, images.side, classes)
        assert found.classes == ("background", "liver", "tumour") and found.values == (0, 3, 7)
        np.testing.assert_array_equal(found.maps(np.arange(4)), plain.maps(np.arange(4)))
    one = masks.read(dataset, images.side, ["7=tumour"])
    assert one.classes == ("background", "tumour")
    assert one.maps(np.array([1]))[0, -1, -1] == 1 and one.maps(np.array([1]))[0, 0, 0] == masks.UNKNOWN
    for wrong, said in (
        (["liver"], r"names 1 beside the background, and the masks hold 2 values \(3, 7\)"),
        (["1=liver"], r"no mask has a pixel of 1: their values are 3, 7"),
        (["3=liver", "tumour"], "VALUE=NAME"),
        (["3=liver", "3=tumour"], "a name and a value of its own"),
        (["3=liver", "7=liver"], "a name and a value of its own"),
        (["300=liver"], "from 1 to 255"),
    ):
        with pytest.raises(UsageError, match=said):
            masks.read(dataset, images.side, wrong)
    with pytest.raises(UsageError, match="from 1 to 255"):
        targets.read(dataset, ["mask_path"], ["300=liver"])


def test_a_prepared_store_keeps_its_maps(scans: Path, tmp_path: Path) -> None:
    dataset, images = store.prepare(sources.load(scans), 32, quiet=True)
    before = masks.read(dataset, images.side)
    folder = prepare(scans, tmp_path / "kept", size=32, quiet=True)
    for path in scans.parent.glob("*.png"):
        path.unlink()
    dataset, images = store.prepare(sources.load(folder), 32, quiet=True)
    after = masks.read(dataset, images.side)
    assert after.values == before.values
    np.testing.assert_array_equal(after.maps(np.arange(4)), before.maps(np.arange(4)))
    target = targets.read(dataset, ["mask_path"])
    assert target.columns == (targets.MASKS,) and target.known.tolist() == [True] * 4 + [False] * 2


def test_what_is_no_label_map_is_refused(scans: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(scans)
    for name, mask, words in (("empty", "0-map.png", "are all 0"), ("image", "0.png", "images, not label maps")):
        frame.assign(mask_path=mask).to_csv(tmp_path / f"{name}.csv", index=False)
        dataset, images = store.prepare(sources.load(tmp_path / f"{name}.csv"), 32, quiet=True)
        with pytest.raises(UsageError, match=words):
            masks.read(dataset, images.side)
    with pytest.raises(UsageError, match="stands alone"):
        targets.read(dataset, ["mask_path", "split"])
    assert targets.read(dataset, ["mask_path"], ["3"]).mask_classes == ("3",)
    with pytest.raises(UsageError, match="'mask_path' is empty"):
        targets.read(sources.load(frame.assign(mask_path=None)), ["mask_path"])
