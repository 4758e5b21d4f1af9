"""Run folders as the page reads them: configuration, rows, figures."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scotoma.arguments import flag_name, format_value
from scotoma.errors import UsageError
from scotoma.reporting.cells import missing
from scotoma.reporting.naming import ASKED, NO_FLAGS, SECTIONS, name_of_method
from scotoma.run_folder import REPLACED, parse_config, read_config, read_rows, status

TEXT = (
    "evaluator", "metric", "split", "target", "class", "predicted", "method", "encoder", "protocol", "reference", "corruption",
    "column", "subgroup", "explanation", "other", "highest", "lowest", "unit", "aggregation", "use", "overlap", "reason",
    "rule", "what", "control_of", "decision", "head", "over",
)  # fmt: skip
NUMBERS = (
    "value", "low", "high", "n", "fraction", "seed", "labels", "draws", "p_value", "p_holm", "fpr", "severity", "patients", "small",
    "threshold", "prevalence", "confidence", "count", "recalibrated", "wanted", "width", "never", "points",
    "pretraining", "few", "tp", "fp", "fn", "tn", "pretrainings", "lower_quartile", "upper_quartile",
)  # fmt: skip

DRAWS = 3  # differences over fewer have no interval, in whatever version of the rows
UNKNOWN_UNITS = "patients or groups of images"

# keys that every row may have, and those of a value
COMMON = ("run", "label", "kind", "evaluator", "metric", "split", "target", "class", "method", "encoder", "protocol", "overlap",
          "reason", "n", "patients", "fraction", "seed", "labels", "draws", "value", "low", "high", "few", "control_of",
          "head", "pretrainings", "whose", "alone", "over")  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """A run folder as it lies on the disk; ``top`` names the folder the user gave, of which this is a part."""

    path: Path
    top: str
    config: dict[str, Any]
    text: str
    state: str | None
    rows: list[dict[str, Any]]

    @property
    def metrics(self) -> list[Path]:
        """The logs of the training steps: beside the configuration or under ``logs``, one each time a run was taken up."""
        return [*self.path.glob("metrics.csv"), *sorted(self.path.glob("logs/**/metrics.csv"))]


def read(runs: Sequence[Path]) -> list[Folder]:
    """The runs and the runs inside them, each once."""
    found: dict[Path, Folder] = {}
    names = [run.resolve().name for run in runs]
    for run, name in zip(runs, names, strict=True):
        if not (run / "config.yaml").is_file():
            raise UsageError(
                f"{run} is no run folder: it has no config.yaml"
                if Path(run).exists()
                else f"{run} is no run folder: nothing is there"
            )
        top = name if names.count(name) == 1 else f"{run.resolve().parent.name}/{name}"
        own = []
        files = (f for f in run.rglob("config.yaml") if REPLACED not in f.relative_to(run).parts)
        for file in sorted(files, key=lambda f: (len(f.parts), f)):
            folder, path = file.parent, file.parent.resolve()
            if path not in found:
                _require_own(folder, file, folder / "rows.jsonl", *folder.glob("metrics.csv"), *folder.glob("logs/**/metrics.csv"))
                try:
                    rows = [row for row in read_rows(folder) if isinstance(row, dict)]
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{folder / 'rows.jsonl'} is damaged ({error}): repeat the run") from error
                found[path] = Folder(folder, top, read_config(folder), file.read_text(), status(folder), rows)
            own.append(found[path])
        if not any(f.rows or any(f.path.glob("figures/*.png")) or f.metrics for f in own):
            raise UsageError(f"{run} holds no results yet: run it first, or go on with it by --resume")
    return list(found.values())


def _own_rows(folder: Folder, folders: Collection[Folder]) -> list[dict[str, Any]]:
    """The rows of a run; of a pretraining within a study without the costs that the study states itself, of each pretraining."""
    tops = [f for f in folders if f.top == folder.top and f is not folder and f.config.get("command") == "study"]
    stated = {row.get("method") for top in tops for row in top.rows if row.get("evaluator") == "pretrain"}
    of_study = (folder.config.get("variant") or folder.config.get("method")) in stated
    return [row for row in folder.rows if not (of_study and row.get("evaluator") == "pretrain")]


def frame(folders: Collection[Folder]) -> pd.DataFrame:
    """All rows as a table, text as text and numbers as numbers; repeated rows once.

    What each run's intervals are over stands in ``whose``, and in ``alone`` whether each tested patient has one image.
    A key that nobody knows is a column as well: of numbers where all its values are numbers, else of text.
    """
    all_rows = [{**row, "run": f.top} for f in folders for row in _own_rows(f, folders)]
    others = dict.fromkeys(str(k) for row in all_rows for k in row if k not in ("run", "label", "kind", *TEXT, *NUMBERS))
    rows = pd.DataFrame(all_rows, columns=["run", *TEXT, *NUMBERS, *others])
    for name in rows.columns[1:]:
        values = [None if missing(v) else v for v in rows[name]]
        if name in NUMBERS or (name in others and all(v is None or isinstance(v, int | float) for v in values)):
            rows[name] = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").astype(float)
        else:
            rows[name] = pd.Series([None if v is None else _text(v) for v in values], dtype=object, index=rows.index)
    few = rows["metric"].fillna("").str.endswith("_difference") & (rows["draws"] < DRAWS)
    rows.loc[few, ["low", "high", "p_value", "p_holm"]] = float("nan")  # which earlier versions wrote
    whose = {run: units_word(of_run) for run, of_run in rows.groupby("run", sort=False)}
    alone = {run for run, of_run in rows.groupby("run", sort=False) if whose[run] == "patients" and has_one_image_each(of_run)}
    rows = rows.drop_duplicates(ignore_index=True)
    return rows.assign(whose=rows["run"].map(whose), alone=rows["run"].isin(alone))


def has_one_image_each(rows: pd.DataFrame) -> bool:
    """Whether as many patients as images were tested in one run, as its rows state it: rates of images are then of patients."""
    tested = rows[(rows["evaluator"] == "data") & (rows["metric"] == "tested")]
    return bool(len(tested) and (tested["value"] == tested["patients"]).all())


def units_word(rows: pd.DataFrame) -> str:
    """What the test images of one run were resampled by, of several: patients where they are known, else groups or images."""
    data = rows[(rows["evaluator"] == "data") & rows["metric"].isin(["tested", "patients", "groups"])]
    stated = data["unit"].dropna()
    if len(stated):
        parts = str(stated.iloc[-1]).split(" + ")
        return "patients" if "patient" in parts else "images" if parts == ["image"] else "groups of images"
    return "patients" if "patients" in set(data["metric"]) else "groups of images" if len(data) else UNKNOWN_UNITS


def units_of_page(rows: pd.DataFrame) -> str:
    """What all intervals of a page are over; where its runs differ, or do not state it, each of what may be."""
    found = set(rows.loc[rows["run"].isin(rows.loc[rows["split"] == "test", "run"]), "whose"]) - {UNKNOWN_UNITS}
    return found.pop() if len(found) == 1 else UNKNOWN_UNITS


def _text(value: Any) -> str:
    """A value as text; of a list its parts, separated by commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def mixed_protocols(rows: pd.DataFrame) -> list[str]:
    """Evaluators whose rows were made under different settings; how an arm's head starts is a study's design and none."""
    settings = rows["protocol"].str.replace(r", 'head': '\w+'", "", regex=True)
    return sorted(str(name) for name, count in settings.groupby(rows["evaluator"]).nunique().items() if count > 1)


