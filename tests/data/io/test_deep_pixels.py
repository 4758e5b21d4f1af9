"""Pixels that common decoders change on the way: 16-bit colours, signed and many-channelled TIFF, deep palettes, padding."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from imagecodecs import jpeg2k_encode, jpeg8_encode
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

from scotoma.data.io import tiff
from scotoma.data.io.read import Display, ImageError, read, read_labels, to_uint8

RNG = np.random.default_rng(7)
DEEP = RNG.integers(0, 65536, (12, 17, 4)).astype(np.uint16)
DEEP[0, :, :3] = 65535  # the range is used, whatever the channel


def png(path: Path, samples: np.ndarray, colours: int, extra: bytes = b"") -> str:
    """A PNG of 16 bits, which Pillow does not write in colour."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return str(path)


def on_black(samples: np.ndarray) -> np.ndarray:
    return np.rint(samples[..., :-1].astype(float) * samples[..., -1:] / 65535)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
def test_colours_of_16_bits_keep_them_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        png(path, DEEP[..., :3], 2)
    elif suffix == ".tif":
        tifffile.imwrite(path, DEEP[..., :3], photometric="rgb")
    else:
        path.write_bytes(jpeg2k_encode(DEEP[..., :3], level=0, reversible=True, codecformat="jp2"))
    image = read(str(path))
    np.testing.assert_array_equal(image.pixels, DEEP[..., :3])
    assert image.facts["bits"] == 16 and image.facts["channels"] == 3
    np.testing.assert_array_equal(to_uint8(image.pixels), np.floor(DEEP[..., :3] / 65535 * 255 + 0.5))


