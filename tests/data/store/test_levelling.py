"""One black and white for what belongs together: kinds of value in a data set, series of DICOM; said, recorded, used later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset as Header
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from scotoma.data import sources
from scotoma.data.io.levels import black_and_white
from scotoma.data.io.read import Display, read
from scotoma.data.store import builder, decode_worker, levelling, store
from scotoma.errors import UsageError

SIDE = 96  # of a store for 64 pixels: images of this side are not resized


def grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5)


def prepared(frame: pd.DataFrame, **options) -> store.Store:  # type: ignore[no-untyped-def]
    return store.prepare(sources.load(frame), 64, 1, workers=1, quiet=True, **options)[1]


def series(folder: Path, volume: np.ndarray, uid: str | None, name: str, **elements) -> list[str]:  # type: ignore[no-untyped-def]
    """The slices of an MR volume without a window, a file each; one file where ``NumberOfFrames`` is given."""
    folder.mkdir(exist_ok=True)
    found = []
    for k, stored in enumerate([volume] if "NumberOfFrames" in elements else volume):
        ds = Header()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID, ds.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
        ds.SOPClassUID, ds.Modality = MRImageStorage, "MR"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        if uid:
            ds.SeriesInstanceUID = uid
        ds.Rows, ds.Columns = stored.shape[-2:]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        ds.PixelData = stored.astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        path = folder / f"{name}{k}.dcm"
        dcmwrite(path, ds, enforce_file_format=True)
        found.append(str(path))
    return found


def volume(seed: int, top: float, slices: int = 5) -> np.ndarray:
    """(slices, side, side): the lowest is air alone, the others differ in brightness."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    disc = (x - 40) ** 2 + (y - 50) ** 2 < 1200
    found = [disc * (top * (k + 2) / (slices + 1) + 60 * np.sin(x / 5)) + rng.uniform(0, 9, (SIDE, SIDE)) for k in range(slices)]
    found[0] = rng.uniform(0, 9, (SIDE, SIDE))
    return np.clip(np.stack(found), 0, 4095).astype(np.uint16)


