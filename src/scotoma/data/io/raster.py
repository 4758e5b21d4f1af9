"""PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000, and whatever else Pillow opens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scotoma.data.io import dicom, tiff
from scotoma.data.io.base import Decoded, Display, ImageError, check_frame, check_size, image_facts, require_whole_numbers
from scotoma.data.io.geometry import Geometry
from scotoma.data.io.levels import Levels, look, to_shown_pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k")
_TIFF = (".tif", ".tiff")
_ANIMATED = (".gif", ".webp")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")  # of these some change values
_ASIDE = re.compile(r"^\s*(label|macro|thumbnail|overview)\b", re.IGNORECASE | re.MULTILINE)
_ORIENTATION = 0x0112


def read(path: str, frame: int | None, side: int | None, display: Display, levels: Levels) -> Decoded:
    """One image or page, the first where ``frame`` is None; ``side`` as in :func:`scotoma.data.io.read.read`.

    What Pillow does not know is tried as a TIFF or a DICOM file without a suffix.

    Raises:
        ImageError: too large, or no such page. Other exceptions come from Pillow and tifffile.
    """
    with Path(path).open("rb") as file:
        return _read(file, path, frame, side, display, levels)


def _read(file: BinaryIO, path: str, frame: int | None, side: int | None, display: Display, levels: Levels) -> Decoded:
    requested = frame
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        if path.lower().endswith(_TIFF):
            return _read_tiff(path, frame, display, levels)
        if path.lower().endswith(SUFFIXES):
            raise
        return dicom.read(path, frame, side, display, levels)  # a DICOM file without suffix and preamble
    with image:
        if frame is None and image.format == "TIFF" and _page(image.tag_v2.get).flagged:  # type: ignore[attr-defined]
            frame = pages(path).index(True)  # a preview stands before the image
        if frame:
            image.seek(check_frame(frame, int(getattr(image, "n_frames", 1))))
        width, height = image.size
        check_size(width * height)
        name = image.format or "image"
        if name == "TIFF" and not tiff.pillow_reads(image):
            return _read_tiff(path, frame, display, levels)
        several = _count(path) if requested is None else 1
        deep = _has_deep_colours(image, file)
        look("uint16" if deep else _type(image), display, levels)
        bits = 16 if deep else _bits(image)
        if side and name == "JPEG":
            # Twice the wanted side leaves the last halving to the filter of `square`.
            longest = max(width, height)
            image.draft(None, (max(1, 2 * side * width // longest), max(1, 2 * side * height // longest)))
        orientation = 1
        if name != "TIFF":  # Pillow turns a TIFF upright by itself
            exif = image.getexif().get(_ORIENTATION, 1)
            orientation = exif if exif in range(1, 9) else 1
            if orientation in (5, 6, 7, 8):
                width, height = height, width
        if deep:
            values = tiff.upright(_deep_colours(image, file), orientation)
        else:
            if name != "TIFF":
                ImageOps.exif_transpose(image, in_place=True)
            values = _from_pil(image)
    pixels, clipped = to_shown_pixels(values, display, levels)
    source: np.ndarray | bytes = values
    if name == "JPEG":
        file.seek(0)
        source = bytes([orientation]) + _jpeg_stream(file.read())
    facts = image_facts(name, pixels, bits, several) | {"width": width, "height": height}
    return Decoded(pixels, facts, source, clipped)


def _read_tiff(path: str, frame: int | None, display: Display, levels: Levels) -> Decoded:
    """A TIFF that Pillow cannot open, or of which it would change values."""
    with tiff.page(path, frame or 0) as (page, count):
        kind = tiff.kind(page)
        look(kind, display, levels)
        values, bits = tiff.values(page)
    pixels, clipped = to_shown_pixels(values, display, levels, count, kind)
    several = _count(path) if frame is None else 1
    return Decoded(pixels, image_facts("TIFF", pixels, bits, several), values, clipped)


def _jpeg_stream(data: bytes) -> bytes:
    """What the pixels of a JPEG hang on (ITU-T T.81, B.1.1.3): its segments less comments and those of applications.

    Adobe's own, APP14, states what its colours are.
    """
    parts, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:  # the scan: everything from here on
            parts.append(data[at:])
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def read_labels(path: str, frame: int | None) -> np.ndarray:
    """Labels of an image or page as they are stored: palette indices, grey levels, or colours whose channels are equal.

    Raises:
        ImageError: colours, values that are not whole, or a JPEG, whose compression changes labels.
    """
    with Path(path).open("rb") as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError:
            if not path.lower().endswith(_TIFF):
                raise
            return _tiff_labels(path, frame)
        with image:
            if image.format in _LOSSY:
                raise ImageError(f"{image.format} changes labels: save the label map as PNG")
            if frame:
                image.seek(check_frame(frame, int(getattr(image, "n_frames", 1))))
            check_size(image.width * image.height)
            if image.format == "TIFF" and not tiff.pillow_reads(image):
                return _tiff_labels(path, frame)
            if _has_deep_colours(image, file):
                values = tiff.upright(_deep_colours(image, file, opaque=True), image.getexif().get(_ORIENTATION, 1))
                return require_whole_numbers(values)
            if image.format != "TIFF":
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode in ("LA", "RGBA"):  # an outline's transparency is no label
                alpha = np.asarray(image)[..., -1]
                image = image.convert("L" if image.mode == "LA" else "RGB")  # type: ignore[assignment]
                seen = np.asarray(image).reshape(alpha.size, -1)[alpha.ravel() > 0]
                outside = np.asarray(image)[alpha == 0]
                if alpha.min() < alpha.max() and len(np.unique(seen)) == 1 and (outside.any() or not seen.any()):
                    raise ImageError("its labels are in its transparency alone: save them as grey levels, 0 outside")
            values = np.asarray(image)
            if image.format == "TIFF" and image.mode == "L" and _is_inverted(image):
                values = 255 - values  # as stored: Pillow shows them
            return require_whole_numbers(values)


def _is_inverted(image: Image.Image) -> bool:
    """Whether Pillow turned the bytes of a TIFF whose white is zero."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    return int(tags.get(262, 1)) == tiff.WHITE_IS_ZERO and max(tags.get(258, (1,))) == 8


