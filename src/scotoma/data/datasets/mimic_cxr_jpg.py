"""MIMIC-CXR-JPG 2: 377,110 chest X-rays of 65,379 patients, 14 findings read from the reports by CheXpert's labeller.

A finding is 1, 0 or -1 (uncertain) where a report speaks of it and blank where it does not. Blank stays missing: that a report
is silent on a finding does not state that it is absent. ``blank=0`` takes silence for absence. The published split keeps patients
apart.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.data.datasets.base import Blank, Unknown

SOURCE = "PhysioNet, https://physionet.org/content/mimic-cxr-jpg/ (credentialed access, training course)"
TERMS = "PhysioNet Credentialed Health Data License and use agreement: research; no redistribution, no attempt to identify anyone"
LAYOUT = """mimic-cxr-2.0.0-metadata.csv[.gz]
mimic-cxr-2.0.0-chexpert.csv[.gz]
mimic-cxr-2.0.0-split.csv[.gz]
files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg"""
FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
            "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax",
            "Support Devices")  # fmt: skip


def load(root: Path, uncertain: Unknown = "missing", blank: Blank = "missing") -> Dataset:
    """Load the images with their findings, view and split.

    Args:
        root: the folder that holds ``files``.
        uncertain: what -1 counts as.
        blank: what a finding that the report does not mention counts as. A study without labels stays without.

    Raises:
        UsageError: a table, a column or every image is absent.
    """
    tables = {kind: base.find(root, LAYOUT, f"mimic-cxr-2.0.0-{kind}.csv") for kind in ("metadata", "chexpert", "split")}
    images = base.read(tables["metadata"], ("dicom_id", "subject_id", "study_id", "ViewPosition"))
    labels = base.read(tables["chexpert"], ("study_id", *FINDINGS))
    labels = labels[["study_id"]].join(base.findings(labels, FINDINGS, uncertain, blank))
    split = base.read(tables["split"], ("dicom_id", "split"))
    frame = images.merge(split, on="dicom_id", how="left", validate="one_to_one")
    frame = frame.merge(labels, on="study_id", how="left", validate="many_to_one")
    patient, study = "p" + frame["subject_id"].astype(str), "s" + frame["study_id"].astype(str)
    paths = "files/" + patient.str[:3] + "/" + patient + "/" + study + "/" + frame["dicom_id"] + ".jpg"
    frame = frame.assign(image_path=base.on_disk(paths, root), patient=patient, study=study, view=frame["ViewPosition"].str.upper())
    frame["split"] = frame["split"].replace("validate", "val")
    columns = ["image_path", "patient", "study", "split", "view", *map(base.snake, FINDINGS)]
    return base.dataset("mimic_cxr_jpg", frame[columns], root, LAYOUT)
