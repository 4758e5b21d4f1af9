"""Which row of a spreadsheet names which image: one level of the path for a whole column, exact spelling before looser ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scotoma.data.labels.spreadsheets import key
from scotoma.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

DEPTH = 8  # folders above a file that are looked at
SPELLINGS = ("as written", "with / for \\ and composed letters", "in another case", "by the end of a longer path", "without suffix",
             "without leading zeros")  # fmt: skip
_SUFFIX = r"(?i)(\.nii\.gz|\.[a-z][a-z0-9]{1,5})$"


@dataclass(frozen=True)
class Level:
    """A part of the images' paths that a column may name.

    Args:
        name: in words.
        codes: (n,) int: which of ``forms`` each image has, -1 none.
        forms: the different texts.
        places: (n,) int: the folder in which that part lies, numbered; None where it does not matter.
        parts: how many parts of a path a form has; 0 for any number.
        folder: whether it is a folder above the image.
    """

    name: str
    codes: np.ndarray
    forms: list[str]
    places: np.ndarray | None = None
    parts: int = 0
    folder: bool = False

    def of(self, images: np.ndarray) -> Level:
        """The level of these images alone."""
        there, codes = np.unique(self.codes[images], return_inverse=True)
        known = there >= 0
        forms = [self.forms[i] for i in there[known].tolist()]
        return replace(self, codes=codes - int((~known).sum()), forms=forms, places=None)


@dataclass(frozen=True)
class Match:
    """What a level's images answer to.

    Args:
        level: the level.
        keys: (n,) int: the key that names each image, -1 none.
        spelling: (n,) int: the index in ``SPELLINGS`` by which it does.
        found: how many of the keys name an image.
    """

    level: Level
    keys: np.ndarray
    spelling: np.ndarray
    found: int

    def of(self, images: np.ndarray) -> Match:
        """What these images answer to."""
        return replace(self, keys=self.keys[images], spelling=self.spelling[images])

    @property
    def score(self) -> tuple[int, int, int]:
        """Keys that name an image, those that do as written, and images named."""
        exact = len(np.unique(self.keys[(self.keys >= 0) & (self.spelling == 0)]))
        return self.found, exact, int((self.keys >= 0).sum())


def levels(paths: Sequence[str], on: str) -> list[Level]:
    """The levels of these paths that a column named ``on`` may hold; only files, or only folders, where its name states it."""
    import pandas as pd

    codes, different = pd.factorize(np.array(paths, object))
    parts = [path.split("/") for path in different]
    deepest = max(map(len, parts))
    found: list[Level] = []

    def add(name: str, forms: list[str | None], places: list[str], count: int, folder: bool = False) -> None:
        of_form, texts = pd.factorize(np.array(forms, object))
        of_place = pd.factorize(np.array(places, object))[0]
        found.append(Level(name, of_form[codes], texts.tolist(), of_place[codes], count, folder))

    above = ["/".join(p[:-1]) for p in parts]
    add("the file name", [p[-1] for p in parts], above, 1)
    add("the file name without suffix", [_stem(p[-1]) for p in parts], above, 1)
    for k in range(2, min(6, deepest)):
        add(f"the last {k} parts of the path", ["/".join(p[-k:]) for p in parts], ["/".join(p[:-k]) for p in parts], k)
    add("the whole path", list(different), [""] * len(parts), 0)
    for k in range(1, min(DEPTH, deepest - 1) + 1):
        folders = [p[-k - 1] or None if len(p) > k else None for p in parts]
        add(f"the folder {k} above the file", folders, ["/".join(p[:-k]) for p in parts], 1, True)
    if len({len(p) for p in parts}) > 1:
        root = len(os.path.commonpath(above).split("/")) if all(a.startswith("/") for a in above) else 0
        for k in range(min(DEPTH, deepest - root)):
            folders = [p[root + k] if len(p) > root + k + 1 else None for p in parts]
            add(f"the folder at depth {k + 1}", folders, ["/".join(p[: root + k + 1]) for p in parts], 1, True)
    word = key(on)
    if re.search("folder|directory|ordner", word):
        return [level for level in found if level.folder]
    return [level for level in found if not level.folder] if re.search("file|path|datei", word) else found


def _stem(name: str) -> str:
    if name.lower().endswith(".nii.gz"):
        return name[: -len(".nii.gz")]
    return name.rpartition(".")[0] or name


def match(keys: Sequence[str], choices: Sequence[Level]) -> Match | None:
    """The level of which most keys name an image, and which key names which image there.

    Args:
        keys: different texts, as they stand in the spreadsheet.
        choices: the levels.

    Returns:
        The best level's match; None where no key names an image.

    Raises:
        UsageError: an image answers to other keys at another level, spelled as well or better.
    """
    if not len(keys):
        return None
    found = [_match_keys(keys, level, 1) for level in choices]
    best = max(range(len(found)), key=lambda i: found[i].score, default=None)  # of equals the first
    if best is None:
        return None
    if found[best].found < len(keys):
        again = [best] if found[best].found * 2 > len(keys) else range(len(found))
        found = [_match_keys(keys, level, len(SPELLINGS)) if i in again else found[i] for i, level in enumerate(choices)]
        best = max(range(len(found)), key=lambda i: found[i].score)
    chosen = found[best]
    if not chosen.found:
        return None
    loose = np.flatnonzero((chosen.keys >= 0) & (chosen.spelling > 0))
    for other in found:
        if len(other.level.forms) < 2 or other is chosen:
            continue  # the same for all images: it tells none from another
        torn = _torn(chosen, other)
        if len(loose) and not len(torn):  # what is spelled loosely here may be spelled better there
            part = other.level.of(loose)
            torn = loose[_torn(chosen.of(loose), _match_keys(keys, part, int(chosen.spelling.max()) + 1))]
        if len(torn):
            raise Torn(chosen, other if (other.keys[torn[0]] >= 0) else _match_keys(keys, other.level, len(SPELLINGS)), torn)
    return chosen


def _torn(best: Match, other: Match) -> np.ndarray:
    """Images that answer to another key at the other level, spelled as well or better."""
    known = (best.keys >= 0) & (other.keys >= 0)
    return np.flatnonzero(known & (other.keys != best.keys) & (other.spelling <= best.spelling))


class Torn(UsageError):
    """An image answers to two keys at two levels."""

    def __init__(self, best: Match, other: Match, images: np.ndarray) -> None:
        self.best, self.other, self.images = best, other, images
        super().__init__(f"{best.level.name} and {other.level.name} name two rows")


def _match_keys(keys: Sequence[str], level: Level, passes: int) -> Match:
    """Match exactly, then in looser spellings, each where it is unambiguous on both sides."""
    import pandas as pd

    count = len(keys)
    texts = pd.Series([*keys, *level.forms], dtype="str")
    chosen, spelling = np.full(len(level.forms), -1), np.zeros(len(level.forms), int)
    used = np.zeros(count, bool)
    for number, change in enumerate(_changes(level)[:passes]):
        texts = change(texts, count)
        codes = pd.factorize(texts)[0]
        of_key, of_form, width = codes[:count], codes[count:], int(codes.max(initial=-1)) + 1
        row = np.full(width, -1)
        row[of_key] = np.arange(count)
        row[np.bincount(of_key, minlength=width) > 1] = -1
        at = np.where(np.bincount(of_form, minlength=width)[of_form] > 1, -1, row[of_form])
        new = (at >= 0) & (chosen < 0) & ~used[at]  # a key that names an image in a better spelling names no other in a worse one
        chosen[new], spelling[new] = at[new], number
        used[at[new]] = True
        if used.all():
            break
    return Match(level, np.append(chosen, -1)[level.codes], np.append(spelling, 0)[level.codes], int(used.sum()))


def _changes(level: Level) -> tuple[Callable[[pd.Series[str], int], pd.Series[str]], ...]:
    """From the exact spelling to the loosest: what each takes away from texts, of which the first so many are keys."""
    import pandas as pd

    def composed(texts: pd.Series[str], _: int) -> pd.Series[str]:
        texts = texts.str.strip().str.replace("\\", "/", regex=False)
        foreign = ~texts.str.isascii()
        return texts.mask(foreign, texts[foreign].str.normalize("NFC")) if foreign.any() else texts

    def tail(texts: pd.Series[str], count: int) -> pd.Series[str]:
        if not level.parts:
            return texts
        ends = texts[:count].str.replace(rf"^.*/((?:[^/]*/){{{level.parts - 1}}}[^/]*)$", r"\1", regex=True)
        return pd.concat([ends, texts[count:]])

    def numbers(texts: pd.Series[str], _: int) -> pd.Series[str]:
        return texts.str.replace(r"^(\d+)\.0+$", r"\1", regex=True).str.replace(r"^0+([0-9]+)$", r"\1", regex=True)

    return (
        lambda texts, _: texts,
        composed,
        lambda texts, _: texts.str.lower(),
        tail,
        lambda texts, _: texts if level.folder else texts.str.replace(_SUFFIX, "", regex=True),
        numbers,
    )