def _tiff_labels(path: str, frame: int | None) -> np.ndarray:
    with tiff.page(path, frame or 0) as (page, _):
        return require_whole_numbers(tiff.values(page, as_shown=False)[0])


def geometry(path: str, frame: int | None) -> Geometry:
    """Size and orientation of an image or page, by its header.

    Raises:
        ImageError: no such page. Other exceptions come from Pillow and tifffile.
    """
    count = sum(pages(path))
    try:
        with Image.open(path) as image:
            if frame:
                image.seek(check_frame(frame, int(getattr(image, "n_frames", 1))))
            if image.format != "TIFF":
                orientation = image.getexif().get(_ORIENTATION, 1)
                return Geometry((image.height, image.width), count, orientation if orientation in range(1, 9) else 1)
            tags = image.tag_v2  # type: ignore[attr-defined]
            return Geometry((int(tags[257]), int(tags[256])), count, int(tags.get(_ORIENTATION, 1)))
    except UnidentifiedImageError:
        if not path.lower().endswith(_TIFF):
            raise
        with tiff.page(path, frame or 0) as (page, _):
            tag = page.tags.get(_ORIENTATION)
            return Geometry((page.imagelength, page.imagewidth), count, int(tag.value) if tag is not None else 1)


def is_palette(path: str) -> bool:
    """Whether an image's values are indices of a palette."""
    try:
        with Image.open(path) as image:
            return image.mode == "P"
    except UnidentifiedImageError:
        return False


