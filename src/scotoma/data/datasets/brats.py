"""BraTS (2018 to 2024): multi-parametric brain MR of patients with glioma, slices of one modality with the tumour's outline.

Old names (``_t1ce``) and new ones (``-t1c``) are read alike. The masks hold 1 necrotic core, 2 oedema, and 4 (from 2023 on 3)
enhancing tumour; in 2024's scans after treatment 4 is the resection cavity. A patient's later scans (``BraTS-GLI-00005-001``)
stay with the first. Scans without an outline have no mask.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.data.io import read
from scotoma.errors import UsageError

SOURCE = (
    "Synapse, https://www.synapse.org/brats (registration); 2021 also The Cancer Imaging Archive, https://doi.org/10.7937/jc8x-9874"
)
TERMS = "each year's data usage agreement: research, cite the papers; 2021 at the archive CC BY 4.0; else see the publisher's page"
LAYOUT = """BraTS2021_00000/BraTS2021_00000_flair.nii.gz (also _t1, _t1ce, _t2, _seg), here or one folder below
or BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz (also -t1n, -t1c, -t2w, -seg)"""
MASK_CLASSES = "1=necrotic core,2=oedema,4=enhancing tumour"  # from 2023 on 3 is enhancing tumour
ENDINGS = {"t1": ("_t1", "-t1n"), "t1ce": ("_t1ce", "-t1c"), "t2": ("_t2", "-t2w"), "flair": ("_flair", "-t2f")}


def load(
    root: Path,
    modality: Literal["flair", "t1", "t1ce", "t2"] = "flair",
    axis: Literal["axial", "coronal", "sagittal"] = "axial",
    every: int = 3,
) -> Dataset:
    """Load every k-th slice of one modality with its mask and patient.

    Args:
        root: the folder that holds the patients' folders.
        modality: which of the four volumes.
        axis: along which the slices are cut.
        every: take each so many-th slice; empty ones can be left out when they are prepared.

    Raises:
        UsageError: no patient is there, or a volume's header cannot be read.
    """
    import pandas as pd

    if modality not in ENDINGS or axis not in ("axial", "coronal", "sagittal") or every < 1:
        raise UsageError(f"brats: no modality={modality}, axis={axis}, every={every}; see `scotoma list datasets`")
    found = base.folders(root, "[Bb]ra[Tt][Ss]*", "*/[Bb]ra[Tt][Ss]*")
    rows = [row for folder in found for row in _slices(root, folder, modality, axis, every)]
    if not rows:
        raise base.absent(root, LAYOUT, f"volume named *{'.nii.gz or *'.join(ENDINGS[modality])}.nii.gz")
    return base.dataset("brats", pd.DataFrame(rows), root, LAYOUT)


def _slices(root: Path, folder: str, modality: str, axis: str, every: int) -> list[dict[str, Any]]:
    """One row per slice of the modality's volume; none where it is not there."""
    names = base.files(root, [folder], (".nii", ".nii.gz"))
    volume = next((n for n in names if re.sub(r"\.nii(\.gz)?$", "", n).endswith(ENDINGS[modality])), None)
    if volume is None:
        return []
    mask = next((n for n in names if re.search(r"[-_]seg[^/]*$", n, re.IGNORECASE)), None)  # one is named *_Segm.nii
    try:
        count = read.frames(read.add_axis(str(root / volume), axis))
    except read.ImageError as error:
        raise UsageError(f"{folder}: {error}; copy it again") from error
    scan = folder.rpartition("/")[2]
    row = {
        "image_path": read.add_axis(volume, axis),
        "mask_path": mask and read.add_axis(mask, axis),
        "patient": re.sub(r"^(BraTS-\w+-\d+)-\d+$", r"\1", scan),
        "study": scan,
        "modality": modality,
    }
    return [{**row, "frame": k} for k in range(0, count, every)]
