"""Problems of a table of images, as findings: what is wrong, how bad, how many, which rows. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma.data import phi
from scotoma.data.labels.classes import Remark
from scotoma.data.labels.targets import Target
from scotoma.data.splits.splits import ALL_TRAIN
from scotoma.data.splits.units import count_of, plural
from scotoma.errors import number
from scotoma.quality.cohort import kinds

if TYPE_CHECKING:
    import pandas as pd

SEVERITIES = ("error", "warning", "note")  # worst first
FEW_ROWS = 10  # of a class: too few to train on, and too few to test
ImageId = tuple[int, int]  # (0 of the data or 1 of the other table, row id)


@dataclass(frozen=True)
class Finding:
    """One problem.

    Args:
        severity: ``error`` (results would be wrong), ``warning`` (look at it before training) or ``note`` (worth knowing).
        check: a name for it, for programs.
        text: one line in plain words.
        count: how many images (or patients, groups, files) are concerned; ``text`` states which.
        images: the images concerned, by row id.
        groups: images to be looked at side by side; in ``rows.jsonl`` all of them, as lists of row ids.
    """

    severity: str
    check: str
    text: str
    count: int
    images: tuple[ImageId, ...] = ()
    groups: tuple[tuple[ImageId, ...], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As a row of a run folder."""
        ids = {name: [i for k, i in self.images if k == other] for other, name in enumerate(("rows", "against_rows"))}
        known = {"evaluator": "audit", "metric": self.check, "severity": self.severity, "value": self.count, "text": self.text}
        against = {"against_rows": ids["against_rows"]} if ids["against_rows"] else {}
        return {**known, "rows": ids["rows"], **against, **self._groups(bool(against)), **self.extra}

    def _groups(self, against: bool) -> dict[str, Any]:
        """The groups as lists of row ids, each with its ids in the other table where there are such."""
        parts = [[[i for k, i in group if k == other] for group in self.groups] for other in (0, 1)]
        found = {"groups": parts[0]} if self.groups else {}
        return found | ({"against_groups": parts[1]} if self.groups and against else {})


