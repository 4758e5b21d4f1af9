"""What may stand in the header of an encoder file: types and bounds of every field. A file comes from anyone.

A header is data: nothing in it opens a connection or another file, or needs more memory than a network has use for.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scotoma import preflight
from scotoma.data.io.read import Display
from scotoma.data.store.store import unlike
from scotoma.errors import UsageError, notice

KEY = "scotoma"
LONGEST = 20_000  # entries of a list
LARGEST_SIDE, MOST_PATCHES = 4096, 256  # pixels; patches a side
# Arguments of ``timm.create_model`` that change a network's form, and the type of each. ``pretrained``, ``pretrained_cfg``,
# ``checkpoint_path``, ``cache_dir``, ... would open a connection or a file, and are not here.
TIMM: dict[str, type | tuple[type, ...]] = {
    "img_size": int, "patch_size": int, "embed_dim": int, "depth": int, "num_heads": int, "output_stride": int, "global_pool": str,
    "fc_norm": bool, "in_chans": int, "num_classes": int,
}  # fmt: skip
NUMBER = (int, float)
LISTS = {"mean": NUMBER, "std": NUMBER, "targets": (str,), "classes": (str,), "thresholds": NUMBER, "mask_values": (int,)}
FIELDS: dict[str, type | tuple[type, ...]] = {
    "timm_name": str, "timm_kwargs": dict, "in_chans": int, "image_size": int, **dict.fromkeys(LISTS, list), "pixels": dict,
    "modality": str, "method": dict, "seed": int, "versions": dict, "data": str, "temperature": NUMBER, "decoder": str,
    "trained_on": (dict, type(None)), "head": dict,
}  # fmt: skip


def require(fields: Any, name: str, outputs: int = 0) -> dict[str, Any]:
    """The fields of a header as they were parsed, or a line that states what is odd about them.

    Args:
        fields: parsed from the header's JSON.
        name: of the file, for the message.
        outputs: of the head in the file, 0 without one.

    Raises:
        UsageError: a field has another type, or is out of bounds.
    """

    def refuse(what: str) -> None:
        raise UsageError(f"{name}: its header is not taken ({what}): get another from whoever wrote the file")

    if not isinstance(fields, dict):
        raise UsageError(f"{name}: its header is not taken (it is no table of fields): get another from whoever wrote the file")
    for name_of_field, kind in FIELDS.items():
        if name_of_field in fields and not _is(fields[name_of_field], kind):
            refuse(f"{name_of_field} is of an odd type")
    for name_of_field, kinds in LISTS.items():
        values = fields.get(name_of_field, [])
        if len(values) > LONGEST or not all(_is(v, kinds) and (isinstance(v, str) or math.isfinite(v)) for v in values):
            refuse(f"{name_of_field} has odd values")
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
    if kwargs.get("in_chans", channels) != channels or kwargs.get("num_classes", 0):
        refuse("in_chans and num_classes of timm_kwargs are another network's")
    if any(v <= 0 for v in fields.get("std", ())) or not 0 < fields.get("temperature", 1.0) < math.inf:
        refuse("std and temperature must be above 0")
    classes = fields.get("classes", ())
    if len(set(classes)) < len(classes) or len(fields.get("thresholds", ())) not in (0, len(classes)):
        refuse("classes and thresholds do not go together")
    values = fields.get("mask_values", ())
    if values and (len(values) != len(classes) or len(set(values)) < len(values) or not all(0 <= v < 256 for v in values)):
        refuse("classes and mask_values do not go together")
    if outputs > 1 and fields.get("targets") and not classes:
        refuse(f"it names no class for a head of {outputs} outputs")
    if not isinstance(fields.get("method", {"name": ""}).get("name"), str):
        refuse("method has no name")
    return fields


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a value of JSON is of this type; true and false are no numbers."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


FILE = preflight.ENCODER
find = preflight.weights_file
HEADER = KEY
DECODER = "decoder."  # before the names of a segmentation model's further weights
HEAD = ("head.weight", "head.bias")  # a model file is an encoder file with these beside it; some networks have other names in head.


class ForeignError(UsageError):
    """A file of weights has no header of Scotoma's: another program wrote it."""


