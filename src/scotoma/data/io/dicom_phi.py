"""Which identifying elements of a file's header are filled. Of their values only that they say something is kept."""

from __future__ import annotations

from typing import Any

from PIL import Image

from scotoma import files, processes
from scotoma.data.io import dicom_elements
from scotoma.data.io.base import FRAGMENT

NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "DeviceSerialNumber")
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
PLACES = ("PatientAddress", "PatientTelephoneNumbers", "InstitutionName", "InstitutionAddress", "StationName")
PEOPLE = ("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy")
ELEMENTS = (*NAMES, *NUMBERS, *DATES, *PLACES, *PEOPLE)  # of the basic confidentiality profile, PS3.15 table E.1-1
# Exif 2.32, section 4.6; the XP ones are Windows'.
EXIF = {0x010E: "ImageDescription", 0x013B: "Artist", 0x9C9B: "XPTitle", 0x9C9C: "XPComment", 0x9C9D: "XPAuthor"}
CAMERA = {0x9003: "DateTimeOriginal", 0x9286: "UserComment", 0xA430: "CameraOwnerName", 0xA431: "BodySerialNumber"}
CAMERA_IFD, GPS_IFD = 0x8769, 0x8825
PNG_TEXT = ("title", "author", "description", "comment", "creation time", "source")  # PNG, section 11.3.3.1, but for the harmless
NIFTI = "db_name"  # where programs that write NIfTI and Analyze put the patient
SECONDS = 60  # for one file
_EMPTY = ("", "none", "unknown", "removed", "anonymous", "anonymized", "anonymised", "anon", "deidentified", "de-identified", "xxx")


def find_filled(path: str) -> list[str] | None:
    """Names of the identifying elements that say something; None where the file has no header that can be read.

    DICOM elements; Exif fields, places and PNG texts; NIfTI's name in a data base.
    """
    plain = FRAGMENT.sub(r"\1", path)
    try:
        if plain.lower().endswith(".npz") or files.unfit(plain):
            return None
    except OSError:
        return None
    try:
        with processes.in_time(SECONDS):
            if plain.lower().endswith((".nii", ".nii.gz")):
                return _nifti(plain)
            try:
                with Image.open(plain) as image:
                    return _raster(image)
            except Exception:  # no image of Pillow's: a DICOM file, if any
                return _dicom(plain)
    except TimeoutError:
        return None


def _dicom(path: str) -> list[str] | None:
    wanted: list[Any] = [*ELEMENTS, "SOPClassUID"]
    try:
        header = dicom_elements.read(path, wanted)
        if "SOPClassUID" not in header:
            return None
        return [name for name in ELEMENTS if name in header and _is_filled(header[name].value)]
    except Exception:  # pydicom raises anything over a broken header, which reading the image reports
        return None


def _raster(image: Image.Image) -> list[str]:
    exif = image.getexif()
    camera = exif.get_ifd(CAMERA_IFD)
    found = [name for tag, name in EXIF.items() if _is_filled(exif.get(tag))]
    found += [name for tag, name in CAMERA.items() if _is_filled(camera.get(tag))]
    if exif.get_ifd(GPS_IFD):
        found.append("GPS position")
    texts = getattr(image, "text", None) or {}
    return found + [f"PNG text {key}" for key, value in texts.items() if key.lower() in PNG_TEXT and _is_filled(value)]


def _nifti(path: str) -> list[str] | None:
    import nibabel

    try:
        header: Any = nibabel.load(path).header
        return [NIFTI] if NIFTI in header and _is_filled(bytes(header[NIFTI].tobytes()).rstrip(b"\0").decode("latin-1")) else []
    except Exception:  # as above
        return None


def _is_filled(value: object) -> bool:
    """Whether a value is more than a blank: no word for "removed", no zeros."""
    if isinstance(value, bytes):
        value = value.decode("utf-16-le" if value[1:2] == b"\0" else "latin-1", "replace")
    text = "" if value is None else str(value).replace("\0", "").strip().lower().replace("^", " ").strip()
    return text not in _EMPTY and text.strip("0x-*.: ") != ""
