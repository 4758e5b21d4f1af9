"""What the tables share: names of methods, and how a value with its interval is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NAMES = {
    "simclr": "SimCLR",
    "mae": "MAE",
    "moco_v2": "MoCo v2",
    "byol": "BYOL",
    "dino": "DINO",
    "msn": "MSN",
    "simsiam": "SimSiam",
    "vicreg": "VICReg",
    "lejepa": "LeJEPA",
    "ijepa": "I-JEPA",
    "msmae": "MSMAE",
    "simmim": "SimMIM",
    "moco_v1": "MoCo v1",
    "mean": "mean of the methods",
    "random": "random weights",
    "pixels": "pixels at 32 px",
    "header": "size and header",
    "majority": "majority",
}


def cell(row: dict[str, Any] | None, sign: str) -> str:
    """A value with its interval."""
    return "" if row is None else f"{row['value']:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
