"""What weights were trained on travels with them, and is looked for in whatever they are tested on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scotoma.commands.embed import embed
from scotoma.data import encoder_header, provenance, pseudonyms, sources
from scotoma.data.datamodule import DataModule, Source, gather
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.provenance import IN_PART, NO_RECORD, KeyedHashes, Record, of_rows
from scotoma.data.splits.lookalikes import Copies
from scotoma.errors import UsageError
from scotoma.models import encoders, pretrained_weights


def names(*values: object) -> np.ndarray:
    """Pseudonyms as a table has them, None for a missing one."""
    return np.array([None if v is None else pseudonyms.pseudonym(v, b"k" * 32) for v in values], object)


def numbers(*values: object) -> list[int]:
    return sorted(int(n[:16], 16) for n in names(*values))


def test_a_record_holds_sorted_hashes_of_patients_and_images_and_survives_its_header() -> None:
    record = of_rows(names("p", "p", None, "q"), names(1, 2, 3, 3), "key", 3)
    (part,) = record.parts
    assert part.images is not None and part.patients is not None
    assert part.images.tolist() == numbers(1, 2, 3)
    assert part.patients.tolist() == numbers("p", "q")
    assert (part.counts, part.unnamed) == ((3, 2), 1)
    header = record.header()
    again = Record.of_header(header)
    assert again.header() == header
    assert len(header["parts"][0]["image_hashes"]) == 32  # 3 hashes of 8 bytes in base64
    assert record.statement() == {"trained_on": [{"key": "key", "images": 3, "patients": 2}], "unknown": []}


def test_rows_are_found_by_patient_or_by_image() -> None:
    record = of_rows(names("p", "q", None), names(1, 2, 3), "key", 3)
    look = record.look(names("p", "x", None, "y", None), names(7, 2, 3, 8, 9), "key", 3)
    assert look.seen.tolist() == [True, True, True, False, False]
    assert look.checked.all()
    assert look.overlap(np.array([3, 4])).value == IN_PART
    found = look.overlap(np.array([0, 3]))
    assert (found.value, found.rows) == (1, 2)
    told = "1 of 2 test images (or their patients) were in the training of the encoder"
    assert found.sentence("test images").startswith(
        f"{told}; not checked in full: no patient is known of 1 of 3 images of the training, for which"
    )
    assert (
        of_rows(names("p"), names(1), "key", 3)
        .look(names("p", "x"), names(7, 8), "key", 3)
        .overlap(np.arange(2))
        .sentence("test images")
        == told
    )


def test_without_patients_identical_images_alone_are_looked_for_and_that_is_said() -> None:
    """Wherever they are missing: in this row, or in one of the training."""
    rows = names("x", None, "p"), names(8, 9, 7)
    for record, alone, where in (
        (of_rows(names("p", "q"), names(1, 2), "key", 3), 1, "1 of 3 images here,"),
        (of_rows(names("p", None), names(1, 2), "key", 3), 2, "1 of 2 images of the training and 1 of 3 images here,"),
        (Record(), 0, ""),  # random weights
    ):
        found = record.look(*rows, "key", 3).overlap(np.arange(3))
        assert (found.alone, found.unchecked) == (alone, 0)
        assert (f"no patient is known of {where}" in found.sentence("test images")) == bool(alone)
        assert ("identical images alone" in found.row().get("reason", "")) == bool(alone)
        assert found.value == found.row()["overlap"] == (found.seen or ("none found; patients not checked" if alone else "none"))


def test_a_missing_name_is_no_name_that_two_rows_share() -> None:
    record = of_rows(names(None, None), names(1, 2), "key", 3)
    assert not record.look(names(None), names(5), "key", 3).seen.any()
    assert record.parts[0].counts == (2, 0)


def test_not_checked_is_not_none() -> None:
    own = of_rows(names("p"), names(1), "key", 3)
    rows = names("p", "z"), names(1, 9)
    for record, reason, seen in (
        (Record.of_header(None), NO_RECORD, 0),
        (own.joined(provenance.unknown("weights of another program")), "another program", 1),
        (of_rows(names("p"), names(1), "other", 3), "another installation's key", 0),
        (Record.of_header({"parts": [{"key": 1}], "unknown": []}), "damaged", 0),
        (Record.of_header({"parts": "no", "unknown": []}), "damaged", 0),
    ):
        found = record.look(*rows, "key", 3).overlap(np.arange(2))
        assert (found.seen, found.unchecked) == (seen, 2 - seen)
        assert reason in "; ".join(found.reasons)
        assert found.value == (1 if seen else "not checked")
        assert "not checked" in found.sentence("test images")
        assert found.row()["value"] == (1 if seen else None)
    assert Record().look(*rows, "key", 3).overlap(np.arange(2)).value == "none"  # random weights


def test_images_read_by_another_version_may_have_other_hashes_but_patients_do_not() -> None:
    record = of_rows(names("p"), names(1), "key", 2)
    look = record.look(names("q", None, None), names(8, 9, 1), "key", 3)
    assert look.checked.tolist() == [True, False, False]
    assert look.seen.tolist() == [False, False, True]
    assert not of_rows(names("p", None), names(1, 2), "key", 2).look(names("q"), names(8), "key", 3).checked.any()


def test_above_the_limit_patients_alone_then_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "MOST", 3)
    many = of_rows(names("p", "p", "q", "q"), names(1, 2, 3, 4), "key", 3)
    assert many.parts[0].images is None and many.parts[0].patients is not None
    assert many.header()["parts"][0]["image_hashes"] is None
    look = Record.of_header(many.header()).look(names("q", "x", None), names(1, 9, 9), "key", 3)
    assert look.seen.tolist() == [True, False, False]
    assert look.checked.tolist() == [True, True, False]
    more = of_rows(names("p", "q", "r", "s"), names(1, 2, 3, 4), "key", 3)
    assert more.parts[0].patients is None
    assert more.look(names("p"), names(1), "key", 3).overlap(np.array([0])).value == "not checked"
    two = [of_rows(names(a, b), names(a, b), "key", 3) for a, b in ("pq", "rs")]
    joined = two[0].joined(two[1])
    assert joined.parts[0].images is None and joined.parts[0].counts == (4, 4)


def test_records_join_by_key_and_reader() -> None:
    first = of_rows(names("p", None), names(1, 2), "a", 3).joined(of_rows(names("q"), names(2), "a", 3))
    assert [(p.key, p.counts, p.unnamed) for p in first.parts] == [("a", (2, 2), 1)]
    several = first.joined(of_rows(names("p"), names(1), "b", 3)).joined(of_rows(names("p"), names(1), "a", 2))
    assert [(p.key, p.reader) for p in several.parts] == [("a", 2), ("a", 3), ("b", 3)]
    rest = provenance.unknown("x").joined(provenance.unknown("x")).joined(provenance.unknown("y"))
    assert rest.unknown == ("x", "y")


def test_a_hundred_thousand_images_and_patients_stay_below_three_megabytes() -> None:
    hashes = np.arange(1, provenance.MOST + 1, dtype=np.uint64) * np.uint64(1 << 40)
    record = Record((KeyedHashes("key", 3, hashes, hashes, (len(hashes), len(hashes))),))
    assert sum(len(str(v)) for v in record.header()["parts"][0].values()) < 3_000_000


# ---- through files and tables ----


def made(data: object, **options: object) -> DataModule:
    return gather(data=data, size=32, quiet=True, **options)  # type: ignore[arg-type]


def network(path: Path, record: Record | None) -> Path:
    """An encoder file of its own, away from any run folder."""
    timm_name, kwargs = encoders.resolve("resnet10t", 32)
    info = EncoderInfo(timm_name, kwargs, 1, 32, (0.4,), (0.2,), trained_on=record and record.header())
    torch.manual_seed(0)
    path.mkdir()
    encoders.save(path / "copied.safetensors", encoders.build(info), info)
    return path / "copied.safetensors"


@pytest.fixture
def frame(grey_folder) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    return sources.load(grey_folder(10)).table.assign(patient=[f"P{k // 2}" for k in range(20)])


def test_an_encoder_copied_away_from_its_run_is_known_by_its_header(
    frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made(frame, target=["label"])
    copied = network(tmp_path / "a", Record.of_header(first.record(first.pretraining)))
    mine = first.split.of
    told = frame.assign(split=np.where(mine == "test", "train", np.where(mine == "train", "test", mine)))
    with pytest.raises(UsageError, match=r"14 of 14 test images .* test copied.safetensors on others, or use --allow_leakage"):
        made(told, encoder_run=copied)
    allowed = made(told, encoder_run=copied, allow_leakage=True)
    assert allowed.overlaps[str(copied)].value == 14
    assert "14 of 14 test images (or their patients) were in the training" in capsys.readouterr().err
    assert made(frame.assign(split=mine), encoder_run=copied).overlaps[str(copied)].value == "none"
    assert "test images" not in capsys.readouterr().err
    drawn = made(frame, target=["label"], seed=3, encoder_run=copied)  # a drawn split keeps what it was trained on out of the test
    assert (drawn.split.of[mine == "train"] == "train").all()
    assert drawn.overlap(copied).value == "none"
    assert {"val", "test"} & set(drawn.split.of.tolist())


def test_rows_of_a_table_without_patients_say_that_these_are_not_checked(
    frame: pd.DataFrame, grey_folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    first = made(frame)
    copied = network(tmp_path / "a", Record.of_header(first.record(np.arange(20))))
    other = sources.load(grey_folder(3, seed=9, name="others")).table
    found = made(other, encoder_run=copied, rows="auto")
    assert "not checked in full: no patient is known of 6 of 6 images here, for which" in capsys.readouterr().err
    assert found.rule.endswith("(patients not checked in full)")
    assert found.overlap_in_words(copied) == "none found; patients not checked; near-duplicates not checked"
    named = made(other.assign(patient=list("UVWXYZ")), encoder_run=copied, rows="auto")
    assert named.rule.endswith("is known to the training run")
    assert named.overlap_in_words(copied) == "none found; near-duplicates not checked"  # the file came without its run
    first.save_used(copied.parent)
    assert made(other.assign(patient=list("UVWXYZ")), encoder_run=copied).overlap_in_words(copied) == "none"


@pytest.mark.parametrize(
    ("overlap", "copied", "reason", "words"),
    [
        ("none", 0, "", "none"),
        (3, 0, "", 3),
        (3, 2, "", "3; 2 near-duplicates"),
        ("none", 2, "", "2 near-duplicates"),
        ("none", 0, "no record", "none found; near-duplicates not checked"),
        ("not checked", 0, "no record", "not checked; near-duplicates not checked"),
    ],
)
def test_none_is_said_where_copies_were_looked_for_too(overlap: int | str, copied: int, reason: str, words: int | str) -> None:
    assert Copies(copied, 0, 9, reason).beside(overlap) == words


def test_hashes_of_a_store_that_another_version_read_are_recorded_and_compared_as_such(frame: pd.DataFrame, tmp_path: Path) -> None:
    first = made(frame.drop(columns="patient"), target=["label"])
    old = replace(first, store=replace(first.store, protocol=1))
    (part,) = Record.of_header(old.record(old.pretraining)).parts
    assert part.reader == 1
    copied = network(tmp_path / "a", Record.of_header(first.record(first.split.rows("train"))))
    looks = [Source(str(copied), first.dataset, opened).look for opened in (first.store, old.store)]
    assert [bool(look.checked.any()) for look in looks] == [True, False]


def test_other_images_of_a_trained_patient_are_found(frame: pd.DataFrame, grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    first = made(frame)
    copied = network(tmp_path / "a", Record.of_header(first.record(np.array([0]))))
    other = sources.load(grey_folder(3, seed=9, name="others")).table.assign(patient=["P0", "X", "X", "Y", "Y", "Z"], split="test")
    with pytest.raises(UsageError, match=r"^1 of 6 test images"):
        made(other, encoder_run=copied)


def test_another_key_is_not_checked_and_a_shared_one_is(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = frame.assign(split=["train"] * 10 + ["test"] * 10)
    first = made(told)
    copied = network(tmp_path / "a", Record.of_header(first.record(np.arange(10, 20))))
    shared = tmp_path / "copy of the key"
    shutil.copy(pseudonyms.key_path(), shared)
    monkeypatch.setenv(pseudonyms.KEY_VARIABLE, str(tmp_path / "another key"))
    found = made(told, encoder_run=copied)
    assert found.overlaps[str(copied)].value == "not checked"
    said = capsys.readouterr().err
    assert "not checked whether the encoder copied.safetensors was trained on 10 of 10 test images: " in said
    assert "another installation's key" in said
    keys = {part["key"] for part in found.record(np.arange(10))["parts"]}
    assert keys == {found.store.key, first.store.key} and len(keys) == 2  # what goes on from it has both
    monkeypatch.setenv(pseudonyms.KEY_VARIABLE, str(shared))
    with pytest.raises(UsageError, match="10 of 10"):
        made(told, encoder_run=copied)


def test_what_started_from_other_weights_remembers_theirs(frame: pd.DataFrame, tmp_path: Path) -> None:
    told = frame.assign(split=["train"] * 10 + ["test"] * 10)
    first = made(told)
    begun = network(tmp_path / "a", Record.of_header(first.record(np.arange(10, 14))))
    second = made(told, encoder_run=begun, tests=False)  # as pretrain --init: said, not refused
    assert second.overlap(begun).value == 4
    record = Record.of_header(second.record(np.arange(10)))
    assert record.parts[0].counts == (14, 7)
    third = network(tmp_path / "b", record)
    with pytest.raises(UsageError, match=r"^4 of 10"):
        made(told, encoder_run=third)
    vendor = made(told, encoder_run=Path("resnet18.a1_in1k"), tests=False)
    assert vendor.overlaps["resnet18.a1_in1k"].value == "not checked"
    assert "public weights" in vendor.record(np.arange(10))["unknown"][0]


def test_weights_that_stand_as_controls_are_looked_at_too(frame: pd.DataFrame, tmp_path: Path) -> None:
    told = frame.assign(split=["train"] * 10 + ["test"] * 10)
    control = network(tmp_path / "a", Record.of_header(made(told).record(np.array([12]))))
    with pytest.raises(UsageError, match=r"^2 of 10 .* test copied.safetensors on others"):
        made(told, compared=[str(control)])
    found = made(told, compared=[str(control)], allow_leakage=True)
    assert found.overlap(control).value == 2
    assert found.record(np.arange(10))["parts"][0]["images"] == 10  # not of what was trained from here


def test_a_file_of_another_program_or_without_a_record_says_so(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    assert provenance.record(network(tmp_path / "old", None)).unknown == (f"copied.safetensors: {NO_RECORD}",)
    save_file({"a": torch.zeros(1)}, tmp_path / "theirs.safetensors")
    assert (
        provenance.record(tmp_path / "theirs.safetensors")
        .unknown[0]
        .startswith("the weights theirs.safetensors are of another program")
    )


def test_a_file_of_a_newer_version_is_not_taken_for_one_of_another_program(tmp_path: Path) -> None:
    """Its record is there: to go on as if nobody knew what it was trained on would test it on its own training images."""
    import json

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = network(tmp_path / "run", provenance.of_rows(np.array(["p"], object), np.array(["c"], object), "k", 1))
    file = path / "encoder.safetensors" if path.is_dir() else path
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["scotoma"])
    newer = tmp_path / "newer.safetensors"
    save_file(load_file(file), newer, {"scotoma": json.dumps(header | {"stratum": 3})})
    for read in (
        provenance.record,
        lambda f: pretrained_weights.network(str(f)),
        lambda f: encoder_header.warn_unlike(f, "scans", {}),
    ):
        with pytest.raises(UsageError, match=r"fields that are unknown to this version of Scotoma \('stratum'\): install a newer"):
            read(newer)


def test_embed_says_on_how_many_rows_the_encoder_was_trained(
    frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from pyarrow.parquet import read_schema

    copied = network(tmp_path / "a", Record.of_header(made(frame).record(np.arange(6))))
    out = embed(copied, frame, tmp_path / "e.parquet", quiet=True)
    assert "6 of 20 embedded images (or their patients) were in the training" in capsys.readouterr().err
    said = json.loads(read_schema(out).metadata[b"scotoma"])
    key = pseudonyms.key_id(pseudonyms.load_key())
    assert (said["overlap"], said["trained_on"]) == (6, [{"key": key, "images": 6, "patients": 3}])
    assert pd.read_parquet(out)["split"].fillna("").tolist() == ["train"] * 6 + [""] * 14
    embed(network(tmp_path / "b", None), frame, tmp_path / "f.parquet", quiet=True)
    assert json.loads(read_schema(tmp_path / "f.parquet").metadata[b"scotoma"])["overlap"] == "not checked"
