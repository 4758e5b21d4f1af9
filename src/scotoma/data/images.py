"""One file -> array + header facts: PNG, JPEG, TIFF, BMP, DICOM, NIfTI, NPZ. The only place that knows formats.

It runs in processes that decode thousands of files, so nothing but numpy and Pillow is imported until a file needs it,
and the last multi-frame DICOM, NIfTI volume or npz member stays in memory for the frame that is asked for next.

A path is a plain path, ``file.npz#member`` (``frame`` is the row) or ``phantom:SEED[#mask]`` (``frame`` is the index).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 2**27  # of one picture, channels included: a header that claims more is refused before allocation
MAX_VOXELS = 2**29  # of one NIfTI volume; a chest CT of 512 x 512 x 700 has 2**27.5
MAX_CACHED = 2**28  # bytes of an npz member that is decoded whole; a larger one is read row by row
CT_WINDOW = (40.0, 400.0)  # centre, width: soft tissue, for a CT without a window of its own
PERCENTILES = (0.5, 99.5)  # shown as black and white where nothing else says what is
HASH_MARGIN = 2  # grey levels by which a cell must be brighter than its left neighbour

_RASTER, _DICOM, _NIFTI, _NPZ = "raster", "dicom", "nifti", "npz"
_SUFFIXES = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), _RASTER),
    **dict.fromkeys((".dcm", ".dicom"), _DICOM),
    **dict.fromkeys((".nii", ".nii.gz"), _NIFTI),
    ".npz": _NPZ,
}
_TIFF = (".tif", ".tiff")
_GPL_CODEC = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")  # JPEG 12 bit, lossless
_PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Only these elements are ever parsed: names, dates and accession numbers stay in the file.
_ELEMENTS = [
    *("SOPClassUID", "Modality", "Manufacturer", "ManufacturerModelName", "ViewPosition", "ImageLaterality"),
    *("Laterality", "PatientAge", "PatientSex", "PatientID", "StudyInstanceUID"),
    *("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPresentation"),
    *(f"{c}PaletteColorLookupTableDescriptor" for c in ("Red", "Green", "Blue")),
    *(f"{s}{c}PaletteColorLookupTableData" for s in ("", "Segmented") for c in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", *_PIXEL_DATA),
]


class ImageError(ValueError):
    """One line that says what is wrong with this file. It may name the file (not its folder), never a patient."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, black to white as a viewer would show it.

    Attributes:
        pixels: (H, W), or (H, W, 3) RGB. uint8 for 8-bit files; uint16 or float32 for deeper ones, where the full
            range of the dtype (float: 0 to 1) is black to white.
        facts: ``format``, ``width``, ``height`` (the upright picture at full resolution, before non-square pixels are
            corrected), ``channels``, ``bits``; for DICOM, where present, ``modality``, ``photometric``, ``vendor``,
            ``model``, ``view``, ``laterality``, ``spacing_mm`` (between rows), ``age`` (years), ``sex``, ``window``
            ([centre, width] that was applied), ``transfer_syntax``, ``patient_id``, ``study_uid``; for NIfTI
            ``spacing_mm``, ``slices``. All are plain numbers, strings and lists. ``patient_id`` and ``study_uid`` are
            raw identifiers: the caller turns them into keyed hashes at once and keeps nothing else of them.
    """

    pixels: np.ndarray
    facts: dict[str, object]


def read(path: str, frame: int | None = None, side: int | None = None) -> Picture:
    """Decode one picture.

    Args:
        path: a file, ``file.npz#member``, or ``phantom:SEED[#mask]``.
        frame: which picture of the file; ``None`` is the only or the first one, of a NIfTI volume the middle slice. A
            4-D NIfTI shows its first volume.
        side: the side the picture will be fitted into. A JPEG of at least twice that is then decoded at 1/2, 1/4 or 1/8
            (faster, within two grey levels after :func:`square`, but with another content hash, so leave it
            out where :func:`fingerprint` follows), and a phantom is drawn at that side.

    Raises:
        ImageError: the file is absent, no picture, broken, too large, or needs a decoder that is not installed.
    """
    with _one_line(path):
        if frame is not None and frame < 0:
            raise ImageError(f"frame {frame} is negative")
        if path.startswith("phantom:"):
            from scotoma.data import phantom

            drawn = phantom.picture(path, frame or 0) if side is None else phantom.picture(path, frame or 0, side)
            return Picture(drawn, _facts("phantom", drawn, 8))
        kind = _kind(path)
        if kind == _DICOM:
            return _dicom(path, frame)
        if kind == _NIFTI:
            return _nifti(path, frame)
        if kind == _NPZ:
            return _npz(path, frame)
        return _raster(path, frame, side)


def frames(path: str) -> int:
    """How many pictures the file holds, by its header: slices, frames, pages, rows; 1 for plain images and phantoms.

    Raises:
        ImageError: the header of a file that may hold several cannot be read.
    """
    with _one_line(path):
        kind = "" if path.startswith("phantom:") else _kind(path)
        if kind == _DICOM:
            from pydicom import dcmread

            wanted: list[Any] = ["NumberOfFrames"]
            return _frame_count(dcmread(path, force=True, stop_before_pixels=True, specific_tags=wanted))
        if kind == _NIFTI:
            return _nifti_header(path)[1][2]
        if kind == _NPZ:
            shape = _Member(*_member_name(path)).shape
            return shape[0] if _rows(shape) else 1
        if kind == _RASTER and path.lower().endswith(_TIFF):
            try:
                with Image.open(path) as image:
                    return int(getattr(image, "n_frames", 1))
            except UnidentifiedImageError:
                import tifffile

                with tifffile.TiffFile(path) as tiff:
                    return len(tiff.pages)
        return 1


def is_image(path: str) -> bool:
    """Whether the file is one of ours by its suffix or, without a known one, by DICOM's preamble. A DICOMDIR is not."""
    name = Path(path.split("#")[0] if ".npz#" in path.lower() else path).name.lower()
    if name.endswith(tuple(_SUFFIXES)):
        return True
    return name != "dicomdir" and _has_preamble(path)


