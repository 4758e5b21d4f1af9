"""What belongs together: every id that joins rows, by name, and what must not join them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from scotoma.data import sources
from scotoma.data.dataset import Dataset
from scotoma.data.splits import splits, units
from scotoma.data.store import store
from scotoma.errors import UsageError

N = None


def of(**columns: list[object]) -> tuple[list[int], str]:
    codes, unit = units.units(Dataset("scans", pd.DataFrame({k: pd.Series(v, dtype=object) for k, v in columns.items()})))
    return codes.tolist(), unit


@pytest.mark.parametrize(
    ("columns", "codes", "unit"),
    [
        ({"patient": ["a", "b", "a", "c"]}, [0, 1, 0, 2], "patient"),
        ({"patient": ["a", "b", "a", "c"], "study": ["s", "t", "u", "v"]}, [0, 1, 0, 2], "patient"),  # a study adds nothing
        ({"patient": [N, N, "a", N], "study": ["s", "s", "t", "t"]}, [0, 0, 1, 1], "patient + study"),
        ({"patient": ["a", "b", "c", "d"], "study": ["s", "s", "t", "u"]}, [0, 0, 1, 2], "patient + study"),  # one typed wrong
        ({"study": ["s", "t", "s", N]}, [0, 1, 0, 2], "study"),
        ({"series": ["s", "t", "s", N], "study": [N, N, "u", "u"]}, [0, 1, 0, 0], "study + series"),
        ({"patient": ["a", "b", "c", N], "group": [1, 2, 2, " "]}, [0, 1, 1, 2], "patient + group"),
        (
            {"image_path": ["/x/v.nii.gz", "/x/v.nii.gz#coronal", "/x/w.nii", "/x/w.nii"], "frame": [0, 1, 0, 3]},
            [0, 0, 1, 1],
            "file",
        ),
        ({"image_path": ["/x/a.tif", "/x/b.tif", "/x/a.tif", "/x/c.gif"], "frame": [0, 0, 2, 0]}, [0, 1, 0, 2], "file"),
        ({"image_path": ["/x/m.npz#train_images"] * 3, "frame": [0, 1, 2]}, [0, 1, 2], "near-duplicate"),
        ({"image_path": ["phantom:3"] * 3, "frame": [0, 1, 2]}, [0, 1, 2], "near-duplicate"),
        ({"image_path": ["/x/a.png", "/x/b.png"]}, [0, 1], "near-duplicate"),
    ],
)
def test_each_id_joins_what_it_names(columns: dict[str, list[object]], codes: list[int], unit: str) -> None:
    assert of(**columns) == (codes, unit)


def test_a_study_that_most_patients_have_is_numbered_within_the_patient() -> None:
    """As in MURA: ``study1`` of every patient is not one study."""
    assert of(patient=list("aabbccdd"), study=["1", "2", "1", "1", "1", "2", "1", "3"]) == ([0, 0, 1, 1, 2, 2, 3, 3], "patient")
    # rows without a patient are kept together by it all the same
    codes, _ = of(patient=["a", "b", "c", N, N, N], study=["1", "1", "1", "1", "1", "2"])
    assert codes == [0, 1, 2, 3, 3, 4]


def slow(columns: list[list[object]]) -> list[int]:
    """The components by brute force."""
    n = len(columns[0])
    label = list(range(n))
    for _ in range(n):
        for i in range(n):
            for j in range(n):
                if any(c[i] is not None and c[i] == c[j] for c in columns):
                    label[i] = label[j] = min(label[i], label[j])
    order: dict[int, int] = {}
    return [order.setdefault(k, len(order)) for k in label]


cells = st.one_of(st.none(), st.integers(0, 30))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=25))
def test_units_are_the_components_that_brute_force_finds(rows: list[tuple[object, object]]) -> None:
    patient, group = ([r[k] for r in rows] for k in (0, 1))
    assert of(patient=patient, group=group)[0] == slow([patient, group])


def dicom(path: Path, study: str, series: str, patient: str, pixels: np.ndarray) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = "1.2.840.10008.5.1.4.1.1.7", ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = patient, study, series, "OT"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, pixels.tobytes()
    ds.save_as(path, enforce_file_format=True)


def prepared(root: object, out: Path) -> tuple[Dataset, store.Store]:
    return store.prepare(sources.load(root), 16, out=out, quiet=True)


def test_blank_patients_with_a_study_uid_are_split_by_study(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    (tmp_path / "scans").mkdir()
    for k in range(24):  # 8 studies of two series; the last two studies share a series by some error of the archive
        study, series = k // 3, "x" if k in (20, 21) else k
        names = (f"1.2.3.{study}", f"1.2.4.{series}" if series != "x" else "1.2.4.99")
        dicom(tmp_path / "scans" / f"{k:02d}.dcm", *names, "", rng.integers(0, 255, (24, 24), dtype=np.uint8))
    dataset, opened = prepared(tmp_path / "scans", tmp_path / "store")
    codes, unit = units.units(dataset, opened)
    assert codes.tolist() == [min(k // 3, 6) for k in range(24)]
    assert unit == "study + series"
    assert opened.facts["series"].str.fullmatch("[0-9a-f]{32}").all()
    assert not any(uid in opened.facts.to_csv() for uid in ("1.2.3", "1.2.4"))
    assert units.name_owners(dataset, opened).tolist() == opened.facts["study"].tolist()
    split = splits.make(dataset, opened, None, 0)
    assert pd.Series(split.of).groupby(codes).nunique().max() == 1


def test_one_patient_id_in_all_headers_does_not_join_the_patients_of_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = []
    for k in range(12):
        dicom(tmp_path / f"{k}.dcm", "1.2.3", f"1.2.4.{k}", "ANON", rng.integers(0, 255, (24, 24), dtype=np.uint8))
        rows.append({"image_path": f"{k}.dcm", "patient": f"P{k // 2}"})
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    dataset, opened = prepared(tmp_path / "t.csv", tmp_path / "store")
    codes, unit = units.units(dataset, opened)
    assert (codes.tolist(), unit) == ([k // 2 for k in range(12)], "patient")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve volumes of ten slices that look like their own volume and no other, with a coin-flip label a volume."""
    root, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(11)
    rows = []
    for k in range(12):
        coarse = Image.fromarray(rng.integers(0, 255, (5, 5), dtype=np.uint8)).resize((24, 24), Image.Resampling.BICUBIC)
        voxels = np.clip(np.asarray(coarse, float)[..., None] + rng.normal(0, 6, (24, 24, 10)), 0, 255)
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), np.eye(4)), root / f"v{k}.nii")
        rows += [{"image_path": f"v{k}.nii", "frame": z, "label": "ab"[k % 2]} for z in range(10)]
    pd.DataFrame(rows).to_csv(root / "t.csv", index=False)
    return root


