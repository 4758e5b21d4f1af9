"""Columns of classes as people write them: one class in several spellings, several findings in one cell, marks for unknown."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scotoma.data import phi
from scotoma.data.labels.annotators import label_text
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.dataset import Dataset

MOST = 100  # different values of a column of classes
SHOWN = 4  # classes that a line names
SEPARATORS = ("|", ";", ",")
MARKS = {"-", "--", "?", ".", "na", "n/a", "n.a.", "not available", "missing", "unknown", "unk", "unbekannt", "k.a.", "tbd"}
_UNSHOWN = {  # of a column that may identify patients
    "look_alike_classes": "classes that differ in case or blanks alone are joined",
    "look_alike_numbers": "some classes are one number in several spellings, kept apart",
    "missing_as_class": "some classes may mean a missing value: --missing names such words",
    "several_findings": "some cells name several findings: --separator makes each a 0/1 target",
}


@dataclass(frozen=True)
class Remark:
    """What a column of classes holds that its reader may not expect.

    Args:
        check: a name for it, for programs.
        column: the column.
        text: one line in plain words.
        count: rows concerned.
        wrong: whether it would be read wrong, and must be settled first.
    """

    check: str
    column: str
    text: str
    count: int
    wrong: bool = False


def prepare_target(
    dataset: Dataset, names: Sequence[str], chosen: Sequence[str] = (), separator: str | None = None
) -> tuple[Dataset, list[str]]:
    """The columns of a target ready to be read; what is joined or may be meant otherwise is reported.

    Args:
        dataset: the table.
        names: columns of the target; one that the table lacks is left to whoever reads it.
        chosen: of one column, the classes to distinguish.
        separator: what stands between several findings in one cell: each becomes a 0/1 column of its name.

    Raises:
        UsageError: -1 beside 0 and 1, or a separator that no cell holds.
    """
    dataset, names = split_findings(dataset, names, separator)
    dataset, remarks = check_spellings(dataset, names, chosen)
    wrong = next((r for r in remarks if r.wrong), None)
    if wrong is not None:
        raise UsageError(f"{dataset.name}: {wrong.column} {wrong.text}")
    for remark in remarks:
        if len(names) == 1 or remark.check != "look_alike_numbers":  # of several targets 1 and 1.0 are both 1
            notice(dataset.name, f"{remark.column}: {remark.text}")
    return dataset, names


def check_spellings(dataset: Dataset, names: Sequence[str], chosen: Sequence[str] = ()) -> tuple[Dataset, list[Remark]]:
    """Spellings of one class joined, and remarks on what else the columns hold."""
    found: list[Remark] = []
    for name in names:
        if name not in dataset.table.columns or name == "mask_path":
            continue
        codes, texts, counts = _texts(dataset.table[name])
        if len(texts) > MOST:
            continue
        joined, remark = _one_spelling(name, texts, counts, chosen)
        if remark is not None:
            found.append(remark)
            cells = np.array([*joined, None], object)[codes]
            dataset = replace(dataset, table=dataset.table.assign(**{name: cells}))
            total = Counter[str]()
            for text, count in zip(joined, counts, strict=True):
                total[text] += count
            texts, counts = list(total), list(total.values())
        found += _remarks(name, dict(zip(texts, counts, strict=True)), chosen)
        if phi.reason_of(name, dataset.table[name], phi.units_of(dataset.table)) is not None:
            found = [replace(r, text=_UNSHOWN[r.check]) if r.column == name and r.check in _UNSHOWN else r for r in found]
    return dataset, found


def _texts(column: pd.Series) -> tuple[np.ndarray, list[str], list[int]]:
    """(n,) codes, -1 for missing; the text of each code; and how many rows have it."""
    import pandas as pd

    codes, different = pd.factorize(column.astype(object).where(column.notna(), None))
    of_code, texts = pd.factorize(np.array([*map(label_text, different), None], object))
    codes = of_code[codes]
    return codes, [str(t) for t in texts], np.bincount(codes[codes >= 0], minlength=len(texts)).tolist()


def _one_spelling(name: str, texts: list[str], counts: list[int], chosen: Sequence[str] = ()) -> tuple[list[str], Remark | None]:
    """Each text in one of the spellings that differ in case and blanks alone: a chosen class's, else the most frequent."""
    alike: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        alike.setdefault(_bare(text), []).append(i)
    wanted = {_bare(c): c for c in chosen} if len({_bare(c) for c in chosen}) == len(chosen) else {}
    joined, told, rows = list(texts), [], 0
    for bare, group in alike.items():
        first = min(group, key=lambda i: (-counts[i], texts[i]))
        best = wanted.get(bare, unicodedata.normalize("NFC", texts[first]))
        others = [i for i in sorted(group, key=lambda i: (-counts[i], texts[i])) if texts[i] != best]
        if not others or (chosen and not wanted):
            continue
        rows += sum(counts[i] for i in others)
        total = sum(counts[i] for i in group if texts[i] == best)
        told.append(f"{', '.join(f'{texts[i]!r} ({counts[i]})' for i in others)} with {best!r} ({total})")
        for i in others:
            joined[i] = best
    if not told:
        return texts, None
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    text = f"classes that differ in case or blanks alone are joined: {'; '.join(told[:SHOWN])}{more}"
    return joined, Remark("look_alike_classes", name, text, rows)


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def _remarks(name: str, counts: dict[str, int], chosen: Sequence[str]) -> list[Remark]:
    found: list[Remark] = []
    numbers = {text: number for text in counts if (number := _number(text)) is not None}
    values = set(numbers.values())
    if not chosen and -1 in values and len(numbers) == len(counts) and values == {-1, 0, 1}:
        rows = sum(counts[text] for text, number in numbers.items() if number == -1)
        text = (
            f"holds -1 beside 0 and 1 in {rows} rows, by which tables mark what is uncertain: --missing=-1 leaves these out "
            "(uncertain=missing of the public data sets), --classes=-1,0,1 of the verbs that train makes it a class; or write "
            "0 or 1 in the table"
        )
        found.append(Remark("minus_one", name, text, rows, True))
    twice = [texts for number in values if len(texts := [t for t, n in numbers.items() if n == number]) > 1]
    if twice:
        shown = ", ".join(" and ".join(map(repr, texts[:3])) for texts in twice[:SHOWN])
        found.append(
            Remark("look_alike_numbers", name, f"{shown}: one number each, kept apart as classes", sum(counts[t] for t in twice[0]))
        )
    marks = [text for text in counts if text.casefold() in MARKS and text not in chosen]
    if marks and len(counts) > len(marks):
        shown, rows = ", ".join(f"{t!r} ({counts[t]})" for t in marks[:SHOWN]), sum(counts[t] for t in marks)
        kind, words = "a class" if len(marks) == 1 else "classes", ",".join(marks[:SHOWN])
        text = f"{shown} taken as {kind}; --missing '{words}' leaves these rows out"
        found.append(Remark("missing_as_class", name, text, rows))
    for separator in SEPARATORS:
        several = {text: [part.strip() for part in text.split(separator)] for text in counts if separator in text}
        parts = Counter(part for text in several.values() for part in set(text))
        if any(part in counts or count > 1 for part, count in parts.items()):
            rows = sum(counts[text] for text in several)
            text = f"{len(several)} classes name several findings with {separator!r} between ({rows} rows)"
            text += f": --separator '{separator}' makes each finding a 0/1 target"
            found.append(Remark("several_findings", name, text, rows))
            break
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def split_findings(dataset: Dataset, names: Sequence[str], separator: str | None) -> tuple[Dataset, list[str]]:
    """Columns whose cells name several findings -> one 0/1 column per finding; a missing cell is missing in all.

    Raises:
        UsageError: no cell of the one column holds the separator; a finding has the name of another column.
    """
    if not separator:
        return dataset, list(names)
    present = [name for name in names if name in dataset.table.columns]
    if len(names) != 1 or not present:
        if len(present) == len(names):
            return dataset, list(names)  # 0/1 columns already
        raise UsageError("--separator goes with one column: --target COLUMN")
    name = names[0]
    codes, texts, _ = _texts(dataset.table[name])
    if not any(separator in text for text in texts):
        raise UsageError(f"{dataset.name}: no cell of {name} holds the separator {separator!r}")
    parts = [[part for raw in text.split(separator) if (part := " ".join(raw.split()))] for text in texts]
    counts = Counter(part for cell in parts for part in cell)
    joined, remark = _one_spelling(name, list(counts), list(counts.values()))
    if remark is not None:
        notice(dataset.name, f"{name}: {remark.text}")
    spelled = dict(zip(counts, joined, strict=True))
    findings = sorted(set(joined))
    taken = next((f for f in findings if f in dataset.table.columns and f != name), None)
    if taken is not None:
        raise UsageError(f"{dataset.name}: the finding {taken!r} of {name} is the name of a column: rename one")
    if len(findings) > MOST:
        raise UsageError(
            f"{dataset.name}: {name} holds {len(findings)} findings between {separator!r}: that is no column of findings"
        )
    held = np.array([[float(f in {spelled[p] for p in cell}) for f in findings] for cell in parts] + [[np.nan] * len(findings)])
    held[[k for k, cell in enumerate(parts) if not cell]] = np.nan
    cells = held[codes]
    table = dataset.table.assign(**{f: cells[:, k] for k, f in enumerate(findings)})
    told = ", ".join(f"{f} ({int(np.nansum(cells[:, k]))})" for k, f in enumerate(findings[:12]))
    more = f" and {len(findings) - 12} more" if len(findings) > 12 else ""
    notice(dataset.name, f"{name}: {len(findings)} findings between {separator!r} are 0/1 targets: {told}{more}")
    return replace(dataset, table=table), findings