def square(pixels: np.ndarray, side: int, channels: int) -> np.ndarray:
    """Fit a picture into a square: aspect kept, centred, padded with black. Store and prediction both use this.

    Shrinking uses the Hamming-windowed sinc of support 1 (after Pillow's integer box reduction to three times the
    size): antialiased and about as sharp as bicubic, at half the cost, and without negative lobes, so that no dark or
    bright rim is invented beside a marker or a collimator edge, order of grey levels is kept and nothing is clipped.
    Enlarging is bilinear for the same reason.

    Args:
        pixels: (H, W) or (H, W, 3); uint8, uint16 or float in [0, 1].
        side: of the result.
        channels: 1 (luma, ITU-R 601) or 3.

    Returns:
        (side, side, channels) uint8. A (side, side) or (side, side, 3) uint8 picture comes back unchanged.

    Raises:
        ValueError: ``channels`` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    levels = _uint8(pixels)
    height, width = levels.shape[:2]
    image = Image.fromarray(levels)
    if levels.ndim == 3 and channels == 1:
        image = image.convert("L")
    if max(height, width) != side:
        scale = side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if scale < 1:
            image = image.resize(size, Image.Resampling.HAMMING, reducing_gap=3.0)
        else:
            image = image.resize(size, Image.Resampling.BILINEAR)
    fitted = np.asarray(image)
    top, left = (side - fitted.shape[0]) // 2, (side - fitted.shape[1]) // 2
    out = np.zeros((side, side, channels), np.uint8)
    out[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted if fitted.ndim == 3 else fitted[..., None]
    return out


def fingerprint(pixels: np.ndarray) -> tuple[str, bytes]:
    """Two hashes of a decoded picture.

    Returns:
        The content hash (blake2b, 16 bytes, hexadecimal; of dtype, shape and bytes: equal for equal pixels only), and a
        difference hash of 256 bits: in a 17 x 16 thumbnail of the luma, whether a cell is brighter than its left
        neighbour by more than ``HASH_MARGIN`` grey levels, so that a plain background gives 0 whatever its noise.
        Recompressed or resized copies differ in few bits.
    """
    content = hashlib.blake2b(f"{pixels.dtype.newbyteorder('=')} {pixels.shape} ".encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    luma = Image.fromarray(_uint8(pixels)).convert("L")
    cells = np.asarray(luma.resize((17, 16), Image.Resampling.HAMMING, reducing_gap=3.0), np.int16)
    return content.hexdigest(), np.packbits(cells[:, 1:] - cells[:, :-1] > HASH_MARGIN).tobytes()


def age_in_years(text: str) -> float | None:
    """Years of a DICOM age string (``058Y``, ``006M``, ``003W``, ``010D``); a bare number counts as years.

    ``None`` for anything else, and for ``000Y``, which stands for "removed" in anonymised files (newborns are given in
    days).
    """
    found = re.fullmatch(r"\s*(\d{1,3})\s*([YMWD]?)\s*", text.upper())
    if found is None:
        return None
    years = int(found[1]) / {"Y": 1.0, "": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}[found[2]]
    return None if years == 0 and found[2] in ("Y", "") else years


# --- paths, limits, errors -------------------------------------------------------------------------------------------


@contextmanager
def _one_line(path: str) -> Iterator[None]:
    """Turn what a decoder raises into an ImageError of one line; hide its warnings, which may quote the header."""
    name = Path(path).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image of a known format") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: the header claims more pixels than the {MAX_PIXELS} allowed") from None
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        lines = reason.strip().splitlines() or [""]
        first = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).replace(path, name)
        raise ImageError(f"{name}: {first or type(error).__name__}") from error


def _kind(path: str) -> str:
    lower = path.lower()
    if ".npz#" in lower:
        return _NPZ
    for suffix, kind in _SUFFIXES.items():
        if lower.endswith(suffix):
            return kind
    return _DICOM if _has_preamble(path) else _RASTER


def _has_preamble(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _stamp(path: str) -> tuple[int, int, int]:
    """Whether a cached file is still the same; the process id keeps a forked child off its parent's file offsets."""
    entry = Path(path).stat()
    return entry.st_size, entry.st_mtime_ns, os.getpid()


