"""Masks over their images: a mask that is made of its image's own values must come out where these do, however both are stored."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from scotoma.data import dataset as dataset_
from scotoma.data import sources
from scotoma.data.io import alignment, read
from scotoma.data.io.base import ImageError
from scotoma.data.io.geometry import has_same_aspect, turn
from scotoma.data.labels import masks as regions
from scotoma.data.store import store
from scotoma.errors import RunError, UsageError

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 200, (5, 12, 18)).astype(np.uint16)  # slices, rows, columns
HIGH = VALUES > 100


def over(mask: Path, image: Path, frame: int | None = None) -> np.ndarray:
    return alignment.read(str(mask), frame, str(image))[0]


def png(path: Path, values: np.ndarray, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(path, exif=exif)
    return path


def dicom(path: Path, values: np.ndarray, **elements: object) -> Path:
    """One frame, or (frames, rows, columns), of 16 bits."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", generate_uid()
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128, is_little_endian=True, is_implicit_VR=False)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = "MR", 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns = values.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.WindowCenter, ds.WindowWidth = 15, 100, 200
    if values.ndim == 3:
        ds.NumberOfFrames = len(values)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.PixelData = values.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)
    return path


def sequence(**elements: object) -> Sequence:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return Sequence([item])


# ---- by size: EXIF, pixel spacing, aspect ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_stored_size_is_turned_as_its_image(tmp_path: Path, orientation: int) -> None:
    image = png(tmp_path / "image.png", VALUES[0].astype(np.uint8), orientation)
    wanted = read.read(str(image)).pixels > 100
    assert np.array_equal(turn(HIGH[0], orientation), wanted)  # as Pillow turns it
    plain = png(tmp_path / "mask.png", HIGH[0].astype(np.uint8))
    labels, note = alignment.read(str(plain), None, str(image))
    assert np.array_equal(labels, wanted) and ("EXIF" in note) == (orientation > 1)
    assert np.array_equal(over(png(tmp_path / "turned.png", HIGH[0].astype(np.uint8), orientation), image), wanted)
    if orientation >= 5:  # drawn on what a viewer shows; in the other cases that has the stored size
        assert np.array_equal(over(png(tmp_path / "drawn.png", wanted.astype(np.uint8)), image), wanted)
        with pytest.raises(ImageError, match="another shape"):
            over(png(tmp_path / "other.png", np.zeros((12, 15), np.uint8)), image)
    double = HIGH[0].repeat(2, 0).repeat(2, 1).astype(np.uint8)
    if orientation in (1, 5, 6, 7, 8):
        assert np.array_equal(over(png(tmp_path / "double.png", double), image)[::2, ::2], wanted)
    else:
        with pytest.raises(ImageError, match="EXIF turns its image"):
            over(png(tmp_path / "double.png", double), image)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_that_is_turned_is_as_well(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(VALUES[0].astype(np.uint8)).save(tmp_path / "image.tif", tiffinfo={274: orientation})
    wanted = read.read(str(tmp_path / "image.tif")).pixels > 100
    assert np.array_equal(over(png(tmp_path / "mask.png", HIGH[0].astype(np.uint8)), tmp_path / "image.tif"), wanted)


@pytest.mark.parametrize("spacing", [[2.0, 1.0], [1.0, 3.0]])
def test_a_mask_of_the_stored_size_is_stretched_as_its_image(tmp_path: Path, spacing: list[float]) -> None:
    squares = np.kron(RNG.integers(0, 2, (4, 6)), np.ones((6, 6), int)).astype(np.uint16)  # coarse, so that stretching keeps them
    image = dicom(tmp_path / "image.dcm", squares * 180, PixelSpacing=spacing)
    shown = read.read(str(image)).pixels
    mask = png(tmp_path / "mask.png", squares.astype(np.uint8))
    factor = np.array(spacing) / min(spacing)
    wanted = squares.repeat(int(factor[0]), 0).repeat(int(factor[1]), 1)
    assert np.array_equal(over(mask, image), wanted) and wanted.shape == shown.shape
    as_shown = png(tmp_path / "shown.png", wanted.astype(np.uint8))
    assert np.array_equal(over(as_shown, image), wanted)
    captured = dicom(tmp_path / "mask.dcm", squares, PixelSpacing=spacing)  # a label map as a secondary capture
    assert np.array_equal(over(captured, image), wanted)
    assert np.array_equal(over(captured, png(tmp_path / "exported.png", np.zeros(wanted.shape, np.uint8))), wanted)


def test_aspects_are_compared_within_a_pixel() -> None:
    assert (
        has_same_aspect((100, 105), (8, 8)) and has_same_aspect((480, 640), (240, 320)) and has_same_aspect((481, 641), (240, 320))
    )
    assert not has_same_aspect((500, 520), (512, 512)) and not has_same_aspect((480, 640), (640, 480))


def test_several_masks_of_an_image_are_turned_alike_and_united(tmp_path: Path) -> None:
    image = png(tmp_path / "image.png", VALUES[0].astype(np.uint8), 6)
    png(tmp_path / "a.png", (VALUES[0] > 150).astype(np.uint8) * 2)
    png(tmp_path / "b.png", HIGH[0].astype(np.uint8))
    shown = read.read(str(image)).pixels
    assert np.array_equal(over(Path(f"{tmp_path}/a.png|b.png"), image), np.where(shown > 150, 2, shown > 100))


# ---- by frame --------------------------------------------------------------------------------------------------------------------


def test_pages_of_a_mask_are_those_of_its_image(tmp_path: Path) -> None:
    image = dicom(tmp_path / "image.dcm", VALUES)
    pages = [Image.fromarray(page.astype(np.uint8)) for page in HIGH]
    pages[0].save(tmp_path / "mask.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "fewer.tif", save_all=True, append_images=pages[1:3])
    for k in range(5):
        assert np.array_equal(over(tmp_path / "mask.tif", image, k), HIGH[k])
    with pytest.raises(ImageError, match="3 frames and its image 5"):
        over(tmp_path / "fewer.tif", image, 1)
    with pytest.raises(ImageError, match="5 frames and its image 1"):
        over(tmp_path / "mask.tif", png(tmp_path / "single.png", VALUES[0].astype(np.uint8)))


# ---- NIfTI -----------------------------------------------------------------------------------------------------------------------


def oblique(spacing: tuple[float, float, float] = (1.0, 1.5, 3.0)) -> np.ndarray:
    """A turned grid, RAS+."""
    turned, _ = np.linalg.qr(np.eye(3) + 0.1 * np.random.default_rng(3).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turned * np.sign(np.diag(turned)) * spacing
    affine[:3, 3] = (-40.25, 17.5, 230.125)
    return affine


def nifti(
    path: Path, values: np.ndarray, affine: np.ndarray, order: tuple[int, ...] = (0, 1, 2), flips: tuple[int, ...] = (1, 1, 1)
) -> Path:
    """The same voxels in the same place, stored in another order of axes."""
    ornt = np.stack([np.argsort(order), np.take(flips, np.argsort(order))], 1).astype(float)
    nibabel.save(nibabel.Nifti1Image(values, affine).as_reoriented(ornt), path)
    return path


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_nifti_mask_in_any_orientation_lies_on_its_volume(tmp_path: Path, axis: str) -> None:
    volume = RNG.integers(0, 200, (7, 6, 5)).astype(np.int16)
    image = nifti(tmp_path / "image.nii", volume, oblique((1.5, 1.5, 1.5)), (1, 0, 2), (1, -1, 1))
    kinds = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
    for k, (order, flips) in enumerate(kinds):
        mask = nifti(tmp_path / "mask.nii", (volume > 100).astype(np.uint8), oblique((1.5, 1.5, 1.5)), order, flips)
        at = k % {"axial": 5, "coronal": 6, "sagittal": 7}[axis]
        path = f"{image}#{axis}" if axis != "axial" else str(image)
        assert np.array_equal(over(mask, Path(path), at), read.read(path, at).source > 100), (order, flips)


def test_another_grid_is_refused(tmp_path: Path) -> None:
    volume, affine = RNG.integers(0, 2, (7, 6, 5)).astype(np.int16), oblique()
    image = nifti(tmp_path / "image.nii", volume, affine)
    shifted, scaled, half = affine.copy(), affine.copy(), affine.copy()
    shifted[:3, 3] += affine[:3, 0]
    scaled[:3, :3] *= 1.1
    half[:3, 3] += affine[:3, 2] / 2
    for name, other, labels in (
        ("shifted", shifted, volume), ("scaled", scaled, volume), ("half", half, volume), ("eye", np.eye(4), volume),
        ("larger", affine, np.pad(volume, ((0, 1), (0, 0), (0, 0)))), ("smaller", affine, volume[:, :5]),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=r"another grid|does not cover"):
            over(nifti(tmp_path / f"{name}.nii", labels, other), image, 2)
    rounded = affine + np.random.default_rng(1).uniform(-1e-4, 1e-4, (4, 4)) * (np.arange(4) < 3)[:, None]
    wanted = over(nifti(tmp_path / "same.nii", volume, affine), image, 2)
    assert np.array_equal(over(nifti(tmp_path / "rounded.nii", volume, rounded), image, 2), wanted) and wanted.any()


def test_formats_without_a_place_and_volumes_do_not_mix(tmp_path: Path) -> None:
    volume = nifti(tmp_path / "v.nii", np.zeros((18, 12, 5), np.int16), np.eye(4))
    flat = png(tmp_path / "flat.png", HIGH[0].astype(np.uint8))
    with pytest.raises(ImageError, match=r"flat\.png: its image is a volume"):
        over(flat, volume, 0)
    with pytest.raises(ImageError, match="states where it lies, and its image does not"):
        over(volume, flat, 0)


# ---- single DICOM slices ---------------------------------------------------------------------------------------------------------

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def series(folder: Path, affine: np.ndarray, **elements: object) -> list[Path]:
    """Slices of VALUES whose column, row and slice directions are the grid's axes (RAS+ affine)."""
    lps = LPS @ affine
    units = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    common = {"FrameOfReferenceUID": "1.2.3", "SeriesInstanceUID": "1.2.4", **elements}
    return [
        dicom(
            folder / f"slice{k}.dcm",
            VALUES[k],
            ImagePositionPatient=[round(float(v), 6) for v in lps[:3, 3] + k * lps[:3, 2]],
            ImageOrientationPatient=[round(float(v), 9) for v in (*units[:, 0], *units[:, 1])],
            PixelSpacing=[float(steps[1]), float(steps[0])],
            **common,
        )
        for k in range(len(VALUES))
    ]


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 0, 2), (1, -1, 1))])
def test_a_nifti_mask_lies_on_single_slices_by_their_planes(tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    affine = oblique((1.5, 1.5, 4.0))
    mask = nifti(tmp_path / "mask.nii.gz", HIGH.transpose(2, 1, 0).astype(np.uint8), affine, order, flips)
    slices = series(tmp_path, affine)
    for k, path in enumerate(slices):
        assert np.array_equal(over(mask, path), HIGH[k])
    far = affine.copy()
    far[:3, 3] += 2.0 * affine[:3, 2] / 4
    with pytest.raises(ImageError, match="another grid"):
        over(nifti(tmp_path / "far.nii.gz", HIGH.transpose(2, 1, 0).astype(np.uint8), far), slices[2])


def seg(path: Path, like: list[Path], frames: list[tuple[int, int, np.ndarray]], references: bool = True, planes: bool = True,
        flip: bool = False, **elements: object) -> Path:  # fmt: skip
    """A segmentation of frames (segment, slice, mask) of a series; ``flip`` stores its rows from the last to the first."""
    heads = [pydicom.dcmread(p) for p in like]
    groups = []
    for number, k, _ in frames:
        group = Dataset()
        group.SegmentIdentificationSequence = sequence(ReferencedSegmentNumber=number)
        if references:
            source = sequence(ReferencedSOPInstanceUID=heads[k].SOPInstanceUID)
            group.DerivationImageSequence = sequence(SourceImageSequence=source)
        if planes:
            position, directions = (np.array(heads[k][n].value, float) for n in ("ImagePositionPatient", "ImageOrientationPatient"))
            if flip:
                position = position + directions[3:] * float(heads[k].PixelSpacing[0]) * (heads[k].Rows - 1)
                directions = np.concatenate([directions[:3], -directions[3:]])
            group.PlanePositionSequence = sequence(ImagePositionPatient=[round(float(v), 6) for v in position])
            group.PlaneOrientationSequence = sequence(ImageOrientationPatient=[round(float(v), 9) for v in directions])
            group.PixelMeasuresSequence = sequence(PixelSpacing=heads[k].PixelSpacing)
        groups.append(group)
    stack = np.stack([mask[::-1] if flip else mask for _, _, mask in frames])
    common = {"FrameOfReferenceUID": "1.2.3", "SegmentationType": "BINARY", **elements}
    return dicom(path, stack, PerFrameFunctionalGroupsSequence=Sequence(groups), **common)


@pytest.mark.parametrize(
    "given",
    [{}, {"planes": False}, {"references": False}, {"references": False, "flip": True}],
    ids=lambda given: str(sorted(given)),
)
def test_frames_of_a_segmentation_are_found_by_reference_or_plane(tmp_path: Path, given: dict[str, bool]) -> None:
    slices = series(tmp_path, oblique((1.5, 1.5, 4.0)))
    other = VALUES > 150
    frames = [(1, 3, HIGH[3]), (1, 1, HIGH[1]), (4, 3, other[3])]  # not in order, and the second segment on one slice alone
    stated = {"ReferencedSeriesSequence": sequence(SeriesInstanceUID="1.2.4")}
    mask = seg(tmp_path / "seg.dcm", slices, frames, **given, **stated)  # type: ignore[arg-type]
    found = [alignment.read(str(mask), None, str(path)) for path in slices]
    for k, wanted in enumerate([HIGH[0] & False, HIGH[1], HIGH[0] & False, np.where(other[3], 4, HIGH[3]), HIGH[0] & False]):
        assert np.array_equal(found[k][0], wanted), k
        assert ("taken as empty" in found[k][1]) == (not wanted.any())
    assert "overlap" in found[3][1] and not found[1][1]


def test_a_segmentation_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    slices = series(tmp_path, oblique((1.5, 1.5, 4.0)), PatientID="A")
    others = series(tmp_path / "other", oblique((1.5, 1.5, 4.0)), SeriesInstanceUID="1.2.9", FrameOfReferenceUID="1.2.8")
    frames = [(1, 1, HIGH[1]), (1, 3, HIGH[3])]
    between = oblique((1.5, 1.5, 4.0))
    between[:3, 3] += between[:3, 2] / 2
    (tmp_path / "between").mkdir()
    for name, given, message in (
        ("of_others", {"like": others, "FrameOfReferenceUID": "1.2.8"}, "another series"),
        ("patient", {"PatientID": "B"}, "another patient"),
        ("series", {"ReferencedSeriesSequence": sequence(SeriesInstanceUID="1.2.9"), "references": False}, "another series"),
        ("between", {"like": series(tmp_path / "between", between), "references": False}, "another grid"),
        ("of_nobody", {"FrameOfReferenceUID": "", "references": False}, "states neither"),
        ("nowhere", {"planes": False, "references": False}, "not stated"),
    ):
        mask = seg(tmp_path / f"{name}.dcm", given.pop("like", slices), frames, **given)  # type: ignore[arg-type]
        with pytest.raises(ImageError, match=message):
            over(mask, slices[1])
    with pytest.raises(ImageError, match="its image is none"):
        over(seg(tmp_path / "seg.dcm", slices, frames), png(tmp_path / "a.png", VALUES[0].astype(np.uint8)))


def test_nobodys_segmentation_is_not_taken_as_empty_either(tmp_path: Path) -> None:
    slices = series(tmp_path, oblique((1.0, 1.0, 3.0)))
    mask = seg(tmp_path / "seg.dcm", slices, [(1, 1, HIGH[1])], references=False, FrameOfReferenceUID="")
    for path in slices:  # 1 has a frame in its plane, the others have none
        with pytest.raises(ImageError, match="states neither"):
            alignment.read(str(mask), None, str(path))


def test_a_segmentation_that_moved_from_its_image_is_refused(tmp_path: Path) -> None:
    slices = series(tmp_path, oblique((1.5, 1.5, 4.0)))
    mask = seg(tmp_path / "seg.dcm", slices, [(1, 1, HIGH[1])])
    moved = pydicom.dcmread(slices[1])
    moved.ImagePositionPatient = [float(v) + 4 for v in moved.ImagePositionPatient]
    moved.save_as(slices[1])
    with pytest.raises(ImageError, match="lies elsewhere"):
        over(mask, slices[1])
    del moved.PixelSpacing  # then the positions alone tell
    moved.save_as(slices[1])
    with pytest.raises(ImageError, match="lies elsewhere than the image to which it refers"):
        over(mask, slices[1])


def test_a_segmentation_of_a_multi_frame_image_is_found_by_frame_number(tmp_path: Path) -> None:
    image = dicom(tmp_path / "image.dcm", VALUES, SeriesInstanceUID="1.2.4")
    instance = pydicom.dcmread(image).SOPInstanceUID
    groups = []
    for k in (4, 2):
        group = Dataset()
        source = sequence(ReferencedSOPInstanceUID=instance, ReferencedFrameNumber=k + 1)
        group.DerivationImageSequence = sequence(SourceImageSequence=source)
        group.SegmentIdentificationSequence = sequence(ReferencedSegmentNumber=1)
        groups.append(group)
    mask = dicom(
        tmp_path / "seg.dcm", HIGH[[4, 2]], SegmentationType="BINARY", PerFrameFunctionalGroupsSequence=Sequence(groups)
    )  # fmt: skip
    for k in range(5):
        assert np.array_equal(over(mask, image, k), HIGH[k] if k in (2, 4) else HIGH[k] & False), k


# ---- smoothed edges --------------------------------------------------------------------------------------------------------------


def disc(side: int, radius: float, centre: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.clip(radius + 0.5 - np.hypot(y - centre, x - centre), 0, 1) * 255


def test_smoothed_edges_are_cut_and_classes_are_not(tmp_path: Path) -> None:
    soft = np.rint(disc(64, 20, 31.3)).astype(np.uint8)
    assert 3 < len(np.unique(soft)) < 256
    hard = np.where(soft >= 128, 255, 0)
    labels, cut = alignment.harden(soft.astype(np.int32))
    assert cut == alignment.THRESHOLDED and np.array_equal(labels, hard)
    thick = Image.fromarray(hard.astype(np.uint8)).resize((48, 48), Image.Resampling.BICUBIC)
    assert alignment.harden(np.asarray(thick, np.int32))[1] == alignment.THRESHOLDED
    rings = sum((disc(64, r, 32) > 127).astype(np.int32) * 40 for r in (28, 22, 16, 10, 6)) + (disc(64, 3, 32) > 127) * 55
    outline = hard.copy()
    outline[np.abs(disc(64, 20, 31.3) - 127) < 127] = 127  # a class of its own, as thin as an edge
    inside = soft.copy()
    inside[30:33, 30:33] = 127  # edges for the most part, but a class
    for classes in (inside, rings, outline, hard, soft // 2, RNG.integers(0, 256, (64, 64))):
        kept, cut = alignment.harden(classes.astype(np.int32))
        assert cut == (alignment.RIMS if classes is outline else "") and np.array_equal(kept, classes)


def masks(folder: Path, *given: np.ndarray) -> dataset_.Dataset:
    rows = []
    for k, mask in enumerate(given):
        png(folder / f"{k}.png", RNG.integers(0, 255, mask.shape).astype(np.uint8))
        png(folder / f"m{k}.png", mask.astype(np.uint8))
        rows.append({"image_path": str(folder / f"{k}.png"), "mask_path": str(folder / f"m{k}.png"), "patient": f"p{k}"})
    return sources.load(pd.DataFrame(rows))


def test_masks_with_smoothed_edges_are_told_and_have_two_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speck = np.zeros((64, 64))
    speck[30, 30:33] = (120, 255, 90)  # too few values to be told from classes, alone
    found = regions.read(masks(tmp_path, np.rint(disc(64, 20, 31.3)), disc(64, 20, 32) // 128 * 255, speck), 64)
    assert found.classes == ("background", "255") and "1 masks of grey levels between 0 and 255" in capsys.readouterr().err
    assert found.maps(np.array([2]))[0].sum() == 1
    again = regions.read(masks(tmp_path, np.rint(disc(64, 20, 31.3)), speck), 64, ("background", "255"))
    assert (again.maps(np.array([0, 1])) >= 0).all()
    mixed = np.zeros((64, 64))
    mixed[:20] = 100
    with pytest.raises(UsageError, match="smoothed edges, others more classes"):
        regions.read(masks(tmp_path, np.rint(disc(64, 20, 31.3)), mixed), 64)


# ---- in the store ----------------------------------------------------------------------------------------------------------------


def test_masks_that_do_not_lie_on_their_images_are_listed_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = masks(tmp_path, HIGH[0] * 1, HIGH[1] * 1, HIGH[2] * 1)
    png(tmp_path / "m1.png", np.ones((18, 12), np.uint8))
    _, at = store.open_masks(dataset, 32)
    error = capsys.readouterr().err
    assert at.tolist() == [0, -1, 2] and "1 of 3 masks cannot be used (first: row 1: the mask has 12 x 18 pixels" in error
    assert "m1.png" not in error
    for k in (0, 2):
        png(tmp_path / f"m{k}.png", np.ones((18, 12), np.uint8))
    with pytest.raises(RunError, match="3 of 3 masks cannot be used"):
        store.open_masks(dataset, 32)


def test_masks_are_laid_anew_where_their_images_change(tmp_path: Path) -> None:
    dataset = masks(tmp_path, HIGH[0] * 1)
    first = store.open_masks(dataset, 18)[0].pixels[0, :, :, 0].copy()
    png(tmp_path / "0.png", VALUES[0].astype(np.uint8), 3)
    second = store.open_masks(dataset, 18)[0].pixels[0, :, :, 0]
    assert np.array_equal(second, first[::-1, ::-1]) and not np.array_equal(second, first)


def test_names_of_files_stand_in_no_line(tmp_path: Path) -> None:
    dataset = masks(tmp_path, HIGH[0] * 1)
    png(tmp_path / "SECRET.png", np.ones((9, 9), np.uint8))
    png(tmp_path / "SECRET2.png", np.ones((9, 9), np.uint8))
    dataset.table["mask_path"] = f"{tmp_path}/SECRET.png|SECRET2.png"
    with pytest.raises(RunError) as told:
        store.open_masks(dataset, 32)
    assert "SECRET" not in str(told.value) and "another shape" in str(told.value)


def test_a_value_at_edges_alone_and_the_classes_of_masks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    halved = (disc(64, 20, 31.3)[::2] // 255 * 255 + disc(64, 20, 31.3)[1::2] // 255 * 255) // 2  # 0, 127 and 255
    assert np.unique(halved).tolist() == [0, 127, 255]
    found = regions.read(masks(tmp_path, halved, disc(64, 20, 32)[::2] // 255 * 255), 64)
    said = capsys.readouterr().err
    assert found.classes == ("background", "127", "255") and "1 masks with one or two values at edges alone" in said
    counts = [(found.maps(np.arange(2)) == k).sum() for k in (1, 2)]
    share = counts[0] / sum(counts)
    assert f"masks of 2 classes beside the background, by share of their pixels: 127 ({share:.1%}), 255 ({1 - share:.1%})" in said
    regions.read(masks(tmp_path, disc(64, 20, 32) // 255 * 255), 64)
    assert "masks of" not in capsys.readouterr().err
