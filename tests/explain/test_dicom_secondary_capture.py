"""Secondary captures are read back and held against PS3.3, A.8.1; what names a patient is in them only where that was requested."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian

from scotoma.explain import dicom_secondary_capture

SECRETS = {
    "PatientName": "Müller^Änne",
    "PatientID": "PIDQ7731",
    "PatientBirthDate": "19310417",
    "PatientSex": "F",
    "StudyInstanceUID": "1.2.826.0.1.777777.42",
    "StudyDate": "19870623",
    "StudyTime": "101112",
    "ReferringPhysicianName": "Qdoctor^Who",
    "StudyID": "STQ1",
    "AccessionNumber": "ACCQ9942",
    "InstitutionName": "Qhospital",
}
# (type 1: present with a value; type 2: present) of the mandatory modules: Patient, General Study, General Series, SC Equipment,
# General Image, Image Pixel, SC Image, SOP Common; and of General Equipment, which is given too
FIRST = (
    "StudyInstanceUID", "Modality", "SeriesInstanceUID", "ConversionType", "SamplesPerPixel", "PhotometricInterpretation",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "PixelData",
    "SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet",
)  # fmt: skip
SECOND = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID",
    "AccessionNumber", "SeriesNumber", "InstanceNumber", "PatientOrientation", "ContentDate", "ContentTime", "Manufacturer",
)  # fmt: skip
META = (
    "FileMetaInformationGroupLength", "FileMetaInformationVersion", "MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID",
    "TransferSyntaxUID", "ImplementationClassUID",
)  # fmt: skip


def draw_images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (5, 7, 3), dtype=np.uint8) for name in ("grad_cam", "occlusion")}  # 105 bytes: odd


@pytest.fixture
def source(tmp_path: Path, write_dicom: Callable[..., Path]) -> Path:
    return write_dicom(tmp_path / "in" / "a.dcm", np.zeros((4, 4), np.uint8), SpecificCharacterSet="ISO_IR 100", **SECRETS)


def read(paths: list[Path]) -> list[pydicom.Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a value that breaks its VR's rules
        found = [pydicom.dcmread(p) for p in paths]
        for ds in found:
            for element in ds.iterall():
                assert element.value is not None or element.is_empty
    return found


@pytest.mark.parametrize("keep", [False, True])
def test_a_capture_has_all_that_the_standard_asks_for_and_the_pixels(tmp_path: Path, source: Path, keep: bool) -> None:
    given = draw_images()
    paths = dicom_secondary_capture.write(tmp_path / "out", 12, given, "pneumonia: 0.93", "abc", str(source) if keep else None)
    assert [p.name for p in paths] == ["explain-12-grad_cam.dcm", "explain-12-occlusion.dcm"]
    found = read(paths)
    for ds, (method, pixels) in zip(found, given.items(), strict=True):
        assert [k for k in FIRST if k not in ds or ds[k].is_empty] == []
        assert [k for k in SECOND if k not in ds] == []
        assert [k for k in META if k not in ds.file_meta] == []
        assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert (ds.Modality, list(ds.ImageType)) == ("OT", ["DERIVED", "SECONDARY"])
        assert (ds.ConversionType, ds.ManufacturerModelName) == ("WSD", "Scotoma") and ds["PatientOrientation"].is_empty
        assert ds.SeriesDescription == f"{method}, not for diagnostic use"
        assert "pneumonia: 0.93" in ds.DerivationDescription and "not for diagnostic use" in ds.DerivationDescription
        np.testing.assert_array_equal(ds.pixel_array, pixels)
        assert len(ds.PixelData) == 106
        assert all(UID(ds[k].value).is_valid for k in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"))
    assert len({ds.SOPInstanceUID for ds in found}) == len({ds.SeriesInstanceUID for ds in found}) == 2
    assert len({ds.StudyInstanceUID for ds in found}) == 1
    assert [ds.SeriesNumber for ds in found] == [1, 2]


def test_without_the_source_nothing_but_the_pseudonym_says_whose_it_is(tmp_path: Path) -> None:
    paths = [p for row in (1, 2) for p in dicom_secondary_capture.write(tmp_path, row, draw_images(), "x: 0.5", "f00d")]
    found = read(paths)
    for ds in found:
        assert (str(ds.PatientName), ds.PatientID, ds.PatientIdentityRemoved) == ("f00d", "f00d", "YES")
        assert ds.DeidentificationMethod
        left = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
        assert all(ds[k].is_empty for k in left) and "SourceImageSequence" not in ds
    assert len({ds.StudyInstanceUID for ds in found}) == 2  # new ones, of each image
    again = read(dicom_secondary_capture.write(tmp_path, 1, draw_images(), "x: 0.5", "f00d"))
    assert not {ds.SOPInstanceUID for ds in again} & {ds.SOPInstanceUID for ds in found}


def test_with_the_source_its_patient_and_study_are_kept_and_nothing_else(tmp_path: Path, source: Path) -> None:
    for ds in read(dicom_secondary_capture.write(tmp_path, 1, draw_images(), "x: 0.5", "f00d", str(source))):
        kept = SECRETS.keys() - {"InstitutionName"}
        assert {k: str(ds[k].value) for k in kept} == {k: SECRETS[k] for k in kept}
        assert "InstitutionName" not in ds and "PatientIdentityRemoved" not in ds
        (reference,) = ds.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == pydicom.dcmread(source).SOPInstanceUID
        assert "ReferencedFrameNumber" not in reference


def test_a_frame_is_referred_to_by_its_number_and_an_empty_header_is_no_error(
    tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    many = write_dicom(tmp_path / "many.dcm", np.zeros((4, 4), np.uint8), NumberOfFrames=3)
    for ds in read(dicom_secondary_capture.write(tmp_path, 1, draw_images(), "x: 0.5", "f00d", str(many), 2)):
        assert ds.SourceImageSequence[0].ReferencedFrameNumber == 3
        assert ds["PatientID"].is_empty and ds["PatientName"].is_empty and UID(ds.StudyInstanceUID).is_valid


def test_what_breaks_a_rule_of_the_source_is_not_said_aloud(
    tmp_path: Path, write_dicom: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = write_dicom(tmp_path / "odd.dcm", np.zeros((4, 4), np.uint8), PatientBirthDate="SECRETDATE", PatientID="S" * 70)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dicom_secondary_capture.write(tmp_path, 1, draw_images(), "x: 0.5", "f00d", str(odd))
    assert not said and "SECRET" not in capfd.readouterr().err


def test_long_names_fit_their_elements(tmp_path: Path) -> None:
    (path,) = dicom_secondary_capture.write(tmp_path, 1, {"m" * 90: np.zeros((2, 2, 3), np.uint8)}, "y" * 2000, "f00d")
    (ds,) = read([path])
    assert len(ds.SeriesDescription) == 64 and ds.SeriesDescription.endswith(", not for diagnostic use")
    assert len(ds.DerivationDescription) == 1024