def _check_size(count: int, limit: int = MAX_PIXELS) -> None:
    if count <= 0:
        raise ImageError("the header states an empty picture")
    if count > limit:
        raise ImageError(f"the header claims {count} pixels, more than the {limit} allowed")


def _check_frame(frame: int, count: int) -> int:
    if frame >= count:
        raise ImageError(f"no frame {frame}: the file holds {count}")
    return frame


def _facts(name: str, pixels: np.ndarray, bits: int) -> dict[str, object]:
    channels = 3 if pixels.ndim == 3 else 1
    return {"format": name, "width": pixels.shape[1], "height": pixels.shape[0], "channels": channels, "bits": bits}


# --- grey levels -----------------------------------------------------------------------------------------------------


def _uint8(pixels: np.ndarray) -> np.ndarray:
    """The store's levels: 0..255, rounded to nearest."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def _levels(values: np.ndarray) -> tuple[float, float]:
    """What to show as black and white: percentiles of (at most a million evenly spaced) finite values.

    Whole numbers that span less than 32, such as label maps, and values whose percentiles coincide are shown from
    lowest to
    highest: clipping would merge labels.
    """
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    lowest, highest = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and highest - lowest < 32:
        return lowest, highest
    low, high = (float(level) for level in np.percentile(values.ravel()[:: max(1, values.size >> 20)], PERCENTILES))
    return (low, high) if high > low else (lowest, highest)


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Float32 in [0, 1]: ``low`` and below is 0, ``high`` and above is 1, not-a-number is 0."""
    out = (values - np.float32(low)).astype(np.float32, copy=False)
    out *= np.float32(1 / (high - low)) if high > low else np.float32(0)
    return np.nan_to_num(np.clip(out, 0, 1, out=out), copy=False, nan=0.0)