def pages(path: str) -> list[bool]:
    """Of each page of a TIFF, or frame of a GIF or WebP, whether it is an image of its own; one True for the other formats.

    Pages that are none: reduced copies of the first (flagged, or half, a quarter, ... of its size), transparency masks, and
    what a slide scanner keeps beside the slide: label, macro, thumbnail.
    """
    lower = path.lower()
    if not lower.endswith((*_TIFF, *_ANIMATED)):
        return [True]
    try:
        with Image.open(path) as image:
            count = int(getattr(image, "n_frames", 1))
            if image.format != "TIFF" or count == 1:
                return [True] * count
            found = []
            for number in range(count):
                image.seek(number)
                found.append(_page(image.tag_v2.get))  # type: ignore[attr-defined]
    except UnidentifiedImageError:
        import tifffile

        with tifffile.TiffFile(path) as file:
            tags = [{tag.code: tag.value for tag in page.tags} for page in file.pages]  # type: ignore[union-attr]
        found = [_page(page.get) for page in tags]
    full = [not page.flagged and not (number and _is_auxiliary(page, found[0])) for number, page in enumerate(found)]
    return full if any(full) else [True] * len(found)


def _count(path: str) -> int:
    """How many images a file holds; 1 where what stands behind the first is broken."""
    try:
        return sum(pages(path))
    except Exception:  # whatever Pillow and tifffile raise; the first can be read
        return 1


class _Page(NamedTuple):
    width: int
    height: int
    tiled: bool
    flagged: bool  # as reduced or a transparency mask, by its own tags
    text: str


def _page(tag: Callable[[int], Any]) -> _Page:
    text = str(tag(270) or "")
    flagged = bool(int(tag(254) or 0) & 5) or tag(255) == 2
    return _Page(int(tag(256) or 0), int(tag(257) or 0), tag(322) is not None, flagged, f"{tag(285) or ''}\n{text}")


def _is_auxiliary(page: _Page, first: _Page) -> bool:
    """Whether a page that nothing flags is a reduced copy of the first, or a label, macro or thumbnail beside it."""
    if page[:2] == first[:2]:  # a slice of a stack
        return False
    if first.tiled and not page.tiled:
        return True
    if _ASIDE.search(page.text) and (len(page.text) < 60 or "aperio" in page.text.lower()):
        return True
    factor = round(first.width / max(1, page.width))
    return factor >= 2 and all(abs(a - b * factor) <= factor for a, b in zip(first[:2], page[:2], strict=True))


def _bits(image: Image.Image) -> int:
    """Bits of one sample, of the file where Pillow gives them."""
    if image.format == "TIFF":
        return int(image.tag_v2.get(258, (1,))[0])  # type: ignore[attr-defined]
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)


def _type(image: Image.Image) -> str:
    """The type of the values that will be decoded."""
    return "uint16" if image.mode.startswith("I;16") else {"I": "int32", "F": "float32"}.get(image.mode, "uint8")


def _has_deep_colours(image: Image.Image, file: BinaryIO) -> bool:
    """Whether a PNG or JPEG 2000 has colours or transparency of more than 8 bits, of which Pillow drops the lower byte."""
    if image.mode not in ("RGB", "RGBA", "LA") or image.format not in ("PNG", "JPEG2000"):
        return False
    start = file.tell()
    file.seek(0)
    head = file.read(4096)
    file.seek(start)  # where Pillow will go on
    if image.format == "PNG":
        return head[24:25] == b"\x10"  # IHDR's bit depth
    size = head.find(b"\xff\x4f\xff\x51")
    return 0 <= size < len(head) - 42 and (head[size + 42] & 0x7F) >= 8  # ITU-T T.800, A.5.1: Ssiz, less 1


def _deep_colours(image: Image.Image, file: BinaryIO, opaque: bool = False) -> np.ndarray:
    """(H, W) or (H, W, 3) uint16, on black where transparent, unless ``opaque``."""
    from imagecodecs import jpeg2k_decode, png_decode

    file.seek(0)
    values: np.ndarray = (png_decode if image.format == "PNG" else jpeg2k_decode)(file.read())
    if values.dtype != np.uint16 or values.ndim != 3:
        raise ImageError(f"its samples are {values.dtype}, not of 16 bits")
    return tiff.grey_or_rgb(values, transparent=values.shape[2] in (2, 4), opaque=opaque)


def _from_pil(image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        values = np.asarray(image)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        hidden = image.info.get("transparency")
        return np.where(values == hidden, 0, values).astype(values.dtype) if isinstance(hidden, int) else values
    if mode.endswith(("A", "a")) or "transparency" in image.info:
        grey = mode in ("L", "LA", "La")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L" if grey else "RGB"))
    return np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))
