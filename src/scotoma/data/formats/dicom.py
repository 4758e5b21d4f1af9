"""DICOM: one frame of a file, as a viewer would show it, and the few header facts that are used."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from scotoma.data.formats.base import (
    ImageError,
    Picture,
    black_and_white,
    check_frame,
    check_size,
    file_stamp,
    picture_facts,
    square_pixels,
    stretch,
)

SUFFIXES = (".dcm", ".dicom")
CT_WINDOW = (40.0, 400.0)  # centre, width: soft tissue, for a CT without a window of its own

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


def read(path: str, frame: int | None) -> Picture:
    """One frame, the first where ``frame`` is None.

    Raises:
        ImageError: no DICOM file or no such frame, a header without what is needed, or a decoder that is not installed.
            Other exceptions come from pydicom.
    """
    from pydicom.pixels import apply_color_lut, pixel_array

    ds = _dataset(path, file_stamp(path))
    index = check_frame(frame or 0, _frame_count(ds))
    # Frames are decoded one by one, so their number is no threat: a tomosynthesis study exceeds MAX_PIXELS in all.
    check_size(int(ds.Rows) * int(ds.Columns) * int(ds.get("SamplesPerPixel") or 1))
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
        pixels = stored[..., :3] if bits == 8 == 8 * stored.itemsize else stretch(stored[..., :3], 0, 2**bits - 1)
    else:
        pixels, window = _grey(stored, ds, get, bits)
        if photometric == "MONOCHROME1":
            pixels = 255 - pixels if pixels.dtype == np.uint8 else 1 - pixels
        padding = _padding(stored, ds)
        if padding is not None:
            pixels = np.where(padding, pixels.dtype.type(0), pixels)
    facts = picture_facts("DICOM", pixels, bits) | _dicom_facts(ds, get) | ({"window": list(window)} if window else {})
    sizes = _pair(get("PixelAspectRatio") or get("PixelSpacing") or get("ImagerPixelSpacing"))
    return Picture(square_pixels(pixels, *sizes) if sizes else pixels, facts)


def frames(path: str) -> int:
    """How many frames the header states, without reading pixels."""
    from pydicom import dcmread

    wanted: list[Any] = ["NumberOfFrames"]
    return _frame_count(dcmread(path, force=True, stop_before_pixels=True, specific_tags=wanted))


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


def _grey(stored: np.ndarray, ds: Any, get: Callable[[str], Any], bits: int) -> tuple[np.ndarray, tuple[float, float] | None]:
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
        return stretch(_table(values, tables[0], ds), 0, 2 ** int(tables[0].LUTDescriptor[2]) - 1), None
    # Without a rescale, unsigned values are no Hounsfield units, whatever the modality.
    if get("Modality") == "CT" and (intercept is not None or stored.dtype.kind == "i"):
        return _window(values, *CT_WINDOW, "LINEAR"), CT_WINDOW
    if values is stored and bits <= 8 and stored.dtype == np.uint8:  # the standard shows the full range
        return (stored if bits == 8 else stretch(stored, 0, 2**bits - 1)), None
    padding = _padding(stored, ds)
    return stretch(values, *black_and_white(values if padding is None else values[~padding])), None


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 (LINEAR, the default), C.11.2.1.3 (SIGMOID, LINEAR_EXACT), with an output of 0 to 1."""
    if function == "SIGMOID":
        return (1 / (1 + np.exp(-4 * (values.astype(np.float32) - centre) / width))).astype(np.float32)
    if function != "LINEAR_EXACT":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float32)
    return stretch(values, centre - width / 2, centre + width / 2)


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
    return facts | ({"spacing_mm": spacing[0]} if spacing and spacing[0] > 0 else {}) | ({"age": age} if age is not None else {})
