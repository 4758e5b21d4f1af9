"""How networks were made, in sentences, from configurations and from what the files of the networks say of themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scotoma.data import encoder_header
from scotoma.errors import UsageError
from scotoma.reporting.cells import missing
from scotoma.reporting.naming import method_of, name_of_method
from scotoma.reporting.reading import Folder, describe_run
from scotoma.run_folder import parse_config

NETWORKS = ("model.safetensors", "encoder.safetensors")
LARGEST_HEADER = 1 << 27  # bytes; more is no network of ours
BALANCES = {"weights": "classes weigh alike in the loss", "none": "nothing"}
Config = dict[str, Any]


def header(path: Path) -> Config:
    """What the file of a network states of itself; empty where it states nothing, or is no such file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            kept = json.loads(file.read(size)) if size < LARGEST_HEADER else {}
        return encoder_header.require(json.loads(kept["__metadata__"][encoder_header.KEY]), path.name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UsageError):
        return {}


def networks(folders: Sequence[Folder]) -> list[tuple[str, Config]]:
    """The networks that these runs trained: the file with what its header states."""
    found = []
    for folder in folders:
        for name in NETWORKS:
            headers = header(folder.path / name)
            if headers:
                inside = "" if folder.path.name == folder.top else f"{folder.path.name}/"
                found.append((f"{folder.top}/{inside}{name}", headers))
                break
    return found


def describe_configuration(folders: Sequence[Folder], tops: Sequence[Folder], rows: pd.DataFrame) -> dict[str, str]:
    """Sentences about model, pixels, software and training by key; "" where the runs do not state.

    Args:
        folders: all run folders.
        tops: those that the user named.
        rows: all rows.
    """
    configs, headers = [f.config for f in folders], [s for _, s in networks(folders)]
    methods = _several(name_of_method(m) for c in configs for m in (c.get("methods") or [method_of(c)]) if m)
    tuned = next((c for c in configs if c.get("command") == "finetune"), {})
    return {
        "kind": f"Deep learning: an encoder pretrained on unlabelled images, and {describe_training(configs)} on it."
        if methods or headers
        else "",
        "model": _model(headers, rows),
        "pixels": _several((pixels(one) for one in headers), " "),
        "software": _versions(tops[0]),
        "training": "; ".join(dict.fromkeys(f"`{describe_run(f)['full']}`" for f in tops))
        + ". All settings: the run's config.yaml.",
        "start": _start(methods, tuned, configs),
        "subsets": _subsets(configs),
        **(_tuning(tuned) if tuned else {}),
    }


def describe_training(configs: Sequence[Config]) -> str:
    """What these runs made of an encoder, with its article."""
    if any("mask_path" in (c.get("target") or []) for c in configs):
        return "a segmenter"
    return "a model of numbers" if any(c.get("regression") for c in configs) else "a classifier"


def _several(words: Iterable[str], between: str = ", ") -> str:
    return between.join(dict.fromkeys(words))


def _model(headers: Sequence[Config], rows: pd.DataFrame) -> str:
    sizes = rows.loc[rows["metric"] == "parameters", ["encoder", "value"]].dropna().drop_duplicates()
    weights = ", ".join(f"{n} {v / 1e6:,.1f} million parameters" for n, v in zip(sizes["encoder"], sizes["value"], strict=True))
    nets = []
    for one in headers:
        method, side = str(one.get("method", {}).get("name", "")), one.get("image_size")
        classes_text = f", which distinguishes {', '.join(map(str, one['classes']))}" if one.get("classes") else ""
        nets.append(
            f"{one.get('timm_name')} ({name_of_method(method)}), input {side} x {side} x {one.get('in_chans')}{classes_text}"
        )
    return f"{_several(nets, '; ')}{f'. {weights}' if weights else ''}. The weights lie in the run folder." if nets else ""


def pixels(one: Config) -> str:
    """How pixels were prepared, as a network's header states it."""
    kept, channels = one.get("pixels") or {}, one.get("in_chans")
    shown = kept.get("display") or {}
    means = ", ".join(f"{m:.3f} ({s:.3f})" for m, s in zip(one.get("mean", ()), one.get("std", ()), strict=False))
    words = [
        f"stored at {kept['side']} pixels a side, aspect kept by padding" if kept.get("side") else "",
        f"resized to {one.get('image_size')} pixels, {'grey' if channels == 1 else f'{channels} channels'}",
        f"display windows {shown['windows']}" if shown.get("windows") else "",
        *(f"{kind} values shown from {low:g} (black) to {high:g} (white)" for kind, low, high in shown.get("levels", ())),
        f"histogram equalisation {shown['equalize']}" if shown.get("equalize", "none") != "none" else "",
        "burned-in text found by a detector and painted over" if shown.get("redact") else "",
        f"normalised by mean (standard deviation) {means}" if means else "",
    ]
    text = "; ".join(w for w in words if w)
    return text[0].upper() + text[1:] + "."


def _versions(folder: Folder) -> str:
    record = parse_config(folder.text)
    versions = record.get("versions") if isinstance(record, dict) else None
    return f"Software: {', '.join(f'{k} {v}' for k, v in versions.items())}." if isinstance(versions, dict) else ""


def _start(methods: str, tuned: Config, configs: Sequence[Config]) -> str:
    own = f"training started from the encoder “{Path(str(tuned['encoder'])).name}”" if tuned.get("encoder") else ""
    own = own or (f"{describe_training(configs)} started from each encoder, pretrained by {methods}" if methods else "")
    begun = _several(str(c["init"]) for c in configs if c.get("init"))
    return f"{own[0].upper()}{own[1:]}{f'; pretraining itself started from {begun}' if begun else ''}." if own else ""


def _subsets(configs: Sequence[Config]) -> str:
    shares = {f for c in configs for f in (c.get("fractions") or [c.get("label_fraction")]) if not missing(f)}
    classes = _several(str(n) for c in configs for n in (c.get("classes") or []))
    words = [f"Classes distinguished: {classes}."] if classes else []
    return " ".join(
        [*words, f"Shares of the labels used: {', '.join(f'{100 * f:g} %' for f in sorted(shares))}."] if shares else words
    )


def _tuning(config: Config) -> dict[str, str]:
    """What a fine-tuning decided, and on what."""
    patience, balance = config.get("patience"), str(config.get("balance"))
    stopped = f"Validation rows were checked by {config.get('monitor')}; {patience} checks without improvement ended the training."
    calibrated = "Probabilities were then calibrated on validation images, where these were enough."
    return {
        "choice": stopped if patience else "The last of a fixed number of steps.",
        "imbalance": f"{BALANCES.get(balance, balance).capitalize()}. {calibrated}" if config.get("balance") else "",
        "prediction": "The network's output for images prepared as for training, calibrated as chosen on validation images.",
    }
