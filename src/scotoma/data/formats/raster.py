"""PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000, and whatever else Pillow opens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scotoma.data.formats import dicom
from scotoma.data.formats.base import Display, ImageError, Picture, check_frame, check_size, picture_facts, show, whole

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k")
_TIFF = (".tif", ".tiff")
_ANIMATED = (".gif", ".webp")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")  # of these some change values
_ASIDE = re.compile(r"^\s*(label|macro|thumbnail|overview)\b", re.IGNORECASE | re.MULTILINE)


def read(path: str, frame: int | None, side: int | None, display: Display) -> Picture:
    """One picture or page, the first where ``frame`` is None; ``side`` as in :func:`scotoma.data.images.read`.

    What Pillow does not know is tried as a TIFF or a DICOM file without a suffix.

    Raises:
        ImageError: too large, or no such page. Other exceptions come from Pillow and tifffile.
    """
    with Path(path).open("rb") as file:
        return _read(file, path, frame, side, display)


def _read(file: BinaryIO, path: str, frame: int | None, side: int | None, display: Display) -> Picture:
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        if path.lower().endswith(_TIFF):
            values, bits = _tifffile(path, frame or 0)
            pixels = show(values, display)
            return Picture(pixels, picture_facts("TIFF", pixels, bits), values)
        if path.lower().endswith(SUFFIXES):
            raise
        return dicom.read(path, frame, side, display)  # a DICOM file without suffix and preamble
    with image:
        if frame:
            image.seek(check_frame(frame, int(getattr(image, "n_frames", 1))))
        width, height = image.size
        check_size(width * height)
        name = image.format or "image"
        bits = _bits(image)
        if side and name == "JPEG":
            # Twice the wanted side leaves the last halving to the filter of `square`.
            longest = max(width, height)
            image.draft(None, (max(1, 2 * side * width // longest), max(1, 2 * side * height // longest)))
        orientation = 1
        if name != "TIFF":  # Pillow turns a TIFF upright by itself
            exif = image.getexif().get(0x0112, 1)
            orientation = exif if exif in range(1, 9) else 1
            if orientation in (5, 6, 7, 8):
                width, height = height, width
            ImageOps.exif_transpose(image, in_place=True)
        values = _from_pil(image)
    pixels = show(values, display)
    source: np.ndarray | bytes = values
    if name == "JPEG":
        file.seek(0)
        source = bytes([orientation]) + _jpeg_stream(file.read())
    return Picture(pixels, picture_facts(name, pixels, bits) | {"width": width, "height": height}, source)


def _jpeg_stream(data: bytes) -> bytes:
    """What the pixels of a JPEG hang on (ITU-T T.81, B.1.1.3): its segments less comments and those of applications.

    Adobe's own, APP14, says what its colours are.
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
    """Labels of a picture or page as they are stored: palette indices, grey levels, or colours whose channels are equal.

    Raises:
        ImageError: colours, values that are not whole, or a JPEG, whose compression changes labels.
    """
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if not path.lower().endswith(_TIFF):
            raise
        return whole(_tifffile(path, frame or 0)[0])
    with image:
        if image.format in _LOSSY:
            raise ImageError(f"{image.format} changes labels: save the label map as PNG")
        if frame:
            image.seek(check_frame(frame, int(getattr(image, "n_frames", 1))))
        check_size(image.width * image.height)
        if image.format != "TIFF":
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("LA", "RGBA"):  # an outline's transparency is no label
            image = image.convert("L" if image.mode == "LA" else "RGB")  # type: ignore[assignment]
        return whole(np.asarray(image))


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

        with tifffile.TiffFile(path) as tiff:
            tags = [{tag.code: tag.value for tag in page.tags} for page in tiff.pages]  # type: ignore[union-attr]
        found = [_page(page.get) for page in tags]
    full = [not page.flagged and not (number and _beside(page, found[0])) for number, page in enumerate(found)]
    return full if any(full) else [True] * len(found)


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


def _beside(page: _Page, first: _Page) -> bool:
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
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if mode.endswith(("A", "a")) or "transparency" in image.info:
        grey = mode in ("L", "LA", "La")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L" if grey else "RGB"))
    return np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))


def _tifffile(path: str, frame: int) -> tuple[np.ndarray, int]:
    """Values and bits of the TIFFs that Pillow cannot open, such as float64."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[check_frame(frame, len(tiff.pages))]
        check_size(int(np.prod(page.shape, dtype=object)))
        values = page.asarray()
        if page.ndim == 3 and page.axes.startswith("S"):
            values = np.moveaxis(values, 0, -1)
        if int(page.photometric) == 0:  # type: ignore[union-attr]
            values = -values if values.dtype.kind == "f" else ~values
    bits = 8 * values.dtype.itemsize
    return (values[..., :3] if values.ndim == 3 and values.shape[-1] >= 3 else values.reshape(values.shape[:2])), bits
