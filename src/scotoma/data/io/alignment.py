"""Masks over their images: the labels of a map pixel by pixel over what :func:`scotoma.data.io.read.read` shows of the image.

A mask that states where it lies (NIfTI, DICOM) is laid by that over an image that states it; another by its size: of the image's
stored size it is turned and stretched as the image is. What does not fit is an error of one line, and nothing is resampled.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from scotoma.data.io import dicom, dicom_seg, raster, volumes
from scotoma.data.io import read as images
from scotoma.data.io.base import ImageError
from scotoma.data.io.geometry import Geometry, lay_flat

LEAST_TOP = 200  # of 255: the highest value of a mask of 0 and 255 whose edges are smoothed
THRESHOLDED = "of grey levels between 0 and 255, as smoothed edges have, and cut at 128"
RIMS = "with one or two values at edges alone, which may be smoothed edges: cut the masks at 128 if they are"


def read(path: str, frame: int | None, image: str | None) -> tuple[np.ndarray, str]:
    """The labels of a mask over its image.

    Args:
        path: of the mask, as :func:`scotoma.data.io.read.read_labels` takes it; several are united.
        frame: of the image, and of the mask where its frames are counted as the image's are.
        image: the path of the image; None where it is not known, and the labels are as :func:`scotoma.data.io.read.read_labels` has
            them.

    Returns:
        (H, W) int32 from 0, and notes: what was done or taken for granted, apart by ``; `` ("" for nothing).

    Raises:
        ImageError: the mask cannot be read, or does not lie on its image.
    """
    if image is None:
        return images.read_labels(path, frame), ""
    first, *others = path.split("|")
    paths = [first, *(str(Path(first).with_name(name)) for name in others)]
    with images.one_line(image):
        geometry = _geometry(image, frame)
    parts, notes = [], []
    for one in paths:
        with images.one_line(one):
            labels, note = _over(one, frame, image, geometry)
        parts.append(labels)
        notes += [text for text in note.split("; ") if text and text not in notes]
    if len({part.shape for part in parts}) > 1:
        raise ImageError(f"{Path(first).name}: the masks of one image differ in size")
    return np.maximum.reduce(parts), "; ".join(notes)


def remove_names(error: str, *paths: str | None) -> str:
    """A message about files without their names, which are often accession numbers."""
    for path in paths:
        for name in (Path(part).name for part in (path or "").split("|") if part):
            error = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.])", "the file", error.removeprefix(f"{name}: "))
    return error


def harden(labels: np.ndarray) -> tuple[np.ndarray, str]:
    """A mask of 0 and 255 with smoothed edges, cut at 128; whatever else it may be stays as it is.

    Its values between 0 and the highest are at least three (fewer may be a class around another), none fills 3 x 3 pixels, and
    nine tenths of them have both a lower and a higher neighbour. A class of its own has an inside, or lies beside nothing higher.

    Returns:
        The labels, and ``THRESHOLDED`` where they were cut, ``RIMS`` where fewer values look so, or "".
    """
    top = int(labels.max(initial=0))
    between = (labels > 0) & (labels < top)
    if not LEAST_TOP <= top <= 255 or labels.min() < 0 or not between.any():
        return labels, ""
    image = Image.fromarray(labels.astype(np.uint8))
    low, high = (np.asarray(image.filter(f(3)), np.int32) for f in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
    ramp = (low < labels) & (labels < high) & between
    if (between & (low == high)).any() or ramp.sum() < 0.9 * between.sum():
        return labels, ""
    if len(np.unique(labels[between])) < 3:
        return labels, RIMS
    return np.where(labels >= 128, 255, 0).astype(np.int32), THRESHOLDED


def _geometry(path: str, frame: int | None) -> Geometry | None:
    """Of one frame of an image; None of phantoms."""
    images.require_file(path)
    kind = images.kind_of(path)
    if kind == images.DICOM:
        return dicom_seg.geometry(path, frame)
    if kind == images.NIFTI:
        return volumes.nifti_geometry(path, frame)
    if kind == images.NPZ:
        return Geometry(volumes.npz_size(path), volumes.npz_rows(path))
    return raster.geometry(path, frame) if kind == images.RASTER else None


def _over(path: str, frame: int | None, image: str, geometry: Geometry | None) -> tuple[np.ndarray, str]:
    kind = images.kind_of(path)
    if geometry is None:
        return images.read_labels(path, frame), ""
    if kind == images.NIFTI:
        if geometry.plane is None:
            raise ImageError("a NIfTI mask states where it lies, and its image does not: save the mask in the image's format")
        return geometry.upright(volumes.nifti_on(path, geometry)), ""
    if kind == images.DICOM and dicom_seg.is_segmentation(path):
        if not geometry.instance and geometry.position is None:
            raise ImageError("a DICOM segmentation refers to DICOM images, and its image is none")
        labels, note = dicom_seg.read(path, geometry)
        return geometry.upright(labels), note
    if images.kind_of(image) == images.NIFTI:
        raise ImageError("its image is a volume in the patient, and the mask does not state where it lies: save it as NIfTI")
    own = _geometry(path, frame)
    if own is None:
        return images.read_labels(path, frame), ""
    if own.frames is not None and geometry.frames is not None and own.frames != geometry.frames:
        raise ImageError(f"the mask holds {own.frames} frames and its image {geometry.frames}: which belongs to which is unknown")
    if own.plane is not None and geometry.plane is not None and not np.allclose(own.plane, geometry.plane, atol=0.05):
        raise ImageError("the mask lies elsewhere in the patient than its image")
    if kind == images.DICOM:
        return lay_flat(dicom.read_stored_labels(dicom.load(path), own.frame), own, geometry)
    labels = volumes.read_npz_labels(path, frame) if kind == images.NPZ else raster.read_labels(path, frame)
    cut = ""
    if kind == images.RASTER and not raster.is_palette(path):
        labels, cut = harden(labels)
    laid, note = lay_flat(labels, own, geometry)
    return laid, "; ".join(text for text in (note, cut) if text)
