"""`prepare`: a store that can be moved, without paths and names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma.data import store, table
from scotoma.errors import RunError, UsageError
from scotoma.prepare import prepare


def test_a_store_can_be_moved_and_says_nothing_of_paths_or_patients(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(4)
    frame = table.load(root).table
    frame["patient"] = [f"Doe^Jane{k // 2}" for k in range(8)]
    frame["age"] = ["61", 62, None, 1.5, 70, 71, 72, "unknown"]  # as a spreadsheet has it
    path = prepare(frame, tmp_path / "store", size=32, quiet=True)
    assert path == tmp_path / "store"
    assert sorted(p.name for p in path.iterdir()) == ["facts.parquet", "hashes.npy", "pixels.npy", "store.json", "table.parquet"]
    for file in path.iterdir():
        assert b"Doe^Jane" not in file.read_bytes()
        assert str(root).encode() not in file.read_bytes()
    pixels = np.array(store.open_store(path).pixels)
    shutil.move(path, tmp_path / "elsewhere")
    shutil.rmtree(root)
    dataset, opened = store.prepare(table.load(tmp_path / "elsewhere"), 32, quiet=True)
    assert np.array_equal(opened.pixels, pixels)
    assert dataset.table["patient"].nunique() == 4
    assert table.values(dataset.table["age"]) == ["61", "62", None, "1.5", "70", "71", "72", "unknown"]


def test_labels_are_joined_and_unreadable_rows_left_out(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(2, classes=())
    (root / "scan_0.png").write_bytes(b"")
    pd.DataFrame({"scan": ["scan_0", "scan_1"], "dx": ["a", "b"]}).to_csv(tmp_path / "l.csv", index=False)
    prepare(root, tmp_path / "store", size=16, labels=str(tmp_path / "l.csv"), on="scan", quiet=True)
    read = table.load(tmp_path / "store").table
    assert (read["row"].tolist(), read["dx"].tolist()) == ([1], ["b"])
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(RunError, match="cannot be read"):
        prepare(root, tmp_path / "store", size=16, strict=True, quiet=True)
    assert not (tmp_path / "store").exists()


def test_a_store_serves_sizes_up_to_its_side(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    prepare(grey_folder(2), tmp_path / "store", size=32, quiet=True)
    dataset = table.load(tmp_path / "store")
    assert store.prepare(dataset, 48)[1].side == 48
    for size, channels in ((49, None), (32, 3)):
        with pytest.raises(UsageError, match="prepared at side 48 with 1 channels"):
            store.prepare(dataset, size, channels)


def test_what_cannot_be_prepared_is_refused_and_nothing_changes(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(2)
    made = prepare(root, tmp_path / "store", size=32, quiet=True)
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    with pytest.raises(UsageError, match="prepared already"):
        prepare(made, tmp_path / "other", size=32, quiet=True)
    with pytest.raises(UsageError, match="holds a prepared store"):
        prepare(root, made, size=32, quiet=True)
    with pytest.raises(UsageError, match="--size 8"):
        prepare(root, tmp_path / "other", size=8, quiet=True)
    with pytest.raises(UsageError, match="--channels 2"):
        prepare(root, tmp_path / "other", channels=2, quiet=True)
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before
    assert not (tmp_path / "other").exists()
