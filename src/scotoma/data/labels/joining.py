"""A spreadsheet of labels -> columns of the table of images, with a count of what was joined."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma.data import pseudonyms
from scotoma.data.labels import columns, matching, spreadsheets
from scotoma.data.labels.annotators import combine
from scotoma.data.labels.columns import IDENTIFIERS
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

KEPT = (*IDENTIFIERS, "split")  # what a joined spreadsheet adds to, and never empties
SHOWN = 3  # rows that name no image, by their number


def join(
    name: str, table: pd.DataFrame, plain: bool, path: Path, on: str | None, annotators: str | None, missing: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str], dict[str, str]]:
    """Join a spreadsheet to a table of images.

    A column of the table that is named ``on`` goes before the levels of the images' paths. Columns of the spreadsheet replace the
    table's; of patient, study, group and split the table keeps what the spreadsheet does not hold.

    Args:
        name: of the table, for messages.
        table: one row per image.
        plain: whether the table's identifiers are as they came, no hashes.
        path: the spreadsheet.
        on: its column that names the image.
        annotators: how several rows of one image become one; see ``combine``.
        missing: words that mean a missing cell.

    Returns:
        The table, the columns that it has of the spreadsheet, and image_path -> what the spreadsheet calls the image.

    Raises:
        UsageError: no such column; an image that two rows name; a row that names images in two folders; no image is named.
    """
    frame = spreadsheets.read(path, [on] if on else ())
    if on is None:
        raise UsageError(f"--labels {path.name} needs --on: the column that names the image ({', '.join(map(str, frame.columns))})")
    spelled = _column(path, frame, on)
    roles = ("mask_path", "patient", "study", "split", "frame")
    frame, renamed = columns.recognise_roles(path.name, frame, missing, roles, [spelled])
    on = renamed.get(spelled, spelled)
    by_frame = "frame" in frame.columns and "frame" in table.columns and bool(table["frame"].notna().any())
    theirs = [c for c in ("image_path", "row", *(() if by_frame else ("frame",))) if c in frame.columns and c != on]
    frame = frame.drop(columns=theirs)  # the images' own
    own = on in table.columns and on not in ("image_path", "frame")
    if not own and "image_path" not in table.columns:
        raise UsageError(f"{name} is prepared and has no paths: give --labels to `scotoma prepare`, or join --on a column it has")
    given = frame[on].notna().to_numpy()
    without = int((~given).sum())
    frame = columns.tidy(path.name, frame[given])
    texts = frame[on].map(spreadsheets.id_text).to_numpy(object)
    if not plain:  # then the table's identifiers are hashes, and the spreadsheet's must be
        for column in (c for c in IDENTIFIERS if c in frame.columns):
            frame[column] = columns.hash_identifiers(path.name, frame[column])
    if own:
        change: Any = spreadsheets.id_text
        if on in IDENTIFIERS:
            change = pseudonyms.canonical if plain else str
            texts = frame[on].map(change).to_numpy(object)
        codes, forms = _codes(np.array([None if v is None else change(v) for v in columns.values(table[on])], object))
        choices = [matching.Level(f"the table's column {on}", codes, forms.tolist())]
    else:
        choices = matching.levels(table["image_path"].tolist(), spelled)
    if annotators:
        texts = _one_spelling(texts, choices)
    rows, keys = _codes(texts)
    try:
        found = matching.match(keys.tolist(), choices)
        if found is None and not own:  # the column's name was no hint
            found = matching.match(keys.tolist(), matching.levels(table["image_path"].tolist(), ""))
    except matching.Torn as torn:
        at, first = frame.index.to_numpy(), torn.images[0]
        pair = " and ".join(str(at[rows == m.keys[first]][0]) for m in (torn.best, torn.other))
        raise UsageError(
            f"{path.name}: {len(torn.images)} images answer to two rows: by {torn.best.level.name} and by {torn.other.level.name} "
            f"(rows {pair}, for one); name the one meant in the column's name ({on}_folder or {on}_file), or write paths in it"
        ) from None
    if found is None:
        looks = sorted({_shape(str(k)) for k in keys[:1000]}, key=len)[:2] or ["nothing"]
        there = sorted({_shape(form) for form in choices[0].forms[:1000]}, key=len)[:2]
        raise UsageError(
            f"{path.name}: none of {len(keys)} values of {on} names an image of {name} (they look like {' or '.join(looks)}, "
            f"the {'column' if own else 'files'} like {' or '.join(there)}): name another column with --on"
        )
    _refuse_two_folders(path.name, on, found, frame, rows)
    groups, place = _groups(path.name, frame, rows, table, found, by_frame)
    unused = frame.index[~np.isin(groups, place)].tolist()
    named = (place >= 0) & np.isin(place, groups)  # a file may be named, and not this frame of it
    _report_join(path.name, name, found, named, len(frame), without, unused)
    if annotators:
        labels = groups
        frame = combine(path.name, frame.drop(columns="frame" if by_frame else []), labels, annotators)
        groups = np.array(list(dict.fromkeys(labels.tolist())))
    else:
        frame, groups = _one_row_each(path.name, on, frame.drop(columns="frame" if by_frame else []), groups)
    position = _positions(groups, place)
    names = np.array([*keys, None], object)[found.keys]
    paths = table["image_path"] if "image_path" in table.columns else ()
    called = {str(image): str(name) for image, name in zip(paths, names, strict=False) if name is not None}
    return *_add_columns(table, frame, position, on, own, path.parent), called


def _column(path: Path, frame: pd.DataFrame, on: str) -> str:
    """The column that ``on`` names, in any spelling that leaves one."""
    names = [str(c) for c in frame.columns]
    if on in names:
        return on
    alike = [c for c in names if spreadsheets.key(c) == spreadsheets.key(on)]
    if len(alike) == 1:
        notice(path.name, f"column {alike[0]!r} is taken for --on {on}")
        return alike[0]
    near = difflib.get_close_matches(on, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(names) or 'none'}"
    raise UsageError(f"{path.name} has no column {on!r}; {hint}")


def _one_spelling(texts: np.ndarray, choices: Sequence[matching.Level]) -> np.ndarray:
    """Annotators' spellings of one image as the first of them, but where a file is so spelled."""
    import pandas as pd

    codes, different = _codes(texts)
    spelled = pd.Series(different, dtype="str")
    loose = spelled.str.strip().str.replace("\\", "/", regex=False).str.normalize("NFC").str.lower()
    first = spelled.groupby(loose).transform("first")
    exact = spelled.isin({form for level in choices for form in level.forms})
    return first.where(~exact, spelled).to_numpy(object)[codes]


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import pandas as pd

    codes, different = pd.factorize(values)
    return codes, np.asarray(different, object)


