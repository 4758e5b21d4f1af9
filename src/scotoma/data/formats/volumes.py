"""Arrays with pictures in them: the axial slices of a NIfTI volume, the rows of an npz member."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from typing import Any

import numpy as np

from scotoma.data.formats.base import (
    ImageError,
    Picture,
    black_and_white,
    check_frame,
    check_size,
    display,
    file_stamp,
    picture_facts,
    square_pixels,
    stretch,
)

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NPZ_SUFFIXES = (".npz",)
MAX_VOXELS = 2**29  # of one NIfTI volume; a chest CT of 512 x 512 x 700 has 2**27.5
MAX_CACHED = 2**28  # bytes of an npz member that is decoded whole; a larger one is read row by row


def read_nifti(path: str, frame: int | None) -> Picture:
    """One axial slice of the first volume, the middle one where ``frame`` is None.

    Raises:
        ImageError: no such slice, too many or unusable voxels, a degenerate orientation. Other exceptions come from
            nibabel.
    """
    values, levels, sizes, bits = _volume(path, file_stamp(path))
    slices = values.shape[2]
    chosen = values[:, :, slices // 2 if frame is None else check_frame(frame, slices)]
    # x grows to the patient's right, y to the front. Radiologists look from the feet: patient's right on the left.
    pixels = np.ascontiguousarray(stretch(chosen.T[::-1, ::-1], *levels))
    facts = picture_facts("NIfTI", pixels, bits) | {"slices": slices}
    if sizes[1] > 0:
        facts["spacing_mm"] = float(sizes[1])
    return Picture(square_pixels(pixels, float(sizes[1]), float(sizes[0])), facts)


def nifti_slices(path: str) -> int:
    """How many axial slices the header states."""
    return _nifti_header(path)[1][2]


def read_npz(path: str, frame: int | None) -> Picture:
    """One row of ``file.npz#member``, the first where ``frame`` is None.

    Raises:
        ImageError: no such member or row, or an array that holds no pictures. Other exceptions come from zipfile.
    """
    archive, name = _member_name(path)
    member = _member(archive, name, file_stamp(archive))
    values = member.picture(frame or 0)
    if values.ndim == 3 and values.shape[-1] not in (1, 3):
        raise ImageError(f"{name} has {values.shape[-1]} channels, neither 1 nor 3")
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    pixels = display(values.astype(values.dtype.newbyteorder("="), copy=False))
    return Picture(pixels, picture_facts("NPZ", pixels, 8 * member.dtype.itemsize))


def npz_rows(path: str) -> int:
    """How many pictures ``file.npz#member`` holds, by its header."""
    shape = _Member(*_member_name(path)).shape
    return shape[0] if _rows(shape) else 1


def _nifti_header(path: str) -> tuple[Any, tuple[int, int, int]]:
    """The image, unread, and the shape of its first volume in RAS order."""
    import nibabel

    image: Any = nibabel.load(path)
    shape = (*image.shape[:3], 1, 1)[:3]
    check_size(int(np.prod(shape, dtype=object)), MAX_VOXELS)
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
    check_size(shape[0] * shape[1])
    extra = len(image.shape) - 3
    values = np.asanyarray(image.dataobj[(..., *([0] * extra))] if extra > 0 else image.dataobj)
    values = values.reshape((*values.shape, 1, 1)[:3])
    if values.dtype == np.float64:  # of a scaled volume; half the memory
        values = values.astype(np.float32)
    orientation = nibabel.io_orientation(image.affine)
    sizes = np.ones(3)
    sizes[orientation[:, 0].astype(int)] = np.abs((*image.header.get_zooms()[:3], 1.0, 1.0)[:3])
    bits = 8 * image.get_data_dtype().itemsize
    return nibabel.apply_orientation(values, orientation), black_and_white(values), sizes, bits


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
        check_size(count // self.shape[0] if _rows(self.shape) and self.shape[0] else count)
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
        self._file.seek(self._offset + check_frame(frame, count) * size)
        return np.frombuffer(self._file.read(size), self.dtype).reshape(shape)


@lru_cache(maxsize=1)
def _member(archive: str, member: str, stamp: tuple[int, int, int]) -> _Member:
    return _Member(archive, member).load()
