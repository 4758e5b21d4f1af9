"""``scotoma split``: the user's own table with a column ``split``, by what belongs together."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data import sources
from scotoma.data.dataset import Dataset
from scotoma.data.io.read import Display
from scotoma.data.labels import classes as label_columns
from scotoma.data.labels import targets
from scotoma.data.splits.splits import SHARES
from scotoma.errors import RunError, UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

SIZE = 96  # at which images are decoded where near-duplicates are the unit: the default of the other verbs, which find them done


def split_table(
    raw: Dataset,
    data: Any,
    out: Path,
    target: list[str] | None,
    classes: list[str] | None,
    by: str | None,
    test_where: str | None,
    test_after: str | None,
    folds: int | None,
    keep: str | None,
    shares: list[float] | None,
    copies: bool,
    seed: int,
    separator: str | None,
    quiet: bool,
) -> Path:
    """Draw the sides and write the table; the arguments are those of ``scotoma split``, ``raw`` the table as it was read.

    Raises:
        UsageError, RunError: with a line that states what to do.
    """
    wanted = dict(zip(SHARES, shares, strict=False)) if shares else dict(SHARES)
    if raw.display != Display() and out.suffix.lower() == ".csv":
        raise UsageError(
            f"{raw.name} is shown with {raw.display}, which a CSV cannot hold: write --out {out.with_suffix('.parquet')}"
        )
    if raw.store is not None:
        raise UsageError(f"{raw.store} is prepared and has no paths: name the images themselves")
    found = _units(sources.hide_columns(raw), by, copies, quiet)
    y = None
    if target:
        labelled, names = label_columns.prepare_target(found.dataset, target, classes or (), separator)
        y = targets.read(labelled, names, classes or ()).y
    fold = None
    if keep is not None:
        of = _keep_sides(found, sources.load(keep), by, y, seed, wanted)
    else:
        test = _choose_test(_restore_identifiers(found, raw), test_where, test_after)
        if folds:
            from scotoma.data.splits.stratification import assign

            fold = assign(found.together, y, [1 / folds] * folds, seed)
            test = np.where(fold == 0, 1, 0) if test is None else test
        of = _divide(found, test, y, seed, wanted)
        fold = None if fold is None else np.where(of == "", -1, fold)
    needed = [name for name in ("train", "test") if wanted[name] or test_where or test_after]
    if any(not (of == name).any() for name in needed):
        raise UsageError(f"{raw.name}: too few units ({found.unit}) for a split: nothing is left for {' or '.join(needed)}")
    _write(_join_columns(raw, found, data, by, of, fold, out), out)
    if not quiet:
        _report(found, of)
    return out


@dataclass(frozen=True)
class _Units:
    """Readable rows and what keeps them together.

    Args:
        dataset: the rows, identifiers hashed.
        rows: (n,) their places in the table as given.
        codes: (n,) unit of each.
        unit: what a unit is.
        images: (n,) what is one image: the content where it is decoded, else the file and frame.
    """

    dataset: Dataset
    rows: np.ndarray
    codes: np.ndarray
    unit: str
    images: np.ndarray

    @property
    def together(self) -> np.ndarray:
        """(n,) int: what must stand on one side."""
        from scotoma.data.splits.units import link

        return link(self.codes, self.images)


def _units(dataset: Dataset, by: str | None, copies: bool, quiet: bool) -> _Units:
    """What belongs together, by the rule of all verbs.

    A table is not decoded where it names every row's patient, or the group of images without headers.
    """
    from scotoma.data.io import dicom
    from scotoma.data.splits import splits, units
    from scotoma.data.store import store

    if by is not None:
        dataset.column(by)
    known = {c: dataset.table[c].notna().to_numpy() for c in ("patient", "group") if c in dataset.table.columns}
    named = known.get("patient", np.zeros(len(dataset), bool))
    if "group" in known:
        headers = [Path(path).suffix.lower() in ("", *dicom.SUFFIXES) for path in dataset.table["image_path"]]
        named = named | (known["group"] & ~np.array(headers))
    without = int((~named).sum())
    if not without and not copies:
        codes, unit = units.units(dataset, by=by)
        return _Units(dataset, np.arange(len(dataset)), codes, unit, _images(dataset))
    if not quiet:
        why = f"{without} of {len(dataset)} rows have no patient or group" if without else "--copies"
        hint = " (another column names what does with --by COLUMN)" if without and by is None else ""
        notice(dataset.name, f"{why}: images are decoded to find what belongs together{hint}")
    dataset, opened = store.prepare(dataset, SIZE, quiet=quiet)
    codes, unit = units.units(dataset, opened, by, altered=copies or None)
    return _Units(dataset, dataset.table["row"].to_numpy(), codes, unit, splits.contents(dataset, opened))


def _images(dataset: Dataset) -> np.ndarray:
    table = dataset.table
    return table.groupby([c for c in ("image_path", "frame") if c in table.columns], sort=False, dropna=False).ngroup().to_numpy()


def _restore_identifiers(found: _Units, raw: Dataset) -> Dataset:
    """The readable rows with the patients, studies and groups of the user's own table, by which he names them."""
    from scotoma.data.sources import IDENTIFIERS

    own = {c: raw.table[c].iloc[found.rows].to_numpy() for c in IDENTIFIERS if c in raw.table.columns}
    return replace(found.dataset, table=found.dataset.table.assign(**own))


