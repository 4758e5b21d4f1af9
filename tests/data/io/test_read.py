"""Files made here with known values, each compared with what they must show; then a sweep over real ones."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
from imagecodecs import jpeg8_encode
from PIL import Image, ImageFilter
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, apply_voi, apply_voi_lut, apply_windowing, compress
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from scotoma.data.io import dicom, dicom_codecs, volumes
from scotoma.data.io.read import (
    Display,
    ImageError,
    age_in_years,
    frames,
    is_image,
    parse_windows,
    read,
    read_labels,
    square,
    to_uint8,
)
from scotoma.data.phantom import phantom
from scotoma.data.store import hashes

DATA = Path(os.environ.get("SCOTOMA_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def real(folder: str) -> Path:
    if not (DATA / folder / "table.csv").exists():
        pytest.skip(f"{DATA / folder} is absent (set SCOTOMA_DATA)")
    return DATA / folder


def blobs(height=240, width=300, seed=0) -> np.ndarray:
    """A smooth image with structure at many scales, uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    rough = Image.fromarray(np.clip(noise * 40 + 128, 0, 255).astype(np.uint8))
    total = sum(np.asarray(rough.filter(ImageFilter.GaussianBlur(r)), float) * r for r in (2, 8, 24))
    low, high = total.min(), total.max()
    return ((total - low) / (high - low) * 255).astype(np.uint8)


# --- PNG, JPEG, TIFF, BMP ---


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_lossless_formats_return_the_pixels_written(tmp_path, suffix, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = str(tmp_path / f"a{suffix}")
    Image.fromarray(pixels).save(path)
    image = read(path)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.facts == {
        "format": {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF"}[suffix],
        "width": 7,
        "height": 5,
        "channels": 3 if len(shape) == 3 else 1,
        "bits": 8,
    }
    assert frames(path) == 1


def test_png_modes(tmp_path):
    path = str(tmp_path / "a.png")

    def saved(image: Image.Image, **options) -> np.ndarray:
        image.save(path, **options)
        return read(path).pixels

    bits = np.array([[0, 1], [1, 0]], bool)
    np.testing.assert_array_equal(saved(Image.fromarray(bits)), bits * np.uint8(255))
    assert read(path).facts["bits"] == 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putdata([1, 0])
    np.testing.assert_array_equal(saved(palette), [[[200, 100, 0], [10, 20, 30]]])
    np.testing.assert_array_equal(saved(palette, transparency=1), [[[0, 0, 0], [10, 20, 30]]])
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]], np.uint8)  # 51 is a fifth
    np.testing.assert_array_equal(saved(Image.fromarray(rgba)), [[[200, 100, 50], [0, 0, 0], [40, 20, 10]]])
    grey_alpha = np.array([[[200, 255], [200, 0]]], np.uint8)
    np.testing.assert_array_equal(saved(Image.fromarray(grey_alpha, "LA")), [[200, 0]])


def test_16_bit_png_is_kept_where_it_uses_its_range_and_stretched_where_it_does_not(tmp_path):
    path = str(tmp_path / "a.png")
    full = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    Image.fromarray(full).save(path)
    image = read(path)
    assert image.pixels.dtype == np.uint16
    np.testing.assert_array_equal(image.pixels, full)
    assert image.facts["bits"] == 16
    twelve = full // 16
    Image.fromarray(twelve).save(path)
    low, high = np.percentile(twelve, [0.5, 99.5])
    np.testing.assert_allclose(read(path).pixels, np.clip((twelve - low) / (high - low), 0, 1), atol=1e-6)


