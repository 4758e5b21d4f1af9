"""What verbs start from: checked, decoded, split, and kept apart from what an encoder has seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import scotoma
from scotoma.data import dataset, encoder_header, provenance, pseudonyms, sources
from scotoma.data.datamodule import USED, DataModule, gather, read_earlier_split
from scotoma.data.splits import splits
from scotoma.errors import UsageError


def made(data: object, **options: object) -> DataModule:
    return gather(data=data, size=16, quiet=True, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """These run folders hold no weights: as if another program's lay there."""
    for reader in (encoder_header, provenance):
        monkeypatch.setattr(reader, "info_or_none", lambda source: None)


@pytest.fixture(scope="module")
def phantoms() -> DataModule:
    return made("phantom:120", target=["cardiomegaly"])


def test_gathers_images_split_and_target(phantoms: DataModule) -> None:
    assert phantoms.modality == "grey"
    assert phantoms.split.unit == "patient"
    assert phantoms.target is not None
    assert phantoms.target.classes == ("0", "1")
    assert phantoms.rows.tolist() == list(range(120))
    assert set(phantoms.split.of[phantoms.pretraining]) == {"train"}
    assert len(phantoms.pretraining) == (phantoms.split.of == "train").sum()


def test_pretraining_sees_rows_outside_the_split_unless_their_patient_or_image_is_held_out(grey_folder) -> None:  # type: ignore[no-untyped-def]
    frame = sources.load(grey_folder(4)).table
    frame["split"] = ["train", "val", "test", None, None, None, "train", None]
    frame["patient"] = ["a", "b", "c", "c", "e", "f", "g", "b"]
    frame.loc[5, "image_path"] = frame.loc[2, "image_path"]  # the test image again, under another name
    assert made(frame).pretraining.tolist() == [0, 4, 6]


def test_nothing_left_to_pretrain_on_is_refused(grey_folder) -> None:  # type: ignore[no-untyped-def]
    frame = sources.load(grey_folder(2)).table.assign(split=["train", "val", "test", "test"], patient=["a", "b", "a", "a"])
    with pytest.raises(UsageError, match="none is left"):
        _ = made(frame, allow_leakage=True).pretraining


def test_the_fingerprint_is_of_the_pixels_whatever_their_order(phantoms: DataModule) -> None:
    assert phantoms.fingerprint(np.array([3, 1, 2])) == phantoms.fingerprint(np.array([1, 2, 3]))
    assert phantoms.fingerprint(np.array([1, 2, 3])) != phantoms.fingerprint(np.array([1, 2, 4]))


