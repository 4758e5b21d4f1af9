from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers.lookalike import column, draw_image, hashed, under

from scotoma.data.datasets import chestxray2017

FILMS = {  # as published: label, subtype, patient, split
    "train/NORMAL/IM-0115-0001.jpeg": ("normal", "normal", "IM-0115", "train"),
    "train/NORMAL/IM-0511-0001-0002.jpeg": ("normal", "normal", "IM-0511", "train"),
    "train/NORMAL/NORMAL2-IM-0383-0001.jpeg": ("normal", "normal", "NORMAL2-IM-0383", "train"),
    "train/PNEUMONIA/BACTERIA-1008087-0001.jpeg": ("pneumonia", "bacteria", "bacteria 1008087", "train"),
    "train/PNEUMONIA/person12_bacteria_46.jpeg": ("pneumonia", "bacteria", "bacteria 12", "train"),
    "train/PNEUMONIA/person12_bacteria_47.jpeg": ("pneumonia", "bacteria", "bacteria 12", "train"),
    "train/PNEUMONIA/person122_virus_229.jpeg": ("pneumonia", "virus", "virus 122", "train"),
    "val/NORMAL/NORMAL2-IM-1427-0001.jpeg": ("normal", "normal", "NORMAL2-IM-1427", "train"),
    "val/PNEUMONIA/person1946_bacteria_4874.jpeg": ("pneumonia", "bacteria", "bacteria 1946", "train"),
    "test/NORMAL/IM-0001-0001.jpeg": ("normal", "normal", "IM-0001", "test"),
    "test/PNEUMONIA/person122_bacteria_582.jpeg": ("pneumonia", "bacteria", "bacteria 122", "test"),
}


@pytest.mark.parametrize("within", ["", "chest_xray/"])
def test_films(tmp_path: Path, within: str) -> None:
    for name in FILMS:
        draw_image(tmp_path / within / name)
    draw_image(tmp_path / "__MACOSX" / "train" / "NORMAL" / "._IM-0115-0001.jpeg")
    found = chestxray2017.load(tmp_path)
    assert under(found, tmp_path) == [within + name for name in FILMS]
    for k, name in enumerate(("label", "subtype", "patient", "split")):
        expected = [values[k] for values in FILMS.values()]
        assert column(found, name) == ([hashed(v) for v in expected] if name == "patient" else expected), name


def test_real_names_all_have_a_patient_that_no_other_kind_shares(data_root: Path, tmp_path: Path) -> None:
    """The names of the real films, with empty files behind them."""
    table = pd.read_csv(data_root / "cxr_pneumonia" / "table.csv")
    for name in table["image_path"]:
        path = tmp_path / "train" / Path(name).parent.name / f"{Path(name).stem}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = chestxray2017.load(tmp_path).table
    assert len(found) == len(table)
    by_stem = found.assign(stem=[Path(p).stem for p in found["image_path"]]).set_index("stem")
    real = table.assign(stem=[Path(p).stem for p in table["image_path"]]).set_index("stem").loc[by_stem.index]
    assert (by_stem["label"] == real["label"]).all()
    assert (by_stem["subtype"] == real["subtype"]).all()
    assert found["patient"].notna().all()
    assert (found.groupby("patient")["subtype"].nunique() == 1).all()
    assert 2500 < found["patient"].nunique() < len(found)
