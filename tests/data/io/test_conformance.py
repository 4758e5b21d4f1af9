"""Every real DICOM, NIfTI and npz sample: what it must read as, or the reason why it cannot be read.

The folders' own tables say what one other reading gave (pydicom with all of its decoders; nibabel). Where ours differs, the
entry here states why.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from scotoma.data.io import dicom_codecs
from scotoma.data.io.read import Decoded, ImageError, frames, read, read_labels, square

# The part of the message that gives the reason.
UNREADABLE = {
    "dicom__pydicom_empty_charset_LEI.dcm": "no pixel data",
    "dicom__pydicom_meta_missing_tsyntax.dcm": "lacks Rows, Columns, BitsAllocated",
    "dicom__pydicom_nested_priv_SQ.dcm": "lacks Rows, Columns, BitsAllocated",
    "dicom__pydicom_ExplVR_LitEndNoMeta.dcm": r"no pixel data \(a DICOM file of modality RTPLAN\)",
    "dicom__pydicom_rtplan_truncated.dcm": r"no pixel data \(a DICOM file of modality RTPLAN\)",
    "dicom__pydicom_rtstruct.dcm": r"no pixel data \(a DICOM file of modality RTSTRUCT\)",
    "dicom__pydicom_reportsi_with_empty_number_tags.dcm": r"no pixel data \(a DICOM file of modality SR\)",
    "dicom__pydicom_test-SR.dcm": r"no pixel data \(a DICOM file of modality SR\)",
    "dicom__pydicom_badVR.dcm": "Number of Frames is no number",
}
# Stored values (lowest, highest) of files that the other reading could not decode, or decoded otherwise.
OURS = {
    # Float pixels lie in Float Pixel Data, where the other reading did not look.
    "pydicom__parametric_map_float.dcm": ((128, 128), 0.0, 0.94157916),
    # Deflated frames (2023) and RLE of packed single bits: the same segmentation as liver_j2k, which the other reading did decode.
    "pydicom__liver_deflate.dcm": ((512, 512), 0, 1),
    "pydicom__liver_rle.dcm": ((512, 512), 0, 1),
    # JPEG of 12 bits by libjpeg-turbo; within the loss of the lossless files of the same images (see the next test).
    "dicom__WG04_JPLY_NM1_JPLY.dcm": ((1024, 256), 0, 264),
    "dicom__WG04_JPLY_MR4_JPLY.dcm": ((512, 512), 0, 2148),
    "dicom__WG04_JPLY_MR3_JPLY.dcm": ((512, 512), 0, 1478),
    "dicom__WG04_JPLY_XA1_JPLY.dcm": ((1024, 1024), 0, 556),
    "dicom__WG04_JPLY_RG2_JPLY.dcm": ((2140, 1760), 0, 960),
    "dicom__WG04_JPLY_RG3_JPLY.dcm": ((1760, 1760), 0, 1023),  # the decoder overshoots to 1024: clipped to the 10 bits stored
}
SHOWN = {"pydicom__color-pl.dcm": (160, 256)}  # Pixel Aspect Ratio 4:3


def rows(folder: Path) -> list[dict[str, str]]:
    if not (folder / "table.csv").exists():
        pytest.skip(f"{folder} is absent")
    return pd.read_csv(folder / "table.csv", dtype=str, keep_default_na=False).to_dict("records")


def values_of(path: str, frame: int, image: Decoded) -> np.ndarray:
    """Stored values; of JPEG 2000, whose source is the compressed stream, decoded once more."""
    if not isinstance(image.source, bytes):
        assert image.source is not None
        return image.source
    return dicom_codecs.read_stored_values(pydicom.dcmread(path), frame)


def test_every_dicom_sample_reads_as_stated_or_says_why(data_root: Path) -> None:
    folder = data_root / "dicom_samples"
    read_well = 0
    for row in rows(folder):
        path = str(folder / row["image_path"])
        name = Path(path).name
        if name in UNREADABLE:
            with pytest.raises(ImageError, match=f"^{name}: .*{UNREADABLE[name]}") as caught:
                read(path)
            assert "\n" not in str(caught.value)
            continue
        shape = (int(row["rows"]), int(row["cols"]))
        count = frames(path)
        images = [read(path, k) for k in range(count)]
        stored = np.stack([values_of(path, k, p) for k, p in enumerate(images)])
        if name in OURS:
            wanted, low, high = OURS[name]
            assert shape == wanted
            assert stored.shape[1:3] == wanted
        else:
            assert row["decode"] == "ok", name
            whole = tuple(int(n) for n in row["shape"].strip("()").split(","))
            assert (stored.shape if len(whole) > len(shape) and whole[-1] != 3 else stored.shape[1:]) == whole, name
            low, high = float(row["pmin"]), float(row["pmax"])
        rounding = 1 if row["transfer_syntax"].startswith("JPEG Baseline") else 1e-6  # two decoders' cosine transforms
        assert (float(stored.min()), float(stored.max())) == pytest.approx((low, high), abs=rounding), name
        for image in images:
            assert (image.facts["height"], image.facts["width"]) == shape
            assert image.pixels.shape[:2] == SHOWN.get(name, shape), name
            assert image.facts.get("transfer_syntax", "").startswith(row["transfer_syntax"][:38])  # type: ignore[attr-defined]
            assert not row["bits"] or image.facts["bits"] == int(row["bits"])
        assert max(np.ptp(p.pixels) / (255 if p.pixels.dtype == np.uint8 else 1) for p in images) > 0.4, name
        read_well += 1
    assert read_well == 84 - len(UNREADABLE)


def test_jpeg_2000_at_a_part_of_its_size_shows_the_same_image(data_root: Path) -> None:
    seen = 0
    for row in rows(data_root / "dicom_samples"):
        path = str(data_root / "dicom_samples" / row["image_path"])
        if not row["transfer_syntax"].startswith("JPEG 2000") or Path(path).name in UNREADABLE:
            continue
        whole = read(path)
        longest = max(whole.pixels.shape[:2])
        side = longest // 4
        part = read(path, side=side)
        assert part.facts == whole.facts and part.source == whole.source
        if whole.pixels.ndim == 3 or max(int(row["rows"]), int(row["cols"])) < longest:
            continue  # colours stay as they are
        if longest < 128:
            continue  # half a pixel of 64 is much
        if "PixelPaddingValue" in pydicom.dcmread(path, stop_before_pixels=True):
            assert part.pixels.shape == whole.pixels.shape  # not reduced: wavelets mix padding into its neighbours
            continue
        assert 2 * side <= max(part.pixels.shape) <= 2 * side + 2, path
        shown, wanted = (square(p.pixels, side, 1).astype(int) for p in (part, whole))
        assert np.abs(shown - wanted).mean() < 3 and np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > 0.99, path
        seen += 1
    assert seen >= 3


@pytest.mark.parametrize("name", ["NM1", "MR4", "MR3", "RG2", "RG3"])
def test_twelve_bit_jpeg_shows_the_image_that_another_compression_of_it_shows(data_root: Path, name: str) -> None:
    folder = data_root / "dicom_samples" / "files"
    lossy = np.asarray(read(str(folder / f"dicom__WG04_JPLY_{name}_JPLY.dcm")).source, float)
    other = np.asarray(read(str(folder / f"dicom__WG04_JLSN_{name}_JLSN.dcm")).source, float)
    assert np.abs(lossy - other).mean() < 0.01 * np.ptp(other)
    assert np.corrcoef(lossy.ravel(), other.ravel())[0, 1] > 0.98


def test_segmentations_of_one_liver_agree_whatever_their_compression(data_root: Path) -> None:
    folder = data_root / "dicom_samples" / "files"
    for frame in range(3):
        wanted = read_labels(str(folder / "pydicom__liver_j2k.dcm"), frame)
        assert wanted.shape == (512, 512)
        assert wanted.max() == 1
        for name in ("pydicom__liver_deflate.dcm", "pydicom__liver_rle.dcm"):
            np.testing.assert_array_equal(read_labels(str(folder / name), frame), wanted)
    for name in ("dicom__pydicom_liver_1frame.dcm", "dicom__pydicom_liver_expb_1frame.dcm"):
        np.testing.assert_array_equal(read_labels(str(folder / name)), read_labels(str(folder / "pydicom__liver_j2k.dcm"), 0))


LABELS = {"Prostatex_0000_lab.nii.gz": {0, 1, 2}, "kits19_case_00061_segmentation.nii.gz": {0, 1, 2}}


def test_every_nifti_and_npz_sample_reads_as_stated(data_root: Path) -> None:
    folder = data_root / "nifti_samples"
    for row in rows(folder):
        path, shape = str(folder / row["image_path"]), [int(n) for n in row["shape"].strip("()").split(",")]
        if path.endswith(".npz"):
            assert frames(path + "#image") == shape[0]
            assert read(path + "#image", 3).pixels.shape == tuple(shape[1:])
            with np.load(path) as archive:
                np.testing.assert_array_equal(read_labels(path + "#label", 3), archive["label"][3])
                assert set(np.unique(archive["label"])) == {0, 1, 2, 3}
            continue
        image = nibabel.load(path)
        assert list(image.shape) == shape
        assert str(image.get_data_dtype()).lstrip("<") == row["dtype"].lstrip("<")
        assert "".join(nibabel.aff2axcodes(image.affine)) == row["orient"]
        canonical = nibabel.as_closest_canonical(image)
        volumes = np.asarray(canonical.dataobj, np.float64).reshape(*canonical.shape[:3], -1)
        for axis, name in ((2, ""), (1, "#coronal"), (0, "#sagittal")):
            for volume in {0, volumes.shape[3] - 1}:
                mark = f"{name or '#axial'},volume={volume}" if volume else name
                assert frames(path + mark) == canonical.shape[axis]
                k = canonical.shape[axis] // 3
                expected = np.take(volumes[..., volume], k, axis).T[::-1, ::-1]  # head or front up, the patient's right on the left
                image = read(path + mark, k)
                np.testing.assert_allclose(image.source, expected, rtol=1e-6)
                inside = (image.source > np.quantile(expected, 0.02)) & (image.source < np.quantile(expected, 0.98))
                if volumes.dtype.kind == "f" and inside.any() and image.pixels.shape == expected.shape and np.ptp(expected[inside]):
                    assert np.corrcoef(image.pixels[inside], expected[inside])[0, 1] > 0.98
        if Path(path).name in LABELS:
            found: set[int] = set()
            for k in range(frames(path)):
                labels = read_labels(path, k)
                assert labels.shape == read(path, k).pixels.shape
                found |= set(np.unique(labels).tolist())
            assert found == LABELS[Path(path).name]
    with pytest.raises(ImageError, match="no volume 20: the file holds 20"):
        read(str(folder / "functional.nii#volume=20"))