def test_used_holds_keyed_hashes_and_the_split(phantoms: DataModule, tmp_path: Path) -> None:
    phantoms.save_used(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [USED]
    used = pd.read_parquet(tmp_path / USED)
    assert used["split"].tolist() == phantoms.split.of.tolist()
    assert used["file"][7] == pseudonyms.pseudonym("phantom:0 7", pseudonyms.load_key())
    assert used["patient"].tolist() == phantoms.dataset.table["patient"].tolist()
    assert used["content"].str.fullmatch("[0-9a-f]{32}").all()
    earlier = read_earlier_split(tmp_path)
    assert earlier == read_earlier_split(tmp_path / "encoder.safetensors")
    for names, of in zip(splits.name_rows(phantoms.dataset, phantoms.store), phantoms.split.of, strict=True):
        assert [earlier[name] for name in names] == [of, of]
    assert read_earlier_split(None) == read_earlier_split(tmp_path / "absent" / "run") == {}


def test_the_same_data_keep_their_split_for_the_encoder_they_made(phantoms: DataModule, tmp_path: Path) -> None:
    phantoms.save_used(tmp_path)
    again = made("phantom:120", target=["nodule"], seed=5, encoder_run=tmp_path)
    assert np.array_equal(again.split.of, phantoms.split.of)
    more = made("phantom:150", encoder_run=tmp_path)
    assert np.array_equal(more.split.of[:120], phantoms.split.of)
    assert set(more.split.of[120:]) <= set(dataset.SPLITS)


def test_an_encoder_is_not_tested_on_what_it_was_pretrained_on(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    frame = sources.load(grey_folder(5)).table
    frame["split"] = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    used = pd.DataFrame(
        {
            "patient": [None],
            "content": [made(frame).store.facts["content"][8]],
            "split": ["train"],
            "row": [0],
            "unit": [0],
            "file": ["f"],
        }
    )
    run = tmp_path / "run"
    run.mkdir()
    used.to_parquet(run / USED)
    with pytest.raises(UsageError, match=r"^1 of 2 test images of table .* were in the encoder's pretraining; .*--allow_leakage$"):
        made(frame, encoder_run=run)
    assert made(frame, encoder_run=run, allow_leakage=True).split.of.tolist() == frame["split"].tolist()
    frame["patient"] = [f"P{k}" for k in range(10)]
    by_patient = used.assign(patient=pseudonyms.pseudonym("P9", pseudonyms.load_key()), content="other")
    by_patient.to_parquet(run / USED)
    with pytest.raises(UsageError, match="1 of 2"):
        made(frame, encoder_run=run)
    for harmless in ("val", "test", ""):
        by_patient.assign(split=harmless).to_parquet(run / USED)
        made(frame, encoder_run=run)


def test_a_tuned_network_remembers_what_its_encoder_had_seen(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    first, second = (sources.load(grey_folder(12, seed=s, name=f"s{s}")).table for s in (1, 2))
    pretrained = made(first)
    (tmp_path / "pretrain").mkdir()
    pretrained.save_used(tmp_path / "pretrain")
    tuned = made(second, target=["label"], encoder_run=tmp_path / "pretrain")
    (tmp_path / "finetune").mkdir()
    tuned.save_used(tmp_path / "finetune")
    seen = first.iloc[pretrained.pretraining[:3]].assign(split="test")
    mixed = pd.concat([second.assign(split=tuned.split.of), seen], ignore_index=True)
    with pytest.raises(UsageError, match=r"3 of .* test images"):
        made(mixed, encoder_run=tmp_path / "finetune")
    made(second.assign(split=tuned.split.of), encoder_run=tmp_path / "finetune")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ["cardiomegali"]}, "did you mean 'cardiomegaly'"),
        ({"modality_name": "xay"}, "xray"),
        ({"labels": "absent.csv", "on": "a"}, "no such file"),
    ],
)
def test_a_wrong_request_is_found_before_anything_is_decoded(
    options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scotoma.data.store.store.prepare", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UsageError, match=message):
        made("phantom:30", **options)


def test_a_target_of_the_headers_is_read_once_they_are(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    for k in range(24):
        write_dicom(tmp_path / "scans" / f"{k}.dcm", np.full((20, 20), 10 * k, np.uint8), PatientSex="FM"[k % 2],
                    PatientID=f"ID{k // 2}",
                    PatientAge=f"0{40 + k}Y", Modality="DX", Manufacturer="Maker")  # fmt: skip
    found = made(tmp_path / "scans", target=["sex"])
    assert found.target is not None
    assert found.target.classes == ("F", "M")
    assert found.target.y.tolist() == [0, 1] * 12
    assert found.modality == "xray"
    table_of = found.dataset.table
    assert table_of["age"].tolist() == [40 + k for k in range(24)]
    assert set(table_of["vendor"]) == {"Maker"}
    assert table_of["patient"].tolist() == [pseudonyms.pseudonym(f"ID{k // 2}", pseudonyms.load_key()) for k in range(24)]
    with pytest.raises(UsageError, match="no column 'laterality'"):
        made(tmp_path / "scans", target=["laterality"])
    mine = sources.load(tmp_path / "scans").table.assign(sex=list("XXYY" * 6))  # the table's own column goes before the header's
    assert made(mine, target=["sex"]).target.classes == ("X", "Y")


def test_a_table_that_the_run_has_never_seen_is_tested_whole(phantoms: DataModule, tmp_path: Path) -> None:
    phantoms.save_used(tmp_path)
    new = made("phantom:40:9", encoder_run=tmp_path, rows="auto")
    assert set(new.split.of) == {"test"} and new.rule.startswith("all rows: the table has no split")
    assert len(np.unique(new.split.units)) == new.dataset.table["patient"].nunique()  # bootstrapped over patients still
    seen = made("phantom:120", encoder_run=tmp_path, rows="auto")
    assert np.array_equal(seen.split.of, phantoms.split.of) and "the training run's own split" in seen.rule
    drawn = made("phantom:40:9", encoder_run=tmp_path, rows="test")
    assert set(drawn.split.of) == set(dataset.SPLITS) and "drawn" in drawn.rule
    frame = new.dataset.table.drop(columns="row").assign(split=["train"] * 10 + ["test"] * 30, patient=range(40))
    own = made(frame, encoder_run=tmp_path, rows="auto")
    assert (own.split.of == "test").sum() == 30 and "own split" in own.rule
    whole = made(frame, encoder_run=tmp_path, rows="all")
    assert set(whole.split.of) == {"test"} and "--split all" in whole.rule
    with pytest.raises(UsageError, match="in the encoder's pretraining"):
        made("phantom:120", encoder_run=tmp_path, rows="all")


def test_altered_copies_across_a_tables_own_split_are_said_or_that_nobody_looked(
    grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    frame = sources.load(grey_folder(6)).table
    with Image.open(frame["image_path"][0]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    frame = frame.assign(patient=[f"p{k}" for k in range(12)], split=["train"] * 9 + ["test"] * 3)
    mirrored = frame.iloc[[0]].assign(image_path=str(tmp_path / "mirrored.png"), patient="other")
    copied = pd.concat([frame, mirrored.assign(split="test")], ignore_index=True)

    def made(data: pd.DataFrame) -> tuple[int | None, str]:
        return gather(data=data, target=["label"], size=96, quiet=True).split.copied, capsys.readouterr().err

    monkeypatch.setattr(splits, "LOOKED_THROUGH", 12)
    count, told = made(copied)
    assert count is None and "own split: not checked (`scotoma audit` looks for them)" in told
    scotoma.audit(copied, quiet=True)  # keeps what it finds
    capsys.readouterr()
    count, told = made(copied)
    assert count == 1 and "1 groups of altered copies" in told and "not checked" not in told
    assert made(frame) == (0, "")
    monkeypatch.setattr(splits, "LOOKED_THROUGH", 13)
    assert made(pd.concat([frame, mirrored], ignore_index=True))[0] == 0  # on the side of what it is a copy of
    _, told = made(copied.drop(columns="split"))
    assert "altered copies" not in told


@pytest.mark.parametrize(
    ("header", "expected"), [("US", "ultrasound"), ("MG", "mammography"), ("OPT", "oct"), ("SM", "histology"), ("OT", "grey")]
)
def test_the_modality_is_what_most_headers_say(write_dicom, tmp_path: Path, header: str, expected: str) -> None:
    rng = np.random.default_rng(0)
    for k, name in enumerate((header, header, "CT")):
        write_dicom(tmp_path / "d" / f"{k}.dcm", rng.integers(0, 255, (20, 20), np.uint8), PatientID=f"p{k}", Modality=name)
    assert gather(data=tmp_path / "d", size=16, quiet=True).modality == expected