def test_transparent_is_black_at_16_bits_as_at_8(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    np.testing.assert_allclose(read(png(path, DEEP, 6)).pixels, on_black(DEEP), atol=1)
    grey = DEEP[..., [0, 3]]
    np.testing.assert_allclose(read(png(path, grey, 4)).pixels, on_black(grey)[..., 0], atol=1)
    key = struct.pack(">HHH", *DEEP[3, 4, :3].tolist())
    chunk = struct.pack(">I", 6) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
    shown = read(png(path, DEEP[..., :3], 2, chunk)).pixels
    assert shown[3, 4].tolist() == [0, 0, 0]
    assert np.array_equal(np.delete(shown.reshape(-1, 3), 3 * 17 + 4, 0), np.delete(DEEP[..., :3].reshape(-1, 3), 3 * 17 + 4, 0))
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(read(str(tmp_path / "a.tif")).pixels, on_black(DEEP), atol=1)


def test_a_truncated_16_bit_png_is_one_line(tmp_path: Path) -> None:
    whole = Path(png(tmp_path / "a.png", DEEP[..., :3], 2)).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"^a\.png: "):
        read(str(tmp_path / "a.png"))


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.uint32, np.float16, np.float64])
def test_tiff_of_other_samples_is_shown_between_its_percentiles(tmp_path: Path, kind: type) -> None:
    span = (-100, 100) if kind is np.int8 else (2**31 + 5, 2**32) if kind is np.uint32 else (-900, 2000)
    values = RNG.integers(*span, (40, 50)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", values)
    low, high = np.percentile(values.astype(float), [0.5, 99.5])
    image = read(str(tmp_path / "a.tif"))
    np.testing.assert_allclose(image.pixels, np.clip((values.astype(float) - low) / (high - low), 0, 1), atol=2e-3)
    assert image.facts["bits"] == 8 * values.itemsize


def test_channels_of_unknown_meaning_are_refused_and_transparency_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "a.tif")
    for kind in (np.uint8, np.uint16):
        for channels in (2, 5):
            tifffile.imwrite(
                path, RNG.integers(0, 255, (9, 8, channels)).astype(kind), photometric="minisblack", planarconfig="contig"
            )
            with pytest.raises(ImageError, match=f"{channels} channels, neither 1 nor 3"):
                read(path)
        grey = RNG.integers(0, np.iinfo(kind).max, (9, 8, 2)).astype(kind)
        grey[:4, :, 1], grey[4:, :, 1], grey[0, 0, 0] = np.iinfo(kind).max, 0, np.iinfo(kind).max
        tifffile.imwrite(path, grey, photometric="minisblack", extrasamples=["unassalpha"])
        np.testing.assert_array_equal(read(path).pixels, np.where(grey[..., 1] > 0, grey[..., 0], 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiff_is_turned_upright_as_shallow_ones(tmp_path: Path, orientation: int) -> None:
    shallow = RNG.integers(0, 256, (6, 9)).astype(np.uint8)
    for name, image in (("8", shallow), ("16", shallow.astype(np.uint16) * 257)):
        tifffile.imwrite(tmp_path / f"{name}.tif", image, extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(to_uint8(read(str(tmp_path / "16.tif")).pixels), read(str(tmp_path / "8.tif")).pixels)
    np.testing.assert_array_equal(read_labels(str(tmp_path / "16.tif")), tiff.upright(shallow, orientation).astype(int) * 257)


def test_white_is_zero_keeps_the_depth_that_is_used(tmp_path: Path) -> None:
    twelve = RNG.integers(0, 4096, (40, 40)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", 4095 - twelve, photometric="miniswhite")
    low, high = np.percentile(twelve, [0.5, 99.5])
    np.testing.assert_allclose(read(str(tmp_path / "a.tif")).pixels, np.clip((twelve - low) / (high - low), 0, 1), atol=1e-3)


def test_not_a_number_is_black_and_leaves_shares_as_they_are(tmp_path: Path) -> None:
    share = RNG.uniform(0.2, 0.6, (20, 30)).astype(np.float32)
    share[:5] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", share)
    np.testing.assert_allclose(read(str(tmp_path / "a.tif")).pixels, np.nan_to_num(share), atol=1e-6)


def test_labels_of_16_bits_in_three_equal_channels_keep_their_numbers(tmp_path: Path) -> None:
    labels = RNG.integers(0, 300, (8, 9)).astype(np.uint16)
    np.testing.assert_array_equal(read_labels(png(tmp_path / "a.png", labels[..., None].repeat(3, -1), 2)), labels)
    tifffile.imwrite(tmp_path / "a.tif", labels[..., None].repeat(3, -1), photometric="rgb")
    np.testing.assert_array_equal(read_labels(str(tmp_path / "a.tif")), labels)
    tifffile.imwrite(tmp_path / "b.tif", labels.astype(np.int8) % 2 - 1)
    assert read_labels(str(tmp_path / "b.tif")).min() == -1


def test_colour_volumes_are_colour_images(tmp_path: Path) -> None:
    voxels = np.zeros((5, 6, 7), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        voxels[name] = RNG.integers(0, 256, voxels.shape)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    wanted = np.stack([voxels[name][:, :, 3].T[::-1, ::-1] for name in "RGB"], -1)
    np.testing.assert_array_equal(read(str(tmp_path / "a.nii.gz"), 3).pixels, wanted)
    with pytest.raises(ImageError, match="colours"):
        read(str(tmp_path / "a.nii.gz"), 3, display=Display(((40, 400),)))


def dicom(path: Path, stored: np.ndarray, syntax: UID = ExplicitVRLittleEndian, **elements: object) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID, ds.file_meta.MediaStorageSOPClassUID = syntax, SecondaryCaptureImageStorage
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if stored.ndim == 3 else (1, "MONOCHROME2")
    if stored.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * stored.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(stored.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.PixelData = stored.astype(stored.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    ds["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    dcmwrite(path, ds, enforce_file_format=True)
    return ds


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_palette_is_as_deep_as_its_descriptor_says(tmp_path: Path, syntax: UID) -> None:
    entries = np.array([0, 200, 40_000, 65_535], np.uint16)  # the image uses the two darkest alone
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    palette = {f"{c}PaletteColorLookupTableDescriptor": [4, 0, 16] for c in ("Red", "Green", "Blue")}
    palette |= {f"{c}PaletteColorLookupTableData": entries.astype(f"{order}u2").tobytes() for c in ("Red", "Green", "Blue")}
    for stored in (np.array([[0, 1]], np.uint8), np.array([[2, 3]], np.uint8)):
        dicom(tmp_path / "a.dcm", stored, syntax, PhotometricInterpretation="PALETTE COLOR", **palette)
        np.testing.assert_array_equal(read(str(tmp_path / "a.dcm")).pixels[..., 0], entries[stored] >> 8)


def test_a_jpeg_whose_components_are_called_rgb_is_rgb(tmp_path: Path) -> None:
    colours = np.zeros((16, 24, 3), np.uint8)
    colours[..., 0], colours[..., 1], colours[..., 2] = 200, np.arange(24) * 4, 60
    out = io.BytesIO()
    Image.fromarray(colours).save(out, "JPEG", quality=99, subsampling=0, keep_rgb=True)
    data, at, bare = out.getvalue(), 2, b"\xff\xd8"
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        bare += b"" if data[at + 1] in (0xE0, 0xEE) else data[at:end]  # neither JFIF nor Adobe
        at = end
    bare += data[at:]
    (tmp_path / "a.jpg").write_bytes(bare)
    assert np.abs(read(str(tmp_path / "a.jpg")).pixels.astype(int) - colours).max() < 6
    usual = jpeg8_encode(colours, level=99, subsampling="444")  # YCbCr
    for name, stream, photometric in (("a", bare, "RGB"), ("b", bare, "YBR_FULL_422"), ("c", usual, "YBR_FULL_422")):
        dicom(tmp_path / "x.dcm", colours, PhotometricInterpretation=photometric)
        ds = dcmread(tmp_path / "x.dcm")
        ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        ds.PixelData = encapsulate([stream])
        ds["PixelData"].is_undefined_length = True
        dcmwrite(tmp_path / f"{name}.dcm", ds, enforce_file_format=True)
        assert np.abs(read(str(tmp_path / f"{name}.dcm")).pixels.astype(int) - colours).max() < 12, (name, photometric)


def test_numbers_with_a_decimal_comma_are_numbers(tmp_path: Path) -> None:
    stored = np.arange(100, dtype=np.uint16).reshape(10, 10)
    dicom(tmp_path / "a.dcm", stored, WindowCenter=40.5, WindowWidth=61, RescaleSlope=1.5, RescaleIntercept=2)
    plain, data = read(str(tmp_path / "a.dcm")), (tmp_path / "a.dcm").read_bytes()
    assert data.count(b"40.5") == 1 and data.count(b"1.5 ") == 1
    (tmp_path / "b.dcm").write_bytes(data.replace(b"40.5", b"40,5").replace(b"1.5 ", b"1,5 "))
    comma = read(str(tmp_path / "b.dcm"))
    np.testing.assert_array_equal(comma.pixels, plain.pixels)
    assert comma.facts["window"] == [40.5, 61.0]
    (tmp_path / "c.dcm").write_bytes(data.replace(b"40.5", b"wide"))
    with pytest.raises(ImageError):
        read(str(tmp_path / "c.dcm"))


def test_no_rim_at_the_padding_of_jpeg_2000(tmp_path: Path) -> None:
    stored = np.full((256, 256), 3000, np.uint16)
    stored[:, :100] = 0
    ds = dicom(
        tmp_path / "a.dcm",
        stored,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=0,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    compress(ds, JPEG2000Lossless)
    ds.save_as(tmp_path / "b.dcm")
    shown = to_uint8(read(str(tmp_path / "b.dcm"), side=32).pixels)
    tissue = int(to_uint8(read(str(tmp_path / "a.dcm")).pixels)[0, -1])
    assert set(np.unique(shown).tolist()) == {0, tissue}  # of values in between, this presentation would make white
