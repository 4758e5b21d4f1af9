"""``scotoma audit``'s checks over one table, or two: all findings, and the rows that describe the data."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from scotoma.data.dataset import Dataset
from scotoma.data.labels.targets import Target
from scotoma.data.store.store import Store
from scotoma.errors import UsageError, notice
from scotoma.quality.findings import Finding, ImageSet

Row = dict[str, Any]
PROTOCOL = 1
MOST_READ = 5000  # images read in full to look for burned-in text, evenly spaced
MOST_NAMED = 5  # classes left out that are named
MOST_DETECTED = 500  # where the text detector looks, which takes two seconds for an image of 1,000 pixels a side


@dataclass(frozen=True)
class AuditedTable:
    """One of the two tables, decoded."""

    dataset: Dataset
    store: Store

    @property
    def rows(self) -> np.ndarray:
        """(n,) row ids, which are the rows of the store."""
        return self.dataset.table["row"].to_numpy()

    @property
    def contents(self) -> np.ndarray:
        """(n,) keyed hash of each row's pixels."""
        from scotoma.data.splits.splits import contents

        return contents(self.dataset, self.store)


def has_classes(dataset: Dataset, name: str) -> bool:
    """Whether a column that nobody named is one of classes."""
    from scotoma.data.labels import targets

    try:
        targets.read(dataset, [name])
    except UsageError:
        return False
    return True


def find_problems(
    dataset: Dataset, ready: AuditedTable, other: AuditedTable | None, known: list[Target], quiet: bool
) -> tuple[list[Finding], list[Row]]:
    """All findings, and the rows that describe the data."""
    from scotoma.data.splits import altered_copies, near_duplicates, units
    from scotoma.quality import cohort, outliers
    from scotoma.quality import findings as audit

    parts = [ready, *([other] if other else [])]
    names = [(k, int(i)) for k, part in enumerate(parts) for i in part.rows]
    mine = len(ready.rows)
    of = np.array([""] * len(names), "U5")
    if "split" in ready.dataset.table.columns:
        of[:mine] = ready.dataset.table["split"].fillna("").to_numpy(dtype="U5")
    both = audit.ImageSet(names, of, np.arange(len(names)) >= mine)
    own = audit.ImageSet(names[:mine], of[:mine], both.other[:mine])
    facts = ready.store.facts.iloc[ready.rows].reset_index(drop=True)
    codes, unit = units.units(ready.dataset, ready.store)
    contents = np.concatenate([part.contents for part in parts])
    near = near_duplicates.near_duplicates(np.concatenate([part.store.hashes[part.rows] for part in parts]))
    if other is None:  # kept in the store: other verbs need not look again
        altered = units.link(near, altered_copies.find_copies_of_store(ready.store, ready.rows))
    else:
        altered = units.link(near, altered_copies.find_copies_of_stores([(part.store, part.rows) for part in parts]))

    kept = ready.store.facts if dataset.store is None else ready.store.facts.iloc[dataset.table["row"]]
    found = audit.unreadable(kept)
    shared = set(unit.split(" + ")) - {units.NEAR}  # ids; of copies `repeated` tells
    if shared:
        found += audit.find_shared_units(own, codes, unit)
    if not (own.of != "").any():
        found += audit.one_unit(units.link(codes, contents[:mine]), unit)
    owners = np.concatenate([units.name_owners(part.dataset, part.store) for part in parts])
    if other is not None:
        found += audit.find_shared_owners(both, units.number_values(owners), "patient" if "patient" in shared else unit)
    found += audit.find_repeated(both, contents, near, altered, bool(shared), owners)
    linked = units.link(codes, altered[:mine])
    columns = tuple(c for one in known for c in one.columns)
    rows = audit.counts(ready.dataset.table, own.of, columns)
    for one in known:
        found += audit.contradictions(own, one, (("identical", contents[:mine]), ("near-duplicate", near[:mine])))
        found += audit.small_classes(
            one, own.of, codes, "unit" if " + " in unit else f"{unit} group" if unit == units.NEAR else unit
        )
        predicted, told = _shortcuts(ready, one, linked)
        found, rows = found + predicted, rows + told

    greys = altered_copies.greys(ready.store, ready.rows)
    constant, nearly = outliers.find_blank(greys)
    negative = outliers.find_inverted(ready.store, ready.rows, _kind_of_image(ready))
    found += audit.flag(own, constant, "constant", "of one grey level: nothing to be seen", "warning")
    found += audit.flag(own, nearly, "nearly_blank", "of one grey level almost everywhere", "warning")
    found += audit.flag(own, negative, "inverted", "like a negative of the others of that kind", "warning")
    found += audit.odd_files(own, outliers.find_rare(facts))
    found += _confidential(ready, own, quiet)
    found += audit.identifying_columns(ready.dataset.table, columns)
    found += audit.missing_values(ready.dataset.table, columns)
    if (own.of != "").any():
        patients = units.codes_of(ready.dataset, "patient") if "patient" in shared else None
        rows += cohort.compare(ready.dataset.table, own.of, patients, columns)
    return found, [{"protocol": PROTOCOL, **row} for row in rows]


def _kind_of_image(part: AuditedTable) -> np.ndarray:
    """(n,) what an image's peers have in common: modality and view, as the table or the headers say."""
    table = part.dataset.table
    words = [table[c].map(str).to_numpy(object) for c in ("modality", "view") if c in table.columns]  # of a gap, "nan" or "None"
    return np.array([" ".join(w) for w in zip(*words, strict=True)], object) if words else np.zeros(len(table), object)