@dataclass(frozen=True)
class ImageSet:
    """What is known of each image of the data and, after them, of the other table.

    Args:
        names: (n,) which table, and the row id there.
        of: (n,) split, ``""`` where there is none.
        other: (n,) bool, of the other table.
    """

    names: list[ImageId]
    of: np.ndarray
    other: np.ndarray

    def pick(self, chosen: np.ndarray) -> tuple[ImageId, ...]:
        """The images where ``chosen`` (bool or positions)."""
        positions = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return tuple(self.names[i] for i in positions.tolist())

    def sides(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Which groups (values of ``codes``) are shared, and by what.

        Returns:
            ``within`` (several images of the data, not on several sides), ``splits`` (on several sides), ``tables`` (in both
            tables) -> (n,) bool, the images of such groups.
        """
        import pandas as pd

        own = ~self.other
        frame = pd.DataFrame({"code": codes, "of": self.of, "other": self.other})
        both = frame.groupby("code")["other"].transform("nunique").to_numpy() > 1
        inside = frame[own].groupby("code")
        shared = np.zeros(len(codes), bool)
        split = frame[own & (self.of != "")]
        shared[split.index] = split.groupby("code")["of"].transform("nunique").to_numpy() > 1
        several = np.zeros(len(codes), bool)
        several[np.flatnonzero(own)] = inside["of"].transform("size").to_numpy() > 1
        return {"within": several & ~np.isin(codes, codes[shared]), "splits": shared, "tables": both}

    def groups(self, codes: np.ndarray, chosen: np.ndarray) -> tuple[tuple[ImageId, ...], ...]:
        """The groups of ``chosen`` images, largest first."""
        import pandas as pd

        positions = np.flatnonzero(chosen)
        found = [g.to_numpy() for _, g in pd.Series(positions).groupby(codes[positions])]
        return tuple(self.pick(g) for g in sorted(found, key=len, reverse=True))


def unreadable(facts: pd.DataFrame) -> list[Finding]:
    """Files of which no image could be made."""
    bad = np.flatnonzero(facts["error"].notna())
    if not len(bad):
        return []
    reasons = facts["error"].iloc[bad].map(lambda e: str(e).rpartition(": ")[2]).value_counts()
    told = "; ".join(f"{n} x {reason}" for reason, n in reasons.head(5).items())
    text = f"{len(bad)} of {len(facts)} images cannot be read ({told})"
    return [Finding("warning", "unreadable", text, len(bad), tuple((0, int(i)) for i in bad))]


def odd_files(images: ImageSet, odd: dict[str, np.ndarray]) -> list[Finding]:
    """What `oddities.rare` found."""
    return [
        Finding("note", "odd_file", f"{what}: only {number(n, 'image')}", n, images.pick(chosen))
        for what, chosen in odd.items()
        if (n := int(chosen.sum()))
    ]


def find_repeated(
    images: ImageSet, contents: np.ndarray, near: np.ndarray, altered: np.ndarray, patients: bool, owners: np.ndarray
) -> list[Finding]:
    """Identical images, near-duplicates and altered copies: on both sides of a split or in both tables, and within.

    Args:
        images: of one or two tables.
        contents: (n,) equal for equal pixels.
        near: (n,) near-duplicate groups.
        altered: (n,) groups of these joined by crops, brightness, mirroring and turning.
        patients: whether patients (or groups) are known; near-duplicates across splits may then be of different people.
        owners: (n,) whose images these are, or of which series or file; None where it is not known. Images of one that look alike
            are no copies of one another.
    """
    levels = (
        ("identical", "images with the same pixels", contents, ("error", "error", "warning")),
        (
            "near_duplicate",
            "near-duplicates (recompressed or resized copies)",
            near,
            ("warning" if patients else "error", "warning", "note"),
        ),
        ("altered_copy", "copies that are cropped, brightened, mirrored or turned", altered, ("warning", "warning", "note")),
    )
    found: list[Finding] = []
    told: dict[str, np.ndarray] = {}
    for check, what, codes, (split, table, within) in levels:
        shared = images.sides(codes)
        for place, words, severity in (
            ("splits", "stand on several sides of the split", split),
            ("tables", "stand in both tables", table),
            ("within", "repeat one another", within),
        ):
            chosen = shared[place] & ~told.get(place, np.zeros(len(codes), bool))
            told[place] = told.get(place, chosen) | chosen
            if place == "within" and check != "identical":
                alone = chosen & _of_one(codes, shared[place], owners)
                if alone.any():
                    groups = images.groups(codes, alone)
                    text = f"{number(int(alone.sum()), 'neighbouring or registered image')} of one patient look alike, in "
                    text += number(len(groups), "group")
                    found.append(Finding("note", f"{check}_of_one_patient", text, int(alone.sum()), images.pick(alone), groups))
                chosen &= ~alone
            if chosen.any():
                groups = images.groups(codes, shared[place] & np.isin(codes, codes[chosen]))
                n, there = int((chosen & ~images.other).sum()), int((chosen & images.other).sum())
                also = f" ({there} there)" if place == "tables" else ""
                text = f"{n} {what} {words}{also}, in {number(len(groups), 'group')}"
                kind = {"splits": f"{check}_across_splits", "tables": f"{check}_in_both_tables", "within": check}[place]
                found.append(Finding(severity, kind, text, n, images.pick(chosen), groups))
    return found


def _of_one(codes: np.ndarray, chosen: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(n,) bool: the ``chosen`` images whose whole group has one owner."""
    import pandas as pd

    found, positions = np.zeros(len(codes), bool), np.flatnonzero(chosen)
    owner = pd.Series(owners[positions], dtype=object)
    code = codes[positions]
    known, several = owner.notna().groupby(code).transform("all"), owner.groupby(code).transform("nunique")
    found[positions] = (known & (several == 1)).to_numpy()
    return found


def one_unit(units: np.ndarray, unit: str) -> list[Finding]:
    """All images belong together: there is nothing to test on."""
    if not len(units) or len(np.unique(units)) > 1:
        return []
    text = f"all images are of {count_of(1, unit)}: no split can be drawn; {ALL_TRAIN}"
    return [Finding("warning", "one_unit", text, len(units), extra={"unit": unit})]


def find_shared_units(images: ImageSet, units: np.ndarray, unit: str) -> list[Finding]:
    """Patients (or what else belongs together) on several sides of the split."""
    chosen = images.sides(units)["splits"]
    if not chosen.any():
        return []
    count = len(np.unique(units[chosen]))
    what = f"{number(count, 'unit')} ({unit})" if " + " in unit else unit if count == 1 else plural(unit)
    what = what if " + " in unit else f"{count} {what}"
    text = f"{what} on several sides of the split ({number(int(chosen.sum()), 'image')})"
    kind = unit.partition(" + ")[0]
    groups = images.groups(units, chosen)
    return [Finding("error", f"{kind}_across_splits", text, count, images.pick(chosen), groups, {"unit": unit})]


def find_shared_owners(images: ImageSet, owners: np.ndarray, unit: str) -> list[Finding]:
    """Patients (or studies, ...) of which both tables have images."""
    chosen = images.sides(owners)["tables"]
    if not chosen.any():
        return []
    count = len(np.unique(owners[chosen]))
    word = unit.partition(" + ")[0]
    text = f"{count} {word if count == 1 else plural(word)} in both tables ({number(int(chosen.sum()), 'image')})"
    return [Finding("error", f"{word}_in_both_tables", text, count, images.pick(chosen), images.groups(owners, chosen))]


def contradictions(images: ImageSet, target: Target, groups: Iterable[tuple[str, np.ndarray]]) -> list[Finding]:
    """Labels that differ among images that are the same.

    Args:
        images: of the data alone.
        target: one categorical column.
        groups: ("identical" / "near-duplicate", (n,) codes).
    """
    import pandas as pd

    found: list[Finding] = []
    told = np.zeros(len(target.y), bool)
    for kind, codes in groups:
        known = np.flatnonzero(target.known)
        different = pd.Series(target.y[known]).groupby(codes[known]).transform("nunique").to_numpy() > 1
        chosen = np.zeros(len(codes), bool)
        chosen[known[different]] = True
        chosen &= ~told
        told |= chosen
        if chosen.any():
            shown = images.groups(codes, chosen)
            text = f"{int(chosen.sum())} {kind} images have different {target.columns[0]}, in {number(len(shown), 'group')}"
            severity, name = ("error" if kind == "identical" else "warning"), kind.replace("-", "_")
            extra = {"target": target.columns[0]}
            found.append(
                Finding(severity, f"contradicting_labels_{name}", text, int(chosen.sum()), images.pick(chosen), shown, extra)
            )
    return found


def labels_of(remarks: Iterable[Remark]) -> list[Finding]:
    """What `classes.check_spellings` found in the columns to be predicted."""
    return [
        Finding("error" if r.wrong else "warning", r.check, f"{r.column}: {r.text}", r.count, extra={"target": r.column})
        for r in remarks
    ]


def missing_values(table: pd.DataFrame, targets: tuple[str, ...]) -> list[Finding]:
    """Columns with gaps; a target's gaps leave their rows out of training."""
    found = []
    for column in (c for c in table.columns if c not in ("image_path", "frame", "row", "mask_path")):
        gaps = int(table[column].isna().sum())
        if gaps:
            share = gaps / len(table)
            severity = "warning" if column in targets and share > 0.2 else "note"
            text = f"{column} is missing in {gaps} of {len(table)} images ({share:.0%})"
            found.append(Finding(severity, "missing_values", text, gaps, extra={"column": str(column)}))
    return found


def identifying_columns(table: pd.DataFrame, targets: tuple[str, ...]) -> list[Finding]:
    """Columns that seem to identify patients: nothing of them is described."""
    found = phi.identifying(table, targets)
    if not found:
        return []
    told = ", ".join(f"{name} ({reason.text})" for name, reason in found.items())
    text = f"{number(len(found), 'column')} of the table may identify patients: {told}"
    return [Finding("note", "identifying_columns", text, len(found), extra={"columns": list(found)})]


def small_classes(target: Target, of: np.ndarray, units: np.ndarray, unit: str) -> list[Finding]:
    """Classes with too few images, or patients, in all or on a side of the split."""
    found = []
    places = [
        ("", np.ones(len(of), bool)),
        *((f" in {name}", of == name) for name in ("train", "val", "test") if (of == name).any()),
    ]
    for k, label in enumerate(target.classes):
        for where, inside in places:
            chosen = inside & (target.y == k)
            count, people = int(chosen.sum()), len(np.unique(units[chosen]))
            if people < FEW_ROWS:
                severity = "warning" if people < FEW_ROWS // 2 or not where else "note"
                text = f"{target.columns[0]} {label!r} has {number(count, 'image')} of {count_of(people, unit)}{where}"
                found.append(Finding(severity, "small_class", text, count, extra={"target": target.columns[0], "class": label}))
                break
    return found


def counts(table: pd.DataFrame, of: np.ndarray, targets: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Rows that count the images of each class and subgroup, ages in bands of 20 years, in all and by split.

    Categories that fewer than ``phi.FEW`` patients have are one, but for those of targets.
    """
    import pandas as pd

    rows, units = [], phi.units_of(table)
    described = {c: k for c, k in kinds(table, targets).items() if k == "category" or c.lower() == "age"}
    for column, kind in described.items():
        values = table[column]
        if kind == "number":
            low = (pd.to_numeric(values, errors="coerce") // 20 * 20).astype("Int64")
            values = low.map(lambda v: f"{v} to {v + 19}", na_action="ignore")
        if column not in targets:
            values = phi.rare(values.astype(object), units)
        words = values.astype(object).where(values.notna(), phi.MISSING).astype(str)
        for split in ("", *(s for s in ("train", "val", "test") if (of == s).any())):
            inside = words if not split else words[of == split]
            for value, n in inside.value_counts().items():
                common = {"evaluator": "audit", "metric": "images", "column": column, "class": value, "value": int(n)}
                rows.append({**common, **({"split": split} if split else {})})
    return rows


def flag(images: ImageSet, chosen: np.ndarray, check: str, words: str, severity: str) -> list[Finding]:
    """One finding about the ``chosen`` images, "N images" and the ``words``; or none."""
    n = int(chosen.sum())
    return [Finding(severity, check, f"{number(n, 'image')} {words}", n, images.pick(chosen))] if n else []


def identifying(found: list[tuple[ImageId, list[str]]], files: int) -> list[Finding]:
    """Which identifying header elements are filled, and in how many files; never what they say."""
    concerned = [name for name, elements in found if elements]
    if not concerned:
        return []
    by_element: dict[str, int] = {}
    for _, elements in found:
        for element in elements:
            by_element[element] = by_element.get(element, 0) + 1
    told = ", ".join(f"{name} in {n}" for name, n in sorted(by_element.items(), key=lambda item: -item[1])[:6])
    text = f"{len(concerned)} of {files} files have identifying elements filled in their headers ({told})"
    return [Finding("warning", "identifying_header", text, len(concerned), tuple(concerned), extra={"elements": by_element})]


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; within each the order of the checks."""
    return sorted(findings, key=lambda f: SEVERITIES.index(f.severity))
