"""Whoever trained or validated a model is left out of its test on a table without a split; all others are tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma.data import encoder_header, provenance, sources
from scotoma.data.datamodule import DataModule, data_rows, gather


def made(data: object, **options: object) -> DataModule:
    return gather(data=data, size=32, quiet=True, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """These run folders hold no weights: as if another program's lay there."""
    for reader in (encoder_header, provenance):
        monkeypatch.setattr(reader, "info_or_none", lambda source: None)


def test_what_trained_or_validated_is_left_out_and_all_else_is_tested(
    grey_folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],  # type: ignore[no-untyped-def]
) -> None:
    old = sources.load(grey_folder(6, side=96, name="old", seed=1)).table
    old = old.assign(split=["train"] * 4 + ["val"] * 4 + ["test"] * 4, patient=[*"aabbccddeeff"])
    made(old).save_used(tmp_path)
    new = sources.load(grey_folder(6, side=96, name="new", seed=2)).table
    new = new.assign(patient=["a", "c", "e", *"mnopqrstu"], group=["g0", "g1", "g2", "g3", "g0", *map(str, range(7))])
    again = old.iloc[[2, 5, 8]].drop(columns="split").assign(patient=["b", "c", "e"], group=["h0", "h1", "h2"])
    Image.open(old["image_path"][3]).save(tmp_path / "copy.jpg", quality=80)
    copy = pd.DataFrame({"image_path": [str(tmp_path / "copy.jpg")], "label": ["0"], "patient": [None], "group": ["h3"]})
    table = pd.concat([new, again, copy], ignore_index=True)

    found = made(table, target=["label"], encoder_run=tmp_path, rows="auto")
    # of patients a and c; one that stands in a group with a; the images of b and c; a copy of one of b
    assert found.left_out.tolist() == [0, 1, 4, 12, 13, 15] == np.flatnonzero(found.split.of == "").tolist()
    assert set(found.split.of) == {"", "test"} and not found.split.made
    assert found.split.units[2] == found.split.units[14]  # both of e
    told = [r for r in data_rows(found) if r["metric"] in ("left_out", "tested")]
    assert [(r["metric"], r["value"]) for r in told] == [("tested", 10), ("left_out", 6)]
    assert found.rule.startswith("all rows but 6, which are left out")
    assert "training images" not in capsys.readouterr().err

    drawn = made(table, target=["label"], encoder_run=tmp_path, rows="test")  # where something trains, all keep to their side
    assert set(drawn.split.of[[0, 4, 12]]) == {"train"} and drawn.split.of[13] == "val" and not len(drawn.left_out)


def test_a_row_that_is_left_out_joins_no_two_patients(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    old = sources.load(grey_folder(3, side=96, name="old", seed=1)).table.assign(split=["train"] * 4 + ["test"] * 2)
    old["patient"] = [*"aaaaef"]
    made(old).save_used(tmp_path)
    table = pd.concat([old.iloc[[4, 5]], old.iloc[[0]]], ignore_index=True).drop(columns="split")
    new = sources.load(grey_folder(3, side=96, name="new", seed=2)).table.iloc[:2].assign(patient=["x", "y"])
    found = made(pd.concat([table, new], ignore_index=True), encoder_run=tmp_path, rows="auto")
    assert found.split.of.tolist() == ["test", "test", "", "test", "test"] and len(set(found.split.units.tolist())) == 5
