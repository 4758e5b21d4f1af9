"""Arrays with images in them: the slices of a NIfTI volume, the rows of an npz member."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scotoma.data.io.base import (
    Decoded,
    Display,
    ImageError,
    apply_windows,
    check_frame,
    check_size,
    file_stamp,
    image_facts,
    require_whole_numbers,
    square_pixels,
    stretch,
)
from scotoma.data.io.geometry import Geometry, look_up
from scotoma.data.io.levels import Levels, black_and_white, look, to_shown_pixels

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NPZ_SUFFIXES = (".npz",)
MAX_VOXELS = 2**29  # of one NIfTI volume; a chest CT of 512 x 512 x 700 has 2**27.5
AXES = {"axial": 2, "coronal": 1, "sagittal": 0}
DEFLATE_RATIO = 1032  # the most that deflate can shrink: a header that claims more lies
MAX_CACHED = 2**28  # bytes of an npz member that is decoded whole; a larger one is read row by row


def read_nifti(path: str, frame: int | None, display: Display) -> Decoded:
    """One slice of ``scan.nii.gz[#AXIS][,volume=K]``, the middle one where ``frame`` is None.

    Raises:
        ImageError: no such slice or volume, too many or unusable voxels, a degenerate orientation. Other exceptions come from
            nibabel.
    """
    name, axis, volume = nifti_name(path)
    stamp = file_stamp(name)
    values, sizes, bits = _volume(name, volume, stamp)
    chosen, slices = _slice(values, axis, frame)
    source = np.ascontiguousarray(chosen)
    if display.windows:
        pixels = apply_windows(source, display.windows)
    else:
        pixels = source if source.ndim == 3 else stretch(source, *_levels(name, volume, stamp))
    facts = image_facts("NIfTI", pixels, bits) | {"slices": slices}
    across, down = (sizes[k] for k in range(3) if k != axis)
    if down > 0:
        facts["spacing_mm"] = float(down)
    return Decoded(square_pixels(pixels, float(down), float(across)), facts, source)


def read_nifti_labels(path: str, frame: int | None) -> np.ndarray:
    """The slice of a label map that lies on :func:`read_nifti`'s, (H, W) int32.

    Raises:
        ImageError: as there, or values that are not whole.
    """
    name, axis, volume = nifti_name(path)
    values, sizes, _ = _volume(name, volume, file_stamp(name))
    across, down = (float(sizes[k]) for k in range(3) if k != axis)
    return square_pixels(require_whole_numbers(np.ascontiguousarray(_slice(values, axis, frame)[0])), down, across)


def nifti_geometry(path: str, frame: int | None) -> Geometry:
    """Where the pixels of a slice lie, as :func:`read_nifti` lays them out, by the volume's affine.

    Raises:
        ImageError: as there.
    """
    name, axis, volume = nifti_name(path)
    affine, shape, sizes = _grid(name, volume)
    a, b = (k for k in range(3) if k != axis)
    first = np.array([n - 1 for n in shape], float)
    first[axis] = shape[axis] // 2 if frame is None else check_frame(frame, shape[axis])
    plane = np.stack([-affine[:3, b], -affine[:3, a], affine[:3, :3] @ first + affine[:3, 3]], axis=1)
    return Geometry((shape[b], shape[a]), shape[axis], sizes=(float(sizes[b]), float(sizes[a])), plane=plane, position=plane[:, 2])


def nifti_on(path: str, image: Geometry) -> np.ndarray:
    """The labels of a NIfTI volume at the stored pixels of an image that states its plane, (H, W) int32.

    Raises:
        ImageError: as :func:`read_nifti_labels`; or the volume has another grid.
    """
    assert image.plane is not None
    name, _, volume = nifti_name(path)
    affine, _, _ = _grid(name, volume)
    return require_whole_numbers(look_up(image.plane, image.size, affine, _volume(name, volume, file_stamp(name))[0]))


def _grid(path: str, volume: int) -> tuple[np.ndarray, tuple[int, int, int], np.ndarray]:
    """Affine of a volume in RAS order to mm in DICOM's axes, its shape and its voxel sizes."""
    import nibabel

    image, shape = _nifti_header(path, volume)
    orientation = nibabel.io_orientation(image.affine)
    affine = image.affine @ nibabel.orientations.inv_ornt_aff(orientation, (*image.shape[:3], 1, 1)[:3])
    sizes = np.ones(3)
    sizes[orientation[:, 0].astype(int)] = np.abs((*image.header.get_zooms()[:3], 1.0, 1.0)[:3])
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, shape, sizes


def nifti_slices(path: str) -> int:
    """How many slices the header states along the axis that ``path`` names, of one volume."""
    name, axis, volume = nifti_name(path)
    return _nifti_header(name, volume)[1][axis]


def nifti_name(path: str) -> tuple[str, int, int]:
    """``scan.nii.gz#coronal,volume=2`` -> its file, the axis along which slices are counted (0 to the right, 1 to the front, 2
    upwards), and its volume; without a fragment the axial slices of the first one.

    Raises:
        ImageError: the fragment names something else.
    """  # noqa: D205
    at = path.lower().rfind(".nii")
    name, _, fragment = path[at:].partition("#") if at >= 0 else (path, "", "")
    axis, volume = 2, 0
    for part in fragment.split(",") if fragment else ():
        number = part.removeprefix("volume=")
        if part in AXES:
            axis = AXES[part]
        elif part != number and number.isdigit() and len(number) < 8:
            volume = int(number)
        else:
            raise ImageError(f"{part!r} after '#': one of {', '.join(AXES)}, or volume=K")
    return path[: max(at, 0)] + name, axis, volume


def _slice(values: np.ndarray, axis: int, frame: int | None) -> tuple[np.ndarray, int]:
    """One slice of a volume in RAS order, upright, and how many there are."""
    slices = values.shape[axis]
    chosen = np.take(values, slices // 2 if frame is None else check_frame(frame, slices), axis)
    # The axes grow to the patient's right, front and head. Radiologists look from the feet and from the front: the patient's right
    # is on the left; from the side, the face is on the left.
    return chosen.swapaxes(0, 1)[::-1, ::-1], slices


def read_npz(path: str, frame: int | None, display: Display, levels: Levels) -> Decoded:
    """One row of ``file.npz#member``, the first where ``frame`` is None.

    Raises:
        ImageError: no such member or row, or an array that holds no images. Other exceptions come from zipfile.
    """
    archive, name = _member_name(path)
    member = _member(archive, name, file_stamp(archive))
    look(member.dtype.name, display, levels)
    values = _npz_values(path, frame)
    if values.ndim == 3 and values.shape[-1] not in (1, 3):
        raise ImageError(f"{name} has {values.shape[-1]} channels, neither 1 nor 3")
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    frames = member.shape[0] if _rows(member.shape) else 1
    pixels, clipped = to_shown_pixels(values, display, levels, frames)
    return Decoded(pixels, image_facts("NPZ", pixels, 8 * values.dtype.itemsize, frames), values, clipped)


def read_npz_labels(path: str, frame: int | None) -> np.ndarray:
    """One row of a member that holds labels, (H, W) int32.

    Raises:
        ImageError: as :func:`read_npz`, or values that are not whole.
    """
    return require_whole_numbers(_npz_values(path, frame))


def _npz_values(path: str, frame: int | None) -> np.ndarray:
    archive, name = _member_name(path)
    values = _member(archive, name, file_stamp(archive)).image(frame or 0)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def npz_rows(path: str) -> int:
    """How many images ``file.npz#member`` holds, by its header."""
    shape = _Member(*_member_name(path)).shape
    return shape[0] if _rows(shape) else 1


def npz_size(path: str) -> tuple[int, int]:
    """(height, width) of the images in ``file.npz#member``, by its header."""
    shape = _Member(*_member_name(path)).shape
    height, width = (shape[1:] if _rows(shape) else shape)[:2]
    return height, width


def _nifti_header(path: str, volume: int) -> tuple[Any, tuple[int, int, int]]:
    """The image, unread, and the shape of one of its volumes in RAS order."""
    import nibabel

    image: Any = nibabel.load(path)
    shape = (*image.shape[:3], 1, 1)[:3]
    voxels = int(np.prod(shape, dtype=object))
    check_size(voxels, MAX_VOXELS)
    if image.get_data_dtype().kind not in "iuf" and not _has_colours(image.get_data_dtype()):
        raise ImageError(f"voxels of type {image.get_data_dtype()} are not supported")
    volumes = int(np.prod(image.shape[3:], dtype=object))
    if volume >= volumes:
        raise ImageError(f"no volume {volume}: the file holds {volumes}")
    size = Path(path).stat().st_size * (DEFLATE_RATIO if path.lower().endswith(".gz") else 1)
    if voxels * (volume + 1) * image.get_data_dtype().itemsize > size:
        raise ImageError(f"the header claims {voxels} voxels, more than the file can hold: it is truncated")
    axes = nibabel.io_orientation(image.affine)[:, 0]
    if np.isnan(axes).any():
        raise ImageError("the orientation in the header is degenerate")
    return image, tuple(int(shape[int(np.flatnonzero(axes == k)[0])]) for k in range(3))  # type: ignore[return-value]


def _has_colours(dtype: np.dtype[Any]) -> bool:
    """Whether voxels are colours of 8 bits (RGB24, RGBA32)."""
    return dtype.names is not None and dtype.names[:3] == ("R", "G", "B")


@lru_cache(maxsize=1)
def _volume(path: str, volume: int, stamp: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """One volume in RAS order, its voxel sizes (mm) and its bits."""
    import nibabel

    image, shape = _nifti_header(path, volume)
    for axis in range(3):
        check_size(int(np.prod(shape, dtype=object)) // shape[axis])
    chosen = np.unravel_index(volume, image.shape[3:], order="F") if len(image.shape) > 3 else ()
    values = np.asanyarray(image.dataobj[(..., *map(int, chosen))] if chosen else image.dataobj)
    values = values.reshape((*values.shape, 1, 1)[:3])
    if _has_colours(values.dtype):
        values = np.stack([values[name] for name in "RGB"], -1)
    if values.dtype.kind == "f" and values.dtype.itemsize > 4:  # of a scaled volume; half the memory
        values = values.astype(np.float32)
    orientation = nibabel.io_orientation(image.affine)
    sizes = np.ones(3)
    sizes[orientation[:, 0].astype(int)] = np.abs((*image.header.get_zooms()[:3], 1.0, 1.0)[:3])
    bits = 8 * (1 if values.ndim == 4 else image.get_data_dtype().itemsize)
    return nibabel.apply_orientation(values, orientation), sizes, bits


@lru_cache(maxsize=1)
def _levels(path: str, volume: int, stamp: tuple[int, int, int]) -> tuple[float, float]:
    """What is shown as black and white in all slices of a volume."""
    return black_and_white(_volume(path, volume, stamp)[0])


def _member_name(path: str) -> tuple[str, str]:
    at = path.lower().rfind(".npz") + len(".npz")  # a folder's name may hold a # too
    archive, member = path[:at], path[at + 1 :]
    if member:
        return archive, member
    with zipfile.ZipFile(archive) as file:
        names = [name.removesuffix(".npy") for name in file.namelist()]
    if len(names) != 1:
        raise ImageError(f"name a member after '#': {', '.join(names[:6])}")
    return archive, names[0]


def _rows(shape: tuple[int, ...]) -> bool:
    """Whether the first axis counts images: (N, H, W) and (N, H, W, C), not (H, W), (H, W, 1) and (H, W, 3)."""
    return len(shape) == 4 or (len(shape) == 3 and shape[-1] not in (1, 3))


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
        if min(self.shape, default=0) < 0:
            raise ImageError(f"{member} states a negative size")
        if self.dtype.kind not in "biuf" or len(self.shape) not in (2, 3, 4):
            raise ImageError(f"{member} holds {self.dtype} of {len(self.shape)} axes, not images")
        check_size(count // self.shape[0] if _rows(self.shape) and self.shape[0] else count)
        if info.file_size != self._offset + count * self.dtype.itemsize:
            raise ImageError(f"{member} states {count} values, but its size is another")
        if info.file_size > DEFLATE_RATIO * info.compress_size + 1024:
            raise ImageError(f"{member} claims {count} values, more than its compressed size can hold")
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

    def image(self, frame: int) -> np.ndarray:
        """(H, W) or (H, W, C)."""
        shape, count = (self.shape[1:], self.shape[0]) if _rows(self.shape) else (self.shape, 1)
        size = int(np.prod(shape)) * self.dtype.itemsize
        self._file.seek(self._offset + check_frame(frame, count) * size)
        return np.frombuffer(self._file.read(size), self.dtype).reshape(shape)


@lru_cache(maxsize=1)
def _member(archive: str, member: str, stamp: tuple[int, int, int]) -> _Member:
    return _Member(archive, member).load()