@dataclass
class EncoderInfo:
    """What the header of an encoder file states.

    Args:
        timm_name: the name ``timm.create_model`` knows.
        timm_kwargs: its arguments; in the file ``in_chans`` and ``num_classes`` are among them.
        in_chans: channels of the input.
        image_size: side of the input, pixels.
        mean: mean a channel of pixels in [0, 1].
        std: standard deviation a channel.
        pixels: how pixels were prepared (side and version of the store, ``display``).
        modality: which augmentations are plausible.
        method: the method that trained it, with its configuration; ``{"name": "random"}`` for none.
        seed: of the run.
        versions: of the libraries.
        data: fingerprint of the training images.
        targets: for a model: the columns it predicts.
        classes: for a model: the classes of a categorical target.
        temperature: for a model: its logits are divided by this before they are probabilities (chosen on validation rows).
        thresholds: for a model: the probability from which on each class is called positive, chosen on validation rows; () for 0.5.
        decoder: for a segmentation model: the name of its decoder.
        mask_values: for a segmentation model: the value of each class in label maps; () where classes are named by their values.
        trained_on: what it was trained on, through every step (``provenance.Record``); None in files of older versions.
    """

    timm_name: str
    timm_kwargs: dict[str, Any]
    in_chans: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: dict[str, Any] = field(default_factory=dict)
    modality: str = "grey"
    method: dict[str, Any] = field(default_factory=lambda: {"name": "random"})
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    data: str = ""
    targets: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    decoder: str = ""
    mask_values: tuple[int, ...] = ()
    trained_on: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Of a segmentation model: its classes as ``masks.parse`` takes them; () of any other."""
        if not self.decoder or not self.mask_values:
            return self.classes if self.decoder else ()
        return tuple(f"{value}={name}" for value, name in zip(self.mask_values, self.classes, strict=True))

    @property
    def numeric(self) -> bool:
        """Whether this is a model that predicts a number."""
        return bool(self.targets) and not self.classes

    @property
    def display(self) -> Display:
        """How stored values became grey levels."""
        return Display.of(self.pixels.get("display"))

    @property
    def name(self) -> str:
        """The name a user types for this network."""
        patch = self.timm_kwargs.get("patch_size")
        pool = "_avg" if self.timm_kwargs.get("global_pool") == "avg" else ""
        return re.sub(r"_patch16_224$", f"_patch{patch}{pool}", self.timm_name) if patch else self.timm_name


def write_info(info: EncoderInfo, has_head: bool) -> str:
    """A header as it stands in a file, complete for plain timm: ``timm.create_model(h["timm_name"], **h["timm_kwargs"])``.

    Args:
        info: what it states.
        has_head: whether the file has a head or a decoder beside the network; then how that is attached is stated, too.
    """
    fields = asdict(info) | {"timm_kwargs": {**info.timm_kwargs, "in_chans": info.in_chans, "num_classes": 0}}
    if not info.mask_values:
        del fields["mask_values"]
    if has_head:
        output = "number" if info.numeric else "sigmoid" if info.classes == info.targets else "softmax"
        linear = {"kind": "linear", "weight": HEAD[0], "bias": HEAD[1], "input": "features"}
        decoder = {"kind": info.decoder, "weights": DECODER, "input": "maps"}
        fields["head"] = (decoder if info.decoder else linear) | {"output": output}
    return json.dumps(fields)


def read_info(source: str | Path) -> EncoderInfo:
    """The header of an encoder or model file.

    Raises:
        ForeignError: it was not written by Scotoma.
        UsageError: no such file, or it was written by another version of Scotoma.
    """
    from safetensors import SafetensorError, safe_open

    path = find(source)
    try:
        with safe_open(path, "np") as file:
            header = (file.metadata() or {}).get(HEADER)
            outputs = file.get_slice(HEAD[0]).get_shape()[0] if HEAD[1] in file.keys() else 0  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path}: not a whole safetensors file ({error})") from error
    if header is None:
        raise ForeignError(f"{path}: a safetensors file without Scotoma's header; pretrain or finetune writes one")
    try:
        fields = require(json.loads(header), str(path), outputs)
        if unknown := sorted(set(fields) - set(FIELDS)):
            names = ", ".join(repr(name[:40]) for name in unknown[:5])
            raise UsageError(
                f"{path}: its header has fields that are unknown to this version of Scotoma ({names}): install a newer one"
            )
        fields |= {name: tuple(fields[name]) for name in LISTS if name in fields}
        fields.pop("head", None)  # for other programs: it follows from the rest
        if "timm_kwargs" in fields:
            fields["timm_kwargs"] = {k: v for k, v in fields["timm_kwargs"].items() if k not in ("in_chans", "num_classes")}
        info = EncoderInfo(**fields)
        _ = info.display  # is read from it
        return info
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path}: its header was written by another version of Scotoma ({error})") from error


def is_pickled(path: Path) -> bool:
    """Whether a file is no safetensors file but one of ``torch.save``."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02") or path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".tar")


def info_or_none(source: str | Path) -> EncoderInfo | None:
    """The header of a weights file; None where another program wrote it.

    Raises:
        UsageError: there is no file, as while another process replaces the run, or its header cannot be read.
    """
    path = find(source)
    try:
        return None if is_pickled(path) else read_info(path)
    except ForeignError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): name a finished run or a weights file") from error


def warn_unlike(source: str | Path, name: str, pixels: dict[str, Any]) -> None:
    """Print a line where an encoder's images were prepared otherwise than these; nothing of weights that do not state.

    Args:
        source: a run folder or a file.
        name: of the data.
        pixels: how the data, or a network that starts from these weights, were prepared (``Store.preparation``).
    """
    info = info_or_none(source) if Path(source).exists() else None  # a tag has none
    if info is not None and (line := unlike(info.pixels, pixels)):
        notice(name, line)