def _choose_test(dataset: Dataset, where: str | None, after: str | None) -> np.ndarray | None:
    """(n,) int: 1 tests, 0 does not, -1 does not state; None where nothing was requested."""
    import pandas as pd

    from scotoma.data import phi
    from scotoma.data.labels.annotators import label_text
    from scotoma.data.sources import IDENTIFIERS

    if where is None and after is None:
        return None
    flag, text = ("--test_where", where or "") if where is not None else ("--test_after", after or "")
    column, equals, value = text.partition("=")
    if not equals or not value:
        raise UsageError(f"{flag} {text}: write COLUMN=VALUE")
    cells = dataset.column(column)
    if where is not None:
        codes, different = pd.factorize(cells.astype(object).where(cells.notna(), None))
        texts = [label_text(v) for v in different]
        names = value.split(",")
        absent = next((name for name in names if name not in texts), None)
        if absent is not None:
            shown = column not in IDENTIFIERS and phi.reason_of(column, cells, phi.units_of(dataset.table)) is None
            known = f"; it has {', '.join(sorted(t for t in texts if t)[:10])}" if shown else ""
            raise UsageError(f"{flag}: {column} has no row of {absent!r}{known}")
        return np.array([*(-1 if t is None else int(t in names) for t in texts), -1])[codes]
    numbers = pd.to_numeric(cells, errors="coerce")
    limit: Any = pd.to_numeric(value, errors="coerce")
    if numbers.isna().sum() > cells.isna().sum() or pd.isna(limit):
        numbers = pd.to_datetime(cells.astype("string"), errors="coerce", format="mixed")
        limit = pd.to_datetime(value, errors="coerce")
    if pd.isna(limit) or numbers.isna().all():
        raise UsageError(f"{flag} {text}: {column} must hold dates or numbers, and VALUE be one")
    return np.where(numbers.isna(), -1, (numbers > limit).astype(int))


def _divide(found: _Units, test: np.ndarray | None, y: np.ndarray | None, seed: int, shares: dict[str, float]) -> np.ndarray:
    """(n,) str: the side of each row; where the test rows are chosen, the rest of their units has none."""
    from scotoma.data.splits.splits import draw

    together = found.together
    if test is None:
        return draw(together, y, seed, shares)
    of = np.where(test == 1, "test", "").astype("U5")
    free = (test == 0) & ~np.isin(together, together[test == 1])
    inner = shares["train"] + shares["val"]
    rest = {name: shares[name] / inner for name in ("train", "val")}
    of[free] = draw(together[free], None if y is None else y[free], seed, rest)
    out = int((of == "").sum())
    if out:
        print(
            f"{found.dataset.name}: {out} images are left out: they share a unit ({found.unit}) or image with the test rows, "
            "or do not state which side they are on",
            file=sys.stderr,
        )
    return of


