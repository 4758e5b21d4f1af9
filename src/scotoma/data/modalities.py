"""Modalities: which changes of an image keep it plausible."""

from __future__ import annotations

from dataclasses import dataclass

from scotoma.errors import UsageError


@dataclass(frozen=True)
class Modality:
    """Which changes keep an image plausible.

    Args:
        mirror: left and right may be exchanged (never where the heart, the liver or a marker has a side).
        flip: up and down may be exchanged.
        rotation: largest rotation, degrees.
        hue: largest change of the balance between channels (colour images only).
    """

    mirror: bool
    flip: bool
    rotation: float
    hue: float = 0.0


MODALITIES = {
    "grey": Modality(mirror=False, flip=False, rotation=15),
    "xray": Modality(mirror=False, flip=False, rotation=10),
    "ct": Modality(mirror=False, flip=False, rotation=15),
    "mr": Modality(mirror=True, flip=False, rotation=20),
    "ultrasound": Modality(
        mirror=False, flip=False, rotation=10
    ),  # attenuation goes with depth; the heart and the liver have a side
    "mammography": Modality(mirror=True, flip=False, rotation=10),  # a mirrored left breast is a right one
    "oct": Modality(mirror=True, flip=False, rotation=10),  # a mirrored left eye is a right one; layers have an order
    "colour": Modality(mirror=True, flip=False, rotation=15, hue=0.1),
    "dermoscopy": Modality(mirror=True, flip=True, rotation=180, hue=0.1),
    "fundus": Modality(mirror=False, flip=False, rotation=20, hue=0.1),
    "histology": Modality(mirror=True, flip=True, rotation=180, hue=0.1),  # tissue has no up; stains differ between laboratories
}
# DICOM's Modality (C.7.3.1.1.1) -> ours
BY_HEADER = {
    "CR": "xray",
    "DX": "xray",
    "DR": "xray",
    "MG": "mammography",
    "CT": "ct",
    "MR": "mr",
    "US": "ultrasound",
    "IVUS": "ultrasound",
    "OPT": "oct",
    "OP": "fundus",
    "SM": "histology",
    "GM": "histology",
    "XC": "colour",
    "ES": "colour",
}


def modality(name: str) -> Modality:
    """The modality of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in MODALITIES:
        raise UsageError(f"unknown modality {name!r}; one of {', '.join(MODALITIES)}")
    return MODALITIES[name]
