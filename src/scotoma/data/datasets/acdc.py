"""ACDC: cardiac MR of 150 patients in 5 groups, short-axis slices at end-diastole and end-systole with ventricles outlined.

``label`` is the patient's group: dilated (dcm) or hypertrophic (hcm) cardiomyopathy, infarction (minf), none (nor) or an
abnormal right ventricle (rv). The masks hold 1 right ventricle, 2 myocardium, 3 left ventricle. The other phases (``_4d``) are
not listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base
from scotoma.data.io import read
from scotoma.errors import UsageError

SOURCE = "CREATIS, https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html"
TERMS = "CC BY-NC-SA 4.0: not commercial, attribution, share alike"
LAYOUT = """training/patient001/Info.cfg, here or in database/ (also testing/)
training/patient001/patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz
training/patient001/patient001_4d.nii.gz"""
MASK_CLASSES = "1=right ventricle,2=myocardium,3=left ventricle"
SPLITS = {"training": "train", "testing": "test"}


def load(root: Path) -> Dataset:
    """Load every slice of the two outlined phases with its mask, the patient's group, height and weight, and the split.

    Args:
        root: the folder that holds ``training``, and ``testing`` where it is there.

    Raises:
        UsageError: no patient is there, or a volume's header or ``Info.cfg`` cannot be read.
    """
    import pandas as pd

    within = "database/" if (root / "database").is_dir() else ""
    found = base.folders(root, *(f"{within}{part}/patient*" for part in SPLITS))
    if not found:
        raise base.absent(root, LAYOUT, "training/patient001")
    rows = [row for folder in found for row in _slices(root, folder)]
    frame = pd.DataFrame(rows)
    if frame["split"].nunique() == 1:
        frame = frame.drop(columns="split")
    return base.dataset("acdc", frame, root, LAYOUT)


def _slices(root: Path, folder: str) -> list[dict[str, Any]]:
    """One row per slice, from the apex or the base as the file has it; a phase that is not on the disk is a row without a path."""
    text = base.find(root / folder, LAYOUT, "Info.cfg").read_text()
    info = {key.strip(): value.strip() for key, mark, value in (line.partition(":") for line in text.splitlines()) if mark}
    if not {"ED", "ES", "Group"} <= info.keys() or not (info["ED"].isdecimal() and info["ES"].isdecimal()):
        raise UsageError(f"{root / folder}/Info.cfg does not state ED, ES and Group: copy it again")
    part, patient = folder.split("/")[-2:]
    about: dict[str, Any] = {"patient": patient, "label": info["Group"].lower(), "split": SPLITS[part]}
    about |= {f"{name.lower()}_{unit}": _number(info.get(name)) for name, unit in (("Height", "cm"), ("Weight", "kg"))}
    rows: list[dict[str, Any]] = []
    for phase in ("ED", "ES"):
        name = f"{folder}/{patient}_frame{int(info[phase]):02}"
        volume, mask = (base.optional(root, f"{name}{end}.nii") for end in ("", "_gt"))
        try:
            count = read.frames(str(volume)) if volume else 1
        except read.ImageError as error:
            raise UsageError(f"{folder}: {error}; copy it again") from error
        paths = {"image_path": volume and str(volume.relative_to(root)), "mask_path": mask and str(mask.relative_to(root))}
        rows += [{**paths, "frame": k, "phase": phase.lower(), **about} for k in range(count)]
    return rows


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
