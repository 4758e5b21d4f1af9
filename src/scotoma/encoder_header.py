"""What may stand in the header of an encoder file: types and bounds of every field. A file comes from anyone.

A header is data: nothing in it opens a connection or another file, or asks for more memory than a network has use for.
"""

from __future__ import annotations

import math
import re
from typing import Any

from scotoma.errors import UsageError

KEY = "scotoma"
LONGEST = 20_000  # entries of a list
LARGEST_SIDE, MOST_PATCHES = 4096, 256  # pixels; patches a side
# Arguments of ``timm.create_model`` that change a network's form, and the type of each. ``pretrained``, ``pretrained_cfg``,
# ``checkpoint_path``, ``cache_dir``, ... would open a connection or a file, and are not here.
TIMM: dict[str, type | tuple[type, ...]] = {
    "img_size": int, "patch_size": int, "embed_dim": int, "depth": int, "num_heads": int, "output_stride": int, "global_pool": str,
    "fc_norm": bool,
}  # fmt: skip
NUMBER = (int, float)
LISTS = {"mean": NUMBER, "std": NUMBER, "targets": (str,), "classes": (str,), "thresholds": NUMBER}
FIELDS: dict[str, type | tuple[type, ...]] = {
    "timm_name": str, "timm_kwargs": dict, "in_chans": int, "image_size": int, **dict.fromkeys(LISTS, list), "pixels": dict,
    "modality": str, "method": dict, "seed": int, "versions": dict, "data": str, "temperature": NUMBER, "decoder": str,
    "trained_on": (dict, type(None)),
}  # fmt: skip


def require(fields: Any, name: str, outputs: int = 0) -> dict[str, Any]:
    """The fields of a header as they were parsed, or a line that says what is odd about them.

    Args:
        fields: parsed from the header's JSON.
        name: of the file, for the message.
        outputs: of the head in the file, 0 without one.

    Raises:
        UsageError: a field has another type, or is out of bounds.
    """

    def refuse(what: str) -> None:
        raise UsageError(f"{name}: its header is not taken ({what}): ask whoever wrote the file for another")

    if not isinstance(fields, dict):
        raise UsageError(f"{name}: its header is not taken (it is no table of fields): ask whoever wrote the file for another")
    for field, kind in FIELDS.items():
        if field in fields and not _is(fields[field], kind):
            refuse(f"{field} is of an odd type")
    for field, kinds in LISTS.items():
        values = fields.get(field, [])
        if len(values) > LONGEST or not all(_is(v, kinds) and (isinstance(v, str) or math.isfinite(v)) for v in values):
            refuse(f"{field} has odd values")
    timm_name, kwargs = str(fields.get("timm_name", "")), fields.get("timm_kwargs", {})
    if not re.fullmatch(r"\w+(\.\w+)?", timm_name, re.ASCII):
        refuse("timm_name is no network's name")
    for argument, value in kwargs.items():
        if argument not in TIMM or not _is(value, TIMM[argument]):
            refuse(f"timm_kwargs has {str(argument)[:40]!r}, which does not go with a file of weights")
        if not isinstance(value, str) and not 0 <= value <= LARGEST_SIDE:
            refuse(f"{argument} is out of bounds")
    sides = int(fields.get("image_size", 1)), int(kwargs.get("img_size", 1))
    side = max(sides)
    if not 1 <= min(sides) <= side <= LARGEST_SIDE or side > MOST_PATCHES * kwargs.get("patch_size", LARGEST_SIDE):
        refuse("image_size is out of bounds")
    channels = fields.get("in_chans", 1)
    if not 1 <= channels <= 64 or any(len(fields.get(f, [0] * channels)) != channels for f in ("mean", "std")):
        refuse("in_chans, mean and std do not go together")
    if any(v <= 0 for v in fields.get("std", ())) or not 0 < fields.get("temperature", 1.0) < math.inf:
        refuse("std and temperature must be above 0")
    classes = fields.get("classes", ())
    if len(set(classes)) < len(classes) or len(fields.get("thresholds", ())) not in (0, len(classes)):
        refuse("classes and thresholds do not go together")
    if outputs > 1 and fields.get("targets") and not classes:
        refuse(f"it names no class for a head of {outputs} outputs")
    if not isinstance(fields.get("method", {"name": ""}).get("name"), str):
        refuse("method has no name")
    return fields


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a value of JSON is of this type; true and false are no numbers."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
