"""The index: which file each row id is, with unreadable files, for its owner alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import grey_image
from PIL import Image

import scotoma
from scotoma.data import sources
from scotoma.data.store import image_index, store
from scotoma.errors import UsageError


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images of which the second cannot be read, and a spreadsheet that calls them by names of its own."""
    monkeypatch.setenv("SCOTOMA_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for k in range(4):
        Image.fromarray(grey_image(k % 2, rng)).save(tmp_path / "scans" / f"film {k}, left.png")
    (tmp_path / "scans" / "film 1, left.png").write_bytes(b"no image")
    pd.DataFrame({"name": [f"FILM {k}, left" for k in (3, 1, 0)], "dx": list("aba")}).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def test_every_row_has_its_file_its_join_key_and_what_is_wrong_with_it(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, opened = store.prepare(sources.load(scans / "scans", scans / "labels.csv", "name"), 16, quiet=True)
    path = image_index.path_of(scans / "cache", opened.path)
    assert f"left out, listed in {path}" in capsys.readouterr().err
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    found = image_index.read(path)
    assert found["row"].tolist() == [0, 1, 2, 3]
    assert found["file"].tolist() == [str(scans / "scans" / f"film {k}, left.png") for k in range(4)]
    assert found["join_key"].fillna("").tolist() == ["FILM 0, left", "FILM 1, left", "", "FILM 3, left"]
    assert found["error"].notna().tolist() == [False, True, False, False]
    assert found["content"][dataset.table["row"]].tolist() == opened.facts["content"][dataset.table["row"]].tolist()
    keys = image_index.join_keys(scans / "cache", opened.path, np.array([3, 2]))
    assert keys == ["FILM 3, left", str(scans / "scans" / "film 2, left.png")]
    before = path.stat().st_mtime_ns
    store.prepare(sources.load(scans / "scans"), 16, quiet=True)  # nothing new to say
    assert path.stat().st_mtime_ns == before


def test_features_carry_the_join_key_on_request_and_of_a_prepared_store_too(scans: Path) -> None:
    encoder = scotoma.pretrain("phantom:40", out=scans / "run", size=16, encoder="resnet10t", steps=1, batch_size=8, quiet=True)
    scotoma.prepare(scans / "scans", scans / "prepared", size=16, quiet=True, labels=scans / "labels.csv", on="name")
    assert b"FILM" not in b"".join(p.read_bytes() for p in (scans / "prepared").iterdir())
    for data in (scans / "prepared", scans / "scans"):
        scotoma.embed(encoder, data, scans / "x.parquet", overwrite=True, quiet=True)
        assert "join_key" not in pd.read_parquet(scans / "x.parquet")
        scotoma.embed(encoder, data, scans / "x.parquet", join_key=True, overwrite=True, quiet=True)
        found = pd.read_parquet(scans / "x.parquet").set_index("row")["join_key"]
        assert found.to_dict() == {0: "FILM 0, left", 2: str(scans / "scans" / "film 2, left.png"), 3: "FILM 3, left"}
    image_index.path_of(scans / "cache", scans / "prepared").unlink()
    with pytest.raises(UsageError, match=r"which was written where .* was prepared, is not there"):
        scotoma.embed(encoder, scans / "prepared", scans / "y.parquet", join_key=True, quiet=True)
    assert not (scans / "y.parquet").exists()


def test_images_of_one_file_are_told_by_their_frame(scans: Path) -> None:
    _, opened = store.prepare(sources.load("phantom:3"), 16, quiet=True)
    assert image_index.join_keys(scans / "cache", opened.path, np.array([2, 0])) == ["phantom:0 frame 2", "phantom:0 frame 0"]
