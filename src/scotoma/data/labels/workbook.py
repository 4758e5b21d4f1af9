"""XLSX workbooks -> rows of text as a spreadsheet shows them: the first visible sheet, merged ranges, typed cells."""

from __future__ import annotations

import datetime
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma.errors import UsageError

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

MOST_BYTES = 2**30  # of a workbook, unpacked
MOST_CELLS = 50_000_000  # of a sheet's used rectangle
_ZEROS = re.compile(r'"?(0{2,})"?')  # a number format that pads with zeros
_EXACT = 10**15  # numbers from here on are rounded by spreadsheet programs


@dataclass
class Sheet:
    """One sheet's cells as text.

    Args:
        rows: of the used rectangle; an empty cell is ``""``.
        merged: (first row, last row, first column, last column) from 0, of each merged range, within the rectangle.
        dates: (row, column) of cells that hold dates; they read as ISO text.
        rounded: (row, column) of cells that hold numbers of more digits than a spreadsheet program keeps.
        remarks: lines to report.
    """

    rows: list[list[str]]
    merged: list[tuple[int, int, int, int]] = field(default_factory=list)
    dates: list[tuple[int, int]] = field(default_factory=list)
    rounded: list[tuple[int, int]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read(path: Path) -> Sheet:
    """The first visible sheet that holds anything.

    Raises:
        UsageError: not a workbook, one without cells, of unreasonable size, or with formulas whose values it does not hold.
    """
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_BYTES:
            raise UsageError(f"{path}: unpacks to {size / 2**30:.1f} GiB: save the sheet as CSV")
        book = openpyxl.load_workbook(path)
        visible = [s for s in book.worksheets if s.sheet_state == "visible" and any(map(_is_filled, s._cells.values()))]
        if not visible:
            raise UsageError(f"{path}: no visible sheet with cells")
        sheet, place = visible[0], book.worksheets.index(visible[0])
        if any(cell.data_type == "f" for cell in sheet._cells.values()):
            formulas = {at for at, cell in sheet._cells.items() if cell.data_type == "f"}
            sheet = openpyxl.load_workbook(path, data_only=True).worksheets[place]
            empty = sorted(at for at in formulas if at not in sheet._cells or sheet._cells[at].value is None)
            if empty:
                raise UsageError(
                    f"{path}: {len(empty)} cells hold formulas without their values (the first in row {empty[0][0]}): "
                    "open it in a spreadsheet program and save it there, or paste the values"
                )
    except UsageError:
        raise
    except Exception as error:  # openpyxl lets a broken file raise anything
        raise UsageError(f"{path}: cannot be read as a table ({(str(error) or type(error).__name__).splitlines()[0]})") from error
    found = _texts(path, sheet)
    if len(book.worksheets) > 1:
        also = f" ({others} of them hidden or empty)" if (others := len(book.worksheets) - len(visible)) else ""
        found.remarks.append(f"of {len(book.worksheets)} sheets{also} the first visible one with cells is read, number {place + 1}")
    return found


def _texts(path: Path, sheet: Worksheet) -> Sheet:
    used = {at: cell for at, cell in sheet._cells.items() if _is_filled(cell)}
    height, width = (max((at[k] for at in used), default=0) for k in (0, 1))
    if height * width > MOST_CELLS or (width > 100 and height * width > 1000 * len(used)):
        far = max(used, key=lambda at: at[1])
        raise UsageError(
            f"{path}: {len(used)} cells over {height} rows and {width} columns: remove the cell far off, in row {far[0]}"
        )
    found = Sheet([[""] * width for _ in range(height)])
    errors = 0
    for (row, column), cell in used.items():
        at = row - 1, column - 1
        if cell.data_type == "e":
            errors += 1
            continue
        found.rows[at[0]][at[1]] = _text(cell.value, cell.number_format)
        if isinstance(cell.value, datetime.date | datetime.time):
            found.dates.append(at)
        elif isinstance(cell.value, float) and abs(cell.value) >= _EXACT:
            found.rounded.append(at)
    if errors:
        found.remarks.append(f"{errors} cells that hold an error such as #N/A are read as missing")
    for part in sheet.merged_cells.ranges:
        if part.min_row <= height and part.min_col <= width:
            found.merged.append((part.min_row - 1, min(part.max_row, height) - 1, part.min_col - 1, min(part.max_col, width) - 1))
    return found


def _is_filled(cell: Any) -> bool:
    return cell.value is not None and bool(str(cell.value).strip())


def _text(value: Any, shown: str) -> str:
    """A cell as it is shown, numbers with all their digits."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        if isinstance(value, float) and not value.is_integer():
            return repr(value)
        zeros = _ZEROS.fullmatch(shown.split(";")[0])
        return str(int(value)).zfill(len(zeros[1]) if zeros else 0)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
