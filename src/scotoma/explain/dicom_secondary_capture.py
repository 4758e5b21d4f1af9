"""Explanations as DICOM: overlays written as Secondary Capture images, which a picture archive can show beside the original.

The object is that of PS3.3, A.8.1 (Secondary Capture Image IOD), by highdicom: RGB, 8 bits, derived, of modality OT, with new
identifiers. Whose it is stays behind a keyed pseudonym unless the caller hands over the file the image came from.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scotoma import files
from scotoma.data.io import dicom_elements

if TYPE_CHECKING:
    from pydicom import Dataset

WARNING = "not for diagnostic use"
REMOVED = "Scotoma: keyed pseudonym, nothing else of the source"
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
FURTHER = ("IssuerOfPatientID", "StudyDescription")  # of patient and study; absent where the source has none
SOURCE = ("SOPClassUID", "SOPInstanceUID", "NumberOfFrames")


def write(folder: Path, row: int, overlays: dict[str, np.ndarray], said: str, patient: str,
          source: str | None = None, frame: int | None = None) -> list[Path]:  # fmt: skip
    """Write the overlays of one image: a study of its own (with ``source``: the source's), a series for each method.

    Args:
        folder: where ``explain-ROW-METHOD.dcm`` are written.
        row: the image's row id.
        overlays: name of the method -> (H, W, 3) uint8.
        said: what the classifier predicts for the image.
        patient: the patient's pseudonym, which stands for name and ID.
        source: the DICOM file of the image, whose patient and study are to be kept; None for the pseudonym.
        frame: of the source, from 0; None for a file of one.
    """
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    identity = _pseudonymous(patient) if source is None else _identity(source, frame)
    if "StudyInstanceUID" not in identity:
        identity.StudyInstanceUID = generate_uid()
    paths = []
    for number, (method, pixels) in enumerate(overlays.items(), 1):
        paths.append(folder / f"explain-{row}-{method}.dcm")
        with warnings.catch_warnings():  # pydicom quotes values of the source that break a rule
            warnings.simplefilter("ignore")
            with files.replacing(paths[-1]) as temporary:
                _capture(identity, method, number, pixels, said).save_as(temporary, enforce_file_format=True)
    return paths


def _capture(identity: Dataset, method: str, number: int, pixels: np.ndarray, said: str) -> Dataset:
    """One Secondary Capture image."""
    from highdicom.sc import SCImage
    from pydicom.uid import generate_uid

    found: Dataset = SCImage(
        np.ascontiguousarray(pixels, np.uint8),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=identity.StudyInstanceUID,
        series_instance_uid=generate_uid(),
        series_number=number,
        series_description=f"{method[: 62 - len(WARNING)]}, {WARNING}",  # LO: 64 characters
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="",
        manufacturer_model_name="Scotoma",
        specific_character_set="ISO_IR 192",
    )
    found.update(identity)  # as the source has it: SCImage refuses what breaks a rule
    found.PatientOrientation = ""  # unknown, which SCImage does not take
    found.ConversionType, found.ImageType = "WSD", ["DERIVED", "SECONDARY"]
    found.DerivationDescription = f"{method} of a classifier laid over the image, {WARNING}. {said}"[:1024]  # ST
    return found


def _pseudonymous(patient: str) -> Dataset:
    """The modules Patient and General Study without anything of the source; what must be there is empty."""
    from pydicom import Dataset

    found = Dataset()
    for keyword in (*PATIENT, *STUDY[1:]):
        setattr(found, keyword, "")
    found.PatientName = found.PatientID = patient
    found.PatientIdentityRemoved, found.DeidentificationMethod = "YES", REMOVED
    return found


def _identity(source: str, frame: int | None) -> Dataset:
    """Patient and study of a DICOM file, and a reference to it."""
    from pydicom import Dataset

    tags = ["SpecificCharacterSet", *PATIENT, *STUDY, *FURTHER, *SOURCE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dicom_elements.read(source, tags)
        found = Dataset()
        for keyword in (*PATIENT, *STUDY[1:]):
            setattr(found, keyword, str(ds.get(keyword) or ""))
        for keyword in (STUDY[0], *FURTHER):
            if ds.get(keyword):
                setattr(found, keyword, str(ds.get(keyword)))
        if ds.get("SOPClassUID") and ds.get("SOPInstanceUID"):
            reference = Dataset()
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
            if int(ds.get("NumberOfFrames") or 1) > 1:
                reference.ReferencedFrameNumber = (frame or 0) + 1
            found.SourceImageSequence = [reference]  # General Reference C.12.4
    return found
