"""Columns and pairs that a method reads: the target itself by draws, what determines it not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scotoma.data.datamodule import DataModule, gather
from scotoma.errors import UsageError
from scotoma.studies.arms import reads_labels
from scotoma.training import batches, label_columns


@pytest.fixture(scope="module")
def data_module() -> DataModule:
    from scotoma.data import sources

    frame = sources.load("phantom:120").table
    frame["code"] = frame["cardiomegaly"].map({0: "C-", 1: "C+"})
    frame["mask_path"] = frame["image_path"].where(frame["cardiomegaly"] == 1, None)
    return gather(data=frame, target=["cardiomegaly"], size=16, quiet=True)


@pytest.mark.parametrize(
    "method", ["proxy?columns=age+code", "simclr?positives=code", "autoencoder?mask_weight=1.0", "byol?positives=code"]
)
def test_a_study_refuses_a_method_that_reads_what_determines_the_target(data_module: DataModule, method: str) -> None:
    with pytest.raises(UsageError, match=r"column '(code|mask_path)' determines the target 'cardiomegaly'"):
        label_columns.refuse(data_module, method)


OTHERS = ("proxy?columns=age+sex", "simclr?positives=patient", "simclr?positives=age:10", "mae", "supervised")


@pytest.mark.parametrize("method", [*OTHERS, "proxy?columns=cardiomegaly"])
def test_a_study_takes_other_columns_and_the_target_itself(data_module: DataModule, method: str) -> None:
    label_columns.refuse(data_module, method)


def test_pairs_of_equal_labels_are_trained_on_the_labels_of_a_draw(data_module: DataModule) -> None:
    from scotoma.data.splits.label_draws import draw

    assert data_module.target is not None
    assert reads_labels("simclr?positives=cardiomegaly", data_module.target)
    assert not reads_labels("simclr?positives=patient", data_module.target)
    drawn = draw(data_module.target, data_module.split, 0.2, 0)
    found = batches.make_pairing(replace(data_module, target=data_module.target.only(drawn.train)), "cardiomegaly", np.arange(120))
    size = found.groups.size  # type: ignore[union-attr]
    unseen = np.setdiff1d(np.arange(120), drawn.train)
    assert (size[unseen] == 1).all() and (size[drawn.train] > 1).all()


def test_an_encoder_that_was_pretrained_on_the_target_says_so(data_module: DataModule, capsys: pytest.CaptureFixture[str]) -> None:
    label_columns.warn(data_module, {"name": "proxy", "columns": ["cardiomegaly"], "min_scale": 0.5, "jitter": 0.2})
    assert "pretrained on column 'cardiomegaly', which is the target 'cardiomegaly'" in capsys.readouterr().err
    label_columns.warn(data_module, {"name": "proxy", "columns": ["code"]})
    assert "column 'code', which determines the target" in capsys.readouterr().err
    for harmless in (
        {"name": "proxy", "columns": ["age"]},
        {"name": "random"},
        {"name": "of another program", "columns": ["code"]},
    ):
        label_columns.warn(data_module, harmless)
    assert capsys.readouterr().err == ""
    assert pd.notna(data_module.dataset.table["code"]).all()