def has_unknown_keys(rows: pd.DataFrame, keys: Collection[str]) -> pd.Series:
    """(n,) bool: rows with a key that is neither common nor among ``keys`` and that differs between rows of one network."""
    found = pd.Series(False, index=rows.index)
    for key in (c for c in rows.columns if c not in COMMON and c not in keys and rows[c].notna().any()):
        groups = rows.groupby(["run", "evaluator", "method", "encoder"], dropna=False)[key]
        found |= rows[key].notna() & (groups.transform("nunique", dropna=False) > 1)
    return found


def _require_own(folder: Path, *files: Path) -> None:
    """Refuse files that are no plain files of the run folder: a page would show what lies elsewhere on this machine.

    Raises:
        UsageError: one is a link that leads out of the folder, or a pipe or device.
    """
    for file in files:
        if (file.exists() or file.is_symlink()) and not (file.is_file() and file.resolve().is_relative_to(folder.resolve())):
            raise UsageError(f"{file} is no file of this run folder but a link out of it, a pipe or a device: take it away")


def images_of(folder: Folder) -> list[dict[str, Any]]:
    """The figures that a run saved, with the words that stand beside them."""
    found = []
    for file in sorted((folder.path / "figures").glob("*.png")):
        _require_own(folder.path, file, file.with_suffix(".json"))
        try:
            words = json.loads(file.with_suffix(".json").read_text())
        except (OSError, ValueError, RecursionError):
            words = {}
        words = words if isinstance(words, dict) else {}
        section = words.get("section")
        found.append(
            {
                "title": str(words.get("title") or file.stem),
                "caption": str(words.get("caption") or ""),
                "section": section if section in SECTIONS else "results",
                "uri": "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode(),
            }
        )
    return found


def describe_run(folder: Folder) -> dict[str, Any]:
    """The configuration of a run in words, and the commands that repeat it."""
    config, items = folder.config, []
    for key, word in ASKED.items():
        if key == "seeds" and config.get("command") == "evaluate" and set(config.get("fractions") or [1.0]) == {1.0}:
            continue  # all labels are drawn in one way
        if not missing(value := config.get(key)):
            if isinstance(value, dict):  # a number for each method
                value = [f"{name_of_method(k)} {v}" for k, v in value.items()]
            listed: list[Any] = value if isinstance(value, list) else [value]
            if key in ("method", "methods"):
                shown = [name_of_method(v) for v in listed]
            elif key in ("fractions", "label_fraction") and all(isinstance(v, int | float) for v in listed):
                shown = [f"{100 * v:g}\u00a0%" for v in listed]
            else:
                shown = [str(v) for v in listed]
            items.append((word, ", ".join(shown)))
    record = parse_config(folder.text)
    for key in ("hardware", "versions"):
        if isinstance(kept := record.get(key), dict):
            kept = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in kept.items()}
            items.append((key.capitalize(), ", ".join(f"{k} {v}" for k, v in kept.items() if v not in (None, ""))))
    verb = str(config.get("command", "VERB"))
    again = ["scotoma", verb, "--config", str(folder.path / "config.yaml"), "--out", "NEW_FOLDER"]
    return {
        "name": folder.top,
        "verb": verb,
        "items": items,
        "again": shlex.join(again),
        "full": shlex.join(["scotoma", verb, *_flags(config)]),
    }


def _flags(config: dict[str, Any], prefix: str = "") -> list[str]:
    """A configuration as the flags that the user could have typed."""
    found: list[str] = []
    for key, value in config.items():
        name = prefix + flag_name(str(key))
        if missing(value) or (not prefix and (value is False or key in NO_FLAGS)):  # switches of a verb are off by themselves
            continue
        if key == "method_args":
            found += _flags(value, "method.")
        elif value is True:
            found.append(f"--{name}")
        else:
            found += [f"--{name}", format_value(value)]
    return found
