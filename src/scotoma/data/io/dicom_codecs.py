"""DICOM pixel data -> stored values, one frame at a time: what pydicom's decoders leave out, and a straight way for raw pixels."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image

from scotoma.data.io.base import ImageError, check_size

RAW = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")  # little endian, uncompressed
RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
# JPEG of 12 bits and lossless JPEG: Pillow decodes neither, the GPL decoders are not needed.
DEEP_JPEG = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")


def read_stored_values(ds: Any, index: int, side: int | None = None) -> np.ndarray:
    """The values of one frame as the file holds them: (H, W), or (H, W, 3) RGB; of as many bits as the file states.

    Grey JPEG 2000 comes at 1/2, 1/4, ... of its size where at least twice ``side`` is left.

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
    if syntax in (DEFLATED_FRAMES, RLE):
        return _bits_or_bytes(ds, syntax, index, (height, width, samples), bits)
    if syntax in (*DEEP_JPEG, *JPEG_LS):
        return _jpeg(ds, syntax, index, (height, width, samples))
    from pydicom.pixels import pixel_array

    if syntax.startswith("1.2.840.10008.1.2.4."):
        claimed = _jpeg_shape(_frame_bytes(ds, index))
        if claimed is not None and claimed[:2] != (height, width):  # before a decoder allocates and fills what it claims
            raise ImageError(f"the compressed frame claims {claimed[0]} x {claimed[1]} pixels, the header {height} x {width}")
        if samples == 3 and syntax == JPEG_BASELINE and claimed is not None and _is_named_rgb(data := _frame_bytes(ds, index)):
            from imagecodecs import jpeg8_decode

            return jpeg8_decode(data, colorspace="RGB", outcolorspace="RGB")
    # Wavelets mix padding into its neighbours, which no mask would find.
    if syntax in JPEG_2000 and samples == 1 and side and max(height, width) >= 4 * side and "PixelPaddingValue" not in ds:
        values = _decode_reduced(_frame_bytes(ds, index), max(height, width) // (2 * side), ds)
        if values is not None:
            return values
    found: np.ndarray = pixel_array(ds, index=index)
    return found


def jpeg2000_stream(ds: Any, index: int) -> bytes | None:
    """The compressed bytes of a frame of JPEG 2000; None of other files."""
    return _frame_bytes(ds, index) if str(ds.file_meta.TransferSyntaxUID) in JPEG_2000 else None


def _decode_reduced(data: bytes, factor: int, ds: Any) -> np.ndarray | None:
    """A grey JPEG 2000 frame at the largest 1/2^n of its size that ``factor`` allows: the lower levels of its wavelets only.

    None where the stream and the header differ on what its values are, or it is broken: the usual way states what is wrong.
    """
    siz, cod = data.find(b"\xff\x4f\xff\x51", 0, 4096), data.find(b"\xff\x52", 0, 8192)
    if siz < 0 or cod < 0 or len(data) < max(siz + 43, cod + 10):
        return None
    bits, signed = (data[siz + 42] & 0x7F) + 1, bool(data[siz + 42] & 0x80)  # ITU-T T.800, A.5.1: Ssiz
    steps = min(factor.bit_length() - 1, data[cod + 9])  # A.6.1: number of decomposition levels
    if bits > 16 or bits > int(ds.get("BitsAllocated") or 0) or signed != bool(ds.get("PixelRepresentation")):
        return None
    for reduce in range(steps, 0, -1):  # Pillow cannot halve some sizes some times
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.reduce = reduce  # type: ignore[assignment,method-assign]
                values = np.asarray(image)
        except Exception:  # whatever Pillow raises
            continue
        values = values >> (8 * values.dtype.itemsize - bits)  # Pillow fills 8 or 16 bits, and adds an offset to signed values
        return (values.astype(np.int32) - 2 ** (bits - 1)).astype(f"i{values.dtype.itemsize}") if signed else values
    return None


def _raw(ds: Any, index: int, height: int, width: int, bits: int) -> np.ndarray:
    """Uncompressed grey values, a view of the file's bytes where all bits are used (pydicom's general way takes some ms)."""
    count = height * width * bits // 8
    data = ds.PixelData
    if len(data) < (index + 1) * count:
        raise ImageError(f"the header claims {height * width} pixels a frame, more than the file holds: it is truncated")
    signed = bool(ds.get("PixelRepresentation"))
    values = np.frombuffer(data, f"<{'i' if signed else 'u'}{bits // 8}", height * width, index * count).reshape(height, width)
    return _mask_stored_bits(values, ds)


def _mask_stored_bits(values: np.ndarray, ds: Any) -> np.ndarray:
    """Without what lies above or below the bits stored: overlays of old, a sign that was not extended."""
    allocated = 8 * values.dtype.itemsize
    stored = int(ds.get("BitsStored") or allocated)
    high = int(ds.get("HighBit") or stored - 1)
    if not 0 < stored <= allocated or not stored - 1 <= high < allocated:
        raise ImageError(f"the header states {stored} bits up to bit {high} of {allocated}")
    if stored == allocated:
        return values
    if values.dtype.kind == "u" and high == stored - 1 and int(values.max(initial=0)) < 2**stored:
        return values  # as nearly always
    found: np.ndarray = (values << (allocated - 1 - high)) >> (allocated - stored)
    return found


def _frame_bytes(ds: Any, index: int) -> bytes:
    from pydicom.encaps import get_frame

    count = max(1, int(ds.get("NumberOfFrames") or 1))
    offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in ds else None
    return get_frame(ds.PixelData, index, number_of_frames=count, extended_offsets=offsets)


def _bits_or_bytes(ds: Any, syntax: str, index: int, shape: tuple[int, int, int], bits: int) -> np.ndarray:
    """Deflated frames (PS3.5 A.4.13) and run lengths (PS3.5 G); single bits lie eight a byte (PS3.5 8.1.1).

    The Rust decoder of run lengths that pydicom would take ends the process where a segment is too long.
    """
    data = _frame_bytes(ds, index)
    height, width, samples = shape
    if bits not in (1, 8, 16, 32) or samples not in (1, 3):
        raise ImageError(f"{bits} bits allocated of {samples} samples: not one of 1, 8, 16, 32 and of 1, 3")
    wanted = (height * width * samples * bits + 7) // 8
    if syntax == DEFLATED_FRAMES:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, wanted)
    else:
        data = _run_lengths(data, samples * max(1, bits // 8), wanted)
    if len(data) < wanted:
        raise ImageError(f"the frame holds {len(data)} bytes of {wanted}: it is truncated")
    if bits == 1:
        return np.unpackbits(np.frombuffer(data, np.uint8, wanted), count=height * width, bitorder="little").reshape(height, width)
    size = bits // 8
    if syntax == RLE:  # a segment for each byte of each sample, the highest first
        planes = np.frombuffer(data, np.uint8, wanted).reshape(samples, size, height * width)
        values = np.ascontiguousarray(planes[:, ::-1].transpose(0, 2, 1)).view(f"<u{size}")
        planar = True
    else:
        values, planar = np.frombuffer(data, f"<u{size}", height * width * samples), bool(ds.get("PlanarConfiguration"))
    if samples == 1:
        return _mask_stored_bits(
            values.view(f"<i{size}" if ds.get("PixelRepresentation") else f"<u{size}").reshape(height, width), ds
        )
    colours = values.reshape(3, height, width).transpose(1, 2, 0) if planar else values.reshape(height, width, 3)
    return _rgb(colours, str(ds.get("PhotometricInterpretation")))


def _run_lengths(data: bytes, segments: int, wanted: int) -> bytes:
    """The bytes of all segments of a frame, one after another."""
    from imagecodecs import packbits_decode

    header = np.frombuffer(data[:64].ljust(64, b"\0"), "<u4")
    if header[0] != segments:
        raise ImageError(f"the frame has {header[0]} segments of {segments}")
    ends = [*header[2 : segments + 1].tolist(), len(data)]
    try:
        parts = [packbits_decode(data[start:end]) for start, end in zip(header[1 : segments + 1].tolist(), ends, strict=True)]
    except RuntimeError:
        raise ImageError("the run lengths of the frame are broken or truncated") from None
    length = wanted // segments
    if min(map(len, parts)) < length:
        raise ImageError(f"a segment of the frame holds fewer than {length} bytes: it is truncated")
    return b"".join(bytes(part[:length]) for part in parts)


def _jpeg(ds: Any, syntax: str, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """JPEG of 12 bits, and lossless JPEG of up to 16, by libjpeg-turbo; JPEG-LS."""
    from imagecodecs import jpeg8_decode, jpegls_decode

    data = _frame_bytes(ds, index)
    if _jpeg_shape(data) != shape:  # before anything is allocated
        raise ImageError("the compressed frame claims another size than the header")
    photometric = str(ds.get("PhotometricInterpretation"))
    if syntax in JPEG_LS:
        values = jpegls_decode(data + b"\xff\xd9" * 8)  # without an end in sight a broken stream takes CharLS seconds, not ms
        if shape[2] == 3:
            return _rgb(values if values.shape[-1] == 3 else np.moveaxis(values, 0, -1), photometric)
    elif shape[2] == 3:
        converted = photometric.startswith("YBR") and not _is_named_rgb(data)
        return jpeg8_decode(data, colorspace="YCBCR" if converted else "RGB", outcolorspace="RGB")
    else:
        values = jpeg8_decode(data)
    if ds.get("PixelRepresentation"):
        return _mask_stored_bits(values.view(f"i{values.dtype.itemsize}"), ds)
    stored = int(ds.get("BitsStored") or 8 * values.dtype.itemsize)
    return np.minimum(values, 2**stored - 1, dtype=values.dtype)  # lossy compression overshoots: white must not become black


def _rgb(colours: np.ndarray, photometric: str) -> np.ndarray:
    if photometric != "YBR_FULL":
        return colours
    from pydicom.pixels import convert_color_space

    return convert_color_space(np.ascontiguousarray(colours), "YBR_FULL", "RGB")


def _is_named_rgb(data: bytes) -> bool:
    """Whether the components of a JPEG are called R, G and B and nothing else states what its colours are (as libjpeg decides)."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if (marker == 0xEE and data[at + 4 : at + 9] == b"Adobe") or (marker == 0xE0 and data[at + 4 : at + 8] == b"JFIF"):
            return False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[at + 9] == 3 and data[at + 10 : at + 19 : 3] == b"RGB"
        at += 1 if marker == 0xFF else 2 + length
    return False


def _jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and samples that a JPEG, JPEG-LS or JPEG 2000 stream states; None where it cannot be told.

    ITU-T T.81 B.2.2: a frame header is SOF0 to SOF15 without DHT, JPG and DAC; T.87 C.1.1: SOF55; T.800 A.5.1: SIZ, after SOC.
    """
    siz = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if siz >= 0 and len(data) >= siz + 42:
        right, lower, left, upper = (int.from_bytes(data[siz + k : siz + k + 4], "big") for k in (8, 12, 16, 20))
        return lower - upper, right - left, int.from_bytes(data[siz + 40 : siz + 42], "big")
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big"), data[at + 9]
        at += 1 if marker == 0xFF else 2 + length
    return None
