"""One file -> array + header facts: PNG, JPEG, TIFF, BMP, DICOM, NIfTI, NPZ. Only it and what it calls know formats.

It runs in processes that decode thousands of files, so nothing but numpy and Pillow is imported until a file needs it,
and the last multi-frame DICOM, NIfTI volume or npz member stays in memory for the frame that is requested next.

A path is a plain path, ``file.npz#member`` (``frame`` is the row), ``phantom:SEED[#mask]`` (``frame`` is the index), or
``scan.nii.gz[#AXIS][,volume=K]``: ``frame`` counts slices along AXIS (axial, the default, upwards; coronal, to the front; sagittal,
to the patient's right) of one volume of a 4-D file: the first, or the one named (``scan.nii.gz#coronal,volume=3``).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from scotoma import files, processes
from scotoma.data.io import dicom, raster, volumes
from scotoma.data.io.base import (
    FRAGMENT,
    MAX_PIXELS,
    Decoded,
    Display,
    ImageError,
    UnavailableError,
    image_facts,
    parse_windows,
    to_uint8,
)
from scotoma.data.io.dicom_headers import age_in_years
from scotoma.data.io.levels import Alone, Levels, Undecided

__all__ = [
    "AXES",
    "Display",
    "Image",
    "ImageError",
    "UnavailableError",
    "add_axis",
    "age_in_years",
    "decide_by_itself",
    "file_of",
    "frame_numbers",
    "frames",
    "is_image",
    "is_volume",
    "parse_windows",
    "read",
    "read_labels",
    "read_owners",
    "square",
    "square_labels",
    "to_uint8",
]

AS_STORED = Display()
HEADER_SECONDS = 60  # for a header that is read outside a decoding process
AXES = tuple(volumes.AXES)  # along which a volume can be cut

RASTER, DICOM, NIFTI, NPZ, PHANTOM = "raster", "dicom", "nifti", "npz", "phantom"
_SUFFIXES = {
    **dict.fromkeys(raster.SUFFIXES, RASTER),
    **dict.fromkeys(dicom.SUFFIXES, DICOM),
    **dict.fromkeys(volumes.NIFTI_SUFFIXES, NIFTI),
    **dict.fromkeys(volumes.NPZ_SUFFIXES, NPZ),
}


def read(
    path: str, frame: int | None = None, side: int | None = None, display: Display = AS_STORED, levels: Levels | None = None
) -> Decoded:
    """Decode one image.

    Args:
        path: a file, ``file.npz#member``, ``scan.nii.gz#coronal`` or ``phantom:SEED[#mask]``.
        frame: which image of the file; ``None`` is the only or the first one, of a NIfTI volume the middle slice.
        side: the side the image will be fitted into. JPEG and JPEG 2000 of at least four times that are then decoded at 1/2, 1/4
            or 1/8, so that at least twice that is left (faster; within two grey levels after :func:`square`).
        display: how stored values become grey levels. Under ``redact`` burned-in text is painted over at full resolution, the
            fact ``redacted`` counts its lines, and an image in which none is found is read as without it.
        levels: what decides on black and white where neither the file nor ``display`` does; by default the file's images together.

    Raises:
        ImageError: the file is absent, no image, broken, too large, or needs a decoder that is not installed.
    """
    with one_line(path):
        require_file(path)
        if frame is not None and frame < 0:
            raise ImageError(f"frame {frame} is negative")
        levels = levels or decide_by_itself(path, display)
        if not display.redact:
            return _read_shown(path, frame, side, display, levels)
        from scotoma.data.io import text_detector

        whole = _read_shown(path, frame, None, display, levels)  # small letters are found at full resolution only
        lines = text_detector.text_lines(whole.pixels)
        if not lines:
            return _read_shown(path, frame, side, display, levels)
        source = whole.pixels if whole.source is None else whole.source  # the file is the same, whatever is painted over
        return Decoded(text_detector.paint_over(whole.pixels, lines), whole.facts | {"redacted": len(lines)}, source, whole.clipped)


def _read_shown(path: str, frame: int | None, side: int | None, display: Display, levels: Levels) -> Decoded:
    image = _read(path, frame, side, display, levels)
    if display.equalize == "none":
        return image
    from scotoma.data.io.clahe import equalize

    return replace(image, pixels=equalize(image.pixels, display.equalize, apart=len(display.windows) == 3))


def decide_by_itself(path: str, display: Display = AS_STORED) -> Alone:
    """Decides on black and white for a file by itself, by some of its images."""
    return Alone(lambda other, seen: read(path, other, None, replace(display, redact=False), seen))


def _read(path: str, frame: int | None, side: int | None, display: Display, levels: Levels) -> Decoded:
    kind = kind_of(path)
    if kind == PHANTOM:
        from scotoma.data.phantom import phantom

        drawn = phantom.render(path, frame or 0)
        return Decoded(drawn, image_facts("phantom", drawn, 8))
    if kind == DICOM:
        return dicom.read(path, frame, side, display, levels)
    if kind == NIFTI:
        return volumes.read_nifti(path, frame, display)
    if kind == NPZ:
        return volumes.read_npz(path, frame, display, levels)
    return raster.read(path, frame, side, display, levels)


def read_labels(path: str, frame: int | None = None) -> np.ndarray:
    """The labels of a map (a mask, a segmentation) as they are stored, pixel by pixel over the image that :func:`read` gives.

    Palette indices or grey levels of PNG and TIFF, voxels of NIfTI, rows of npz, segment numbers of DICOM segmentations. Several
    masks of one image, ``first.png|second.png`` (the others lie beside the first), are united: the larger label counts.

    Returns:
        (H, W) int32.

    Raises:
        ImageError: as :func:`read`; or colours, values that are not whole, or a JPEG, whose compression changes labels.
    """
    with one_line(path):
        if frame is not None and frame < 0:
            raise ImageError(f"frame {frame} is negative")
        first, *others = path.split("|")
        if others:
            labels = [read_labels(str(Path(first).with_name(name)), frame) for name in (Path(first).name, *others)]
            if len({part.shape for part in labels}) > 1:
                raise ImageError("the masks of one image differ in size")
            return np.maximum.reduce(labels)
        require_file(path)
        kind = kind_of(path)
        if kind == PHANTOM:
            return _read(path, frame, None, AS_STORED, Levels()).pixels.astype(np.int32)
        if kind == DICOM:
            return dicom.read_labels(path, frame)
        if kind == NIFTI:
            return volumes.read_nifti_labels(path, frame)
        if kind == NPZ:
            return volumes.read_npz_labels(path, frame)
        return raster.read_labels(path, frame)


def square_labels(labels: np.ndarray, side: int) -> np.ndarray:
    """A label map as :func:`square` lays out its image: nearest values, padded with 0.

    Args:
        labels: (H, W) int32 from 0 to 255.
        side: of the result.

    Returns:
        (side, side, 1) uint8.

    Raises:
        ImageError: labels beyond 255.
    """
    if labels.min() < 0 or labels.max() > 255:
        raise ImageError("labels beyond 0 to 255")
    height, width = labels.shape
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    out = np.zeros((side, side, 1), np.uint8)
    out[top : top + size[1], left : left + size[0], 0] = fitted
    return out


def frames(path: str) -> int:
    """How many images the file holds, by its header: slices, frames, pages, rows; 1 for plain images and phantoms.

    Raises:
        ImageError: the header of a file that may hold several cannot be read.
    """
    with one_line(path), processes.in_time(HEADER_SECONDS):
        require_file(path)
        kind = kind_of(path)
        if kind == PHANTOM:
            return 1
        if kind == DICOM:
            return dicom.count_frames(path)
        if kind == NIFTI:
            return volumes.nifti_slices(path)
        if kind == NPZ:
            return volumes.npz_rows(path)
        return len(raster.pages(path))


def frame_numbers(path: str) -> tuple[Sequence[int], int]:
    """The numbers of those frames of a file that are images of their own, and how many frames it holds.

    Reduced copies, label and macro pages of a pyramid TIFF are none. 0 frames is a DICOM object that holds no images: a report, a
    structure set, a segmentation.

    Raises:
        ImageError: as :func:`frames`.
    """
    with one_line(path), processes.in_time(HEADER_SECONDS):
        require_file(path)
        kind = kind_of(path)
        if kind == DICOM:
            return range(count := dicom.count_image_frames(path)), count
        if kind == RASTER:
            full = raster.pages(path)
            return [number for number, is_full in enumerate(full) if is_full], len(full)
    count = frames(path)
    return range(count), count


def read_owners(path: str) -> tuple[str | None, str | None]:
    """Patient and study of a DICOM file, as they stand in it (identifiers: to be compared, and kept nowhere); else None, None."""
    try:
        with one_line(path), processes.in_time(HEADER_SECONDS):
            require_file(path)
            return dicom.read_owners(path) if kind_of(path) == DICOM else (None, None)
    except ImageError:
        return None, None


def is_image(path: str) -> bool:
    """Whether the file is one of ours by its suffix or, without a known one, by how a DICOM file begins. A DICOMDIR is not."""
    name = Path(FRAGMENT.sub(r"\1", path)).name.lower()
    if name.endswith(tuple(_SUFFIXES)):
        return True
    return name != "dicomdir" and dicom.is_dicom(path)


def square(pixels: np.ndarray, side: int, channels: int) -> np.ndarray:
    """Fit an image into a square: aspect kept, centred, padded with black. Store and prediction both use this.

    Shrinking uses the Hamming-windowed sinc of support 1 (after Pillow's integer box reduction to twice the
    size): antialiased and about as sharp as bicubic, at half the cost, and without negative lobes, so that no dark or
    bright rim is invented beside a marker or a collimator edge, order of grey levels is kept and nothing is clipped.
    Enlarging is bilinear for the same reason.

    Args:
        pixels: (H, W) or (H, W, 3); uint8, uint16 or float in [0, 1].
        side: of the result.
        channels: 1 (luma, ITU-R 601) or 3.

    Returns:
        (side, side, channels) uint8. A (side, side) or (side, side, 3) uint8 image comes back unchanged.

    Raises:
        ValueError: ``channels`` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    levels = to_uint8(pixels)
    height, width = levels.shape[:2]
    image = Image.fromarray(levels)
    if levels.ndim == 3 and channels == 1:
        image = image.convert("L")
    if max(height, width) != side:
        scale = side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if scale < 1:
            image = image.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)
        else:
            image = image.resize(size, Image.Resampling.BILINEAR)
    fitted = np.asarray(image)
    top, left = (side - fitted.shape[0]) // 2, (side - fitted.shape[1]) // 2
    out = np.zeros((side, side, channels), np.uint8)
    out[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted if fitted.ndim == 3 else fitted[..., None]
    return out


def is_volume(path: str) -> bool:
    """Whether a path names a volume, which can be cut along another axis."""
    return kind_of(path) == NIFTI


def file_of(path: str) -> str | None:
    """The file of which a path's frames, slices or pages are parts; None for rows of an ``.npz`` and phantoms, which are apart."""
    kind = kind_of(path)
    if kind in (NPZ, PHANTOM):
        return None
    try:
        return volumes.nifti_name(path)[0] if kind == NIFTI else path
    except ImageError:  # a slice that nothing can read
        return path


def add_axis(path: str, axis: str) -> str:
    """A volume's path that counts slices along ``axis``, of the same volume of a 4-D file.

    Raises:
        ImageError: there is no such axis.
    """
    if axis not in volumes.AXES:
        raise ImageError(f"no axis {axis!r}: one of {', '.join(volumes.AXES)}")
    name, _, volume = volumes.nifti_name(path)
    parts = [axis] * (axis != "axial") + [f"volume={volume}"] * (volume > 0)
    return f"{name}#{','.join(parts)}" if parts else name


def stamp(path: str, labels: bool = False) -> str:
    """By which the file of a path (of ``labels``, all its files) is known from what takes its place, or comes where nothing was.

    The time of the inode's last change is part of it, which nobody can set: other content of the same size and time is told.
    """
    if path.startswith("phantom:"):
        return ""
    first, *others = path.split("|") if labels else [path]
    found = []
    for name in (first, *(str(Path(first).with_name(name)) for name in others)):
        try:
            entry = os.stat(FRAGMENT.sub(r"\1", name))  # noqa: PTH116 (a million of them)
            found.append(f"{entry.st_size} {entry.st_mtime_ns} {entry.st_ctime_ns}")
        except OSError as error:
            found.append(f"absent {error.errno}")
    return ",".join(found)


def require_file(path: str) -> None:
    """Refuse what waits or never ends when it is read: pipes, devices, files of the system."""
    reason = None if path.startswith("phantom:") else files.unfit(FRAGMENT.sub(r"\1", path))
    if reason:
        raise ImageError(f"{reason}, which is not opened")


@contextmanager
def one_line(path: str) -> Iterator[None]:
    """Turn what a decoder raises into an ImageError of one line; hide its warnings, which may quote the header."""
    name = Path(path).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Undecided:
        raise
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image of a known format") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: the header claims more pixels than the {MAX_PIXELS} allowed") from None
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        lines = reason.strip().splitlines() or [""]
        first = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).replace(path, name)
        kind = UnavailableError if _passes(error) else ImageError
        raise kind(f"{name}: {first or type(error).__name__}") from error


def _passes(error: BaseException) -> bool:
    """Whether an error is the system's, not the file's: of reading a file that is all right another time."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (MemoryError, FileNotFoundError, PermissionError)) or (isinstance(seen, OSError) and seen.errno):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def kind_of(path: str) -> str:
    """Which family of formats reads a path: ``RASTER``, ``DICOM``, ``NIFTI``, ``NPZ`` or ``PHANTOM``."""
    if path.startswith("phantom:"):
        return PHANTOM
    lower = FRAGMENT.sub(r"\1", path).lower()
    for suffix, kind in _SUFFIXES.items():
        if lower.endswith(suffix):
            return kind
    return DICOM if dicom.is_dicom(path) else RASTER
