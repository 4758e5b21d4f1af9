"""RSNA 2019 intracranial haemorrhage: 752,803 CT slices of the head with five kinds of haemorrhage and any, by neuroradiologists.

Brain, subdural and bone window are the three channels. Patient and study come from the DICOM headers when the slices are
prepared, so the split is by patient. The slices of the second stage's test (``stage_2_test``) have no published labels and are
not listed.
"""

from __future__ import annotations

from pathlib import Path

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.data.io.base import WINDOWS, Display
from scotoma.errors import UsageError

SOURCE = "Kaggle, https://www.kaggle.com/c/rsna-intracranial-hemorrhage-detection"
TERMS = "not commercial, research and education; redistribution with the citation; no attempt to identify anyone"
LAYOUT = """stage_2_train.csv: ID, Label, six rows per slice (ID_12cadc6af_epidural, ..., ID_12cadc6af_any)
stage_2_train/ID_12cadc6af.dcm"""
FINDINGS = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
DISPLAY = Display(windows=(WINDOWS["brain"], WINDOWS["subdural"], WINDOWS["bone"]))


def load(root: Path) -> Dataset:
    """Load the slices with their six labels.

    Args:
        root: the folder that holds ``stage_2_train``.

    Raises:
        UsageError: the table, a column or every slice is absent, a row is no finding, or two rows of one finding differ.
    """
    import numpy as np
    import pandas as pd

    path = base.find(root, LAYOUT, "stage_2_train.csv")
    rows = base.read(path, ("ID", "Label"))
    ids = rows["ID"].astype(str).tolist()
    places = {finding: k for k, finding in enumerate(FINDINGS)}
    found = np.array([places.get(i[i.rfind("_") + 1 :], -1) for i in ids])  # 4.5 million rows: quicker than pandas' text
    if (found < 0).any():
        raise UsageError(f"{path}: {ids[int(found.argmin())]!r} names no finding; this is not the published table")
    codes, slices = pd.factorize(np.array([i[: i.rfind("_")] for i in ids], object))
    labels = np.full((len(slices), len(FINDINGS)), np.nan, np.float32)
    labels[codes, found] = rows["Label"]
    differing = np.flatnonzero(labels[codes, found] != rows["Label"])  # a few slices are listed twice
    if len(differing):
        raise UsageError(f"{path}: {ids[differing[0]]!r} is both 0 and 1; this is not the published table")
    frame = pd.DataFrame(labels, columns=list(FINDINGS))
    frame.insert(0, "image_path", base.on_disk(pd.Series([f"stage_2_train/{name}.dcm" for name in slices], dtype=object), root))
    return base.dataset("rsna_ich", frame, root, LAYOUT, DISPLAY)