def _display(values: np.ndarray) -> np.ndarray:
    """Values of a format that does not say what black and white are -> pixels.

    uint8, uint16 that use at least an eighth of their range, and floats within [0, 1] stay as they are; others, such
    as 12 bits in a 16-bit PNG, are stretched between their percentiles.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values
    low, high = _levels(values)
    if values.dtype == np.uint16 and high - low >= 8192:
        return values
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return values.astype(np.float32)
    return _stretch(values, low, high)


def _square_pixels(pixels: np.ndarray, vertical: float, horizontal: float) -> np.ndarray:
    """Enlarge the axis whose pixels are larger; ratios under 1 % or over 20 (a broken header) are left alone."""
    ratio = vertical / horizontal if vertical > 0 and horizontal > 0 else 1.0
    if not 0.05 < ratio < 20 or abs(ratio - 1) < 0.01:
        return pixels
    height, width = pixels.shape[:2]
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    _check_size(size[0] * size[1])
    if pixels.ndim == 3:
        return np.asarray(Image.fromarray(_uint8(pixels)).resize(size, Image.Resampling.BILINEAR))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


# --- PNG, JPEG, TIFF, BMP --------------------------------------------------------------------------------------------


def _raster(path: str, frame: int | None, side: int | None) -> Picture:
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if path.lower().endswith(_TIFF):
            return _tifffile(path, frame or 0)
        if path.lower().endswith(tuple(_SUFFIXES)):
            raise
        return _dicom(path, frame)  # a DICOM file without suffix and preamble
    with image:
        if frame:
            image.seek(_check_frame(frame, int(getattr(image, "n_frames", 1))))
        width, height = image.size
        _check_size(width * height)
        name = image.format or "image"
        bits = _bits(image)
        if side and name == "JPEG":
            # Twice the wanted side leaves the last halving to the filter of `square`.
            longest = max(width, height)
            image.draft(None, (max(1, 2 * side * width // longest), max(1, 2 * side * height // longest)))
        if name != "TIFF":  # Pillow turns a TIFF upright by itself
            if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
            ImageOps.exif_transpose(image, in_place=True)
        pixels = _from_pil(image)
    return Picture(pixels, _facts(name, pixels, bits) | {"width": width, "height": height})


def _bits(image: Image.Image) -> int:
    """Bits of one sample, of the file where Pillow tells."""
    if image.format == "TIFF":
        return int(image.tag_v2.get(258, (1,))[0])  # type: ignore[attr-defined]
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)


def _from_pil(image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        values = np.asarray(image)
        if mode.startswith("I;16") and image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
            values = np.iinfo(values.dtype).max - values  # white is zero; Pillow inverts that for 8 bits only
        return _display(values.astype(values.dtype.newbyteorder("="), copy=False))
    if mode.endswith(("A", "a")) or "transparency" in image.info:
        grey = mode in ("L", "LA", "La")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L" if grey else "RGB"))
    return np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))


def _tifffile(path: str, frame: int) -> Picture:
    """The TIFFs that Pillow cannot open, such as float64."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[_check_frame(frame, len(tiff.pages))]
        _check_size(int(np.prod(page.shape)))
        values = page.asarray()
        if page.ndim == 3 and page.axes.startswith("S"):
            values = np.moveaxis(values, 0, -1)
        if int(page.photometric) == 0:  # type: ignore[union-attr]
            values = -values if values.dtype.kind == "f" else ~values
    values = values[..., :3] if values.ndim == 3 and values.shape[-1] >= 3 else values.reshape(values.shape[:2])
    pixels = _display(values)
    return Picture(pixels, _facts("TIFF", pixels, 8 * values.dtype.itemsize))


# --- DICOM -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _dataset(path: str, stamp: tuple[int, int, int]) -> Any:
    from pydicom import dcmread

    wanted: list[Any] = _ELEMENTS
    ds = dcmread(path, force=True, specific_tags=wanted)
    if not any(keyword in ds for keyword in _PIXEL_DATA):
        if "SOPClassUID" not in ds:
            raise ImageError("not a DICOM file")
        raise ImageError(f"no pixel data (a DICOM file of modality {ds.get('Modality') or 'unknown'})")
    missing = [k for k in ("Rows", "Columns", "BitsAllocated") if ds.get(k) is None]
    if missing and not (missing == ["BitsAllocated"] and "PixelData" not in ds):  # float pixels need none
        raise ImageError(f"the header lacks {', '.join(missing)}")
    if "TransferSyntaxUID" not in ds.file_meta:
        from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

        implicit, little = ds.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds


def _frame_count(ds: Any) -> int:
    return max(1, int(ds.get("NumberOfFrames") or 1))


