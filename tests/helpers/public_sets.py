"""Files as two public data sets have them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,"
    "Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{FINDINGS}"
HEMORRHAGES = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")


def ct_slice(path: Path, patient: str, study: str, hounsfield: np.ndarray) -> None:
    """A head CT slice as the challenge has it: 16 bits signed, rescaled by -1024, with the identifiers it made up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = pydicom.Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as UIDs go, the challenge's are none
        ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.StudyID = patient, study, study, ""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-125, -141, 62], [1, 0, 0, 0, 1, 0]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
    ds.Rows, ds.Columns = hounsfield.shape
    ds.PixelSpacing = [0.488281, 0.488281]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.WindowCenter, ds.WindowWidth, ds.RescaleIntercept, ds.RescaleSlope = "30", "80", "-1024", "1"
    ds.PixelData = (hounsfield + 1024).astype("<i2").tobytes()
    ds.save_as(path, enforce_file_format=True)


def table_rows(slices: dict[str, tuple[int, ...]]) -> list[str]:
    return [f"{name}_{finding},{y}" for name, labels in slices.items() for finding, y in zip(HEMORRHAGES, labels, strict=True)]
