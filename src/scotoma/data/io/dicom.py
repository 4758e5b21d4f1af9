"""DICOM: one frame of a file, as a viewer would show it, and the few header facts that are used."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scotoma import files
from scotoma.data.io import dicom_elements
from scotoma.data.io.base import (
    Decoded,
    Display,
    ImageError,
    apply_windows,
    check_frame,
    file_stamp,
    image_facts,
    measure_clipping,
    require_whole_numbers,
    square_pixels,
    stretch,
    to_uint8,
)
from scotoma.data.io.dicom_codecs import jpeg2000_stream, read_stored_values
from scotoma.data.io.dicom_elements import DEFLATED
from scotoma.data.io.dicom_headers import Getter, first, frame_getter, header_facts, pixel_sizes
from scotoma.data.io.levels import Levels

SUFFIXES = (".dcm", ".dicom")
DEFLATE_RATIO = 1032  # the most that deflate can shrink
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED)  # whose frames lie in the file as they are
LEAST_FRAME = 8  # bytes: the header of a compressed frame's item
_COUNTED: tuple[Any, ...] = ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation")
CT_WINDOW = (40.0, 400.0)  # centre, width: soft tissue, for a CT without a window of its own

# Structured reports, presentation states, segmentations and registrations, encapsulated documents, structure sets and plans.
_NO_IMAGES = tuple(f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("88.", "11.", "66", "104.", "481.3", "481.5", "481.8"))
_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")
_PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Only these elements are ever parsed: names, dates and accession numbers stay in the file.
_ELEMENTS = [
    *("SOPClassUID", "Modality", "Manufacturer", "ManufacturerModelName", "ViewPosition", "ImageLaterality"),
    *("Laterality", "PatientAge", "PatientSex", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPresentation"),
    *(f"{c}PaletteColorLookupTableDescriptor" for c in ("Red", "Green", "Blue")),
    *(f"{s}{c}PaletteColorLookupTableData" for s in ("", "Segmented") for c in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SegmentationType", "MaximumFractionalValue"),
    *("ViewCodeSequence", "FrameLaterality", "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", *_PIXEL_DATA),
]


def read(path: str, frame: int | None, side: int | None, display: Display, levels: Levels) -> Decoded:
    """One frame, the first where ``frame`` is None; ``side`` as in :func:`scotoma.data.io.read.read`.

    Raises:
        ImageError: no DICOM file or no such frame, a header without what is needed, or windows for colours. Other exceptions come
            from pydicom and the decoders.
    """
    ds = _dataset(path, file_stamp(path))
    frames = frame_count(ds)
    index = check_frame(frame or 0, frames)
    get = frame_getter(ds, index)
    photometric = str(ds.get("PhotometricInterpretation") or "MONOCHROME2")
    coloured = photometric == "PALETTE COLOR" or int(ds.get("SamplesPerPixel") or 1) == 3
    look, window = (None, None) if coloured else _look(ds, get, display.windows)
    series = "" if coloured or look else _series(ds, path, frames)
    if series:
        levels.look(series, frames)
    stored = read_stored_values(ds, index, side)
    bits = int(ds.get("BitsStored") or 8 * stored.dtype.itemsize)
    sizes = pixel_sizes(get)
    clipped: float | None = None
    if coloured or stored.ndim == 3:
        if display.windows:
            raise ImageError("windows are for grey values, and this image has colours")
        pixels = _colours(stored, bits) if stored.ndim == 3 else _palette(stored, ds)
    else:
        rescaled = _modality(ds, get)
        lowest, different = _different(stored)
        padding = _padding(stored, ds)
        if look is None:
            seen = rescaled(stored if padding is None else stored[~padding])
            black, white = levels.of(series, seen, frames)
            clipped = measure_clipping(seen, black, white)
            pixels = stretch(rescaled(different), black, white)
        else:
            pixels = look(rescaled(different))
        if photometric == "MONOCHROME1":
            pixels = 255 - pixels if pixels.dtype == np.uint8 else 1 - pixels
        if different is not stored:
            if side is not None and display.equalize == "none" and (sizes is None or sizes[0] == sizes[1]):
                pixels = to_uint8(pixels)  # what comes next anyway, of some levels instead of all pixels
            pixels = pixels[np.subtract(stored, lowest, dtype=np.intp)]
        if padding is not None:
            pixels[padding] = 0
    facts = image_facts("DICOM", pixels, bits, frames) | {"width": int(ds.Columns), "height": int(ds.Rows)}
    facts |= header_facts(ds, get) | ({"window": list(window)} if window else {})
    codestream = jpeg2000_stream(ds, index)
    source = stored if codestream is None else codestream
    return Decoded(square_pixels(pixels, *sizes) if sizes else pixels, facts, source, clipped)


def read_labels(path: str, frame: int | None) -> np.ndarray:
    """One frame of a segmentation or of a label map, laid out as :func:`read` does, (H, W) int32; see :func:`stored_labels`."""
    ds = _dataset(path, file_stamp(path))
    index = check_frame(frame or 0, frame_count(ds))
    sizes = pixel_sizes(frame_getter(ds, index))
    labels = read_stored_labels(ds, index)
    return square_pixels(labels, *sizes) if sizes else labels


def read_stored_labels(ds: Any, index: int) -> np.ndarray:
    """Of a segmentation the number of the frame's segment where it is, 0 elsewhere; fractions count from one half.

    Of other objects, such as a secondary capture of a label map, the stored values.

    Raises:
        ImageError: colours, values that are not whole, or a compression that changes them.
    """
    if str(ds.file_meta.TransferSyntaxUID) in _LOSSY:
        raise ImageError("its compression changes labels: save the mask without loss")
    labels = require_whole_numbers(read_stored_values(ds, index))
    kind = str(ds.get("SegmentationType") or "")
    if kind not in ("BINARY", "FRACTIONAL"):
        return labels
    least = 1 if kind == "BINARY" else (int(ds.get("MaximumFractionalValue") or 255) + 1) // 2
    number = int(first(frame_getter(ds, index)("ReferencedSegmentNumber")) or 1)
    return np.where(labels >= least, number, 0).astype(np.int32)


def count_frames(path: str) -> int:
    """How many frames the header states, without reading pixels."""
    return count_held_frames(dicom_elements.read(path, _COUNTED), path)


def count_image_frames(path: str) -> int:
    """As :func:`frames`; 0 for objects that hold no images: reports, presentation states, segmentations, plans, documents."""
    ds = dicom_elements.read(path, [*_COUNTED, "SOPClassUID"])
    return 0 if str(ds.get("SOPClassUID") or "").startswith(_NO_IMAGES) else count_held_frames(ds, path)


def read_owners(path: str) -> tuple[str | None, str | None]:
    """Patient and study, as they stand in the file."""
    keywords = ["PatientID", "StudyInstanceUID"]
    ds = dicom_elements.read(path, keywords)
    patient, study = (str(ds.get(keyword) or "").strip() or None for keyword in keywords)
    return patient, study


def is_dicom(path: str) -> bool:
    """Whether a file begins as DICOM does: with a preamble, or at once with two elements in order of groups 0002 or 0008."""
    try:
        if files.unfit(path):
            return False
        with Path(path).open("rb") as file:
            head = file.read(512)
    except OSError:
        return False
    return head[128:132] == b"DICM" or any(_element(head, order) for order in ("little", "big"))


def _element(head: bytes, order: Literal["little", "big"]) -> bool:
    """Whether two elements stand at the beginning, the first of them of group 0002 or 0008, their tags growing."""
    tags, at = [], 0
    for _ in range(2):
        if len(head) < at + 8:
            return False
        group, element = (int.from_bytes(head[at + k : at + k + 2], order) for k in (0, 2))
        tags.append((group, element))
        vr = head[at + 4 : at + 6]
        if vr.isalpha() and vr.isupper():
            long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR")
            size, length = (12, head[at + 8 : at + 12]) if long else (8, head[at + 6 : at + 8])
        else:
            size, length = 8, head[at + 4 : at + 8]
        at += size + int.from_bytes(length, order)
    return tags[0][0] in (2, 8) and tags[0] < tags[1] and tags[1][0] in (2, 8)


@lru_cache(maxsize=1)
def _tags() -> list[Any]:
    """The elements as tags, looked up once and not for every file."""
    from pydicom.tag import Tag

    return [Tag(keyword) for keyword in _ELEMENTS]


@lru_cache(maxsize=1)
def _dataset(path: str, stamp: tuple[int, int, int]) -> Any:
    return load(path)


def load(path: str) -> Any:
    """The elements of a file that are ever used, pixels included.

    Raises:
        ImageError: no DICOM file, or one without pixels.
    """
    ds = dicom_elements.read(path, _tags(), pixels=True)
    if not any(keyword in ds for keyword in _PIXEL_DATA):
        if "SOPClassUID" not in ds and ds.preamble is None:
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
    count_held_frames(ds, path)
    return ds


def count_held_frames(ds: Any, path: str) -> int:
    """How many frames a header states.

    Raises:
        ImageError: more than the file can hold; a number alone must not fill the memory of whoever makes a row of each.
    """
    count = frame_count(ds)
    if count == 1:
        return 1
    syntax = ds.file_meta.get("TransferSyntaxUID") if hasattr(ds, "file_meta") else None
    size = Path(path).stat().st_size * (DEFLATE_RATIO if syntax == DEFLATED else 1)
    bits = 8 * LEAST_FRAME
    if syntax is None or str(syntax) in NATIVE:
        shape = [int(ds.get(keyword) or 1) for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")]
        thinned = str(ds.get("PhotometricInterpretation") or "").endswith(("_422", "_420"))  # colours of fewer pixels than greys
        bits = int(np.prod(shape, dtype=object)) // (2 if thinned else 1)
    if count * bits > size * 8:
        raise ImageError(f"the header claims {count} frames, more than the file can hold: it is truncated")
    return count


def frame_count(ds: Any) -> int:
    """How many frames a header states, at least 1."""
    try:
        return max(1, int(ds.get("NumberOfFrames") or 1))
    except ValueError:
        raise ImageError("the header's Number of Frames is no number") from None


def _series(ds: Any, path: str, frames: int) -> str:
    """What images of one scan have in common: the series; without one, the file of several frames, or the folder of single ones."""
    uid = str(ds.get("SeriesInstanceUID") or "").strip()
    if uid:
        return f"series:{uid}"
    where = f"file:{path}" if frames > 1 else f"folder:{Path(path).parent}"
    return f"{where}:{ds.get('Modality')}:{ds.get('BitsStored')}"


def _different(stored: np.ndarray) -> tuple[int, np.ndarray]:
    """The lowest stored value and all whole ones up to the highest, where a table of them is shorter than the image.

    Else 0 and the stored values themselves.
    """
    if stored.dtype.kind not in "iu" or stored.itemsize != 2:
        return 0, stored
    lowest, highest = int(stored.min()), int(stored.max())
    return (lowest, np.arange(lowest, highest + 1).astype(stored.dtype)) if highest - lowest < stored.size // 4 else (0, stored)


def _modality(ds: Any, get: Getter) -> Callable[[np.ndarray], np.ndarray]:
    """The modality transformation (PS3.3 C.11.1): stored values, or a table of them, -> values with units."""
    tables = get("ModalityLUTSequence")
    slope, intercept = (first(get(keyword)) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if tables:
        return lambda values: _table(values, tables[0], ds)
    if (slope or 1, intercept or 0) == (1, 0):
        return lambda values: values
    return lambda values: values.astype(np.float32) * np.float32(slope or 1) + np.float32(intercept or 0)


def _look(
    ds: Any, get: Getter, windows: tuple[tuple[float, float], ...]
) -> tuple[Callable[[np.ndarray], np.ndarray] | None, tuple[float, float] | None]:
    """What the header states of black and white (PS3.3 C.11.2) and the window in it, if any; None where it states nothing.

    Of a lookup table and a window the table goes first, as in pydicom's ``apply_voi_lut``. All goes value by value, so that a table
    of the stored values will do.
    """
    if windows:
        return (lambda values: apply_windows(values, windows)), windows[0] if len(windows) == 1 else None
    tables = get("VOILUTSequence")
    if tables and "LUTData" in tables[0] and "LUTDescriptor" in tables[0]:
        most = 2 ** int(tables[0].LUTDescriptor[2]) - 1
        return (lambda values: stretch(_table(values, tables[0], ds), 0, most)), None
    centre, width = first(get("WindowCenter")), first(get("WindowWidth"))
    function = str(get("VOILUTFunction") or "LINEAR").upper()
    if function == "LINEAR" and "PixelData" not in ds:  # it counts whole grey levels, which parametric maps lack
        function = "LINEAR_EXACT"
    if centre is not None and width is not None and (width >= 1 or (width > 0 and function != "LINEAR")):
        chosen = centre, width
        return (lambda values: _window(values, *chosen, function)), chosen
    slope, intercept = first(get("RescaleSlope")), first(get("RescaleIntercept"))
    signed = bool(ds.get("PixelRepresentation"))
    # Without a rescale, unsigned values are no Hounsfield units, whatever the modality.
    if get("Modality") == "CT" and (intercept is not None or signed):
        return (lambda values: _window(values, *CT_WINDOW, "LINEAR")), CT_WINDOW
    plain = (slope or 1, intercept or 0) == (1, 0) and not get("ModalityLUTSequence") and not signed
    if plain and "PixelData" in ds and int(ds.BitsAllocated) <= 8:  # the standard shows the full range
        bits = int(ds.get("BitsStored") or 8)
        return (lambda values: values.copy() if bits == 8 else stretch(values, 0, 2**bits - 1)), None
    return None, None


def _colours(stored: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8 == 8 * stored.itemsize:
        return stored[..., :3].copy()
    return stretch(stored[..., :3], 0, 2**bits - 1)


def _palette(stored: np.ndarray, ds: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(stored, ds)[..., :3]
    if colours.itemsize == 1:  # by the table's own depth: a dark image may use no entry above 255 of 65535
        return colours
    if not ds.original_encoding[1] and "RedPaletteColorLookupTableData" in ds:  # pydicom reads entries as little endian
        colours = colours.byteswap()
    return (colours >> 8).astype(np.uint8)


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
    value = first(ds.get("PixelPaddingValue"))
    if value is None or stored.dtype.kind not in "iu":
        return None
    limit = first(ds.get("PixelPaddingRangeLimit"))
    # Wrapped into the pixels' own type, for files that write -2000 as 63536.
    low, high = sorted(int(np.array(int(v)).astype(stored.dtype)) for v in (value, value if limit is None else limit))
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None