def _dicom(path: str, frame: int | None) -> Picture:
    from pydicom.pixels import apply_color_lut, pixel_array

    ds = _dataset(path, _stamp(path))
    index = _check_frame(frame or 0, _frame_count(ds))
    # Frames are decoded one by one, so their number is no threat: a tomosynthesis study exceeds MAX_PIXELS in all.
    _check_size(int(ds.Rows) * int(ds.Columns) * int(ds.get("SamplesPerPixel") or 1))
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        stored = pixel_array(ds, index=index)
    except RuntimeError:
        if syntax not in _GPL_CODEC:
            raise
        raise ImageError(f"{syntax.name} needs a decoder: pip install pylibjpeg-libjpeg (GPL)") from None
    get = _frame_getter(ds, index)
    photometric = str(ds.get("PhotometricInterpretation") or "MONOCHROME2")
    bits = int(ds.get("BitsStored") or 8 * stored.dtype.itemsize)
    window: tuple[float, float] | None = None
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(stored, ds)[..., :3]
        pixels = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    elif stored.ndim == 3:
        pixels = stored[..., :3] if bits == 8 == 8 * stored.itemsize else _stretch(stored[..., :3], 0, 2**bits - 1)
    else:
        pixels, window = _grey(stored, ds, get, bits)
        if photometric == "MONOCHROME1":
            pixels = 255 - pixels if pixels.dtype == np.uint8 else 1 - pixels
        padding = _padding(stored, ds)
        if padding is not None:
            pixels = np.where(padding, pixels.dtype.type(0), pixels)
    facts = _facts("DICOM", pixels, bits) | _dicom_facts(ds, get) | ({"window": list(window)} if window else {})
    sizes = _pair(get("PixelAspectRatio") or get("PixelSpacing") or get("ImagerPixelSpacing"))
    return Picture(_square_pixels(pixels, *sizes) if sizes else pixels, facts)


def _frame_getter(ds: Any, index: int) -> Callable[[str], Any]:
    """Look an element up in the functional groups of this frame, those of all frames, and the data set itself."""
    sources = []
    for keyword, item in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = ds.get(keyword) or []
        if item < len(groups):
            sources += [element.value[0] for element in groups[item] if element.VR == "SQ" and element.value]
    sources.append(ds)
    return lambda keyword: next((s[keyword].value for s in sources if keyword in s and not s[keyword].is_empty), None)


def _pair(value: Any) -> tuple[float, float] | None:
    """Two numbers of a multi-valued element; None if there are fewer."""
    if value is None or isinstance(value, str | float) or len(value) < 2:
        return None
    return float(value[0]), float(value[1])


def _first(value: Any) -> float | None:
    """The first number of an element that may hold several alternatives."""
    if value is None or isinstance(value, str | float | int):
        return None if value is None else float(value)
    return float(value[0]) if len(value) else None


def _grey(
    stored: np.ndarray, ds: Any, get: Callable[[str], Any], bits: int
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Modality, then VOI transformation (PS3.3 C.11.1, C.11.2) -> display values and the window used, if any."""
    slope, intercept = _first(get("RescaleSlope")), _first(get("RescaleIntercept"))
    values = stored
    if modality := get("ModalityLUTSequence"):
        values = _table(stored, modality[0], ds)
    elif (slope is not None or intercept is not None) and (slope, intercept) != (1, 0):
        values = stored.astype(np.float32) * np.float32(slope or 1) + np.float32(intercept or 0)
    centre, width = _first(get("WindowCenter")), _first(get("WindowWidth"))
    function = str(get("VOILUTFunction") or "LINEAR").upper()
    if function == "LINEAR" and stored.dtype.kind == "f":  # it counts whole grey levels, which parametric maps lack
        function = "LINEAR_EXACT"
    if centre is not None and width is not None and (width >= 1 or (width > 0 and function != "LINEAR")):
        return _window(values, centre, width, function), (centre, width)
    tables = get("VOILUTSequence")
    if tables and "LUTData" in tables[0]:
        return _stretch(_table(values, tables[0], ds), 0, 2 ** int(tables[0].LUTDescriptor[2]) - 1), None
    # Without a rescale, unsigned values are no Hounsfield units, whatever the modality.
    if get("Modality") == "CT" and (intercept is not None or stored.dtype.kind == "i"):
        return _window(values, *CT_WINDOW, "LINEAR"), CT_WINDOW
    if values is stored and bits <= 8 and stored.dtype == np.uint8:  # the standard shows the full range
        return (stored if bits == 8 else _stretch(stored, 0, 2**bits - 1)), None
    padding = _padding(stored, ds)
    return _stretch(values, *_levels(values if padding is None else values[~padding])), None


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 (LINEAR, the default), C.11.2.1.3 (SIGMOID, LINEAR_EXACT), with an output of 0 to 1."""
    if function == "SIGMOID":
        return (1 / (1 + np.exp(-4 * (values.astype(np.float32) - centre) / width))).astype(np.float32)
    if function != "LINEAR_EXACT":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float32)
    return _stretch(values, centre - width / 2, centre + width / 2)


