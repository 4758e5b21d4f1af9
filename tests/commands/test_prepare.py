"""`prepare`: a store that can be moved, without paths and names."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma import cli
from scotoma.commands.prepare import prepare
from scotoma.data import encoder_header, sources
from scotoma.data.io import read as images
from scotoma.data.store import store
from scotoma.errors import RunError, UsageError


def test_a_store_can_be_moved_and_says_nothing_of_paths_or_patients(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(4)
    frame = sources.load(root).table
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
    dataset, opened = store.prepare(sources.load(tmp_path / "elsewhere"), 32, quiet=True)
    assert np.array_equal(opened.pixels, pixels)
    assert dataset.table["patient"].nunique() == 4
    assert sources.values(dataset.table["age"]) == ["61", "62", None, "1.5", "70", "71", "72", "unknown"]


def test_columns_that_identify_are_left_out_with_a_line_and_kept_where_they_may_be(
    grey_folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(12, classes=())
    frame = sources.load(root).table.assign(
        patient=[f"p{k // 2}" for k in range(12)],
        group=[f"Mueller{k // 4}" for k in range(12)],
        patient_name=[f"Zwxy{k // 2}" for k in range(12)],
        note=[f"seen by {k} and by others" for k in range(12)],
        sex=["F", "M"] * 6,
        label=["a", "b", "c"] * 4,
    )
    path = prepare(frame, tmp_path / "store", size=16, quiet=True)
    assert capsys.readouterr().err == (
        "table: left out of the store as identifying: patient_name (a person's name), note (free text); "
        "keep one that identifies nobody with `columns` note\n"
        "table: 12 images of 32 x 32 pixels, 1 channel; 0 unreadable; 0 files of several images; 4 columns kept: "
        "group, label, patient, sex\n"
    )
    kept = sources.load(path)
    assert set(kept.table.columns) == {"row", "patient", "group", "sex", "label"}
    assert kept.table["group"].nunique() == 3
    assert not set(kept.table["group"]) & set(frame["group"])
    with pytest.raises(
        UsageError, match="has no column 'note'; `scotoma prepare` left it out as free text: prepare anew with --columns"
    ):
        kept.column("note")
    asked = prepare(frame, tmp_path / "asked", size=16, quiet=True, columns=["note"])
    assert sources.load(asked).table["note"].tolist() == frame["note"].tolist()
    with pytest.raises(UsageError, match="`columns` patient_name: a person's name is kept in no store"):
        prepare(frame, tmp_path / "other", size=16, quiet=True, columns=["patient_name"])
    with pytest.raises(UsageError, match="has no column 'nota'"):
        prepare(frame, tmp_path / "other", size=16, quiet=True, columns=["nota"])
    assert not (tmp_path / "other").exists()


def test_labels_are_joined_and_unreadable_rows_left_out(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(2, classes=())
    (root / "scan_0.png").write_bytes(b"")
    pd.DataFrame({"scan": ["scan_0", "scan_1"], "dx": ["a", "b"]}).to_csv(tmp_path / "l.csv", index=False)
    prepare(root, tmp_path / "store", size=16, labels=str(tmp_path / "l.csv"), on="scan", quiet=True)
    read = sources.load(tmp_path / "store").table
    assert (read["row"].tolist(), read["dx"].tolist()) == ([1], ["b"])
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(RunError, match="cannot be read"):
        prepare(root, tmp_path / "store", size=16, strict=True, quiet=True)
    assert not (tmp_path / "store").exists()


def test_a_store_serves_sizes_up_to_its_side(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    prepare(grey_folder(2), tmp_path / "store", size=32, quiet=True)
    dataset = sources.load(tmp_path / "store")
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
    with pytest.raises(UsageError, match="`size` 8"):
        prepare(root, tmp_path / "other", size=8, quiet=True)
    with pytest.raises(UsageError, match="channels=2: must be 1 or 3"):
        prepare(root, tmp_path / "other", channels=2, quiet=True)
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before
    assert not (tmp_path / "other").exists()


def test_flags_as_typed_choose_slices_and_how_they_look(tmp_path: Path) -> None:
    volume = np.full((12, 14, 16), -1000, np.int16)  # air, and a body from the fifth coronal slice on
    volume[2:10, 5:, 3:13] = np.random.default_rng(0).integers(0, 400, (8, 9, 10))
    (tmp_path / "scans").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "scans" / "ct.nii.gz")
    typed = f"prepare {tmp_path}/scans --out {tmp_path}/s --size 16 --windows brain,50:350,bone --equalize clahe --axis coronal"
    assert cli.main([*typed.split(), "--every", "3", "--skip_empty", "--quiet"]) == 0
    dataset, opened = store.prepare(sources.load(tmp_path / "s"), 16, quiet=True)
    display = images.Display(((40.0, 80.0), (50.0, 350.0), (400.0, 1800.0)), "clahe")
    assert (opened.display, opened.channels, len(dataset)) == (display, 3, 3)
    slices = [images.read(f"{tmp_path}/scans/ct.nii.gz#coronal", k, display=display).pixels for k in (6, 9, 12)]
    for row, wanted in zip(dataset.table["row"], slices, strict=True):
        np.testing.assert_array_equal(opened.pixels[row], images.square(wanted, opened.side, 3))


def test_what_an_encoder_was_shown_is_what_finetune_and_evaluate_show_it(tmp_path: Path) -> None:
    rng, paths = np.random.default_rng(0), []
    for k in range(24):
        hounsfield = rng.integers(-900, 200, (24, 24)) + 40 * (k % 2)
        paths.append(f"{k}.png")
        Image.fromarray((hounsfield + 32768).astype(np.uint16)).save(tmp_path / paths[-1])
    frame = pd.DataFrame(
        {"image_path": paths, "label": np.arange(24) % 2, "split": ["train", "train", "val", "val", "test", "test"] * 4}
    )
    frame.to_csv(tmp_path / "ct.csv", index=False)
    shown = images.Display(((-600.0, 1500.0),), "none", -32768.0, redact=True)
    for typed in (
        f"prepare {tmp_path}/ct.csv --out {tmp_path}/s --size 16 --windows lung --offset -32768 --redact",
        f"pretrain --data {tmp_path}/s --method simclr --encoder resnet10t --size 16 --steps 2 --out {tmp_path}/p",
        f"finetune --data {tmp_path}/ct.csv --target label --encoder {tmp_path}/p --steps 2 --out {tmp_path}/f",
        f"evaluate {tmp_path}/f --data {tmp_path}/ct.csv --with metrics --out {tmp_path}/e",
    ):
        assert cli.main([*typed.split(), "--quiet"]) == 0, typed
    assert encoder_header.read_info(tmp_path / "p").display == encoder_header.read_info(tmp_path / "f").display == shown
    dataset = sources.load(tmp_path / "ct.csv")
    _, plain = store.prepare(dataset, 16, quiet=True)
    caches = [store.open_store(p) for p in (store.cache_folder() / "stores").glob("ct-*")]
    windowed = [s for s in caches if s.display == shown]
    assert len(windowed) == 1  # made by finetune from the raw table, found again by evaluate
    assert not np.array_equal(windowed[0].pixels, plain.pixels)
