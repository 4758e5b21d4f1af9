"""Whom weights were trained on: keyed hashes of patients and images, carried through every step in the header of their file.

A ``Record`` has a part for each installation (each key) on which the weights were trained, and names what cannot be known:
weights of other programs, files of versions that kept no record. "Not checked" is not "no overlap".
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scotoma.data import pseudonyms
from scotoma.data.encoder_header import info_or_none

MOST = 100_000  # hashes of a kind in a header; of more images patients alone are kept, of more patients nothing
NOT_CHECKED, NONE = "not checked", "none"
IN_PART = "none found; patients not checked"  # identical images alone were looked for
NO_RECORD = "its file has no record of what it was trained on"


@dataclass(frozen=True)
class KeyedHashes:
    """What one installation trained on.

    Args:
        key: id of its secret key; hashes of another key cannot be compared.
        reader: version of the reading of images; hashes of images that another version read may differ.
        images: (n,) uint64, sorted hashes of image content; None where there were too many to keep.
        patients: (m,) uint64, sorted hashes of patients; None where there were too many to keep.
        counts: how many images and patients there were (of images that were not kept, at most).
        unnamed: how many of the images have no patient.
    """

    key: str
    reader: int
    images: np.ndarray | None
    patients: np.ndarray | None
    counts: tuple[int, int]
    unnamed: int = 0

    def bounded(self) -> KeyedHashes:
        """The part without what is too much for a header."""
        images = None if self.counts[0] > MOST else self.images
        return replace(self, images=images, patients=None if self.counts[1] > MOST else self.patients)

    def joined(self, other: KeyedHashes) -> KeyedHashes:
        """Both parts of one key and reader."""
        images, patients = _union(self.images, other.images), _union(self.patients, other.patients)
        both = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        counts = (len(images) if images is not None else both[0], len(patients) if patients is not None else both[1])
        unnamed = min(self.unnamed + other.unnamed, counts[0])
        return KeyedHashes(self.key, self.reader, images, patients, counts, unnamed).bounded()


@dataclass(frozen=True)
class Record:
    """What weights were trained on; weights of random numbers have an empty one.

    Args:
        parts: one for each key and reader.
        unknown: why not everything is known, a reason each.
    """

    parts: tuple[KeyedHashes, ...] = ()
    unknown: tuple[str, ...] = ()

    def joined(self, other: Record) -> Record:
        """Both records, as of weights that were trained on one after the other."""
        parts: dict[tuple[str, int], KeyedHashes] = {}
        for part in (*self.parts, *other.parts):
            name = (part.key, part.reader)
            parts[name] = parts[name].joined(part) if name in parts else part
        return Record(tuple(parts[name] for name in sorted(parts)), tuple(dict.fromkeys([*self.unknown, *other.unknown])))

    def header(self) -> dict[str, Any]:
        """The record as it stands in a header."""
        parts = [
            {
                "key": part.key,
                "reader": part.reader,
                "images": part.counts[0],
                "patients": part.counts[1],
                "unnamed": part.unnamed,
                "image_hashes": _encode(part.images),
                "patient_hashes": _encode(part.patients),
            }
            for part in self.parts
        ]
        return {"parts": parts, "unknown": list(self.unknown)}

    @classmethod
    def of_header(cls, kept: Any) -> Record:
        """The record of a header; what cannot be read is unknown."""
        if kept is None:
            return cls(unknown=(NO_RECORD,))
        try:
            parts = tuple(
                KeyedHashes(
                    str(p["key"]),
                    int(p["reader"]),
                    _decode(p["image_hashes"]),
                    _decode(p["patient_hashes"]),
                    (int(p["images"]), int(p["patients"])),
                    int(p["unnamed"]),
                )
                for p in kept["parts"]
            )
            return cls(parts, tuple(str(reason) for reason in kept["unknown"]))
        except (ValueError, TypeError, KeyError, OverflowError):
            return cls(unknown=("the record in its file is damaged",))

    def statement(self) -> dict[str, Any]:
        """The record in numbers, without hashes, for tables that leave the run folder."""
        parts = [{"key": part.key, "images": part.counts[0], "patients": part.counts[1]} for part in self.parts]
        return {"trained_on": parts, "unknown": list(self.unknown)}

    def lists(self, contents: Iterable[Any]) -> np.ndarray:
        """(n,) bool: which of these images it names, whatever key made their hashes."""
        image = _short(contents)
        return np.any([np.zeros(len(image), bool), *(_is_among(image, part.images) for part in self.parts)], axis=0)

    def beyond(self, contents: Iterable[Any]) -> int:
        """How many images there were besides these; of those that it counts without naming them, at least."""
        image = np.unique(_short(contents))
        return sum(
            max(part.counts[0] - len(image), 0) if part.images is None else int((~np.isin(part.images, image)).sum())
            for part in self.parts
        )

    def look(self, patients: np.ndarray, contents: np.ndarray, key: str, reader: int) -> Look:
        """Look for rows of a table among what the weights were trained on.

        Args:
            patients: (n,) each row's pseudonym, None where it has none.
            contents: (n,) the keyed hash of each row's image.
            key: id of the key of these hashes.
            reader: the version that read these images.
        """
        person, image = _short(patients), _short(contents)
        named = np.array([isinstance(p, str) for p in patients], bool)
        seen, checked = np.zeros(len(named), bool), np.full(len(named), not self.unknown)
        reasons, whole = list(self.unknown), not any(part.unnamed for part in self.parts)
        for part in self.parts:
            if part.key != key:
                checked[:] = False
                reasons.append("it was trained with another installation's key (see SCOTOMA_KEY_FILE)")
                continue
            seen |= _is_among(image, part.images) | (named & _is_among(person, part.patients))
            if part.patients is None:
                checked[:] = False
                reasons.append(f"it was trained on more patients than its file can name ({part.counts[1]:,})")
            elif part.images is None:
                checked &= named if not part.unnamed else False
                reasons.append(f"it was trained on more images than its file can name ({part.counts[0]:,})")
            elif part.reader != reader:
                checked &= named if not part.unnamed else False
                reasons.append("its training images were read by another version of Scotoma")
        unnamed = (sum(part.unnamed for part in self.parts), sum(part.counts[0] for part in self.parts))
        both = named & whole if self.parts else np.ones(len(named), bool)
        return Look(seen, checked, tuple(dict.fromkeys(reasons)), both, named, unnamed)


@dataclass(frozen=True)
class Look:
    """Which rows of a table weights were trained on.

    Args:
        seen: (n,) bool, the row's image or patient was found.
        checked: (n,) bool, whether a row that was not found is known not to have been trained on.
        reasons: why rows are not checked.
        named: (n,) bool, whether the row has a patient, and so has every image of the training.
        patients: (n,) bool, whether the row has a patient.
        unnamed: how many images of the training have no patient, and of how many.
    """

    seen: np.ndarray
    checked: np.ndarray
    reasons: tuple[str, ...]
    named: np.ndarray
    patients: np.ndarray
    unnamed: tuple[int, int]

    def overlap(self, rows: np.ndarray) -> Overlap:
        """The overlap of some of the rows, by their positions."""
        unchecked = int((~self.checked[rows] & ~self.seen[rows]).sum())
        alone = self.checked[rows] & ~self.seen[rows] & ~self.named[rows]
        unnamed = (self.unnamed, (int((alone & ~self.patients[rows]).sum()), len(rows)))
        return Overlap(
            len(rows), int(self.seen[rows].sum()), unchecked, self.reasons if unchecked else (), int(alone.sum()), unnamed
        )


@dataclass(frozen=True)
class Overlap:
    """How many rows the weights were trained on.

    Args:
        rows: how many were looked at.
        seen: how many of them were found in the record.
        unchecked: how many of the others cannot be checked.
        reasons: why.
        alone: of how many of the others the image is looked for alone, as it or an image of the training has no patient.
        unnamed: how many images have no patient, and of how many: of the training, and here.
    """

    rows: int
    seen: int
    unchecked: int
    reasons: tuple[str, ...] = ()
    alone: int = 0
    unnamed: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    @property
    def value(self) -> int | str:
        """The number of rows found; where none was, ``NOT_CHECKED`` or ``IN_PART`` if some are not in full, else ``NONE``."""
        return self.seen or (NOT_CHECKED if self.unchecked else IN_PART if self.alone else NONE)

    def row(self, **common: Any) -> dict[str, Any]:
        """A row about the test images."""
        told = [*self.reasons, *([self._without_patient()] if self.alone else [])]
        reasons = {"reason": "; ".join(told)} if told else {}
        value = None if self.value == NOT_CHECKED else self.seen
        counts = {"metric": "overlap", "split": "test", "value": value, "n": self.rows}
        return {"evaluator": "data", **counts, "overlap": self.value, **reasons, **common}

    def sentence(self, what: str, weights: str = "the encoder") -> str:
        """One line: ``what`` names the rows (``test images``)."""
        found = f"{self.seen} of {self.rows} {what} (or their patients) were in the training of {weights}"
        reasons = "; ".join(self.reasons)
        if self.unchecked and self.seen:
            return f"{found}; of {self.unchecked} others that is not checked: {reasons}"
        if self.unchecked:
            return f"not checked whether {weights} was trained on {self.unchecked} of {self.rows} {what}: {reasons}"
        return f"{found}; not checked in full: {self._without_patient()}" if self.alone else found

    def _without_patient(self) -> str:
        """On which side patients are missing, and of how many images."""
        sides = zip(self.unnamed, ("of the training", "here"), strict=True)
        counts = [f"{count} of {n} images {where}" for (count, n), where in sides if count]
        return f"no patient is known of {' and '.join(counts)}, for which identical images alone are looked for"


def of_rows(patients: np.ndarray, contents: np.ndarray, key: str, reader: int) -> Record:
    """The record of weights trained on these rows.

    Args:
        patients: (n,) each row's pseudonym, None where it has none.
        contents: (n,) the keyed hash of each row's image.
        key: id of the key of these hashes.
        reader: the version that read these images.
    """
    named = np.array([isinstance(p, str) for p in patients], bool)
    images, people = np.unique(_short(contents)), np.unique(_short(patients[named]))
    return Record((KeyedHashes(key, reader, images, people, (len(images), len(people)), int((~named).sum())).bounded(),))


def unknown(reason: str) -> Record:
    """The record of weights of which it is not known what they were trained on."""
    return Record(unknown=(reason,))


def _short(names: Iterable[Any]) -> np.ndarray:
    """(n,) uint64: the first 8 bytes of keyed hashes in hexadecimal; of a missing one 0, which no list has."""
    return np.array([_first(n) if isinstance(n, str) else 0 for n in names], np.uint64)


def _first(name: str) -> int:
    try:
        return int(name[:16], 16)
    except ValueError:  # a name that nobody has hashed
        return int(pseudonyms.pseudonym(name, pseudonyms.load_key())[:16], 16)


def _is_among(values: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    return np.zeros(len(values), bool) if kept is None else np.isin(values, kept) & (values != 0)


def _union(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return None if a is None or b is None else np.union1d(a, b)


def _encode(hashes: np.ndarray | None) -> str | None:
    return None if hashes is None else base64.b64encode(hashes.astype(">u8").tobytes()).decode()


def _decode(text: Any) -> np.ndarray | None:
    if text is None:
        return None
    return np.unique(np.frombuffer(base64.b64decode(text, validate=True), ">u8").astype(np.uint64))


def record(source: str | Path) -> Record:
    """What these weights were trained on, as far as their file states; a file of another program does not.

    Raises:
        UsageError: Scotoma wrote the file, and this version cannot read what it states.
    """
    if not Path(source).exists():
        return unknown(f"{source} are public weights, which have no record of what they were trained on")
    if (info := info_or_none(source)) is not None:
        return Record.of_header(info.trained_on) if info.trained_on is not None else unknown(f"{Path(source).name}: {NO_RECORD}")
    return unknown(f"the weights {Path(source).name} are of another program, which keeps no record of what they were trained on")
