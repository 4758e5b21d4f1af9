"""Copies of test images in the training of what is tested: by their looks, refused, said, or said not to be checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma.data import encoder_header, provenance, sources
from scotoma.data.datamodule import USED, DataModule, gather
from scotoma.data.provenance import Record
from scotoma.data.splits.lookalikes import Copies
from scotoma.data.splits.near_duplicates import near_duplicates, near_pairs
from scotoma.errors import UsageError


def made(data: object, **options: object) -> DataModule:
    return gather(data=data, size=32, quiet=True, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """These run folders hold no weights: as if the run's own record were the whole of it."""
    monkeypatch.setattr(encoder_header, "info_or_none", lambda source: None)
    monkeypatch.setattr(provenance, "record", lambda source: Record())


@pytest.fixture
def pretrained(grey_folder, tmp_path: Path) -> tuple[Path, pd.DataFrame]:  # type: ignore[no-untyped-def]
    """A run that trained on nine images without any id and chose by a tenth, and their table."""
    frame = sources.load(grey_folder(5, side=96, name="old", seed=1)).table.assign(split=["train"] * 9 + ["val"])
    run = tmp_path / "run"
    run.mkdir()
    made(frame).save_used(run)
    return run, frame


def copies(data_module: DataModule) -> Copies:
    """What was found of the one encoder."""
    (found,) = data_module.copies.values()
    return found


