"""What scripts and tables share: rows, names of methods, how a value with its interval is written, what is said of older rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OLDER = "older.json"  # files of results whose rows are of an earlier version -> day of their last commit
FILES = {table: f"evidence_{table}" for table in ("robustness", "proxies", "next", "explanations", "segmentation")} | {
    "methods_page": "methods",
    "beside_lightly": "peers_quality",
}
OWN_START = ("mae", "msmae", "ijepa")  # methods that replace initial weights of a vision transformer in their constructors
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
    """A value with its interval, where it has one: a difference over fewer than three draws has none."""
    if row is None:
        return ""
    value = f"{row['value']:{sign}.3f}"
    return value if row["low"] is None else f"{value} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"


def name_of(row: dict[str, Any]) -> str:
    """What a row's method is called; random weights name the methods whose networks before training they are."""
    of = [NAMES.get(method, method) for method in row["control_of"].split(",")] if "control_of" in row else []
    return NAMES.get(row["method"], row["method"]) + (f" of {', '.join(of)}" if of else "")


def read(name: str) -> list[dict[str, Any]]:
    """The kept rows of a study, but those of a control that was none."""
    return [row for row in read_all(name) if not has_false_control(row)]


def read_all(name: str) -> list[dict[str, Any]]:
    """The rows of a file of results."""
    lines, whole = RESULTS / f"{name}.jsonl", RESULTS / f"{name}.json"
    if lines.exists():
        return [json.loads(line) for line in lines.read_text().splitlines()]
    return list(json.loads(whole.read_text())["rows"]) if whole.exists() else []


def read_new(name: str) -> list[dict[str, Any]]:
    """The rows of a file of results to which new ones may be added: none where they are of an earlier version."""
    return [] if name in _older()["files"] else read_all(name)


def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Keep the rows of a study, measured with today's version; values that are not finite become null, as in a run folder."""
    plain = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]
    (RESULTS / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    older = _older()
    if older["files"].pop(name, None):
        (RESULTS / OLDER).write_text(json.dumps(older, indent=1) + "\n")


def _older() -> dict[str, Any]:
    return dict(json.loads((RESULTS / OLDER).read_text()))


def has_false_control(row: dict[str, Any]) -> bool:
    """Whether a row rests on random weights that are not its method's network before training.

    The control was timm's initialisation once. MAE, MSMAE and I-JEPA replace positions (MAE and MSMAE the patch embedding, too) as
    they are built; all other methods leave a network's parameters as timm makes them. Rows of today's control state ``control_of``,
    and today's differences what they are ``over``. The settings of `choose.py` and the kinds of `hiding.py` name no network: theirs
    is the vision transformer wherever the method is a masked one.
    """
    if "control_of" in row or ("over" in row and row.get("reference")):
        return False
    method = str(row.get("method", "mae")).partition("?")[0]
    if row.get("reference") == "random":
        return method in OWN_START
    is_random = method == "random" or "random weights" in (row.get("setting"), row.get("kind"))
    return is_random and (str(row["encoder"]).startswith("vit") if "encoder" in row else method in OWN_START)


def note(table: str) -> str:
    """Which version made older rows of a table, how their intervals were computed, and what is left out."""
    name, older = FILES.get(table, table), _older()
    if name not in older["files"]:
        return ""
    rows = read_all(name)
    words = [f"Measured with Scotoma {older['version']} of {older['files'][name]}"]
    if any("low" in row for row in rows) and table != "methods_page":
        words.append("intervals are percentile bootstraps, which are too narrow where patients are few")
    false = [row for row in rows if has_false_control(row)]
    if false:
        compared = ", ".join(NAMES[m] for m in dict.fromkeys(row["method"] for row in false if row.get("reference")))
        also = f" and differences from them ({compared})" if compared and table != "methods_page" else ""
        words.append(
            f"random weights of vision transformers{also} are left out, as these weights were timm's initialisation and not each "
            "method's network before its first step"
        )
    return "\n" + "; ".join(words) + ".\n"
