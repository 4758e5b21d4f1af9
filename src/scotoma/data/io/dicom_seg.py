"""DICOM segmentations: the frames of a SEG object that lie on one frame of an image, by reference or by place (PS3.3 C.8.20)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from scotoma.data.io import dicom_elements
from scotoma.data.io.base import ImageError, check_frame, file_stamp
from scotoma.data.io.dicom import frame_count, load, read_stored_labels
from scotoma.data.io.dicom_headers import Getter, frame_getter, pair, pixel_sizes
from scotoma.data.io.geometry import OTHER_GRID, Geometry, look_up, plane_of

_NOBODYS = "the segmentation states neither its image's series nor its frame of reference: nobody knows whose it is"
_MILLIMETRES = 0.05  # by how much two positions may differ that are the same
_GEOMETRY = (
    *("Rows", "Columns", "NumberOfFrames", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SegmentationType"),
    "PatientID",
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
    *("ImagePositionPatient", "ImageOrientationPatient", "ReferencedSeriesSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


def geometry(path: str, frame: int | None) -> Geometry:
    """Where one frame of a DICOM file lies, the first where ``frame`` is None.

    Raises:
        ImageError: no such frame, or a header without a size.
    """
    return _geometry(_header(path, file_stamp(path)), frame or 0)


def is_segmentation(path: str) -> bool:
    """Whether a DICOM file holds segments."""
    return bool(_header(path, file_stamp(path)).get("SegmentationType"))


def read(path: str, image: Geometry) -> tuple[np.ndarray, str]:
    """The segments on one frame of an image: (H, W) int32 of the number of the segment, 0 where there is none, over stored pixels.

    Frames are found by the instance (and its frame) that they state as their only source, else by their plane. A segmentation of
    the image's series without a frame there is empty there. Of overlapping segments, the larger number counts.

    Returns:
        The labels and "" or what was taken for granted.

    Raises:
        ImageError: a segmentation of something else, on another grid, or of which nobody can say where its frames lie.
    """
    seg = _segmentation(path, file_stamp(path))
    if seg.places[0].patient and image.patient and seg.places[0].patient != image.patient:
        raise ImageError("the segmentation is of another patient than its image")
    parts = [labels for k in range(len(seg.places)) if (labels := seg.on(k, image)) is not None]
    if not parts:
        seg.require_empty(image)
        return np.zeros(image.size, np.int32), "without a frame for their image, and taken as empty there"
    count = np.sum([labels > 0 for labels in parts], axis=0)
    note = "with segments that overlap, of which the larger number counts" if (count > 1).any() else ""
    return np.maximum.reduce(parts), note


@dataclass(frozen=True)
class _Segmentation:
    ds: Any  # with pixels
    places: tuple[Geometry, ...]  # of its frames
    sources: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]  # of each frame: instances and, of each, its frames, from 1
    series: frozenset[str]
    instances: frozenset[str]

    def on(self, k: int, image: Geometry) -> np.ndarray | None:
        """(H, W) of frame k where it lies on the image, else None."""
        referred = self._refers(k, image)
        if referred is False or not (referred or self._same_series(image)):
            return None
        place = self.places[k]
        placed = _is_in_plane(place, image)
        if not placed:
            if referred and placed is False:
                raise ImageError("the segmentation's frame lies elsewhere than the image to which it refers")
            if not referred:
                return None
        if not (referred or self._known_series(image)):
            raise ImageError(_NOBODYS)
        labels = read_stored_labels(self.ds, k)
        if image.plane is not None and place.plane is not None:
            normal = np.cross(place.plane[:, 0], place.plane[:, 1])
            affine = np.eye(4)
            affine[:3] = np.column_stack([place.plane[:, :2], normal / np.linalg.norm(normal), place.plane[:, 2]])
            return look_up(image.plane, image.size, affine, labels[..., None])
        if place.size != image.size:
            raise ImageError(
                f"the segmentation has {place.size[1]} x {place.size[0]} pixels, its image {image.size[1]} x {image.size[0]}"
            )
        return labels

    def _refers(self, k: int, image: Geometry) -> bool | None:
        """Whether frame k states the image as its only source; None where it states none, several, or not which frame."""
        if len(self.sources[k]) != 1 or not image.instance:
            return None
        instance, frames = self.sources[k][0]
        if instance != image.instance:
            return False if self.instances and image.instance in self.instances else None
        if image.frames == 1:
            return True
        return frames == (image.frame + 1,) if len(frames) == 1 else None

    def _same_series(self, image: Geometry) -> bool:
        """False where the headers state that image and segmentation have nothing in common."""
        if self._known_series(image):
            return True
        return not (self.series and image.series) and not (self.places[0].reference and image.reference)

    def _known_series(self, image: Geometry) -> bool:
        """Whether the headers state that they belong together."""
        if image.instance and image.instance in self.instances:
            return True
        if self.series and image.series:
            return image.series in self.series
        return bool(image.reference) and image.reference == self.places[0].reference

    def require_empty(self, image: Geometry) -> None:
        """Whether it is a segmentation of the image's stack of slices, only without a frame at this one.

        Raises:
            ImageError: it is not, or nobody can tell.
        """
        if not self._same_series(image):
            raise ImageError("the segmentation refers to another series than its image's")
        apart = [_measure_distance(place, image) for place in self.places]
        known = [distance for distance in apart if distance is not None]
        if self.places[0].size != image.size:
            raise ImageError(OTHER_GRID)
        levels = np.unique(np.round(known, 3)) if known else np.array([])
        if len(levels) > 1 and np.abs(levels).min() < 0.45 * np.diff(levels).min():
            raise ImageError(OTHER_GRID)  # between its planes there is none of another stack
        stated = image.instance in self.instances or (image.frames == 1 and image.series and image.series in self.series)
        if not stated and not (known and len(known) == len(apart)):
            raise ImageError("the segmentation refers to no frame of this image, and the planes of its position are not stated")
        if not self._known_series(image):  # of whatever else has planes at such places
            raise ImageError(_NOBODYS)


def _is_in_plane(place: Geometry, image: Geometry) -> bool | None:
    """Whether two frames lie in one plane; None where one of them does not state where it lies."""
    if place.position is None or image.position is None:
        return None
    if place.plane is not None and image.plane is not None:
        normal = np.cross(image.plane[:, 1], image.plane[:, 0])
        normal /= np.linalg.norm(normal)
        other = np.cross(place.plane[:, 1], place.plane[:, 0])
        parallel = abs(float(other @ normal)) / float(np.linalg.norm(other)) > 1 - 1e-4
        return parallel and abs(float((place.position - image.position) @ normal)) < _MILLIMETRES
    if place.directions is None and image.directions is None:
        return bool(np.linalg.norm(place.position - image.position) < _MILLIMETRES)
    distance = _measure_distance(place, image)
    return distance is not None and abs(distance) < _MILLIMETRES


def _measure_distance(place: Geometry, image: Geometry) -> float | None:
    """How far along the image's normal a frame lies (mm) that is of the same stack of slices; None where it is of none."""
    directions = image.directions if image.directions is not None else place.directions
    if place.position is None or image.position is None or directions is None:
        return None
    if place.directions is not None and not np.allclose(place.directions, directions, atol=1e-3):
        return None
    normal, step = np.cross(directions[:3], directions[3:]), place.position - image.position
    along = float(step @ normal)
    return along if float(np.linalg.norm(step - along * normal)) < _MILLIMETRES else None