def altered(frame: pd.DataFrame, folder: Path, how: str) -> list[str]:
    """The images of a table, written anew: re-encoded, resized, or as others."""
    folder.mkdir()
    rng, found = np.random.default_rng(9), []
    for k, path in enumerate(frame["image_path"]):
        image = Image.open(path)
        if how == "re-encoded":
            image.save(folder / f"{k}.jpg", quality=80)
        elif how == "resized":
            image.resize((70, 70), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
        else:
            coarse = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
            coarse.save(folder / f"{k}.png")
        found.append(str(next(folder.glob(f"{k}.*"))))
    return found


@pytest.mark.parametrize("how", ["re-encoded", "resized"])
def test_a_copy_of_a_training_image_is_refused_where_no_patient_says_otherwise(
    pretrained: tuple[Path, pd.DataFrame], tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, frame = pretrained
    test = pd.DataFrame({"image_path": altered(frame, tmp_path / "new", how), "split": "test"})
    with pytest.raises(UsageError, match=r"9 of 10 test images are near-duplicates .* --allow_leakage"):
        made(test, encoder_run=run)
    allowed = copies(made(test, encoder_run=run, allow_leakage=True))
    assert (allowed.copied, allowed.reason) == (9, "")
    assert "9 of 10 test images are near-duplicates" in capsys.readouterr().err
    patients = test.assign(patient=[f"P{k}" for k in range(10)])  # the training images have none: nothing states otherwise
    with pytest.raises(UsageError, match="9 of 10"):
        made(patients, encoder_run=run)


def test_copies_of_other_patients_are_said(grey_folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    frame = sources.load(grey_folder(5, side=96)).table.assign(split=["train"] * 9 + ["val"], patient=[f"A{k}" for k in range(10)])
    made(frame).save_used(tmp_path)
    paths = altered(frame, tmp_path / "new", "re-encoded")
    found = made(
        pd.DataFrame({"image_path": paths, "split": "test", "patient": [f"B{k}" for k in range(10)]}), encoder_run=tmp_path
    )
    assert (copies(found).copied, copies(found).others) == (0, 9)
    assert "9 of 10 test images are near-duplicates of other patients' images" in capsys.readouterr().err


def test_other_images_pass_and_what_is_not_recorded_is_not_checked(
    pretrained: tuple[Path, pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, frame = pretrained
    test = pd.DataFrame({"image_path": altered(frame, tmp_path / "new", "other"), "split": "test"})
    found = copies(made(test, encoder_run=run))
    assert found.row()["value"] == 0 and found.row()["overlap"] == "none"
    assert "near-duplicates" not in capsys.readouterr().err
    used = pd.read_parquet(run / USED)
    used.drop(columns="look").to_parquet(run / USED)  # as an earlier version wrote it
    found = copies(made(test, encoder_run=run))
    assert found.row()["value"] is None and found.row()["overlap"].startswith("not checked")
    assert "near-duplicates in the encoder's training: not checked" in capsys.readouterr().err


def test_what_a_run_held_back_is_not_held_against_it(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    frame = sources.load(grey_folder(5, side=96)).table
    frame.loc[9, "image_path"] = altered(frame.iloc[:1], tmp_path / "new", "re-encoded")[0]
    frame = frame.assign(split=["train"] * 7 + ["val", "test", "test"], group=[f"G{k}" for k in range(10)])
    made(frame).save_used(tmp_path)  # groups say that they are apart
    found = copies(made(frame, encoder_run=tmp_path))
    assert (found.copied, found.tested) == (0, 2)


def test_near_pairs_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(2)
    known = rng.integers(0, 256, (60, 32), dtype=np.uint8)
    mine = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    for k in range(20):
        mine[k] = known[2 * k]
        for bit in rng.choice(256, k, replace=False):  # 0 to 19 bits away
            mine[k, bit // 8] ^= 1 << (bit % 8)
    mine[39], known[59] = 0, 0  # plain images are like nothing
    found = set(zip(*(a.tolist() for a in near_pairs(mine, known)), strict=True))
    distance = np.bitwise_count(mine[:, None] ^ known[None]).sum(2, dtype=int)
    assert found == {(i, j) for i, j in np.argwhere(distance <= 10).tolist() if (i, j) != (39, 59)}
    assert len(near_duplicates(known)) == 60 and near_pairs(mine[20:39], known)[0].size == 0


def test_what_weights_were_trained_on_before_without_their_run_is_not_checked(
    pretrained: tuple[Path, pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, frame = pretrained
    data_module = made(frame)
    monkeypatch.setattr(provenance, "record", lambda _: Record.of_header(data_module.record(np.arange(9))))
    test = pd.DataFrame({"image_path": altered(frame, tmp_path / "new", "other"), "split": "test"})
    assert copies(made(test, encoder_run=run)).reason == ""
    used = pd.read_parquet(run / USED)
    used[used["row"] != 3].to_parquet(run / USED)  # as of a run that started from a file, whose run is elsewhere
    found = copies(made(test, encoder_run=run))
    assert found.row()["value"] is None and found.row()["overlap"].startswith("not checked: 1 of the images")
    assert "near-duplicates in the encoder's training: not checked (1 of the images" in capsys.readouterr().err
    alike = pd.DataFrame({"image_path": altered(frame, tmp_path / "alike", "resized"), "split": "test"})
    found = copies(made(alike, encoder_run=run, allow_leakage=True))
    assert (found.row()["value"], found.row()["overlap"][:8]) == (8, "8 copies") and "not checked" in found.row()["overlap"]


def test_validation_rows_that_chose_earlier_weights_stay_known(
    pretrained: tuple[Path, pd.DataFrame], grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    run, frame = pretrained
    record = made(frame).record(np.arange(10))  # a fine-tuning's: its validation row too
    monkeypatch.setattr(provenance, "record", lambda _: Record.of_header(record))
    later = made(sources.load(grey_folder(5, side=96, name="later", seed=3)).table, encoder_run=run)
    (tmp_path / "second").mkdir()
    later.save_used(tmp_path / "second")
    used = pd.read_parquet(tmp_path / "second" / USED)
    assert (used["split"][used["row"] < 0] == "train").sum() == 10
    assert Record.of_header(later.record(np.arange(10))).beyond(used["content"]) == 0


def test_a_damaged_record_of_a_run_is_one_line(pretrained: tuple[Path, pd.DataFrame]) -> None:
    run, frame = pretrained
    (run / USED).write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"used.parquet: damaged: .* move it away"):
        made(frame, encoder_run=run)
    frame[["split"]].to_parquet(run / USED)  # of something else
    with pytest.raises(UsageError, match=r"used.parquet: damaged"):
        made(frame, encoder_run=run)
