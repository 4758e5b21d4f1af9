"""Which identifying elements of a DICOM file are filled. Of their values only that they say something is kept."""

from __future__ import annotations

from typing import Any

NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "DeviceSerialNumber")
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
PLACES = ("PatientAddress", "PatientTelephoneNumbers", "InstitutionName", "InstitutionAddress", "StationName")
PEOPLE = ("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy")
ELEMENTS = (*NAMES, *NUMBERS, *DATES, *PLACES, *PEOPLE)  # of the basic confidentiality profile, PS3.15 table E.1-1
_EMPTY = ("", "none", "unknown", "removed", "anonymous", "anonymized", "anonymised", "anon", "deidentified", "de-identified", "xxx")


def filled(path: str) -> list[str] | None:
    """Keywords of the identifying elements that say something; None where the file is no DICOM file that can be read."""
    from pydicom import dcmread

    wanted: list[Any] = [*ELEMENTS, "SOPClassUID"]
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=wanted, force=True)
        if "SOPClassUID" not in header:
            return None
        return [name for name in ELEMENTS if name in header and _says(header[name].value)]
    except Exception:  # pydicom raises anything over a broken header, which reading the picture reports
        return None


def _says(value: object) -> bool:
    """Whether a value is more than a blank: no word for "removed", no zeros."""
    text = "" if value is None else str(value).strip().lower().replace("^", " ").strip()
    return text not in _EMPTY and text.strip("0x-*.: ") != ""