def _table(values: np.ndarray, item: Any, ds: Any) -> np.ndarray:
    """A modality or VOI lookup table (pydicom's own wraps indices above 255 where its entries have 8 bits)."""
    entries, first, _ = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if ds.original_encoding[1] else ">"
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * entries else f"{order}u2")
    table = np.asarray(data, np.uint16)[:entries]
    return table[np.clip(np.floor(values).astype(np.int64) - first, 0, len(table) - 1)]


def _padding(stored: np.ndarray, ds: Any) -> np.ndarray | None:
    """Where the stored values are padding (PS3.3 C.7.5.1.1.2); None where nothing is."""
    value = _first(ds.get("PixelPaddingValue"))
    if value is None or stored.dtype.kind not in "iu":
        return None
    limit = _first(ds.get("PixelPaddingRangeLimit"))
    # Wrapped into the pixels' own type, for files that write -2000 as 63536.
    low, high = sorted(int(np.array(int(v)).astype(stored.dtype)) for v in (value, value if limit is None else limit))
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _dicom_facts(ds: Any, get: Callable[[str], Any]) -> dict[str, object]:
    text = {
        "modality": ds.get("Modality"),
        "photometric": ds.get("PhotometricInterpretation"),
        "vendor": ds.get("Manufacturer"),
        "model": ds.get("ManufacturerModelName"),
        "view": ds.get("ViewPosition"),
        "laterality": ds.get("ImageLaterality") or ds.get("Laterality"),
        "sex": ds.get("PatientSex"),
        "transfer_syntax": ds.file_meta.TransferSyntaxUID.name,
        "patient_id": ds.get("PatientID"),
        "study_uid": ds.get("StudyInstanceUID"),
    }
    facts: dict[str, object] = {key: str(value).strip() for key, value in text.items() if value and str(value).strip()}
    spacing = _pair(get("PixelSpacing") or get("ImagerPixelSpacing"))
    age = age_in_years(str(ds.get("PatientAge") or ""))
    return (
        facts
        | ({"spacing_mm": spacing[0]} if spacing and spacing[0] > 0 else {})
        | ({"age": age} if age is not None else {})
    )


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def _nifti_header(path: str) -> tuple[Any, tuple[int, int, int]]:
    """The image, unread, and the shape of its first volume in RAS order."""
    import nibabel

    image: Any = nibabel.load(path)
    shape = (*image.shape[:3], 1, 1)[:3]
    _check_size(int(np.prod(shape, dtype=object)), MAX_VOXELS)
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"voxels of type {image.get_data_dtype()} are not supported")
    axes = nibabel.io_orientation(image.affine)[:, 0]
    if np.isnan(axes).any():
        raise ImageError("the orientation in the header is degenerate")
    return image, tuple(int(shape[int(np.flatnonzero(axes == k)[0])]) for k in range(3))  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _volume(path: str, stamp: tuple[int, int, int]) -> tuple[np.ndarray, tuple[float, float], np.ndarray, int]:
    """The first volume in RAS order, its black and white, its voxel sizes (mm) and its bits."""
    import nibabel

    image, shape = _nifti_header(path)
    _check_size(shape[0] * shape[1])
    extra = len(image.shape) - 3
    values = np.asanyarray(image.dataobj[(..., *([0] * extra))] if extra > 0 else image.dataobj)
    values = values.reshape((*values.shape, 1, 1)[:3])
    if values.dtype == np.float64:  # of a scaled volume; half the memory
        values = values.astype(np.float32)
    orientation = nibabel.io_orientation(image.affine)
    sizes = np.ones(3)
    sizes[orientation[:, 0].astype(int)] = np.abs((*image.header.get_zooms()[:3], 1.0, 1.0)[:3])
    bits = 8 * image.get_data_dtype().itemsize
    return nibabel.apply_orientation(values, orientation), _levels(values), sizes, bits


