"""DICOM pixel data -> stored values, one frame at a time: what pydicom's decoders leave out, and a straight way for raw pixels."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from scotoma.data.formats.base import ImageError, check_size

RAW = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")  # little endian, uncompressed
RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
# JPEG of 12 bits and lossless JPEG: Pillow decodes neither, the GPL decoders are not needed.
DEEP_JPEG = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")


def stored_values(ds: Any, index: int) -> np.ndarray:
    """The values of one frame as the file holds them: (H, W), or (H, W, 3) RGB; of as many bits as the file states.

    Raises:
        ImageError: fewer pixels than the header claims. Other exceptions come from pydicom and the decoders.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    height, width = int(ds.Rows), int(ds.Columns)
    samples, bits = int(ds.get("SamplesPerPixel") or 1), int(ds.get("BitsAllocated") or 0)
    # Frames are decoded one by one, so their number is no threat: a tomosynthesis study exceeds the limit in all.
    check_size(height * width * samples)
    if syntax in RAW and samples == 1 and bits in (8, 16) and "PixelData" in ds:
        return _raw(ds, index, height, width, bits)
    if syntax == DEFLATED_FRAMES or (syntax == RLE and bits == 1):
        return _bits_or_bytes(ds, syntax, index, (height, width, samples), bits)
    if syntax in DEEP_JPEG:
        return _jpeg(ds, index, (height, width, samples))
    from pydicom.pixels import pixel_array

    found: np.ndarray = pixel_array(ds, index=index)
    return found


def _raw(ds: Any, index: int, height: int, width: int, bits: int) -> np.ndarray:
    """Uncompressed grey values, a view of the file's bytes where all bits are used (pydicom's general way takes some ms)."""
    count = height * width * bits // 8
    data = ds.PixelData
    if len(data) < (index + 1) * count:
        raise ImageError(f"the header claims {height * width} pixels a frame, more than the file holds: it is truncated")
    signed = bool(ds.get("PixelRepresentation"))
    values = np.frombuffer(data, f"<{'i' if signed else 'u'}{bits // 8}", height * width, index * count).reshape(height, width)
    return _only_stored_bits(values, ds)


def _only_stored_bits(values: np.ndarray, ds: Any) -> np.ndarray:
    """Without what lies above or below the bits stored: overlays of old, a sign that was not extended."""
    allocated = 8 * values.dtype.itemsize
    stored = int(ds.get("BitsStored") or allocated)
    high = int(ds.get("HighBit") or stored - 1)
    if not 0 < stored <= allocated or not stored - 1 <= high < allocated:
        raise ImageError(f"the header states {stored} bits up to bit {high} of {allocated}")
    if stored == allocated:
        return values
    found: np.ndarray = (values << (allocated - 1 - high)) >> (allocated - stored)
    return found


def _frame_bytes(ds: Any, index: int) -> bytes:
    from pydicom.encaps import get_frame

    count = max(1, int(ds.get("NumberOfFrames") or 1))
    offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in ds else None
    return get_frame(ds.PixelData, index, number_of_frames=count, extended_offsets=offsets)


def _bits_or_bytes(ds: Any, syntax: str, index: int, shape: tuple[int, int, int], bits: int) -> np.ndarray:
    """Deflated frames (PS3.5 A.4.13), and RLE of single bits, packed eight a byte (PS3.5 8.1.1), in frames of their own."""
    data = _frame_bytes(ds, index)
    height, width, samples = shape
    wanted = (height * width * samples * bits + 7) // 8
    if syntax == DEFLATED_FRAMES:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, wanted)
    else:
        from imagecodecs import packbits_decode

        data = bytes(packbits_decode(data[64:]))  # after the header of one segment (PS3.5 G.5)
    if len(data) < wanted:
        raise ImageError(f"the frame holds {len(data)} bytes of {wanted}: it is truncated")
    if bits == 1:
        return np.unpackbits(np.frombuffer(data, np.uint8, wanted), count=height * width, bitorder="little").reshape(height, width)
    if bits not in (8, 16, 32):
        raise ImageError(f"{bits} bits allocated: not one of 1, 8, 16, 32")
    kind = "i" if ds.get("PixelRepresentation") else "u"
    values = np.frombuffer(data, f"<{kind}{bits // 8}", height * width * samples)
    if samples == 1:
        return _only_stored_bits(values.reshape(height, width), ds)
    planar = bool(ds.get("PlanarConfiguration"))
    return np.moveaxis(values.reshape(samples, height, width), 0, -1) if planar else values.reshape(height, width, samples)


def _jpeg(ds: Any, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """JPEG of 12 bits, and lossless JPEG of up to 16, by libjpeg-turbo."""
    from imagecodecs import jpeg8_decode

    data = _frame_bytes(ds, index)
    if _jpeg_shape(data) != shape:  # before anything is allocated
        raise ImageError("the JPEG frame is of another size than the header states")
    if shape[2] == 3:
        given = "YCBCR" if str(ds.PhotometricInterpretation).startswith("YBR") else "RGB"
        return jpeg8_decode(data, colorspace=given, outcolorspace="RGB")
    values = jpeg8_decode(data)
    if ds.get("PixelRepresentation"):
        return _only_stored_bits(values.view(f"i{values.dtype.itemsize}"), ds)
    stored = int(ds.get("BitsStored") or 8 * values.dtype.itemsize)
    return np.minimum(values, 2**stored - 1, dtype=values.dtype)  # lossy compression overshoots: white must not become black


def _jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and samples of the first frame header (SOF0 to SOF15 without DHT, JPG and DAC; ITU-T T.81 B.2.2)."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big"), data[at + 9]
        at += 1 if marker == 0xFF else 2 + length
    return None