def test_slices_of_a_volume_stand_on_one_side_and_a_coin_flip_is_not_predicted(volumes: Path, tmp_path: Path) -> None:
    dataset, opened = prepared(volumes / "t.csv", tmp_path / "s")
    volume = np.arange(120) // 10
    codes, unit = units.units(dataset, opened)
    assert (codes.tolist(), unit) == (volume.tolist(), "file")
    pixels = opened.pixels[:].reshape(120, -1).astype(float)
    distance = ((pixels[:, None] - pixels[None]) ** 2).sum(2)
    right: dict[str, list[float]] = {"unit": [], "slice": []}
    rng = np.random.default_rng(0)
    for seed in range(40):
        label = rng.permutation(np.repeat([0, 1], 6))[volume]
        by_slice = splits.draw(np.arange(120), label, seed, splits.SHARES)
        by_unit = splits.make(dataset, opened, label, seed).of
        assert pd.Series(by_unit).groupby(volume).nunique().max() == 1
        for name, sides in (("unit", by_unit), ("slice", by_slice)):
            train, test = (np.flatnonzero(sides == s) for s in ("train", "test"))
            nearest = train[distance[np.ix_(test, train)].argmin(1)]
            right[name].append(float((label[nearest] == label[test]).mean()))
    assert np.mean(right["slice"]) > 0.95  # what a split by slice would have claimed
    assert np.mean(right["unit"]) == pytest.approx(0.5, abs=0.15)


def test_a_given_split_through_a_volume_is_refused(volumes: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(volumes / "t.csv").assign(split=["train", "test"] * 60)
    frame["image_path"] = [str(volumes / p) for p in frame["image_path"]]
    dataset, opened = prepared(frame, tmp_path / "s")
    with pytest.raises(UsageError, match="12 files stand on more than one side"):
        splits.make(dataset, opened, None, 0)


def test_a_prepared_store_remembers_which_slices_are_of_one_volume(volumes: Path, tmp_path: Path) -> None:
    from scotoma.commands.prepare import prepare

    dataset, opened = store.prepare(sources.load(prepare(volumes / "t.csv", tmp_path / "store", size=16, quiet=True)), 16)
    assert "image_path" not in dataset.table.columns
    codes, unit = units.units(dataset, opened)
    assert (codes.tolist(), unit) == ((np.arange(120) // 10).tolist(), "file")
    raw = units.name_owners(*prepared(volumes / "t.csv", tmp_path / "s"))
    assert units.name_owners(dataset, opened).tolist() == raw.tolist()  # one name, wherever the volume is met


def test_altered_copies_of_images_without_an_id_are_one_unit_and_with_a_patient_when_asked(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(9, classes=(), side=96)
    mirrored = Image.open(root / "scan_0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(root / "scan_90.png")
    dataset, opened = prepared(root, tmp_path / "s")
    assert units.units(dataset, opened)[0].tolist() == list(range(10))
    codes, unit = units.units(dataset, opened, altered=None)
    assert (codes.tolist(), unit) == ([*range(9), 0], "near-duplicate + altered copy")
    assert units.units(dataset, opened, altered=None)[0].tolist() == codes.tolist()  # from what is kept in the store
    known = Dataset("scans", dataset.table.assign(patient=[f"P{k}" for k in range(10)]))
    assert units.units(known, opened, altered=None)[0].tolist() == list(range(10))
    codes, unit = units.units(known, opened, altered=True)
    assert (codes.tolist(), unit) == ([*range(9), 0], "patient + altered copy")


def test_an_image_without_an_id_stands_beside_its_near_duplicate_that_has_one(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(6, classes=(), side=96)
    Image.open(root / "scan_2.png").save(root / "scan_60.jpg", quality=85)
    frame = sources.load(root).table.assign(patient=["A", "B", "C", "D", "E", "F", None])
    dataset, opened = prepared(frame, tmp_path / "s")
    assert units.units(dataset, opened)[0].tolist() == [0, 1, 2, 3, 4, 5, 2]
    other = Dataset("scans", dataset.table.assign(patient=list("ABCDEFG")))
    assert units.units(other, opened)[0].tolist() == list(range(7))  # two patients say that they are two
