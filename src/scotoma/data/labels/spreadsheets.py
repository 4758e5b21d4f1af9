"""A file of a table -> a frame of text cells under the header's names, and the columns of numbers among them as numbers.

Every cell is read as it stands in the file. A column becomes numbers only where each cell is spelled as a program spells that
number (``1``, ``0.5``, ``1.0``; not ``007``, ``1E5``, ``2.10``), so that no two spellings fall together, and only where no
identifier is expected in it. What is skipped, filled or read as something is reported, with a count.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotoma import files
from scotoma.data.labels import delimited, workbook
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

TEXT, COMMA = "scotoma_text", "scotoma_comma"  # a frame's attributes: its cells are text as in the file; decimal commas
SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx")
PATHS = ("image_path", "mask_path")
HEADER = 20  # rows among which the header is looked for
WORDS = ("none", "na", "n/a", "n.a.", "null", "nil")  # missing among numbers, a class among words
EMPTY = ("nan", "-nan", "<na>", "#n/a", "#na", "nat")  # what programs write for a missing cell; never a class
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
_TRUTH = {"true": True, "false": False}
_LARGEST = 2**53  # integers up to here are exact as floats


def read(path: Path, wanted: Iterable[str] = ()) -> pd.DataFrame:
    """A file of a table as it stands in the file.

    Args:
        path: ``.csv`` or ``.tsv`` (also ``.gz``), ``.xlsx`` or ``.parquet``.
        wanted: names of columns by which the header is recognised below a title; any spelling that ``key`` makes alike.

    Returns:
        The frame, its index the row's number in the file: of text (a missing cell is None; attribute ``TEXT``, and ``COMMA`` where
        a comma may stand for the decimal point), of Parquet with its own types.

    Raises:
        UsageError: no such file; it cannot be read; rows of different lengths; a column name that stands twice.
    """
    import pandas as pd

    if not path.exists():
        raise UsageError(f"{path}: no such file")
    files.regular(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        hint = "save it as .xlsx or .csv" if suffix in (".xls", ".xlsm", ".xlsb", ".ods", ".numbers", ".txt") else "name another"
        raise UsageError(f"{path}: a table is a .csv, .tsv, .parquet or .xlsx file: {hint}")
    known = {key(name) for name in wanted}

    def is_header(row: Sequence[str]) -> bool:
        return any(key(cell) in known for cell in row)

    try:
        if suffix == ".parquet":
            return _require_unique_names(path, pd.read_parquet(path))
        if suffix == ".xlsx":
            sheet = workbook.read(path)
            top = _header(path, sheet.rows, is_header)
            _refuse_two_headers(path, sheet.rows, top, is_header)
            remarks = [*sheet.remarks, *_fill_merged_cells(sheet, top)]
            dates, rounded = (Counter(column for row, column in at if row > top) for at in (sheet.dates, sheet.rounded))
            frame = _frame(path, sheet.rows, top, "give each column with cells a name, in one header row")
            for column in (c for c in frame.columns if is_header([c])):
                place = _place(sheet.rows[top], column)
                if dates.get(place):
                    remarks.append(
                        f"{column}: {dates[place]} cells hold dates, into which spreadsheet programs turn ids such as 1-2"
                    )
                if rounded.get(place):
                    remarks.append(f"{column}: {rounded[place]} cells hold rounded numbers of over 15 digits: store ids as text")
            comma = False
        else:
            rows, delimiter, remarks = delimited.read(path, is_header)
            top = _header(path, rows, is_header)
            _refuse_two_headers(path, rows, top, is_header)
            frame, comma = _frame(path, rows, top), delimiter != ","
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from error
    if top:
        remarks.append(f"row {top + 1} is its header; {top} above it {'is' if top == 1 else 'are'} skipped")
    for line in remarks:
        notice(path.name, line)
    frame.attrs = {TEXT: True, COMMA: comma}
    return frame


def key(name: object) -> str:
    """A column's name without case, blanks and punctuation: ``Patient ID``, ``patient_id`` and ``PatientID`` are one."""
    return re.sub(r"[\s_\-./]+", "", str(name)).casefold()


def _header(path: Path, rows: list[list[str]], is_header: Callable[[Sequence[str]], bool]) -> int:
    """The header's place: the first row that names a wanted column; else the first of several cells that is no comment."""
    filled = [k for k, row in enumerate(rows[: HEADER * 2]) if any(cell.strip() for cell in row)][:HEADER]
    if not filled:
        raise UsageError(f"{path}: cannot be read as a table (it is empty)")
    plain = [k for k in filled if not rows[k][0].lstrip().startswith("#")] or filled
    named = next((k for k in plain if is_header(rows[k])), None)
    if named is not None:
        return named
    several = (k for k in plain if sum(bool(cell.strip()) for cell in rows[k]) > 1 or _below_row_names(rows[k]))
    return next(several, plain[0])