def _keep_sides(
    found: _Units, earlier: Dataset, by: str | None, y: np.ndarray | None, seed: int, shares: dict[str, float]
) -> np.ndarray:
    """(n,) str: the sides of an earlier table, and sides for units that it does not know."""
    from scotoma.data.dataset import SPLITS
    from scotoma.data.sources import values
    from scotoma.data.splits import splits, units

    if "split" not in earlier.table.columns:
        raise UsageError(f"{earlier.name}: no column split: --keep takes a table that `scotoma split` wrote")
    if "image_path" not in earlier.table.columns:
        raise UsageError(f"{earlier.name}: no column image_path: --keep takes a table that `scotoma split` wrote")

    def known(of: list[Any], names: list[Any]) -> np.ndarray:
        sides: dict[str, str] = {}
        for side in reversed(SPLITS):  # what stood on two sides counts as trained on
            sides |= {name: side for name, given in zip(of, values(earlier.table["split"]), strict=True) if given == side and name}
        return splits.find_known_sides(np.array(names, object), sides)

    named = [(found.images, known(_files(earlier), _files(found.dataset)))]
    for column in dict.fromkeys(c for c in (by, "patient", "group", "study") if c):
        if all(column in d.table.columns for d in (earlier, found.dataset)):
            old, new = (_names(d, column) for d in (earlier, found.dataset))
            named.append((found.codes, known(old, new)))
    if len(named) == 1:
        named.append((found.codes, np.full(len(found.codes), None, object)))
    settled = splits.keep(*named)
    out = settled == splits.LEFT_OUT
    splits.report_bridges(found.dataset.name, int(out.sum()))
    together = units.link(*(units.separate(codes, out) for codes, _ in named))
    return splits.draw(together, y, seed, shares, settled)


def _names(dataset: Dataset, column: str) -> list[str | None]:
    """A column's names; a study is a name where there is no patient, for many number the studies of a patient."""
    from scotoma.data.sources import values

    names = [None if v is None else str(v) for v in values(dataset.table[column])]
    if column != "study" or "patient" not in dataset.table.columns:
        return names
    return [n if p is None else None for n, p in zip(names, values(dataset.table["patient"]), strict=True)]


def _files(dataset: Dataset) -> list[str]:
    """The file and frame of each row."""
    table = dataset.table
    if "frame" not in table.columns:
        return [str(path) for path in table["image_path"]]
    frames = table["frame"].fillna(-1).astype(int)
    return [path if frame < 0 else f"{path} {frame}" for path, frame in zip(table["image_path"], frames, strict=True)]


def _join_columns(
    raw: Dataset, found: _Units, data: Any, by: str | None, of: np.ndarray, fold: np.ndarray | None, out: Path
) -> pd.DataFrame:
    """The user's table with the new columns, paths as they are found from ``out``."""
    import pandas as pd

    from scotoma.data.dataset import DISPLAY

    frame = raw.table.copy()
    beside = raw.spelled is not None and Path(data).expanduser().resolve().parent == out.resolve().parent
    if raw.spelled is not None:
        as_typed = out.suffix.lower() == ".csv"  # 007 stays 007, and 1 with gaps no 1.0; Parquet has types
        for column in raw.spelled.columns if as_typed else [c for c in ("image_path", "mask_path") if c in raw.spelled.columns]:
            frame[column] = raw.spelled[column].to_numpy(object)
    if not beside:
        folder = f"{out.absolute().parent}/"
        for column in ("image_path", "mask_path"):
            if column in frame.columns:
                frame[column] = [p.removeprefix(folder) if isinstance(p, str) else None for p in raw.table[column]]
    if not raw.plain:  # a public data set's identifiers are hashes already: as a group they keep together what belongs together
        if "group" not in frame.columns and "patient" in frame.columns:
            frame = frame.rename(columns={"patient": "group"})
        frame = frame.drop(columns=[c for c in ("patient", "study") if c in frame.columns])
    if by and not {"patient", "group"} & set(frame.columns):
        frame["group"] = frame[by]  # so that the other verbs keep together what this one did
    frame.attrs[DISPLAY] = raw.display.settings()
    sides = np.full(len(frame), None, object)
    sides[found.rows] = [side or None for side in of.tolist()]
    frame["split"] = sides
    if fold is not None:
        numbers = np.full(len(frame), -1)
        numbers[found.rows] = fold
        frame["fold"] = pd.Series(numbers, frame.index, "Int64").where(numbers >= 0)
    return frame


def _write(frame: pd.DataFrame, out: Path) -> None:
    """Write the table whole or not at all."""
    from pandas.api.types import infer_dtype

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {out} ({error.strerror})") from error
    with files.replacing(out) as temporary:
        if out.suffix.lower() == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            for column in frame.columns:  # a spreadsheet's column of numbers and words; Parquet has one type per column
                if infer_dtype(frame[column]) in ("mixed", "mixed-integer"):
                    frame[column] = frame[column].map(str, na_action="ignore")
            frame.to_parquet(temporary)


def _report(found: _Units, of: np.ndarray) -> None:
    for name in ("train", "val", "test"):
        rows = of == name
        print(f"{name}: {int(rows.sum())} images of {len(np.unique(found.codes[rows]))} units ({found.unit})", file=sys.stderr)
