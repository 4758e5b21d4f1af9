"""What a DICOM header states of one frame, as plain facts; nothing else of it leaves this module."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

Getter = Callable[[str], Any]
# Of CID 4014 and CID 4010, in the words of View Position.
VIEWS = {
    "cranio-caudal": "CC",
    "medio-lateral oblique": "MLO",
    "medio-lateral": "ML",
    "latero-medial": "LM",
    "exaggerated cranio-caudal": "XCC",
    "postero-anterior": "PA",
    "antero-posterior": "AP",
    "left lateral": "LL",
    "right lateral": "RL",
    "lateral": "LATERAL",
}


def age_in_years(text: str) -> float | None:
    """Years of a DICOM age string (``058Y``, ``006M``, ``003W``, ``010D``); a bare number counts as years.

    ``None`` for anything else, and for ``000Y``, which stands for "removed" in anonymised files (newborns are given in
    days).
    """
    found = re.fullmatch(r"\s*(\d{1,3})\s*([YMWD]?)\s*", text.upper())
    if found is None:
        return None
    years = int(found[1]) / {"Y": 1.0, "": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}[found[2]]
    return None if years == 0 and found[2] in ("Y", "") else years


def frame_getter(ds: Any, index: int) -> Getter:
    """Look an element up in the functional groups of this frame, those of all frames, and the data set itself."""
    sources = []
    for keyword, item in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = ds.get(keyword) or []
        if item < len(groups):
            sources += [element.value[0] for element in groups[item] if element.VR == "SQ" and element.value]
    sources.append(ds)
    return lambda keyword: next((value for s in sources if keyword in s and (value := _value(s, keyword)) is not None), None)


def _value(ds: Any, keyword: str) -> Any:
    """An element's value, None for an empty one; numbers written with a decimal comma (``40,5``), which pydicom leaves, too."""
    try:
        element = ds[keyword]
        if element.is_empty or element.VR not in ("DS", "IS"):
            return None if element.is_empty else element.value
        parts = [element.value] if isinstance(element.value, str) or not hasattr(element.value, "__iter__") else element.value
    except ValueError:  # pydicom refuses the element
        raw = ds.get_item(keyword).value
        parts = (raw.decode("ascii", "replace") if isinstance(raw, bytes) else str(raw)).split("\\")
    numbers = [_number(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers


def _number(value: Any) -> float:
    """A number, or the text of one; a comma is a decimal one where there is no point."""
    text = value.strip(" \0") if isinstance(value, str) else ""
    return float(text.replace(",", ".", 1) if "." not in text else text) if text else float(value)


def pixel_sizes(get: Getter) -> tuple[float, float] | None:
    """Height and width of a pixel, in mm or in any unit; None where the header states neither."""
    return pair(get("PixelAspectRatio") or spacing(get))


def spacing(get: Getter) -> Any:
    """Between rows and columns, mm: of the patient, else of the detector or the scanned film."""
    return get("PixelSpacing") or get("ImagerPixelSpacing") or get("NominalScannedPixelSpacing")


def pair(value: Any) -> tuple[float, float] | None:
    """Two numbers of a multi-valued element; None if there are fewer."""
    if value is None or isinstance(value, str | float) or len(value) < 2:
        return None
    return float(value[0]), float(value[1])


def first(value: Any) -> float | None:
    """The first number of an element that may hold several alternatives."""
    if value is None or isinstance(value, str | float | int):
        return None if value is None else float(value)
    return float(value[0]) if len(value) else None


def header_facts(ds: Any, get: Getter) -> dict[str, object]:
    """The facts of :class:`scotoma.data.io.base.Decoded` that a DICOM header states."""
    text = {
        "modality": ds.get("Modality"),
        "photometric": ds.get("PhotometricInterpretation"),
        "vendor": ds.get("Manufacturer"),
        "model": ds.get("ManufacturerModelName"),
        "view": ds.get("ViewPosition") or _view_code(ds),
        "laterality": ds.get("ImageLaterality") or get("FrameLaterality") or ds.get("Laterality"),
        "sex": ds.get("PatientSex"),
        "transfer_syntax": ds.file_meta.TransferSyntaxUID.name,
        "patient_id": ds.get("PatientID"),
        "study_uid": ds.get("StudyInstanceUID"),
        "series_uid": ds.get("SeriesInstanceUID"),
    }
    facts: dict[str, object] = {key: str(value).strip() for key, value in text.items() if value and str(value).strip()}
    sizes = pair(spacing(get))
    age = age_in_years(str(ds.get("PatientAge") or ""))
    numbers = {
        "spacing_mm": sizes[0] if sizes and sizes[0] > 0 else None,
        "age": age,
        "instance": first(ds.get("InstanceNumber")),
        "slice_position": slice_position(get("ImagePositionPatient"), get("ImageOrientationPatient")),
    }
    return facts | {key: value for key, value in numbers.items() if value is not None}


def slice_position(position: Any, orientation: Any) -> float | None:
    """How far along its normal (mm) a slice lies: what orders the slices of a series (PS3.3 C.7.6.2.1.1); None where not stated."""
    if position is None or orientation is None or len(position) != 3 or len(orientation) != 6:
        return None
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    return round(float(np.dot(np.cross(row, column), np.array(position, float))), 4)


def _view_code(ds: Any) -> str | None:
    """The view of a mammogram or a digital radiograph that states a code alone; None for a meaning that is not listed."""
    sequence = ds.get("ViewCodeSequence")
    meaning = str(sequence[0].get("CodeMeaning") or "").strip().lower() if sequence else ""
    return VIEWS.get(meaning)
