"""A run is gone on with on the data that it was started on, or not at all; what changed is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma.data.datamodule import DataModule, gather
from scotoma.errors import UsageError
from scotoma.run_folder import DATA, Onlooker, Run
from scotoma.training import resuming

Change = Callable[[Path, pd.DataFrame], pd.DataFrame | None]


@pytest.fixture
def clinic(clinic_table: Path, tmp_path: Path) -> Path:
    """The clinic's table and images, to be changed, with masks and a split."""
    folder = tmp_path / "clinic"
    shutil.copytree(clinic_table.parent, folder)
    frame = pd.read_csv(folder / "table.csv")
    frame["label"] = ["left", "right"] * 10
    frame["split"] = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    for k in range(20):
        Image.fromarray((np.indices((40, 40)).sum(0) > 30 + k).astype(np.uint8)).save(folder / f"mask{k}.png")
    frame["mask_path"] = [f"mask{k}.png" for k in range(20)]
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def gathered(path: Path) -> DataModule:
    return gather(data=str(path), target=["label"], size=32, channels=1, quiet=True)


def relabelled(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(label=["right"] * 3 + frame["label"].tolist()[3:])  # the second was right already


def inverted(folder: Path, frame: pd.DataFrame) -> None:
    for k in (2, 5, 17):
        Image.fromarray(255 - np.asarray(Image.open(folder / f"{k}.png"))).save(folder / f"{k}.png")


def moved(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(split=frame["split"].where(frame.index != 19, "val").where(frame.index != 18, "val"))


def older(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(age=frame["age"] + (frame.index == 4))


def shorter(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[:16]


def longer(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(folder / "new.png")
    return pd.concat([frame, frame.iloc[:1].assign(image_path="new.png", patient="new", study="new")])


def turned(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[::-1]


def masked(folder: Path, frame: pd.DataFrame) -> None:
    Image.fromarray(np.ones((40, 40), np.uint8)).save(folder / "mask7.png")


def without_sex(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="sex")


CHANGES: dict[str, Change] = {
    "labels of 2 rows changed": relabelled,
    "3 images changed": inverted,
    "the split of 2 rows changed": moved,
    "column 'age' of 1 row changed": older,
    "4 images gone, 0 new": shorter,
    "0 images gone, 1 new": longer,
    "the order of the images changed": turned,
    "masks of 1 row changed": masked,
    "column 'sex' is not there": without_sex,
}


@pytest.mark.parametrize("told", sorted(CHANGES))
def test_other_data_are_refused_and_what_changed_is_named(told: str, clinic: Path, tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "pretrain", {})
    resuming.check(run, gathered(clinic), masks=True)
    run.add_rows([{"value": 1}])
    run.close()
    frame = CHANGES[told](clinic.parent, pd.read_csv(clinic))
    if frame is not None:
        frame.to_csv(clinic, index=False)
    kept = (tmp_path / "run" / DATA).read_bytes()
    run = Run.open(tmp_path / "run", "pretrain", {}, resume=True)
    with pytest.raises(UsageError) as error:
        resuming.check(run, gathered(clinic), masks=True)
    run.close()
    begin = "--resume: not all is as it was when the run was started: "
    assert str(error.value) == f"{begin}{told}. Bring it back as it was, or use --overwrite"
    assert (tmp_path / "run" / DATA).read_bytes() == kept


def test_the_same_data_in_other_files_are_the_same(clinic: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    """Touched, renamed and in another format, and a column that nothing used before: nothing of it matters."""
    run = Run.open(tmp_path / "run", "finetune", {})
    resuming.check(run, gathered(clinic), masks=True)
    run.add_rows([{"value": 1}])
    run.close()
    frame = pd.read_csv(clinic)
    for k in range(20):
        Image.open(clinic.parent / f"{k}.png").save(clinic.parent / f"again{k}.bmp")
        (clinic.parent / f"mask{k}.png").touch()
    frame.assign(image_path=[f"again{k}.bmp" for k in range(20)], note="new").to_csv(clinic, index=False)
    run = Run.open(tmp_path / "run", "finetune", {}, resume=True)
    resuming.check(run, gathered(clinic), masks=True)
    run.finish()
    assert "--resume" not in capsys.readouterr().err


def test_the_order_of_two_changes_is_that_of_the_columns_and_nothing_is_kept_in_clear(clinic: Path, tmp_path: Path) -> None:
    before = resuming.state(gathered(clinic))
    frame = pd.read_csv(clinic)
    older(clinic.parent, relabelled(clinic.parent, frame)).to_csv(clinic, index=False)
    assert resuming.changes(before, resuming.state(gathered(clinic))) == [
        "labels of 2 rows changed",
        "column 'age' of 1 row changed",
    ]
    before.to_parquet(tmp_path / "a")
    assert b"left" not in (tmp_path / "a").read_bytes()
    assert not {str(v) for c in before for v in before[c]} & {"left", "right", "F", "M", "train", "30.0"}


def test_a_run_without_a_record_is_gone_on_with_and_that_is_said(clinic: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    run = Run.open(tmp_path / "run", "pretrain", {})
    run.add_rows([{"value": 1}])
    run.close()
    run = Run.open(tmp_path / "run", "pretrain", {}, resume=True)
    resuming.check(run, gathered(clinic))
    run.close()
    assert "an earlier version started the run" in capsys.readouterr().err
    resuming.check(Onlooker(tmp_path / "none", {}), gathered(clinic))
    assert not (tmp_path / "none").exists()


def test_other_weights_under_the_same_name_are_refused(clinic: Path, tmp_path: Path) -> None:
    """Those of a control or of an encoder to start from; a run folder, or a file."""
    data_module, names = gathered(clinic), (tmp_path / "old", tmp_path / "control.safetensors")
    names[0].mkdir()
    for name in (names[0] / "encoder.safetensors", names[1]):
        name.write_bytes(b"weights")
    run = Run.open(tmp_path / "run", "study", {})
    resuming.check(run, data_module, weights=[*names, "resnet18.a1_in1k"])
    run.add_rows([{"value": 1}])
    run.close()
    for k, name in enumerate((None, names[0] / "encoder.safetensors", names[1])):
        if name is not None:
            name.write_bytes(b"Weights")
        run = Run.open(tmp_path / "run", "study", {}, resume=True)
        if name is None:
            resuming.check(run, data_module, weights=names)
        else:
            with pytest.raises(
                UsageError, match=f"started: the weights {names[0]} changed{'; the weights' if k > 1 else '. Bring'}"
            ):
                resuming.check(run, data_module, weights=names)
        run.close()