def _nifti(path: str, frame: int | None) -> Picture:
    values, levels, sizes, bits = _volume(path, _stamp(path))
    slices = values.shape[2]
    chosen = values[:, :, slices // 2 if frame is None else _check_frame(frame, slices)]
    # x grows to the patient's right, y to the front. Radiologists look from the feet: patient's right on the left.
    pixels = np.ascontiguousarray(_stretch(chosen.T[::-1, ::-1], *levels))
    facts = _facts("NIfTI", pixels, bits) | {"slices": slices}
    if sizes[1] > 0:
        facts["spacing_mm"] = float(sizes[1])
    return Picture(_square_pixels(pixels, float(sizes[1]), float(sizes[0])), facts)


# --- NPZ -------------------------------------------------------------------------------------------------------------


def _member_name(path: str) -> tuple[str, str]:
    archive, _, member = path.partition("#")
    if member:
        return archive, member
    with zipfile.ZipFile(archive) as file:
        names = [name.removesuffix(".npy") for name in file.namelist()]
    if len(names) != 1:
        raise ImageError(f"name a member after '#': {', '.join(names[:6])}")
    return archive, names[0]


def _rows(shape: tuple[int, ...]) -> bool:
    """Whether the first axis counts pictures: (N, H, W) and (N, H, W, C), not (H, W) and (H, W, 3)."""
    return len(shape) == 4 or (len(shape) == 3 and shape[-1] != 3)


class _Member:
    """One array of an npz archive, read row by row; it never unpickles."""

    def __init__(self, archive: str, member: str) -> None:
        self._zip = zipfile.ZipFile(archive)
        try:
            info = self._zip.getinfo(member + ".npy")
        except KeyError:
            raise ImageError(f"no member {member}") from None
        self._file: Any = self._zip.open(info)
        major, _ = np.lib.format.read_magic(self._file)
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = header(self._file)
        self._offset = self._file.tell()
        count = int(np.prod(self.shape, dtype=object))
        if self.dtype.kind not in "biuf" or len(self.shape) not in (2, 3, 4):
            raise ImageError(f"{member} holds {self.dtype} of {len(self.shape)} axes, not pictures")
        _check_size(count // self.shape[0] if _rows(self.shape) and self.shape[0] else count)
        if info.file_size != self._offset + count * self.dtype.itemsize:
            raise ImageError(f"{member} states {count} values, but its size is another")
        self._fortran = fortran
        if fortran and info.file_size > MAX_CACHED:
            raise ImageError(f"{member} is too large for Fortran order; save it with numpy.ascontiguousarray")

    def load(self) -> _Member:
        """Keep the whole array where it is small enough."""
        if self._offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize <= MAX_CACHED:
            data = self._file.read()
            if self._fortran:
                data = np.frombuffer(data, self.dtype).reshape(self.shape, order="F").tobytes()
            self._file, self._offset = io.BytesIO(data), 0
            self._zip.close()
        return self

    def picture(self, frame: int) -> np.ndarray:
        """(H, W) or (H, W, C)."""
        shape, count = (self.shape[1:], self.shape[0]) if _rows(self.shape) else (self.shape, 1)
        size = int(np.prod(shape)) * self.dtype.itemsize
        self._file.seek(self._offset + _check_frame(frame, count) * size)
        return np.frombuffer(self._file.read(size), self.dtype).reshape(shape)


@lru_cache(maxsize=1)
def _member(archive: str, member: str, stamp: tuple[int, int, int]) -> _Member:
    return _Member(archive, member).load()


def _npz(path: str, frame: int | None) -> Picture:
    archive, name = _member_name(path)
    member = _member(archive, name, _stamp(archive))
    values = member.picture(frame or 0)
    if values.ndim == 3 and values.shape[-1] not in (1, 3):
        raise ImageError(f"{name} has {values.shape[-1]} channels, neither 1 nor 3")
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    pixels = _display(values.astype(values.dtype.newbyteorder("="), copy=False))
    return Picture(pixels, _facts("NPZ", pixels, 8 * member.dtype.itemsize))
