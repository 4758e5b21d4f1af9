"""How a file's stored pixels become an image, and where they lie in the patient: what a mask is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from scotoma.data.io.base import ImageError, square_pixels

TOLERANCE = 0.1  # of a voxel: by how much two grids may differ that are the same but for the rounding of their headers


@dataclass(frozen=True)
class Geometry:
    """One frame of a file.

    Attributes:
        size: (height, width) of the pixels as they are stored.
        frames: how many the file holds; None where that is not known.
        orientation: EXIF's, 1 to 8: how the stored pixels are turned to be upright.
        sizes: (height, width) of a pixel; where these differ, the image is stretched until they do not.
        plane: (3, 3) in mm: the steps from one row to the next and from one column to the next, and the centre of the first
            pixel, as columns, in DICOM's axes (to the patient's left, back and head); None where not stated.
        position: (3,) mm, the centre of the first pixel, which a file may state without the rest.
        directions: (6,) DICOM's Image Orientation.
        instance: DICOM's SOP Instance UID.
        series: DICOM's Series Instance UID.
        reference: DICOM's Frame of Reference UID.
        patient: DICOM's Patient ID, to be compared and kept nowhere.
        frame: the frame's number in its file, from 0.
    """

    size: tuple[int, int]
    frames: int | None = 1
    orientation: int = 1
    sizes: tuple[float, float] | None = None
    plane: np.ndarray | None = None
    position: np.ndarray | None = None
    directions: np.ndarray | None = None
    instance: str = ""
    series: str = ""
    reference: str = ""
    patient: str = ""
    frame: int = 0

    def upright(self, labels: np.ndarray) -> np.ndarray:
        """Labels of the stored pixels -> labels of the image: turned and stretched as these are."""
        turned = turn(labels, self.orientation)
        return square_pixels(turned, *self.sizes) if self.sizes else turned

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return cast(tuple[int, int], self.upright(np.zeros(self.size, np.int32)).shape)


def turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Stored values -> upright ones, by EXIF's orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(values, flips) if flips else values


def plane_of(position: np.ndarray, directions: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """DICOM's Image Position, Image Orientation and Pixel Spacing -> ``Geometry.plane`` (PS3.3 C.7.6.2.1.1)."""
    return np.stack([directions[3:] * spacing[0], directions[:3] * spacing[1], position], axis=1)


def has_same_aspect(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes are one image's but for scale: their sides' ratios differ by no more than a pixel of the coarser."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)


def lay_flat(labels: np.ndarray, own: Geometry, image: Geometry) -> tuple[np.ndarray, str]:
    """Labels of a format that does not state where they lie, over their image, by size alone.

    Labels of the image's stored size are turned and stretched as the image is. Labels of the size that the image has then are taken
    as they are; so are others of one of the two shapes, at another scale.

    Args:
        labels: as stored; upright where ``own`` states how they were turned.
        own: of the labels.
        image: of their image.

    Returns:
        The labels and "" or what was done to them that another might not have done.

    Raises:
        ImageError: another shape than the image's, or one that states nothing of how the image was turned.
    """
    size, shown = (int(labels.shape[0]), int(labels.shape[1])), image.shown
    note = "turned upright with their images, by the images' EXIF orientation" if image.orientation != 1 else ""
    if own.orientation != 1:  # they say themselves what is up
        upright = Geometry(cast(tuple[int, int], turn(np.empty(image.size), image.orientation).shape), sizes=image.sizes)
        return lay_flat(labels, Geometry(size), upright)
    if size == image.size:
        return image.upright(labels), note
    if size == shown:
        return labels, ""
    as_stored, as_shown = has_same_aspect(size, image.size), has_same_aspect(size, shown)
    if as_stored and as_shown and image.orientation != 1:
        raise ImageError(
            "EXIF turns its image, and the mask's size does not show whether it is turned: save it in the image's size"
        )
    if as_stored:
        return image.upright(labels), note
    if as_shown:
        return labels, ""
    stretched = square_pixels(labels, *own.sizes) if own.sizes else labels
    if has_same_aspect(stretched.shape, shown):
        return stretched, ""
    raise ImageError(
        f"the mask has {size[1]} x {size[0]} pixels and its image {image.size[1]} x {image.size[0]}: another shape, so that nobody "
        "knows where it lies"
    )


def look_up(plane: np.ndarray, size: tuple[int, int], affine: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of a grid at the pixels of a plane, which must be pixels of the grid too: nothing is interpolated.

    Args:
        plane: as ``Geometry.plane``.
        size: (height, width) of the plane.
        affine: (4, 4) from an index of the grid to mm, in the plane's axes.
        values: (I, J, K).

    Returns:
        (height, width).

    Raises:
        ImageError: the plane's pixels are none of the grid's.
    """
    steps = np.linalg.solve(affine[:3, :3], plane - np.outer(affine[:3, 3], (0, 0, 1)))  # of a row, of a column, the first pixel
    near = np.rint(steps)
    extents = np.array([max(1, n - 1) for n in size] + [1])
    if (np.abs(steps - near) * extents > TOLERANCE).any():
        raise ImageError(OTHER_GRID)
    rows, columns, origin = near.astype(int).T
    if np.abs(rows).sum() != 1 or np.abs(columns).sum() != 1 or (rows * columns).any():
        raise ImageError(OTHER_GRID)
    last = origin + rows * (size[0] - 1) + columns * (size[1] - 1)
    if (np.minimum(origin, last) < 0).any() or (np.maximum(origin, last) >= values.shape).any():
        raise ImageError("the mask does not cover its image: it lies elsewhere in the patient")
    across = tuple(values.shape[int(np.flatnonzero(step)[0])] for step in (rows, columns))
    if across != size:
        raise ImageError(OTHER_GRID)
    at = origin + np.arange(size[0])[:, None, None] * rows + np.arange(size[1])[None, :, None] * columns
    found: np.ndarray = values[at[..., 0], at[..., 1], at[..., 2]]
    return found


OTHER_GRID = "the mask lies on another grid than its image: resample it onto the image's with a tool of your choice"