def test_sixteen_bit_images_of_many_ranges_share_one_black_and_white(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ramp = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    tops = (*range(6900, 9000, 110), 12000)
    images = [(ramp * top).astype(np.uint16) for top in tops]
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    opened = prepared(pd.DataFrame({"image_path": [str(tmp_path / f"{k}.png") for k in range(len(tops))]}))
    low, high = np.percentile(np.stack(images), [0.5, 99.5])
    for row, image in enumerate(images):
        assert np.abs(opened.pixels[row, ..., 0] - grey(image, low, high)).max() <= 1
    assert opened.display == Display(levels=(("uint16", low, high),))
    said = capsys.readouterr().err
    assert f"{len(tops)} images hold uint16 values: {low:g} is shown as black, {high:g} as white in all of them" in said
    assert "1 images have more than 5% of their values" in said  # the brightest
    kept = json.loads((opened.path / "store.json").read_text())
    assert kept["display"]["levels"] == [["uint16", low, high]]
    assert not list(opened.path.glob("*.jsonl")) and not (opened.path / levelling.FOLDER).exists()
    again = prepared(pd.DataFrame({"image_path": [str(tmp_path / f"{k}.png") for k in range(len(tops))]}))
    assert again.path == opened.path and "shown as black" in capsys.readouterr().err  # said by every verb


def test_sixteen_bits_that_are_all_used_stay_as_stored_and_a_hot_pixel_is_no_sixteen_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    full, twelve = rng.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16), rng.integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
    dim = full // 40
    for name, image in (("full", full), ("dim", dim)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    opened = prepared(pd.DataFrame({"image_path": [str(tmp_path / "full.png"), str(tmp_path / "dim.png")]}))
    assert opened.display.levels == (("uint16", 0, 65535),)
    np.testing.assert_array_equal(opened.pixels[1, ..., 0], grey(dim, 0, 65535))
    hot = twelve.copy()
    hot[5, 5] = 65535
    Image.fromarray(hot).save(tmp_path / "hot.png")
    low, high = np.percentile(hot, [0.5, 99.5])
    np.testing.assert_allclose(prepared(pd.DataFrame({"image_path": [str(tmp_path / "hot.png")]})).pixels[0, ..., 0],
                               grey(hot, low, high), atol=1)  # fmt: skip


def test_each_kind_of_value_is_decided_for_itself_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    signed, byte = rng.integers(-900, 2000, (SIDE, SIDE)).astype(np.int16), rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    share = rng.uniform(0, 1, (SIDE, SIDE)).astype(np.float32)
    names = [str(tmp_path / f"{k}.tif") for k in range(4)]
    for name, image in zip(names, (signed, byte, share, signed // 2), strict=True):
        tifffile.imwrite(name, image)
    opened = prepared(pd.DataFrame({"image_path": names}))
    low, high = np.percentile(np.stack([signed, signed // 2]), [0.5, 99.5])
    assert opened.display.levels == (("int16", low, high), ("float32", 0, 1))
    for row, wanted in enumerate((grey(signed, low, high), byte, grey(share, 0, 1), grey(signed // 2, low, high))):
        np.testing.assert_allclose(opened.pixels[row, ..., 0], wanted, atol=1)
    assert "each kind shown by itself: 2 of int16, 1 of float32, 1 of 8 bits" in capsys.readouterr().err


def test_slices_of_a_series_are_shown_as_the_same_volume_as_nifti(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = volume(0, 900), volume(1, 2600)
    paths = [p for pair in zip(series(tmp_path / "x", one, "1.2.9.7777", "a"), series(tmp_path / "x", two, "1.2.9.8888", "b"),
                               strict=True) for p in pair]  # fmt: skip
    multi = series(tmp_path / "m", two, None, "m", NumberOfFrames=5)[0]
    frame = pd.DataFrame({"image_path": paths + [multi] * 5, "frame": [None] * 10 + list(range(5))})
    opened = prepared(frame)
    nibabel.save(nibabel.Nifti1Image(two.transpose(2, 1, 0)[::-1, ::-1].astype(np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    other = prepared(pd.DataFrame({"image_path": str(tmp_path / "v.nii.gz"), "frame": range(5)}))
    for k in range(5):
        for row, of in ((2 * k, one), (2 * k + 1, two), (10 + k, two)):
            low, high = np.percentile(of, [0.5, 99.5])
            assert np.abs(opened.pixels[row, ..., 0] - grey(of[k], low, high)).max() <= 2
        np.testing.assert_array_equal(opened.pixels[10 + k], opened.pixels[2 * k + 1])
        assert np.abs(other.pixels[k].astype(int) - opened.pixels[10 + k]).max() <= 1
    assert opened.display == Display()
    said = capsys.readouterr().err
    assert "15 images have no window: one black and white for each of 3 series" in said
    stored = b"".join(p.read_bytes() for p in opened.path.iterdir()) + said.encode()
    assert b"1.2.9.7777" not in stored and b"8888" not in stored
    alone = read(multi, 0)  # by itself: the whole file
    assert float(alone.pixels.max()) < 0.02


def test_files_without_a_series_belong_to_those_of_their_folder(tmp_path: Path) -> None:
    of = volume(3, 1500, 3)
    paths = series(tmp_path / "a", of, None, "s") + series(tmp_path / "b", of[:1], None, "t")
    opened = prepared(pd.DataFrame({"image_path": paths}))
    low, high = np.percentile(of, [0.5, 99.5])
    for k in range(3):
        assert np.abs(opened.pixels[k, ..., 0] - grey(of[k], low, high)).max() <= 2
    assert opened.pixels[3].max() == 255  # alone in its folder: by its own values


def test_eight_bits_and_windows_wait_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing is to be decided")

    monkeypatch.setattr(levelling, "group_waiting", never)
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.png")
    windowed = series(tmp_path, volume(0, 500, 2), "1.2", "w", WindowCenter=200, WindowWidth=400)
    opened = prepared(pd.DataFrame({"image_path": [str(tmp_path / "a.png"), *windowed]}))
    assert opened.notices == () and opened.display == Display()
    with pytest.raises(AssertionError):
        prepared(pd.DataFrame({"image_path": series(tmp_path, volume(0, 500, 2), "1.2", "n")}))


def test_a_broken_image_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    good = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
    for k in range(3):
        Image.fromarray(good).save(tmp_path / f"{k}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    dataset, opened = store.prepare(sources.load(tmp_path), 64, 1, workers=1, quiet=True)
    assert len(dataset) == 2
    np.testing.assert_allclose(opened.pixels[2, ..., 0], grey(good, *np.percentile(good, [0.5, 99.5])), atol=1)


def test_a_build_that_was_killed_while_images_waited_goes_on(tmp_path: Path) -> None:
    names = []
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 3000 + 900 * k, (SIDE, SIDE)).astype(np.uint16)).save(
            tmp_path / f"{k}.png"
        )
        names.append(str(tmp_path / f"{k}.png"))
    dataset = sources.load(pd.DataFrame({"image_path": names}))
    wanted = prepared(dataset.table)
    settings = {k: v for k, v in json.loads((wanted.path / "store.json").read_text()).items() if k not in ("asked", "notices")}
    settings["display"] = Display().settings()
    for decided in (False, True):
        folder = tmp_path / f"again{decided}"
        partial = folder.with_name(folder.name + ".partial")
        builder._allocate(partial, dataset, settings)
        builder._run_workers(partial, 3, 1, True)
        assert (np.fromfile(partial / "status.u1", np.uint8) == decode_worker.WAITING).all()
        if decided:  # and one of them had been told to go on
            builder._decide(partial, 1, True)
            np.memmap(partial / "status.u1", np.uint8, "r+")[1:] = decode_worker.WAITING
        builder.build(dataset, folder, settings, 1, False, True)
        found = store.open_store(folder)
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
        assert found.display == wanted.display and found.notices == wanted.notices


def test_an_image_that_kills_the_process_is_left_out_of_its_group_alone(tmp_path: Path) -> None:
    images = [np.random.default_rng(k).integers(0, 2000 * (k + 1), (30, 30)).astype(np.uint16) for k in range(4)]
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    names = [(str(tmp_path / f"{k}.png"), None) for k in range(4)]
    folder = tmp_path / "levels"
    places = levelling.begin(folder, [("uint16", names[:2]), ("group:a", names), ("group:b", names[:1])])
    status = np.memmap(folder / "status.u1", np.uint8, "r+")
    assert len(status) == places and np.count_nonzero(status == decode_worker.PENDING) == 7
    status[levelling.CHUNK + 3] = decode_worker.BEGUN  # over the last of the second group
    assert not builder._blame(folder, status, 0, 2, -11, levelling.CHUNK)  # which is no group of the first process
    assert builder._blame(folder, status, 1, 2, -11, levelling.CHUNK)
    for worker in (0, 1):
        levelling.measure(folder, worker, 2, 60)
    wanted = {"uint16": images[:2], "group:a": images[:3], "group:b": images[:1]}
    assert levelling.gather_decisions(folder) == {k: tuple(np.percentile(np.stack(v), [0.5, 99.5])) for k, v in wanted.items()}


def test_an_encoders_levels_hold_for_other_tables_and_what_differs_is_said(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 3000, (SIDE, SIDE)).astype(np.uint16)
    Image.fromarray(image).save(tmp_path / "a.png")
    own = prepared(pd.DataFrame({"image_path": [str(tmp_path / "a.png")]}))
    dataset = replace(
        sources.load(pd.DataFrame({"image_path": [str(tmp_path / "a.png")]})), display=Display(levels=(("uint16", 0, 6000),))
    )
    given = store.prepare(dataset, 64, 1, quiet=True)[1]
    np.testing.assert_allclose(given.pixels[0, ..., 0], grey(image, 0, 6000), atol=1)
    assert given.path != own.path
    assert store.unlike(own.preparation, own.preparation) == "" == store.unlike({}, own.preparation)
    assert "uint16 values shown from" in store.unlike(given.preparation, own.preparation)
    assert "not at all" in store.unlike(own.preparation | {"display": Display().settings()}, own.preparation)
    older = store.unlike(own.preparation | {"protocol": 3}, own.preparation)
    assert "version 3 of the reader of images, these by version" in older and "uint16" not in older
    windows = store.unlike(own.preparation, own.preparation | {"display": Display(((40, 400),)).settings()})
    assert "as the files say" in windows and "40:400" in windows


def test_a_store_of_an_older_reader_is_used_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import scotoma

    for k in range(3):
        Image.fromarray(np.full((30, 30), 80 * k, np.uint8)).save(tmp_path / f"{k}.png")
    folder = scotoma.prepare(str(tmp_path), tmp_path / "store", size=64, quiet=True)
    settings = json.loads((folder / "store.json").read_text())
    assert settings["protocol"] == store.PROTOCOL
    del settings["display"]["levels"]  # which versions before 4 did not know
    (folder / "store.json").write_text(json.dumps(settings | {"protocol": 3}))
    capsys.readouterr()
    dataset, opened = store.prepare(sources.load(str(folder)), 64, quiet=True)
    assert len(dataset) == 3 and opened.protocol == 3 == opened.preparation["protocol"]
    assert f"prepared by version 3 of the reader of images, this is version {store.PROTOCOL}" in capsys.readouterr().err
    (folder / "store.json").write_text(json.dumps({"protocol": 9, "layout": "another"}))
    with pytest.raises(UsageError, match="layout is unknown"):
        store.open_store(folder)


def test_floats_far_below_one_are_not_black() -> None:
    ramp = np.linspace(0, 1, 2001, dtype=np.float32)
    assert black_and_white(ramp, "float32") == (0, 1) and black_and_white(ramp * np.float32(0.6), "float32") == (0, 1)
    low, high = black_and_white(ramp * np.float32(0.003), "float32")  # diffusion coefficients
    assert low == pytest.approx(0.003 * 0.005, rel=1e-3) and high == pytest.approx(0.003 * 0.995, rel=1e-3)
    assert black_and_white(np.zeros(9, np.float32), "float32") == (0, 0)
