"""What a folder holds: which files are images, what is left out and counted, what folder names are taken as."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from scotoma.data import folders, sources
from scotoma.data.io import read
from scotoma.errors import UsageError

GREY = (np.add.outer(np.arange(16), np.arange(20)) * 7).astype(np.uint8)


def put(path: Path, values: np.ndarray = GREY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def dicom(path: Path, frames: int = 1, syntax: str = ExplicitVRLittleEndian, preamble: bool = True,
          kind: str = "1.2.840.10008.5.1.4.1.1.7", patient: str = "", study: str = "") -> Path:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = syntax, kind, generate_uid()
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128,
                     is_little_endian=syntax != ExplicitVRBigEndian, is_implicit_VR=syntax == ImplicitVRLittleEndian)  # fmt: skip
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = kind, meta.MediaStorageSOPInstanceUID, "US"
    ds.PatientID, ds.StudyInstanceUID, ds.NumberOfFrames = patient, study, frames
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *GREY.shape, 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = np.stack([GREY + k for k in range(frames)]).tobytes()
    ds["PixelData"].VR = "OB"
    ds.save_as(path, enforce_file_format=True)
    if not preamble:
        data = path.read_bytes()
        path.write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])
    return path


def names(root: Path) -> list[tuple[str, object]]:
    found = folders.read(root)
    frames = found["frame"] if "frame" in found.columns else [None] * len(found)
    return [
        (str(Path(p).relative_to(root)), None if f is None or f != f else int(f))
        for p, f in zip(found["image_path"], frames, strict=True)
    ]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("preamble", [True, False])
def test_dicom_without_suffix_or_preamble_gives_all_its_frames(tmp_path: Path, syntax: str, preamble: bool) -> None:
    dicom(tmp_path / "IM1", 1, syntax, preamble)
    dicom(tmp_path / "1.2.3.4" / "7.5", 3, syntax, preamble)
    assert names(tmp_path) == [("1.2.3.4/7.5", 0), ("1.2.3.4/7.5", 1), ("1.2.3.4/7.5", 2), ("IM1", None)]
    for k in range(3):
        assert np.array_equal(read.read(str(tmp_path / "1.2.3.4" / "7.5"), k).pixels, GREY + k)


def test_bytes_that_begin_otherwise_are_no_dicom(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(300):
        path = tmp_path / f"f{k}"
        noise = rng.integers(0, 256, 600, np.uint8).tobytes()
        path.write_bytes((b"", b"\x08\x00", b"\x08\x00\x05\x00\x04\x00\x00\x00")[k % 3] + noise)
        assert not read.is_image(str(path)), k


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "scans"
    put(root / "a.png")
    for name in (
        "._a.png",
        ".hidden",
        "__MACOSX/a.png",
        ".git/a.png",
        "Thumbs.db",
        "notes.txt",
        "more.TXT",
        "scan.meier",
        "Meier",
        "DICOMDIR",
    ):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    os.mkfifo(root / "pipe.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "again").symlink_to(root, target_is_directory=True)
    put(tmp_path / "far.png")
    (root / "link.png").symlink_to(tmp_path / "far.png")
    dicom(root / "report.dcm", kind="1.2.840.10008.5.1.4.1.1.88.11")
    assert [name for name, _ in names(root)] == ["a.png", "link.png"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("scans: left out: 2 ")
    counted = lines[0].removeprefix("scans: left out: ").replace(" (reports, segmentations, structures)", "")
    assert set(counted.split(", ")) == {
        "2 hidden folders", "2 .txt", "2 links or devices that are no files", "1 AppleDouble files", "1 hidden files",
        "1 Thumbs.db", "1 files without suffix", "1 DICOMDIR", "1 others", "1 linked folders",
        "1 DICOM objects that are no images",
    }  # fmt: skip


def test_webp_gif_and_jpeg_2000_are_images_and_an_animation_gives_its_frames(tmp_path: Path) -> None:
    for name in ("a.webp", "b.jfif", "c.jp2"):
        image = Image.fromarray(GREY)
        image.save(tmp_path / name, "JPEG" if name == "b.jfif" else None)
    steps = [Image.fromarray(np.full((12, 12), 50 * k, np.uint8)) for k in range(1, 4)]
    steps[0].save(tmp_path / "d.gif", save_all=True, append_images=steps[1:])
    assert names(tmp_path) == [("a.webp", None), ("b.jfif", None), ("c.jp2", None), ("d.gif", 0), ("d.gif", 1), ("d.gif", 2)]
    assert [int(read.read(str(tmp_path / "d.gif"), k).pixels.max()) for k in range(3)] == [50, 100, 150]
    assert np.array_equal(read.read(str(tmp_path / "c.jp2")).pixels, GREY)


def _flagged(tiff: tifffile.TiffWriter, a: np.ndarray) -> None:
    tiff.write(a, photometric="rgb", tile=(64, 64))
    tiff.write(a[::2, ::2], photometric="rgb", subfiletype=1)


def _unflagged(tiff: tifffile.TiffWriter, a: np.ndarray) -> None:
    for step in (1, 2, 4):
        tiff.write(a[::step, ::step], photometric="rgb")


def _slide(
    tiff: tifffile.TiffWriter, a: np.ndarray
) -> None:  # as a scanner writes it: thumbnail untiled, then levels, label, macro
    tiff.write(a, photometric="rgb", tile=(64, 64), description="Aperio Image Library\r\n256x192")
    tiff.write(a[:100, :70], photometric="rgb")
    tiff.write(a[::2, ::2], photometric="rgb", tile=(64, 64), description="Aperio Image Library\r\n256x192 -> 128x96")
    tiff.write(a[:60, :50], photometric="rgb", subfiletype=1, description="Aperio Image Library\r\nlabel 50x60")
    tiff.write(a[:90, :30], photometric="rgb", subfiletype=9, description="Aperio Image Library\r\nmacro 30x90")


def _subifds(tiff: tifffile.TiffWriter, a: np.ndarray) -> None:  # an OME pyramid
    tiff.write(a, photometric="rgb", tile=(64, 64), subifds=1)
    tiff.write(a[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=1)


def _preview_first(tiff: tifffile.TiffWriter, a: np.ndarray) -> None:
    tiff.write(a[::4, ::4], photometric="rgb", subfiletype=1)
    tiff.write(a, photometric="rgb")


def _stack(tiff: tifffile.TiffWriter, a: np.ndarray) -> None:
    for k in range(3):
        tiff.write(a + np.uint8(k), photometric="rgb", description="label of slice")


@pytest.mark.parametrize(
    ("write", "wanted"),
    [(_flagged, [None]), (_unflagged, [None]), (_slide, [None]), (_subifds, [None]), (_preview_first, [1]), (_stack, [0, 1, 2])],
)
def test_reduced_and_side_pages_of_a_tiff_are_no_images(tmp_path: Path, write, wanted) -> None:  # type: ignore[no-untyped-def]
    full = np.random.default_rng(1).integers(0, 250, (192, 256, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        write(tiff, full)
    assert [frame for _, frame in names(tmp_path)] == wanted
    for frame in {wanted[0], None}:
        assert np.array_equal(read.read(str(tmp_path / "a.tif"), frame).pixels, full)


def test_truncated_files_stay_so_that_they_are_listed(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2), np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    dicom(tmp_path / "d.dcm")
    with tifffile.TiffWriter(tmp_path / "t.tif") as tiff:
        _stack(tiff, np.zeros((20, 20, 3), np.uint8))
    for name in ("v.nii.gz", "d.dcm", "t.tif"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: 20 if name != "d.dcm" else 300])
    assert {name for name, _ in names(tmp_path)} == {"v.nii.gz", "d.dcm", "t.tif"}


def columns(root: Path) -> dict[str, tuple[object, object, object]]:
    found = folders.read(root).reindex(columns=["image_path", "split", "label", "group"]).astype(object)
    return {
        str(Path(p).relative_to(root)): tuple(None if v != v else v for v in rest)
        for p, *rest in found.where(found.notna(), None).itertuples(index=False)
    }  # type: ignore[return-value]


def test_images_beside_folders_of_classes_have_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("all/x.png", "all/a/1.png", "all/b/1.png", "all/b/deep/2.png"):
        put(tmp_path / name)
    found = columns(tmp_path)  # "all" alone tells nothing apart
    assert [found[k][1] for k in ("all/x.png", "all/a/1.png", "all/b/1.png", "all/b/deep/2.png")] == [None, "a", "b", "b"]
    assert "label: the folder's name, 2 classes; 1 files have none" in capsys.readouterr().err


def test_one_folder_is_no_class(tmp_path: Path) -> None:
    put(tmp_path / "Meier" / "1.png")
    put(tmp_path / "Meier" / "2.png")
    assert set(columns(tmp_path).values()) == {(None, None, None)}


def test_a_folder_beside_train_and_test_is_a_class_only_if_it_is_one_inside_them(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "Test/a/2.png", "Test/b/2.png", "a/3.png", "extra/4.png"):
        put(tmp_path / name)
    found = columns(tmp_path)
    assert found["train/a/1.png"][:2] == ("train", "a") and found["Test/b/2.png"][:2] == ("test", "b")
    assert found["a/3.png"] == (None, "a", None) and found["extra/4.png"] == (None, None, None)


@pytest.mark.parametrize(
    ("units", "each"),
    [
        ([f"{a}{b}" for a in ("Ada", "Bo", "Cy", "Di") for b in ("Lee", "Ray", "Kim")], 5),  # many, and few images each
        (["patient_1", "patient_2"], 40),  # by name
        (["20210304", "20211101", "20220101"], 40),
        (["Meier^Anna", "Roe^Jo"], 40),
    ],
)
def test_a_folder_a_patient_is_a_group_and_no_label(
    tmp_path: Path, units: list[str], each: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for unit in units:
        for k in range(each):
            (tmp_path / unit / "cc").mkdir(parents=True, exist_ok=True)
            (tmp_path / unit / "cc" / f"{k}.png").write_bytes(b"")
    found = sources.load(tmp_path).table
    assert "label" not in found.columns
    folder = found["image_path"].map(lambda p: Path(p).parts[-3])
    assert found.groupby(folder)["group"].nunique().eq(1).all() and found["group"].nunique() == len(units)
    error = capsys.readouterr().err
    assert f"group: the folder's name, {len(units)} units" in error
    assert not any(unit in error or unit in str(group) for unit in units for group in found["group"])


def test_patients_below_classes_are_groups(tmp_path: Path) -> None:
    for name in ("ill/p01/1.png", "ill/p01/2.png", "ill/p02/1.png", "well/p03/1.png", "well/p01/1.png", "well/7/2.png"):
        put(tmp_path / name)
    found = columns(tmp_path)
    assert {name: label for name, (_, label, _) in found.items()} == {name: name.split("/")[0] for name in found}
    assert [found[k][2] for k in ("ill/p01/1.png", "ill/p01/2.png", "well/p01/1.png", "well/7/2.png")] == ["p01"] * 3 + ["well/7"]


@pytest.mark.parametrize("key", ["patient", "study"])
def test_folders_that_dicom_headers_tell_to_be_patients_or_studies_are_groups(tmp_path: Path, key: str) -> None:
    for k, name in enumerate(("left", "right")):
        for number in range(3):
            dicom(tmp_path / "one" / name / f"{number}.dcm", **{key: f"1.{k}"})  # type: ignore[arg-type]
            dicom(tmp_path / "many" / name / f"{number}.dcm", **{key: f"1.{k}.{number}"})  # type: ignore[arg-type]
    assert "label" not in folders.read(tmp_path / "one").columns
    assert folders.read(tmp_path / "one")["group"].nunique() == 2
    assert folders.read(tmp_path / "many")["label"].unique().tolist() == ["left", "right"]


def test_a_folder_of_masks_beside_its_images_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        put(tmp_path / "images" / f"{k}.png")
        put(tmp_path / "masks" / f"{k}_mask.png")
    assert names(tmp_path) == [(f"images/{k}.png", None) for k in range(3)]
    assert "left out: 3 masks in a folder of their own" in capsys.readouterr().err
    put(tmp_path / "masks" / "alone.png")
    for k in range(3):
        (tmp_path / "masks" / f"{k}_mask.png").unlink()
    assert columns(tmp_path)["masks/alone.png"] == (None, None, None)  # an image, where nothing tells otherwise, of no class


def test_nothing_but_other_files_is_an_error_that_counts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="no images in this folder"):
        sources.load(tmp_path)
    assert "left out: 1 .txt" in capsys.readouterr().err


LAYOUTS = {
    "masks beside images": (["benign/benign (4){}.png", "other/o (1){}.png"], ["", "_mask", "_mask_1"]),
    "a segmentation beside the channels": (["case_7/case_7_{}.png", "case_8/case_8_{}.png"], ["t1", "flair", "seg"]),
    "folders of a challenge": (["images{0}/b_001{1}.png", "images{0}/b_002{1}.png"], [("Tr", "_0000"), ("Ts", "_0000")]),
}


@pytest.mark.parametrize("form", LAYOUTS)
def test_masks_are_no_images_in_whatever_form_they_lie_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    names_of, parts = LAYOUTS[form]
    files = [n.format(*(p if isinstance(p, tuple) else (p,))) for n in names_of for p in parts]
    if form == "folders of a challenge":
        files += ["labelsTr/b_001.png", "labelsTr/b_002.png"]
    for file in files:
        put(tmp_path / file)
    masks = {file for file in files if "mask" in file or "_seg" in file or "labels" in file}
    assert {name for name, _ in names(tmp_path)} == set(files) - masks
    assert f"left out: {len(masks)} masks " in capsys.readouterr().err
    if form == "folders of a challenge":  # imagesTr and imagesTs are no classes
        assert "label" not in folders.read(tmp_path).columns


def test_a_mask_in_a_folder_of_any_usual_name_is_no_image_and_a_class_of_masks_is_a_class(tmp_path: Path) -> None:
    for k, name in enumerate(("Ground Truth", "labels", "lung masks", "1st_manual", "SEG")):
        root = tmp_path / str(k)
        for file in ("a", "b"):
            put(root / "Original" / f"{file}.png"), put(root / name / f"{file}.png")
        assert [name for name, _ in names(root)] == ["Original/a.png", "Original/b.png"]
    for name in ("with_mask", "without_mask"):  # of faces
        put(tmp_path / "faces" / name / "1.png"), put(tmp_path / "faces" / name / "2.png")
    assert set(folders.read(tmp_path / "faces")["label"]) == {"with_mask", "without_mask"}
    put(tmp_path / "alone" / "7_mask.png"), put(tmp_path / "alone" / "8.png")  # nothing there is its image
    assert len(names(tmp_path / "alone")) == 2


def test_a_split_below_a_folder_that_stands_alone_is_a_split(tmp_path: Path) -> None:
    for name in ("train", "Testing"):
        for label in ("normal", "sick"):
            put(tmp_path / "data" / "data" / name / label / "1.png"), put(tmp_path / "data" / "data" / name / label / "2.png")
    found = folders.read(tmp_path)
    assert found["split"].value_counts().to_dict() == {"train": 4, "test": 4}
    assert found["label"].value_counts().to_dict() == {"normal": 4, "sick": 4}
    assert all(Path(p).parent.name == label for p, label in zip(found["image_path"], found["label"], strict=True))
    put(tmp_path / "only" / "train" / "a" / "1.png"), put(tmp_path / "only" / "train" / "b" / "1.png")
    assert set(folders.read(tmp_path / "only")["split"]) == {"train"}
    put(tmp_path / "eye" / "images" / "1.png"), put(tmp_path / "eye" / "fov" / "9.png")  # what a folder of images is beside
    assert "label" not in folders.read(tmp_path / "eye").columns


@pytest.mark.parametrize("channels", [("_0000", "_0001"), ("-t1c", "-flair", "-t2w")])
def test_the_channels_of_a_case_are_one_unit(channels: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As nnU-Net and BraTS name them: volumes of one person, which no split may part."""
    volume = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    for case in ("BRATS_001", "BRATS_002", "BRATS_003"):
        for channel in channels if case != "BRATS_003" else channels[:1]:
            nibabel.save(volume, tmp_path / f"{case}{channel}.nii.gz")
    found = sources.load(str(tmp_path)).table
    assert "2 cases, kept together" in capsys.readouterr().err
    groups = found.groupby(found["image_path"].map(lambda p: Path(p).name[:9]))["group"].agg(lambda g: set(g.dropna()))
    assert [len(groups[case]) for case in ("BRATS_001", "BRATS_002", "BRATS_003")] == [1, 1, 0]
    assert len(set.union(*groups)) == 2


def test_numbers_that_count_images_are_no_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    for k in range(3):
        put(tmp_path / f"IMG_000{k}.png")
        put(tmp_path / f"DSC_000{k}.png")
        nibabel.save(volume, tmp_path / f"scan_000{k}.nii.gz")
    assert "group" not in sources.load(str(tmp_path)).table.columns
    assert "cases" not in capsys.readouterr().err
