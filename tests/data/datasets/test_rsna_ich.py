from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from lookalike import column, text, under
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from scotoma.data.datasets import rsna_ich
from scotoma.errors import UsageError

FINDINGS = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
SLICES = {"ID_12cadc6af": (0, 0, 0, 0, 0, 0), "ID_38fd7baa0": (0, 0, 1, 1, 0, 1), "ID_6c5d82413": (1, 0, 0, 0, 0, 1)}


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
    return [f"{name}_{finding},{y}" for name, labels in slices.items() for finding, y in zip(FINDINGS, labels, strict=True)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = table_rows(SLICES)
    text(tmp_path / "stage_2_train.csv", "ID,Label", *rows, *rows[6:12])  # a few slices are listed twice
    for k, name in enumerate(SLICES):
        level = np.full((16, 16), 40)
        level[:8] = (0, 80, 180)[k]
        ct_slice(tmp_path / "stage_2_train" / f"{name}.dcm", f"ID_p{k // 2}", f"ID_s{k}", level)
    return tmp_path


def test_six_rows_become_one(root: Path) -> None:
    found = rsna_ich.load(root)
    assert under(found, root) == [f"stage_2_train/{name}.dcm" for name in SLICES]
    for k, finding in enumerate(FINDINGS):
        assert column(found, finding) == [labels[k] for labels in SLICES.values()], finding
    assert "slice" not in found.table
    assert found.display.windows == ((40, 80), (80, 200), (400, 1800))


def test_a_finding_that_is_not_listed_is_missing(root: Path) -> None:
    path = root / "stage_2_train.csv"
    path.write_text(path.read_text().replace("ID_12cadc6af_subdural,0\n", ""))
    assert column(rsna_ich.load(root), "subdural") == [None, 0, 0]


@pytest.mark.parametrize(("row", "said"), [("ID_12cadc6af_subdural,1", "both 0 and 1"), ("ID_12cadc6af_stroke,1", "no finding")])
def test_another_table_is_refused(root: Path, row: str, said: str) -> None:
    with (root / "stage_2_train.csv").open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(UsageError, match=said):
        rsna_ich.load(root)