@lru_cache(maxsize=1)
def _segmentation(path: str, stamp: tuple[int, int, int]) -> _Segmentation:
    header, ds = _header(path, stamp), load(path)
    count = frame_count(ds)
    getters = [frame_getter(header, k) for k in range(count)]
    sources = tuple(
        tuple(
            (str(item.get("ReferencedSOPInstanceUID") or ""), _numbers(item.get("ReferencedFrameNumber")))
            for item in get("SourceImageSequence") or ()
        )
        for get in getters
    )
    stated = header.get("ReferencedSeriesSequence") or ()
    listed = {
        str(item.get("ReferencedSOPInstanceUID")) for series in stated for item in series.get("ReferencedInstanceSequence") or ()
    }
    return _Segmentation(
        ds,
        tuple(_geometry(header, k) for k in range(count)),
        sources,
        frozenset(str(series.get("SeriesInstanceUID")) for series in stated if series.get("SeriesInstanceUID")),
        frozenset(listed | {instance for frame in sources for instance, _ in frame if instance}),
    )


def _geometry(header: Any, frame: int) -> Geometry:
    frames = frame_count(header)
    check_frame(frame, frames)
    if header.get("Rows") is None or header.get("Columns") is None:
        raise ImageError("the header lacks Rows or Columns")
    get: Getter = frame_getter(header, frame)
    position, directions = (_vector(get(k), n) for k, n in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6)))
    apart = pair(get("PixelSpacing"))
    plane = None
    if position is not None and directions is not None and apart is not None and min(apart) > 0:
        plane = plane_of(position, directions, apart)
    return Geometry(
        (int(header.Rows), int(header.Columns)),
        frames,
        sizes=pixel_sizes(get),
        plane=plane,
        position=position,
        directions=directions,
        instance=str(header.get("SOPInstanceUID") or ""),
        series=str(header.get("SeriesInstanceUID") or ""),
        reference=str(header.get("FrameOfReferenceUID") or ""),
        patient=str(header.get("PatientID") or "").strip(),
        frame=frame,
    )


def _vector(value: Any, n: int) -> np.ndarray | None:
    return np.array([float(v) for v in value]) if value is not None and not isinstance(value, str) and len(value) == n else None


def _numbers(value: Any) -> tuple[int, ...]:
    if value is None or value == "":
        return ()
    return (int(value),) if isinstance(value, int | str | float) else tuple(int(v) for v in value)


@lru_cache(maxsize=2)  # of an image and of its mask
def _header(path: str, stamp: tuple[int, int, int]) -> Any:
    from pydicom.tag import Tag

    return dicom_elements.read(path, [Tag(keyword) for keyword in _GEOMETRY])