def _below_row_names(row: Sequence[str]) -> bool:
    """Whether a row is the header of row names and one column (``,label``), as pandas and R write it."""
    return len(row) == 2 and not row[0].strip() and bool(row[1].strip())


def _place(header: Sequence[str], column: str) -> int:
    return next((k for k, cell in enumerate(header) if " ".join(cell.split()) == column), -1)


def _refuse_two_headers(path: Path, rows: list[list[str]], top: int, is_header: Callable[[Sequence[str]], bool]) -> None:
    """Refuse a second row of names: it fills columns that the first leaves without one, and names no image itself."""
    header, below = rows[top], rows[top + 1] if top + 1 < len(rows) else []
    filled = {k for k, cell in enumerate(below) if cell.strip()}
    named = {k for k, cell in enumerate(header) if cell.strip()}
    wanted = {k for k in named if is_header([header[k]])}
    if filled - named and wanted and not filled & wanted:
        raise UsageError(
            f"{path}: rows {top + 1} and {top + 2} seem to be a header of two rows: write each column's whole name in one row"
        )


def _frame(
    path: Path, rows: list[list[str]], top: int, hint: str = "mend that row (a cell that holds the delimiter needs quotation marks)"
) -> pd.DataFrame:
    """The rows below the header; empty ones, and columns without a name or a cell, are left out."""
    import pandas as pd

    header = [" ".join(cell.split()) for cell in rows[top]]
    while header and not header[-1]:
        header.pop()
    width = len(header)
    for k in range(top + 1, len(rows)):
        row = rows[k]
        if len(row) != width and any(row):
            filled = max((place + 1 for place, cell in enumerate(row) if cell.strip()), default=0)
            if filled and (filled > width or len(row) < width):
                count = max(filled, len(row)) if filled > width else len(row)
                raise UsageError(f"{path}: row {k + 1} has {count} cells and the header {width}: {hint}")
            rows[k] = row[:width] if filled else []
    kept = [k for k in range(top + 1, len(rows)) if any(rows[k]) and any(map(str.strip, rows[k]))]
    columns: dict[str, Any] = {}
    cells = list(zip(*(rows[k] for k in kept), strict=True)) or [()] * width
    for k, name in enumerate(header):
        column = pd.Series(cells[k], index=[i + 1 for i in kept], dtype="str")
        bare = column.str.strip()
        column = (column if name in PATHS else bare).where(bare != "", None)  # a file's name may begin with a blank
        if not name and column.isna().all():
            continue
        name = name or f"Unnamed: {k}"
        if name in columns:
            raise UsageError(f"{path}: the column {name!r} stands twice: rename one")
        columns[name] = column
    return pd.DataFrame(columns, index=[i + 1 for i in kept])