def test_jpeg_grey_colour_cmyk_and_orientation(tmp_path):
    path = str(tmp_path / "a.jpg")
    grey = blobs(40, 60)
    Image.fromarray(grey).save(path, quality=95)
    assert read(path).pixels.shape == (40, 60)
    assert np.abs(read(path).pixels.astype(int) - grey).max() < 8
    colour = Image.fromarray(np.stack([grey, grey // 2, 255 - grey], -1))
    colour.save(path, quality=95, subsampling=0)
    upright = read(path).pixels
    assert np.abs(upright.astype(int) - np.asarray(colour)).mean() < 3
    colour.convert("CMYK").save(path, quality=95, subsampling=0)
    assert np.abs(read(path).pixels.astype(int) - np.asarray(colour)).mean() < 3
    exif = Image.Exif()
    for orientation, turned in {3: grey[::-1, ::-1], 6: np.rot90(grey, -1), 8: np.rot90(grey)}.items():
        exif[0x0112] = orientation
        Image.fromarray(grey).save(path, quality=95, exif=exif)
        image = read(path)
        assert np.abs(image.pixels.astype(int) - turned).max() < 8
        assert (image.facts["height"], image.facts["width"]) == turned.shape


def test_a_jpeg_is_known_by_its_stream_not_by_its_comments(tmp_path):
    path, grey = tmp_path / "a.jpg", blobs(64, 48)
    Image.fromarray(grey).save(path, quality=90)
    plain = read(str(path))
    exif = Image.Exif()
    exif[0x010E] = "a description"
    Image.fromarray(grey).save(path, quality=90, exif=exif, comment=b"a comment")
    assert read(str(path)).source == plain.source == read(str(path), side=8).source
    exif[0x0112] = 3
    Image.fromarray(grey).save(path, quality=90, exif=exif)
    assert read(str(path)).source != plain.source  # it is shown upside down
    Image.fromarray(grey).save(path, quality=91)
    assert read(str(path)).source != plain.source


def test_jpeg_decoded_at_a_reduced_scale_fits_to_the_same_image(tmp_path):
    path = str(tmp_path / "a.jpg")
    Image.fromarray(blobs(900, 1200)).save(path, quality=92)
    reduced, whole = read(path, side=128), read(path)
    assert reduced.pixels.shape == (225, 300)  # 1/4: 1/8 would be less than twice the side
    assert reduced.facts == whole.facts
    difference = np.abs(square(reduced.pixels, 128, 1).astype(int) - square(whole.pixels, 128, 1))
    assert difference.max() <= 2
    assert difference.mean() < 0.4
    assert read(path, side=601).pixels.shape == (900, 1200)


def test_tiff_depths_pages_and_white_is_zero(tmp_path):
    path = str(tmp_path / "a.tif")
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for dtype in (np.float32, np.float64):
        tifffile.imwrite(path, ramp.astype(dtype))
        np.testing.assert_allclose(read(path).pixels, ramp, atol=1e-7)
    assert read(path).facts["bits"] == 64
    deep = (ramp * 65535).astype(np.uint16)
    tifffile.imwrite(path, deep)
    np.testing.assert_array_equal(read(path).pixels, deep)
    tifffile.imwrite(path, deep, photometric="miniswhite")
    np.testing.assert_array_equal(read(path).pixels, 65535 - deep)
    tifffile.imwrite(path, deep[..., None].repeat(3, -1), photometric="rgb")
    np.testing.assert_array_equal(read(path).pixels, deep[..., None].repeat(3, -1))
    assert read(path).facts["bits"] == 16
    pages = np.arange(3 * 20, dtype=np.uint8).reshape(3, 4, 5)
    tifffile.imwrite(path, pages, photometric="minisblack")
    assert frames(path) == 3
    for k in range(3):
        np.testing.assert_array_equal(read(path, k).pixels, pages[k])
    np.testing.assert_array_equal(read(path).pixels, pages[0])
    with pytest.raises(ImageError, match=r"a\.tif: no frame 3: the file holds 3"):
        read(path, 3)


# --- DICOM ---


def dataset(stored: np.ndarray, syntax=ExplicitVRLittleEndian, bits: int | None = None, **elements) -> Dataset:
    """A secondary capture of ``stored``: (H, W), (H, W, 3), or (N, H, W) with ``NumberOfFrames=N``."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3.4"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    colour = stored.shape[-1] == 3 and stored.ndim == 3 and "NumberOfFrames" not in elements
    ds.Rows, ds.Columns = stored.shape[:2] if colour else stored.shape[-2:]
    ds.SamplesPerPixel = 3 if colour else 1
    if colour:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    ds.BitsAllocated = 8 * stored.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    little = syntax != ExplicitVRBigEndian
    ds.PixelData = stored.astype(stored.dtype.newbyteorder("<" if little else ">")).tobytes()
    ds["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    return ds


def write(folder: Path, ds: Dataset, name="a.dcm") -> str:
    dcmwrite(folder / name, ds, enforce_file_format=True)
    return str(folder / name)


TWELVE = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_rescale_and_linear_window_in_closed_form(tmp_path, syntax):
    ds = dataset(
        TWELVE,
        syntax,
        12,
        Modality="CT",
        RescaleSlope=2,
        RescaleIntercept=-1024,
        WindowCenter=["300", "9"],
        WindowWidth=["1001", "9"],
    )
    image = read(write(tmp_path, ds))
    units = TWELVE * 2.0 - 1024
    np.testing.assert_allclose(image.pixels, np.clip((units - 299.5) / 1000 + 0.5, 0, 1), atol=1e-6)
    assert image.pixels.dtype == np.float32
    assert image.facts["window"] == [300, 1001]
    assert image.facts["transfer_syntax"] == syntax.name


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 700), ("LINEAR_EXACT", 700), ("SIGMOID", 700), ("LINEAR_EXACT", 0.5)])
def test_windows_agree_with_pydicom(tmp_path, function, width):
    ds = dataset(
        TWELVE,
        bits=12,
        RescaleSlope=1,
        RescaleIntercept=-1000,
        WindowCenter=200,
        WindowWidth=width,
        VOILUTFunction=function,
    )
    reference = apply_windowing(apply_modality_lut(TWELVE, ds), ds)  # over the range -1000..3095
    np.testing.assert_allclose(read(write(tmp_path, ds)).pixels, (reference + 1000) / 4095, atol=1e-6)


def test_a_window_of_width_one_is_a_threshold(tmp_path):
    ds = dataset(TWELVE, bits=12, WindowCenter=1600, WindowWidth=1)
    np.testing.assert_array_equal(read(write(tmp_path, ds)).pixels, TWELVE > 1599.5)


def test_ct_without_window_gets_the_soft_tissue_window(tmp_path):
    stored = np.arange(-1000, 1000, 20, dtype=np.int16).reshape(10, 10)
    image = read(write(tmp_path, dataset(stored, Modality="CT")))
    np.testing.assert_allclose(image.pixels, np.clip((stored - 39.5) / 399 + 0.5, 0, 1), atol=1e-6)
    assert image.facts["window"] == [40, 400]


def test_other_modalities_without_window_are_stretched_between_percentiles(tmp_path):
    stored = np.random.default_rng(0).integers(-500, 3000, (40, 40)).astype(np.int16)
    image = read(write(tmp_path, dataset(stored, Modality="MR")))
    low, high = np.percentile(stored, [0.5, 99.5])
    np.testing.assert_allclose(image.pixels, np.clip((stored - low) / (high - low), 0, 1), atol=1e-5)
    assert "window" not in image.facts


def test_eight_bits_without_window_stay_as_they_are(tmp_path):
    stored = blobs(20, 30) // 2
    np.testing.assert_array_equal(read(write(tmp_path, dataset(stored, Modality="US"))).pixels, stored)


@pytest.mark.parametrize("elements", [{}, {"WindowCenter": 900, "WindowWidth": 1000}])
def test_monochrome1_is_the_inverse(tmp_path, elements):
    plain = read(write(tmp_path, dataset(TWELVE, bits=12, **elements))).pixels
    inverted = read(write(tmp_path, dataset(TWELVE, bits=12, PhotometricInterpretation="MONOCHROME1", **elements), "b.dcm")).pixels
    np.testing.assert_allclose(inverted, 1 - plain, atol=1e-6)
    byte = dataset(blobs(9, 9), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read(write(tmp_path, byte, "c.dcm")).pixels, 255 - blobs(9, 9))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_no_part_of_the_percentiles(tmp_path, photometric):
    stored = np.random.default_rng(0).integers(0, 1000, (30, 30)).astype(np.int16)
    padded = np.pad(stored, 15, constant_values=-2000)
    alone = read(write(tmp_path, dataset(stored, PhotometricInterpretation=photometric))).pixels
    image = read(write(tmp_path, dataset(padded, PhotometricInterpretation=photometric, PixelPaddingValue=-2000), "b.dcm")).pixels
    np.testing.assert_allclose(image[15:-15, 15:-15], alone, atol=1e-6)
    assert image[:15].max() == image[-15:].max() == 0


def test_padding_range_and_padding_written_unsigned(tmp_path):
    stored = np.array([[-2000, -1995, -1990, 0, 500, 1000]], np.int16)
    elements = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingRangeLimit": -1990}
    pixels = read(write(tmp_path, dataset(stored, PixelPaddingValue=-2000, **elements))).pixels
    np.testing.assert_allclose(pixels[0, :4], [0, 0, 0, 1], atol=0.02)
    ds = dataset(stored, PhotometricInterpretation="MONOCHROME1")
    ds.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert read(write(tmp_path, ds, "b.dcm")).pixels[0, 0] == 0


@pytest.mark.parametrize("elements", [{"PixelSpacing": [0.6, 0.3]}, {"PixelAspectRatio": [2, 1]}, {"ImagerPixelSpacing": [2, 1]}])
def test_pixels_twice_as_high_as_wide_make_the_image_twice_as_high(tmp_path, elements):
    image = read(write(tmp_path, dataset(blobs(20, 30), **elements)))
    assert image.pixels.shape == (40, 30)
    assert (image.facts["height"], image.facts["width"]) == (20, 30)
    assert abs(float(image.pixels.mean()) - blobs(20, 30).mean()) < 1
    assert image.facts.get("spacing_mm") == {"PixelSpacing": 0.6, "ImagerPixelSpacing": 2.0}.get(next(iter(elements)))


def test_pixels_wider_than_high(tmp_path):
    assert read(write(tmp_path, dataset(TWELVE, bits=12, PixelSpacing=[1, 1.5]))).pixels.shape == (16, 24)
    assert read(write(tmp_path, dataset(TWELVE, bits=12, PixelSpacing=[1, 1000]))).pixels.shape == (16, 16)


def test_palette_rgb_and_ybr(tmp_path):
    stored = np.array([[0, 1], [2, 3]], np.uint8)
    ds = dataset(stored, PhotometricInterpretation="PALETTE COLOR")
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 0], [10, 20, 30]], np.uint16)
    for k, name in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 16])
        setattr(ds, f"{name}PaletteColorLookupTableData", (table[:, k] * 257).astype("<u2").tobytes())
    np.testing.assert_array_equal(read(write(tmp_path, ds)).pixels, table.reshape(2, 2, 3))
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    np.testing.assert_array_equal(read(write(tmp_path, dataset(rgb))).pixels, rgb)
    deep = dataset(rgb.astype(np.uint16) * 257)
    np.testing.assert_allclose(read(write(tmp_path, deep)).pixels, rgb / 255, atol=1e-5)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    image = read(write(tmp_path, dataset(ybr, PhotometricInterpretation="YBR_FULL")))
    assert np.abs(image.pixels.astype(int) - rgb).max() <= 3


def lut(first: int, bits: int, table: list[int]) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(table), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", np.array(table, "<u2").tobytes())
    return Sequence([item])


def test_modality_and_voi_tables(tmp_path):
    stored = np.array([[0, 10, 11, 12, 13, 99]], np.uint16)
    voi = dataset(stored, bits=12, VOILUTSequence=lut(10, 12, [0, 1000, 3000, 4095]))
    image = read(write(tmp_path, voi))
    np.testing.assert_allclose(image.pixels, np.array([[0, 0, 1000, 3000, 4095, 4095]]) / 4095, atol=1e-6)
    np.testing.assert_allclose(image.pixels, apply_voi(stored, voi) / 4095, atol=1e-6)
    eight = dataset(
        np.arange(1024, dtype=np.uint16).reshape(32, 32),
        bits=10,
        VOILUTSequence=lut(0, 8, [k // 4 for k in range(1024)]),
    )
    np.testing.assert_allclose(read(write(tmp_path, eight)).pixels.ravel() * 255, np.arange(1024) // 4, atol=1e-4)
    modality = dataset(stored, bits=12, ModalityLUTSequence=lut(10, 16, [5, 50, 500, 5000]), WindowCenter=2500.5, WindowWidth=5001)
    np.testing.assert_allclose(read(write(tmp_path, modality)).pixels, np.array([[5, 5, 50, 500, 5000, 5000]]) / 5000, atol=1e-6)
    both = dataset(stored, bits=12, VOILUTSequence=lut(10, 12, [0, 1, 2, 3]), WindowCenter=50.5, WindowWidth=101)
    wanted = apply_voi_lut(stored, both) / 4095  # pydicom's default: of both, the table
    np.testing.assert_allclose(read(write(tmp_path, both)).pixels, wanted, atol=1e-6)


def test_multi_frame_and_functional_groups(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4096, (3, 8, 9)).astype(np.uint16)
    ds = dataset(stored, bits=12, NumberOfFrames=3, Modality="MR")

    def group(keyword: str, **elements) -> Dataset:
        inner, outer = Dataset(), Dataset()
        for name, value in elements.items():
            setattr(inner, name, value)
        setattr(outer, keyword, Sequence([inner]))
        return outer

    ds.SharedFunctionalGroupsSequence = Sequence([group("FrameVOILUTSequence", WindowCenter=1000.5, WindowWidth=2001)])
    ds.PerFrameFunctionalGroupsSequence = Sequence(
        [group("PixelValueTransformationSequence", RescaleSlope=k + 1, RescaleIntercept=-k) for k in range(3)]
    )
    path = write(tmp_path, ds)
    assert frames(path) == 3
    for k in (2, 0, 1):
        np.testing.assert_allclose(read(path, k).pixels, np.clip((stored[k] * (k + 1.0) - k) / 2000, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(read(path).pixels, read(path, 0).pixels)
    with pytest.raises(ImageError, match="no frame 3"):
        read(path, 3)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(tmp_path, syntax):
    stored = (blobs(32, 48).astype(np.uint16) * 16 + 3).astype(np.uint16)
    elements = {"WindowCenter": 2048, "WindowWidth": 4096}
    plain = read(write(tmp_path, dataset(stored, bits=12, **elements)))
    ds = dataset(stored, bits=12, **elements)
    compress(ds, syntax)
    packed = read(write(tmp_path, ds, "b.dcm"))
    np.testing.assert_array_equal(packed.pixels, plain.pixels)
    assert packed.facts["transfer_syntax"] == syntax.name
    assert len(np.unique(packed.pixels)) > 100


@pytest.mark.parametrize("sign", [0, 1])
def test_lossless_jpeg_changes_nothing(tmp_path, sign):
    values = (np.arange(0, 4096, 16).reshape(16, 16) - 2048 * sign).astype(np.int16 if sign else np.uint16)
    ds = dataset(values, JPEGLosslessSV1, bits=12)
    frame = jpeg8_encode((values.view(np.uint16) & 4095), lossless=True, bitspersample=12)
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read(write(tmp_path, ds)).source, values)


def test_a_compressed_frame_of_another_size_than_its_header_is_refused(tmp_path):
    for syntax in (JPEGLSLossless, JPEGLosslessSV1):
        ds = dataset(TWELVE, bits=12)
        if syntax == JPEGLSLossless:
            compress(ds, syntax, encoding_plugin="")
        else:
            ds.file_meta.TransferSyntaxUID = syntax
            ds.PixelData = encapsulate([jpeg8_encode(TWELVE, lossless=True, bitspersample=12)])
            ds["PixelData"].is_undefined_length = True
        ds.Rows = 17
        with pytest.raises(ImageError, match=r"claims another size|claims 16 x 16 pixels, the header 17 x 16"):
            read(write(tmp_path, ds))


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_deflated_frames(tmp_path, bits):
    values = np.stack([blobs(16, 16, k) for k in range(2)]).astype(np.uint16 if bits == 16 else np.uint8)
    values = (values > 128).astype(np.uint8) if bits == 1 else values
    ds = dataset(values, JPEG2000Lossless, NumberOfFrames=2)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    frames_ = []
    for one in values:
        packer = zlib.compressobj(wbits=-15)
        raw = np.packbits(one, bitorder="little").tobytes() if bits == 1 else one.tobytes()
        frames_.append(packer.compress(raw) + packer.flush())
    ds.PixelData = encapsulate([f + b"\0" * (len(f) % 2) for f in frames_])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    path = Path(write(tmp_path, ds))  # under another name: pydicom writes no syntax newer than itself
    path.write_bytes(path.read_bytes().replace(JPEG2000Lossless.encode(), b"1.2.840.10008.1.2.8.1\0"))
    for k in range(2):
        np.testing.assert_array_equal(read(str(path), k).source, values[k])


LOOKS = {
    "percentiles": {},
    "window": {"WindowCenter": 40, "WindowWidth": 300, "RescaleSlope": 1, "RescaleIntercept": -300},
    "sigmoid": {"WindowCenter": 40, "WindowWidth": 300, "VOILUTFunction": "SIGMOID"},
    "rescaled percentiles": {"RescaleSlope": 2.5, "RescaleIntercept": -7},
    "inverted": {"PhotometricInterpretation": "MONOCHROME1"},
    "padded": {"PixelPaddingValue": 3, "RescaleSlope": 1, "RescaleIntercept": -300},
    "wide pixels": {"PixelSpacing": [1.0, 2.0]},
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize("windows", [(), ((40.0, 300.0),), ((40.0, 80.0), (80.0, 200.0), (100.0, 600.0))])
def test_a_table_of_levels_gives_what_every_pixel_by_itself_does(tmp_path, monkeypatch, look, kind, windows):
    stored = (blobs(64, 80).astype(np.int32) * 3 - (200 if kind == np.int16 else 0)).astype(kind)
    stored[:9] = 3
    path, display = write(tmp_path, dataset(stored, bits=12 if kind == np.uint16 else 16, **LOOKS[look])), Display(windows)
    found, levels = read(path, display=display), read(path, side=16, display=display)
    monkeypatch.setattr(dicom, "_different", lambda stored: (0, stored))
    wanted = read(path, display=display)
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    np.testing.assert_array_equal(to_uint8(levels.pixels), to_uint8(wanted.pixels))
    assert levels.pixels.dtype == (np.float32 if look == "wide pixels" and len(windows) < 3 else np.uint8)
    assert found.facts == levels.facts == wanted.facts


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_2000_is_decoded_at_half_its_size_where_that_is_enough(tmp_path, bits, signed):
    levels = (blobs(203, 330).astype(np.int32) << (bits - 8)) - (2 ** (bits - 1) if signed else 0)
    ds = dataset(levels.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}"), bits=bits)
    ds.compress(JPEG2000Lossless)
    path = write(tmp_path, ds)
    whole = read(path)
    for side, shape in ((82, (102, 165)), (83, (203, 330)), (33, (51, 83)), (10, (13, 21)), (2, (13, 21))):
        part = read(path, side=side)
        assert part.pixels.shape == shape
        assert part.facts == whole.facts and part.source == whole.source == get_frame(ds.PixelData, 0, number_of_frames=1)
    part = dicom_codecs.read_stored_values(ds, 0, 82).astype(float)
    mean = np.asarray(Image.fromarray(levels.astype(np.float32)).reduce(2))
    # the wavelets' low band lies a quarter of its pixel beside the mean of four
    assert abs(part.mean() - mean.mean()) < 2 ** (bits - 8) and np.corrcoef(part.ravel(), mean.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_run_lengths_change_nothing_and_truncation_is_seen(tmp_path, shape, kind):
    values = np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape).astype(kind)
    ds = dataset(values)
    compress(ds, RLELossless, encoding_plugin="pydicom")
    path = write(tmp_path, ds)
    np.testing.assert_array_equal(read(path).source, values)
    frame = get_frame(ds.PixelData, 0, number_of_frames=1)
    ds.PixelData = encapsulate([frame[:-24]])
    with pytest.raises(ImageError, match="truncated"):
        read(write(tmp_path, ds))


# --- windows, labels, facts ---


def test_three_windows_are_three_channels_in_closed_form(tmp_path):
    hounsfield = np.linspace(-1000, 1000, 256).round().reshape(16, 16)
    display = Display(parse_windows(["brain", "lung", "-50:100"]))
    wanted = np.stack([np.clip((hounsfield - c) / w + 0.5, 0, 1) for c, w in ((40, 80), (-600, 1500), (-50, 100))], axis=-1)
    path = write(
        tmp_path,
        dataset((hounsfield + 1024).astype(np.uint16), RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=0, WindowWidth=9),
    )
    Image.fromarray((hounsfield + 32768).astype(np.uint16)).save(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(hounsfield.T[::-1, ::-1, None].astype(np.int16), np.eye(4)), tmp_path / "a.nii")
    for name, offset in ((path, 0), (str(tmp_path / "a.png"), -32768), (str(tmp_path / "a.nii"), 0)):
        image = read(name, display=replace(display, offset=float(offset)))
        np.testing.assert_allclose(image.pixels, wanted, atol=1e-5)
        assert hashes.content(image.source) == hashes.content(read(name).source)
    assert read(path, display=Display(((40.0, 400.0),))).facts["window"] == [40.0, 400.0]


def test_windows_are_for_values_with_units(tmp_path):
    Image.fromarray(blobs()).save(tmp_path / "a.png")
    colour = write(tmp_path, dataset(np.stack([blobs(8, 8)] * 3, -1)))
    for path, message in ((str(tmp_path / "a.png"), "8-bit"), (colour, "colours")):
        with pytest.raises(ImageError, match=message):
            read(path, display=Display(((40.0, 80.0),)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": ((1.0, 2.0),) * 2}, "2 windows: name 1 or 3"),
        ({"windows": ((40.0, 0.0),)}, "40:0: its width"),
        ({"equalize": "all"}, "one of none, histogram, clahe"),
    ],
)
def test_a_display_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Display(**arguments)


def test_a_display_survives_its_settings_and_windows_are_parsed():
    display = Display(parse_windows(("Bone", "300:2000.5", "abdomen")), "clahe", -1.0)
    assert display.windows == ((400, 1800), (300, 2000.5), (50, 400))
    assert Display.of(json.loads(json.dumps(display.settings()))) == display
    assert Display.of(None) == Display()
    for text in ("tooth", "4:", "a:b"):
        with pytest.raises(ValueError, match=r"one of brain, .* or centre:width"):
            parse_windows([text])


def test_labels_are_read_as_they_are_stored(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (6, 8)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "grey.png")
    palette = Image.fromarray(labels, "P")
    palette.putpalette(np.arange(768, dtype=np.uint8)[::-1].tobytes())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.stack([labels] * 3, -1)).save(tmp_path / "colour.png")
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "deep.tif")
    np.savez(tmp_path / "a.npz", x=np.stack([labels * 0, labels]))
    volume = np.stack([labels.T[::-1, ::-1]] * 3, -1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    for name, frame in (
        ("grey.png", None),
        ("palette.png", None),
        ("colour.png", None),
        ("deep.tif", 0),
        ("a.npz#x", 1),
        ("a.nii.gz", 1),
    ):
        found = read_labels(str(tmp_path / name), frame)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, labels)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 2, 1, 1])), tmp_path / "oblong.nii")
    np.testing.assert_array_equal(read_labels(str(tmp_path / "oblong.nii"), 0), labels.repeat(2, 0))
    Image.fromarray(labels).save(tmp_path / "a.jpg")
    Image.fromarray(np.stack([labels, labels, labels * 0], -1)).save(tmp_path / "b.png")
    nibabel.save(nibabel.Nifti1Image(volume / 2, np.eye(4)), tmp_path / "half.nii")
    for name, message in (("a.jpg", "JPEG changes labels"), ("b.png", "no label map"), ("half.nii", "not whole")):
        with pytest.raises(ImageError, match=message):
            read_labels(str(tmp_path / name))


@pytest.mark.parametrize(("kind", "wanted"), [("BINARY", [0, 7, 7, 7]), ("FRACTIONAL", [0, 0, 7, 7])])
def test_segments_are_numbered(tmp_path, kind, wanted):
    item, group = Dataset(), Dataset()
    item.ReferencedSegmentNumber = 7
    group.SegmentIdentificationSequence = Sequence([item])
    stored = np.array([[0, 1, 128, 255]], np.uint8)
    ds = dataset(stored, SegmentationType=kind, MaximumFractionalValue=255, PerFrameFunctionalGroupsSequence=Sequence([group]))
    np.testing.assert_array_equal(read_labels(write(tmp_path, ds)), [wanted])


def test_slices_of_a_series_say_where_they_lie(tmp_path):
    for k, z in enumerate((-10.0, 5.5)):
        ds = dataset(TWELVE, InstanceNumber=k + 3, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[9, 9, z])
        facts = read(write(tmp_path, ds)).facts
        assert (facts["instance"], facts["slice_position"]) == (k + 3, z)
    sagittal = dataset(TWELVE, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[4, 9, 9])
    assert read(write(tmp_path, sagittal)).facts["slice_position"] == -4


def test_view_and_side_of_an_enhanced_or_coded_mammogram(tmp_path):
    code, anatomy, shared = Dataset(), Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399368009", "SCT", "medio-lateral oblique"
    anatomy.FrameLaterality = "R"
    shared.FrameAnatomySequence = Sequence([anatomy])
    ds = dataset(TWELVE, ViewCodeSequence=Sequence([code]), SharedFunctionalGroupsSequence=Sequence([shared]))
    facts = read(write(tmp_path, ds)).facts
    assert (facts["view"], facts["laterality"]) == ("MLO", "R")
    code.CodeMeaning = "Mary Smith"
    assert "view" not in read(write(tmp_path, ds)).facts


def test_headers_that_claim_ten_thousand_million_pixels_are_refused(tmp_path):
    tiff = io.BytesIO()
    Image.new("L", (8, 8)).save(tiff, "TIFF")
    raw = bytearray(tiff.getvalue())
    first = int.from_bytes(raw[4:8], "little") + 2
    for entry in range(first, first + 24, 12):  # width and height, the lowest tags
        raw[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 100_000)
    (tmp_path / "a.tif").write_bytes(raw)
    bmp = io.BytesIO()
    Image.new("L", (8, 8)).save(bmp, "BMP")
    raw = bytearray(bmp.getvalue())
    raw[18:26] = (100_000).to_bytes(4, "little") * 2
    (tmp_path / "a.bmp").write_bytes(raw)
    jpeg = io.BytesIO()
    Image.new("L", (8, 8)).save(jpeg, "JPEG")
    raw = bytearray(jpeg.getvalue())
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = (65_000).to_bytes(2, "big") * 2  # the most that a JPEG can claim
    (tmp_path / "a.jpg").write_bytes(raw)
    for name in ("a.tif", "a.bmp", "a.jpg"):
        with pytest.raises(ImageError, match=rf"^{name}: .*claims .* pixels"):
            read(str(tmp_path / name))


def test_archives_that_claim_more_than_their_size_can_hold_are_refused(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, 1000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(1000))
    for name in ("a.nii.gz", "a.nii"):
        with pytest.raises(ImageError, match="more than the file can hold"):
            read(str(tmp_path / name))


def test_dicom_facts_are_plain_and_names_stay_in_the_file(tmp_path):
    ds = dataset(
        TWELVE,
        bits=12,
        Modality="DX",
        Manufacturer="ACME ",
        ManufacturerModelName="X1",
        ViewPosition="PA",
        Laterality="L",
        PatientAge="018M",
        PatientSex="F",
        PatientID="007",
        StudyInstanceUID="1.2.3",
        PatientName="Doe^Jane",
        PatientBirthDate="19700101",
        AccessionNumber="A1",
        ImagerPixelSpacing=[0.2, 0.2],
        WindowCenter=100,
        WindowWidth=200,
    )
    facts = read(write(tmp_path, ds)).facts
    expected = {
        "format": "DICOM",
        "width": 16,
        "height": 16,
        "channels": 1,
        "bits": 12,
        "modality": "DX",
        "photometric": "MONOCHROME2",
    }
    expected |= {
        "vendor": "ACME",
        "model": "X1",
        "view": "PA",
        "laterality": "L",
        "age": 1.5,
        "sex": "F",
        "spacing_mm": 0.2,
    }
    expected |= {
        "window": [100.0, 200.0],
        "transfer_syntax": "Explicit VR Little Endian",
        "patient_id": "007",
        "study_uid": "1.2.3",
    }
    assert facts == expected
    assert {type(value) for value in facts.values()} <= {str, int, float, list}


def test_without_preamble_and_without_suffix(tmp_path):
    ds = dataset(TWELVE, bits=12, WindowCenter=100, WindowWidth=200)
    expected = read(write(tmp_path, ds)).pixels
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "IM0001").write_bytes(whole)
    assert is_image(str(tmp_path / "IM0001"))
    np.testing.assert_array_equal(read(str(tmp_path / "IM0001")).pixels, expected)
    (tmp_path / "b.dcm").write_bytes(whole[132:])  # meta header without preamble
    np.testing.assert_array_equal(read(str(tmp_path / "b.dcm")).pixels, expected)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    bare = io.BytesIO()
    dcmwrite(bare, ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    meta_length = bare.getvalue().find(b"\x08\x00\x16\x00")
    (tmp_path / "c").write_bytes(bare.getvalue()[meta_length:])  # the data set alone, as old scanners write it
    assert is_image(str(tmp_path / "c"))
    np.testing.assert_array_equal(read(str(tmp_path / "c")).pixels, expected)


def test_is_image(tmp_path):
    for name in (
        "a.PNG",
        "a.jpeg",
        "a.tiff",
        "a.bmp",
        "a.dcm",
        "a.nii.gz",
        "a.nii",
        "a.npz",
        "a.npz#train_images",
        "x#1.png",
    ):
        assert is_image(str(tmp_path / name)), name
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    for name in ("a.txt", "a.gz", "a.csv", "DICOMDIR", "absent"):
        assert not is_image(str(tmp_path / name)), name


@pytest.mark.parametrize(
    ("text", "years"),
    [("058Y", 58), ("006M", 0.5), ("003W", 21 / 365.25), ("010D", 10 / 365.25), ("62", 62), ("1y", 1), ("000D", 0)],
)
def test_age(text, years):
    assert age_in_years(text) == pytest.approx(years)


@pytest.mark.parametrize("text", ["", "Y", "058X", "1234Y", "-3Y", "000Y", "fifty"])
def test_no_age(text):
    assert age_in_years(text) is None


# --- NIfTI ---


def axes_volume() -> np.ndarray:
    """RAS (10, 12, 4): the value states where the voxel lies: 100 x + y, plus 10000 z."""
    x, y, z = np.meshgrid(np.arange(10), np.arange(12), np.arange(4), indexing="ij")
    return (100 * x + y + 10000 * z).astype(np.int32)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "IPL", "PIR"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_shown_as_radiologists_see_it_however_it_is_stored(tmp_path, codes, suffix):
    volume = axes_volume()
    ras = nibabel.Nifti1Image(volume, np.diag([1.0, 1, 3, 1]))
    turned = ras.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(ras.affine), nibabel.orientations.axcodes2ornt(codes))
    )
    assert "".join(nibabel.aff2axcodes(turned.affine)) == codes
    path = str(tmp_path / f"a{suffix}")
    nibabel.save(turned, path)
    assert frames(path) == 4
    low, high = np.percentile(volume, [0.5, 99.5])
    for k in range(4):
        image = read(path, k)
        expected = np.empty((12, 10))
        for row in range(12):
            for column in range(10):  # top row: front, y = 11; left column: the patient's right, x = 9
                expected[row, column] = volume[9 - column, 11 - row, k]
        np.testing.assert_allclose(image.pixels, np.clip((expected - low) / (high - low), 0, 1), atol=1e-5)
    assert image.facts == {
        "format": "NIfTI",
        "width": 10,
        "height": 12,
        "channels": 1,
        "bits": 32,
        "slices": 4,
        "spacing_mm": 1.0,
    }
    np.testing.assert_array_equal(read(path).pixels, read(path, 2).pixels)
    with pytest.raises(ImageError, match="no frame 4"):
        read(path, 4)


def test_nifti_big_endian_scaled_4d_and_oblong_voxels(tmp_path):
    volume = axes_volume()[..., None].repeat(2, -1)
    volume[..., 1] = 7  # the second volume is not shown
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4), header), tmp_path / "big.nii")
    assert nibabel.load(tmp_path / "big.nii").header.endianness == ">"
    nibabel.save(nibabel.Nifti1Image(volume[..., 0], np.eye(4)), tmp_path / "little.nii")
    assert frames(str(tmp_path / "big.nii")) == 4
    expected = read(str(tmp_path / "little.nii"), 1).pixels
    np.testing.assert_array_equal(read(str(tmp_path / "big.nii"), 1).pixels, expected)
    scaled = nibabel.Nifti1Image(volume[..., 0].astype(np.int16), np.eye(4))
    scaled.header.set_slope_inter(0.5, -3)
    nibabel.save(scaled, tmp_path / "scaled.nii.gz")
    np.testing.assert_allclose(read(str(tmp_path / "scaled.nii.gz"), 1).pixels, expected, atol=1e-5)
    nibabel.save(nibabel.Nifti1Image(volume[..., 0], np.diag([1.0, 3, 1, 1])), tmp_path / "oblong.nii")
    assert read(str(tmp_path / "oblong.nii"), 1).pixels.shape == (36, 10)


def test_nifti_label_map_keeps_rare_labels(tmp_path):
    labels = np.zeros((40, 40, 5), np.uint8)
    labels[5, 5, 2], labels[6, 6, 2] = 1, 2
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "a.nii.gz")
    assert np.unique(read(str(tmp_path / "a.nii.gz"), 2).pixels).tolist() == [0, 0.5, 1]


def test_a_rewritten_volume_is_read_anew(tmp_path):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(axes_volume(), np.eye(4)), path)
    before = read(str(path), 1).pixels
    nibabel.save(nibabel.Nifti1Image(-axes_volume(), np.eye(4)), path)
    os.utime(path, ns=(1, 1))
    np.testing.assert_allclose(read(str(path), 1).pixels, 1 - before, atol=1e-6)


# --- NPZ and phantoms ---


@pytest.mark.parametrize("limit", [2**28, 0])
def test_npz_members_row_by_row(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(volumes, "MAX_CACHED", limit)  # 0: as a member too large to be kept
    volumes._member.cache_clear()
    path = str(tmp_path / "a.npz")
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (5, 8, 6), np.uint8), rng.integers(0, 256, (4, 8, 6, 3), np.uint8)
    np.savez_compressed(path, train_images=grey, test_images=colour, one=grey[0], one_colour=colour[0], deep=grey[..., None])
    assert [frames(f"{path}#{m}") for m in ("train_images", "test_images", "one", "one_colour", "deep")] == [
        5,
        4,
        1,
        1,
        5,
    ]
    for k in (0, 1, 4, 2):
        np.testing.assert_array_equal(read(f"{path}#train_images", k).pixels, grey[k])
        np.testing.assert_array_equal(read(f"{path}#deep", k).pixels, grey[k])
    for k in (3, 0):
        np.testing.assert_array_equal(read(f"{path}#test_images", k).pixels, colour[k])
    np.testing.assert_array_equal(read(f"{path}#one").pixels, grey[0])
    np.testing.assert_array_equal(read(f"{path}#one_colour").pixels, colour[0])
    with pytest.raises(ImageError, match="no frame 5"):
        read(f"{path}#train_images", 5)
    with pytest.raises(ImageError, match="no member absent"):
        read(f"{path}#absent", 0)
    with pytest.raises(ImageError, match="name a member"):
        frames(path)


def test_npz_order_depth_and_pickles(tmp_path):
    path = str(tmp_path / "a.npz")
    images = np.random.default_rng(0).random((6, 7, 5)).astype(np.float32)
    np.savez(path, x=np.asfortranarray(images))
    for k in range(6):
        np.testing.assert_array_equal(read(path, k).pixels, images[k])
    np.savez(path, x=np.array([{"a": 1}], object))
    with pytest.raises(ImageError, match="not images"):
        read(path, 0)


def test_phantoms_come_from_the_generator():
    np.testing.assert_array_equal(read("phantom:3", 5).pixels, phantom.render("phantom:3", 5))
    np.testing.assert_array_equal(read("phantom:3#heart", 5, side=64).pixels, phantom.render("phantom:3#heart", 5))
    with pytest.raises(ImageError, match="phantom:x"):
        read("phantom:x", 0)


# --- what must be refused ---


def test_truncated_broken_and_absent_files_are_one_line(tmp_path):
    Image.fromarray(blobs()).save(tmp_path / "a.png")
    Image.fromarray(blobs()).save(tmp_path / "a.jpg")
    Image.fromarray(blobs()).save(tmp_path / "a.tif")
    write(tmp_path, dataset(TWELVE, bits=12))
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 999, (20, 20, 9), np.int16), np.eye(4)),
        tmp_path / "a.nii.gz",
    )
    nibabel.save(nibabel.Nifti1Image(axes_volume(), np.eye(4)), tmp_path / "a.nii")
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).integers(0, 255, (3, 40, 40), np.uint8))
    paths = sorted(tmp_path.glob("a.*"))
    assert len(paths) == 7
    for path in paths:
        read(str(path))
        whole = path.read_bytes()
        for size in (len(whole) // 2, 20, 0):
            path.write_bytes(whole[:size])
            with pytest.raises(ImageError) as caught:
                read(str(path))
            message = str(caught.value)
            assert message.startswith(path.name + ": "), message
            assert str(tmp_path) not in message
            assert "\n" not in message
            assert len(message) > len(path.name) + 5
    with pytest.raises(ImageError, match=r"^absent\.png: No such file"):
        read(str(tmp_path / "absent.png"))
    (tmp_path / "text.dcm").write_text("not an image at all, only text\n" * 20)
    with pytest.raises(ImageError, match=r"text\.dcm: "):
        read(str(tmp_path / "text.dcm"))
    with pytest.raises(ImageError, match="negative"):
        read(str(paths[0]), -1)


def test_dicom_without_pixels_says_so(tmp_path):
    ds = dataset(TWELVE, bits=12, Modality="SR")
    del ds.PixelData
    with pytest.raises(ImageError, match=r"no pixel data .*modality SR"):
        read(write(tmp_path, ds))


def test_bombs_are_refused_before_anything_is_allocated(tmp_path):
    small = io.BytesIO()
    Image.new("L", (8, 8)).save(small, "PNG")
    for name, size in (("a.png", 11600), ("a.2.png", 50000)):  # Pillow itself refuses the second
        raw = bytearray(small.getvalue())
        raw[16:24] = size.to_bytes(4, "big") * 2  # width and height in IHDR
        raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
        (tmp_path / name).write_bytes(raw)
    write(tmp_path, dataset(TWELVE, bits=12, Rows=60000, Columns=60000))
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(npy, {"descr": "|u1", "fortran_order": False, "shape": (2, 50000, 50000)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy.getvalue())
    for path in sorted(tmp_path.glob("a.*")):
        with pytest.raises(ImageError, match=r"claims .* pixels"):
            read(str(path), 0)
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(npy, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 28, 28)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", npy.getvalue())
    with pytest.raises(ImageError, match="size is another"):
        read(str(tmp_path / "b.npz"), 0)


# --- square ---


@pytest.mark.parametrize("shape", [(96, 96), (96, 96, 3)])
def test_square_of_a_square_is_the_same(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    out = square(pixels, 96, 3 if len(shape) == 3 else 1)
    np.testing.assert_array_equal(out, pixels.reshape(96, 96, -1))
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    np.testing.assert_array_equal(square(np.repeat(grey[..., None], 3, -1), 96, 1)[..., 0], grey)
    np.testing.assert_array_equal(square(grey, 96, 3), np.repeat(grey[..., None], 3, -1))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (31, 50), (1000, 3), (1, 1), (64, 32)])
def test_square_keeps_aspect_and_centres(size):
    height, width = size
    out = square(np.full(size, 200, np.uint8), 64, 1)[..., 0]
    assert out.shape == (64, 64)
    rows, columns = np.flatnonzero(out.max(1)), np.flatnonzero(out.max(0))
    scale = 64 / max(size)
    assert len(rows) == max(1, round(height * scale))
    assert len(columns) == max(1, round(width * scale))
    for where in (rows, columns):
        assert abs(where[0] - (63 - where[-1])) <= 1
    assert (out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()


@pytest.mark.parametrize("side", [17, 64, 224, 500])
def test_square_keeps_the_mean_and_the_order_of_grey_levels(side):
    pixels = blobs(300, 300)
    out = square(pixels, side, 1)
    assert abs(out.mean() - pixels.mean()) < 0.7
    brighter = np.maximum(pixels, np.random.default_rng(1).integers(0, 256, pixels.shape, np.uint8))
    assert (square(brighter, side, 1) >= out).all()
    edge = np.full((300, 300), 50, np.uint8)
    edge[:, 150:] = 180
    assert (square(edge, side, 1).min(), square(edge, side, 1).max()) == (50, 180)  # no rim is invented


def test_square_is_close_to_exact_area_averaging_and_kills_aliases():
    pixels = blobs(256, 256)
    areas = pixels.reshape(64, 4, 64, 4).mean((1, 3))
    assert np.abs(square(pixels, 64, 1)[..., 0] - areas).mean() < 1
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    assert np.ptp(square(stripes, 60, 1).astype(int)) <= 12  # of 255


def test_square_of_deeper_pixels_rounds_to_nearest():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(square(levels.astype(np.uint16) * 257, 16, 1)[..., 0], levels)
    np.testing.assert_array_equal(square(levels / np.float32(255), 16, 1)[..., 0], levels)
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(square(deep, 256, 1)[..., 0], np.rint(deep / 257.0))
    with pytest.raises(ValueError, match="channels"):
        square(levels, 16, 2)


def test_import_is_light():
    heavy = ("torch", "pandas", "pydicom", "nibabel", "tifffile")
    code = f"import sys; import scotoma.data.io.read; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- real files ---

# Decoded with the GPL decoder only, when the table was made.
FLOAT_PIXELS = "pydicom__parametric_map_float.dcm"  # pixels are in FloatPixelData


def test_float_pixels_of_a_parametric_map_are_windowed_without_counting_grey_levels():
    path = real("dicom_samples") / "files" / FLOAT_PIXELS
    ds = dcmread(path)
    stored = np.frombuffer(ds.FloatPixelData, "<f4").reshape(128, 128)
    image = read(str(path))  # its window is 0.5, 1.0: the values as they are
    np.testing.assert_allclose(image.pixels, np.clip(stored, 0, 1), atol=1e-6)
    assert image.facts["bits"] == 32


def test_headers_of_raw_ct_agree_with_the_table():
    folder = real("ct_age_contrast")
    table = pd.read_csv(folder / "table.csv").dropna(subset=["raw"])
    assert len(table) == 10
    for row in table.to_dict("records"):
        facts = read(str(folder / row["raw"])).facts
        assert facts["modality"] == "CT"
        assert (facts["width"], facts["height"]) == (row["orig_w"], row["orig_h"])
        assert facts["age"] == row["age"]
        assert facts["patient_id"] == row["patient"]


def test_a_mask_that_is_transparency_alone_is_refused(tmp_path: Path) -> None:
    alpha = np.zeros((4, 5), np.uint8)
    alpha[1:3] = 255
    for mode, grey in (
        ("LA", np.dstack([np.full_like(alpha, 255), alpha])),
        ("RGBA", np.dstack([*[np.full_like(alpha, 9)] * 3, alpha])),
    ):
        Image.fromarray(grey, mode).save(tmp_path / "mask.png")
        with pytest.raises(ImageError, match="transparency"):
            read_labels(str(tmp_path / "mask.png"))
    outline = np.dstack([np.where(alpha > 0, 2, 0).astype(np.uint8), np.full_like(alpha, 128)])
    Image.fromarray(outline, "LA").save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_labels(str(tmp_path / "mask.png")), np.where(alpha > 0, 2, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_of_a_tiff_whose_white_is_zero_are_those_stored(tmp_path, dtype):
    labels = (np.add.outer(np.arange(9), np.arange(7)) % 3).astype(dtype)
    tifffile.imwrite(tmp_path / "m.tif", labels, photometric="miniswhite")
    np.testing.assert_array_equal(read_labels(str(tmp_path / "m.tif")), labels)
    assert to_uint8(read(str(tmp_path / "m.tif")).pixels)[0, 0] == 255  # as an image 0 is white


@pytest.mark.parametrize(
    ("label", "outside", "fits"), [(255, 0, True), (1, 0, True), (255, 255, False), (0, 255, False), (0, 0, False)]
)
def test_labels_with_transparency_are_taken_where_their_greys_say_the_same(tmp_path, label, outside, fits):
    pixels = np.zeros((6, 8, 4), np.uint8) + np.array([outside] * 3 + [0], np.uint8)
    pixels[2:4, 3:5] = [label] * 3 + [255]
    Image.fromarray(pixels).save(tmp_path / "m.png")
    if fits:
        np.testing.assert_array_equal(read_labels(str(tmp_path / "m.png")), pixels[..., 0])
    else:
        with pytest.raises(ImageError, match="in its transparency alone"):
            read_labels(str(tmp_path / "m.png"))


def test_an_npz_of_one_image_with_a_channel_axis_in_a_folder_with_a_hash(tmp_path):
    folder = tmp_path / "ward #3.npz copies"
    folder.mkdir()
    values = np.arange(24 * 20, dtype=np.uint8).reshape(24, 20, 1)
    np.savez(folder / "a.npz", only=values)
    for path in (f"{folder}/a.npz", f"{folder}/a.npz#only"):
        assert frames(path) == 1
        np.testing.assert_array_equal(read(path).pixels, values[..., 0])


def test_the_first_image_of_a_tiff_is_read_where_the_next_is_broken(tmp_path):
    Image.fromarray(blobs(20, 24)).save(tmp_path / "whole.tif")
    data = bytearray((tmp_path / "whole.tif").read_bytes())
    first = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into(
        "<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], len(data) + 1000
    )  # where the next stands
    (tmp_path / "torn.tif").write_bytes(data)
    np.testing.assert_array_equal(read(str(tmp_path / "torn.tif")).pixels, blobs(20, 24))