def _shape(text: str) -> str:
    """What a text looks like: letters as a, digits as 9."""
    return repr(
        re.sub(r"\d+", lambda m: "9" * min(len(m[0]), 8), re.sub(r"[^\W\d_]+", lambda m: "a" * min(len(m[0]), 8), text))[-40:]
    )


def _refuse_two_folders(sheet: str, on: str, found: matching.Match, frame: pd.DataFrame, rows: np.ndarray) -> None:
    import pandas as pd

    if found.level.places is None:
        return
    pairs = pd.DataFrame({"key": found.keys, "place": found.level.places})[found.keys >= 0].drop_duplicates()
    counts = pairs["key"].value_counts()
    several = counts[counts > 1]
    if not len(several):
        return
    if found.level.folder and on in IDENTIFIERS:
        notice(sheet, f"{len(several)} values of {on} name folders of one name in several places: taken as one {on} each")
        return
    at = frame.index.to_numpy()[rows == several.index[0]][0]
    what = "folders of one name" if found.level.folder else "images in several folders"
    raise UsageError(
        f"{sheet}: {len(several)} values of {on} name {what} (row {at}: {several.iloc[0]} of them), found by {found.level.name}: "
        f"write the path's end in {on}, as FOLDER/NAME"
    )


def _groups(
    sheet: str, frame: pd.DataFrame, rows: np.ndarray, table: pd.DataFrame, found: matching.Match, by_frame: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What each row names and what each image is, as numbers that are equal where they are the same; -1 for nothing."""
    groups, place = rows.astype(np.int64), found.keys.astype(np.int64)
    if not by_frame:
        return groups, place
    counts = table["frame"].fillna(0).astype(int).to_numpy()
    given = frame["frame"].fillna(-1).astype(int).to_numpy()
    width = max(int(counts.max(initial=0)), int(given.max(initial=0))) + 2
    last = np.full(int(groups.max(initial=0)) + 1, -1)
    np.maximum.at(last, place[place >= 0], counts[place >= 0])
    known = np.isin(groups, place)
    if given[known].min(initial=1) == 1 and (given[known] == last[groups[known]] + 1).any():
        raise UsageError(f"{sheet}: column frame counts from 1: the first frame of a file is 0")
    whole = given < 0  # a row without a frame is of all frames of its file
    if whole.any():
        wide = np.isin(place, groups[whole])
        if np.isin(groups[~whole], groups[whole]).any():
            raise UsageError(f"{sheet}: a file has rows with and without a frame: name the frame in each")
        return np.where(whole, groups * width, groups * width + given + 1), np.where(
            wide, place * width, place * width + counts + 1
        )
    return groups * width + given + 1, np.where(place < 0, -1, place * width + counts + 1)


def _one_row_each(sheet: str, on: str, frame: pd.DataFrame, groups: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows that repeat one another become one.

    Raises:
        UsageError: rows of one image differ.
    """
    import pandas as pd

    again = pd.Series(groups).duplicated().to_numpy()
    if not again.any():
        return frame, groups
    same = frame.assign(**{on: groups}).duplicated().to_numpy()
    if (again & ~same).any():
        place = int(np.flatnonzero(again & ~same)[0])
        first = int(np.flatnonzero(groups == groups[place])[0])
        a, b = (frame.iloc[k] for k in (first, place))
        differ = [c for c in frame.columns if c != on and not (a[c] == b[c] or (pd.isna(a[c]) and pd.isna(b[c])))]
        raise UsageError(
            f"{sheet}: rows {frame.index[first]} and {frame.index[place]} have one {on} and differ in {', '.join(differ[:3])} "
            f"({int((again & ~same).sum())} such rows): one row per image or study, or --annotators majority (or soft) where each "
            "row is one annotator's"
        )
    notice(sheet, f"{int(same.sum())} rows repeat another and are left out")
    return frame[~same], groups[~same]


def _positions(groups: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(n,) the place in ``groups`` of each image's number; -1 where it has none."""
    import pandas as pd

    return np.where(place < 0, -1, pd.Index(groups).get_indexer(pd.Index(place)))


def _add_columns(
    table: pd.DataFrame, frame: pd.DataFrame, position: np.ndarray, on: str, own: bool, folder: Path
) -> tuple[pd.DataFrame, list[str]]:
    joined, frame = table.copy(), frame.reset_index(drop=True)
    if "mask_path" in frame.columns:
        frame["mask_path"] = columns.resolve_paths(folder, frame["mask_path"])
    names = [c for c in frame.columns if c != on or (on in IDENTIFIERS and not own)]
    for column in names:
        new = frame[column].reindex(position).set_axis(table.index)
        if column in KEPT and column in joined.columns:
            new = new.astype(object).where(new.notna(), joined[column].astype(object).where(joined[column].notna(), None))
        joined[column] = new
    return joined.infer_objects(), names


def _report_join(
    sheet: str, name: str, found: matching.Match, named: np.ndarray, count: int, without: int, unused: list[int]
) -> None:
    how = np.unique(found.spelling[named])
    loose = [f"{int(((found.spelling == k) & named).sum())} {matching.SPELLINGS[k]}" for k in how.tolist() if k]
    text = f"joined by {found.level.name}: {int(named.sum())} of {len(named)} images of {name} have a row"
    text += f" ({', '.join(loose)})" if loose else ""
    text += f"; {count - len(unused)} of {count} rows name an image"
    if unused:
        more = ", ..." if len(unused) > SHOWN else ""
        text += f", {len(unused)} name none (row{'s' if len(unused) > 1 else ''} {', '.join(map(str, unused[:SHOWN]))}{more})"
    notice(sheet, text + (f"; {without} have no value to join by" if without else ""))
