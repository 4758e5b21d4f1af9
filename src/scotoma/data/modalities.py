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
    "colour": Modality(mirror=True, flip=False, rotation=15, hue=0.1),
    "dermoscopy": Modality(mirror=True, flip=True, rotation=180, hue=0.1),
    "fundus": Modality(mirror=False, flip=False, rotation=20, hue=0.1),
}


def modality(name: str) -> Modality:
    """The modality of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in MODALITIES:
        raise UsageError(f"unknown modality {name!r}; one of {', '.join(MODALITIES)}")
    return MODALITIES[name]