def _shortcuts(part: AuditedTable, target: Target, groups: np.ndarray) -> tuple[list[Finding], list[Row]]:
    """How well header facts alone, and the border alone, predict a target; classes of too few groups are left out, and named."""
    from scotoma.quality import shortcuts
    from scotoma.quality.findings import Finding

    columns = shortcuts.header(shortcuts.facts_of(part.dataset, part.store))
    found, rows = [], []
    small = shortcuts.find_small_classes(target, groups)
    names = [repr(target.classes[c]) for c in small]
    listed = f"{', '.join(names[:MOST_NAMED])}{f' and {len(names) - MOST_NAMED} more' if len(names) > MOST_NAMED else ''}"
    what = f"whether size, headers or the border alone predict {target.columns[0]}"
    why = f"{listed}: images of fewer than {shortcuts.FOLDS} patients or groups"
    count = int(np.isin(target.y, small).sum())
    target = target.only(np.flatnonzero(target.known & ~np.isin(target.y, small)))
    if len(np.unique(target.y[target.known])) < 2:
        reason = why if small else "all labelled images are of one class"
        return [Finding("note", "shortcuts_not_checked", f"not checked: {what} ({reason})", count)], []
    if small:
        found.append(Finding("note", "shortcuts_in_part", f"{what} is looked for without {why}", count))
    without = {"reason": f"without {why}"} if small else {}
    inputs = {
        "header": ("size, format and header facts alone predict", np.stack(list(columns.values()), 1)),
        "border": ("the border of the image alone predicts", shortcuts.border(part.store, part.rows)),
    }
    for name, (words, x) in inputs.items():
        auroc = shortcuts.predictability(x, target, groups, trees=name == "header")
        if auroc is None:
            continue
        best = shortcuts.rank_facts(columns, target) if name == "header" else []
        by = f"; most telling: {', '.join(f'{fact} ({area:.2f})' for fact, area in best)}" if best else ""
        common = {"target": target.columns[0], "from": name}
        rows.append({"evaluator": "audit", "metric": "auroc", **common, **auroc, **without})
        if auroc["low"] > 0.5:
            interval = f"AUROC {auroc['value']:.2f}, 95 % interval {auroc['low']:.2f} to {auroc['high']:.2f}"
            severity = "warning" if auroc["low"] > shortcuts.CLEARLY else "note"
            text = f"{words} {target.columns[0]} ({interval}{by})"
            found.append(Finding(severity, f"{name}_predicts", text, auroc["n"], extra={**common, "auroc": auroc["value"]}))
    return found, rows


def _confidential(part: AuditedTable, own: ImageSet, quiet: bool) -> list[Finding]:
    """Burned-in text and identifying headers, where the files themselves are there."""
    from rich.progress import track

    from scotoma.data.io import burned_in_text, dicom_phi, text_detector
    from scotoma.data.io.read import ImageError, read
    from scotoma.data.io.sampling import spread
    from scotoma.quality import findings as audit

    table = part.dataset.table
    if "image_path" not in table.columns:
        text = "a prepared store: burned-in text and identifying headers can be looked for in the files only"
        return [audit.Finding("note", "not_looked_for", text, len(table))]
    paths = table["image_path"].tolist()
    frames = table["frame"].tolist() if "frame" in table.columns else [float("nan")] * len(paths)

    def lettered(i: int) -> bool:
        try:
            image = read(paths[i], None if frames[i] != frames[i] else int(frames[i]))
        except ImageError:
            return False  # it was readable a moment ago: unreadable ones are told of already
        return bool(find(image.pixels))

    if text_detector.models() is not None:
        find, most = text_detector.text_lines, MOST_DETECTED
    else:
        find, most = burned_in_text.text_lines, MOST_READ
        text = "a rule that misses half of it looks for burned-in text; a detector finds more: pip install 'scotoma[ocr]'"
        notice(part.dataset.name, text)
    picks = spread(len(paths), most)
    chosen = np.zeros(len(paths), bool)
    # threads that hide a decoder's warnings by turns would leave all warnings hidden in the caller's process: hide them around all
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        read_all = pool.map(lettered, picks.tolist())
        chosen[picks] = list(track(read_all, "looking for text", len(picks), transient=True, disable=quiet))
    looked = "" if len(picks) == len(paths) else f" (of {len(picks)} looked at)"
    sampled = [] if not looked else [_note_sampling(len(picks), len(paths))]
    found = audit.flag(own, chosen, "burned_in_text", f"with what seems to be burned-in text{looked}", "warning")
    first: dict[str, int] = {}
    for i, path in enumerate(paths):
        if not path.startswith("phantom:"):
            first.setdefault(path.split("#")[0], i)
    headers = [(own.names[i], dicom_phi.find_filled(path) or []) for path, i in first.items()]
    return found + sampled + audit.identifying(headers, len(headers))


def _note_sampling(count: int, n: int) -> Finding:
    """That burned-in text was looked for in some images only: none found in these is not none."""
    from scotoma.quality.findings import Finding

    return Finding("note", "burned_in_text_sample", f"burned-in text was looked for in {count} of {n} images only", n - count)


def write_captions(ready: AuditedTable, other: AuditedTable | None, known: list[Target]) -> dict[tuple[int, int], str]:
    """What stands below a thumbnail: row id, split and labels."""
    captions, columns = {}, ("split", *(one.columns[0] for one in known))
    for k, part in enumerate([ready, *([other] if other else [])]):
        table = part.dataset.table
        said = {c: table[c].astype(object).where(table[c].notna(), None).tolist() for c in columns if c in table.columns}
        for i, row in enumerate(part.rows.tolist()):
            values = [v[i] if c == "split" else f"{c} {v[i]}" for c, v in said.items() if v[i] is not None]
            captions[k, row] = " · ".join([f"{'other ' if k else ''}row {row}", *values])
    return captions