def _require_unique_names(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    frame.columns = [" ".join(str(c).split()) for c in frame.columns]
    twice = next((c for c, n in Counter(frame.columns).items() if n > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: the column {twice!r} stands twice: rename one")
    return frame.set_axis(np.arange(2, len(frame) + 2))


def _fill_merged_cells(sheet: workbook.Sheet, top: int) -> list[str]:
    """Give every cell of a merged range below the header the range's value."""
    count = 0
    for first, last, left, right in sheet.merged:
        if first > top:
            for row in range(first, last + 1):
                sheet.rows[row][left : right + 1] = [sheet.rows[first][left]] * (right - left + 1)
            count += (last - first + 1) * (right - left + 1) - 1
    return [f"{count} cells of merged ranges are filled with the range's value"] if count else []


def infer_types(
    name: str, frame: pd.DataFrame, ids: Iterable[str], missing: Sequence[str] = (), comma: bool = False
) -> pd.DataFrame:
    """A frame of text -> missing cells as None, columns of numbers as numbers, those of identifiers as text.

    Args:
        name: of the table, for messages.
        frame: as ``read`` gives it, of text.
        ids: columns that hold identifiers.
        missing: further words that mean a missing cell, exactly as they stand, or as a number.
        comma: a comma stands for the decimal point.
    """
    import pandas as pd

    found: dict[str, Any] = {}
    remarks: dict[str, list[str]] = {"gaps": [], "words": [], "commas": []}
    ids = set(ids)
    for column in map(str, frame.columns):
        found[column] = _column(column, frame[column], column in ids, missing, comma, remarks)
    for line, what in (("read as missing", "gaps"), ("read as classes", "words"), ("read with a decimal comma", "commas")):
        if remarks[what]:
            also = "; --missing WORD makes a word missing" if what == "words" else ""
            notice(name, f"{line}: {_list_parts(remarks[what])}{also}")
    return pd.DataFrame(found, index=frame.index)


def _list_parts(parts: list[str], most: int = 6) -> str:
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def _column(
    name: str, column: pd.Series[Any], is_id: bool, missing: Sequence[str], comma: bool, remarks: dict[str, list[str]]
) -> Any:
    """One column of text; every different cell is looked at once."""
    import pandas as pd

    codes, different = pd.factorize(column.astype(object).where(column.notna(), None))
    texts: list[str] = different.tolist()
    counts = np.bincount(codes[codes >= 0], minlength=len(texts)).tolist()
    gone = {i for i, text in enumerate(texts) if text in missing or text.casefold() in EMPTY}
    words = {i for i, text in enumerate(texts) if text.casefold() in WORDS and i not in gone}
    rest = [i for i in range(len(texts)) if i not in gone and i not in words]
    if comma and not is_id and _with_commas([texts[i] for i in rest]):
        texts = [text.replace(",", ".") for text in texts]
        remarks["commas"].append(name)
    numeric = not is_id and bool(rest) and all(_NUMBER.fullmatch(texts[i]) for i in rest)
    if numeric:
        gone |= {i for i in rest if any(_NUMBER.fullmatch(word) and float(word) == float(texts[i]) for word in missing)}
    if numeric or is_id:
        gone |= words
    elif words:
        shown, others = sorted(words)[:2], sorted(words)[2:]
        remarks["words"] += [f"{name} {texts[i]!r} ({_cells(counts[i])})" for i in shown]
        if others:
            remarks["words"].append(f"{name} {len(others)} more such words ({_cells(sum(counts[i] for i in others))})")
    if gone:
        first = ", ".join(repr(texts[i]) for i in sorted(gone)[:2]) + (", ..." if len(gone) > 2 else "")
        remarks["gaps"].append(f"{name} {first} ({_cells(sum(counts[i] for i in gone))})")
    values: list[Any] = [None if i in gone else text for i, text in enumerate(texts)]
    numbers = _numbers(values) if numeric else None
    if numbers is not None:
        if None in values or codes.min(initial=0) < 0:
            return pd.Series(np.array([*(np.nan if v is None else v for v in numbers), np.nan], float)[codes], column.index)
        return pd.Series(np.array(numbers)[codes], column.index)
    truth = bool(rest) and not is_id and all(texts[i].casefold() in _TRUTH for i in rest) and not words - gone
    if truth:
        values = [None if v is None else _TRUTH[v.casefold()] for v in values]
        if None not in values and codes.min(initial=0) >= 0:
            return pd.Series(np.array(values, bool)[codes], column.index)
    return pd.Series(np.array([*values, None], object)[codes], column.index, object)


def _cells(count: int) -> str:
    return f"{count} cell" + ("" if count == 1 else "s")


def _with_commas(texts: list[str]) -> bool:
    """Whether all are numbers and some have a decimal comma; 1,234 alone may be a thousand."""
    parts = [text.partition(",") for text in texts]
    return all(_COMMA.fullmatch(text) for text in texts) and any(mark and len(behind) != 3 for _, mark, behind in parts)


def _numbers(values: list[Any]) -> list[Any] | None:
    """Texts of numbers as numbers; None where a spelling is not the one that programs give its number."""
    found: list[Any] = []
    for text in values:
        if text is None:
            found.append(None)
        elif "." in text or "e" in text.casefold():
            found.append(float(text))
            if repr(found[-1]) != text:
                return None
        else:
            found.append(int(text))
            if str(found[-1]) != text or abs(found[-1]) > _LARGEST:
                return None
    return found


def clean_typed(name: str, frame: pd.DataFrame, ids: Iterable[str], missing: Sequence[str] = ()) -> pd.DataFrame:
    """A frame that has types of its own -> the same, identifiers as text, ``missing`` words and numbers missing."""
    frame, remarks = frame.copy(deep=False), []
    numbers = [float(word) for word in missing if _NUMBER.fullmatch(word)]
    for column in frame.columns if missing else ():
        gone = frame[column].astype(object).isin([*missing, *numbers])
        if gone.any():
            frame[column] = frame[column].astype(object).mask(gone, None).infer_objects()
            remarks.append(f"{column} ({_cells(int(gone.sum()))})")
    if remarks:
        notice(name, f"read as missing: {_list_parts(remarks)}")
    for column in set(ids) & set(frame.columns):
        frame[column] = ids_as_text(frame[column])
    return frame


def ids_as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of identifiers as text, whole numbers without ``.0``."""
    import pandas as pd

    codes, different = pd.factorize(column.astype(object).where(column.notna(), None))
    return pd.Series(np.array([*map(id_text, different), None], object)[codes], column.index, object)


def id_text(value: Any) -> str | None:
    """One identifier as text; 7.0 (a column of integers with gaps) is ``7``."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)
