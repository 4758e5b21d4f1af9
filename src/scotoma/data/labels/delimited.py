"""CSV and TSV files -> rows of text, whatever program wrote them: encoding, delimiter and line ends are recognised and said."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from scotoma.errors import UsageError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MOST_BYTES = 2**30  # of a table, unpacked
SAMPLE = 50  # rows by which the delimiter is recognised
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read(path: Path, is_header: Callable[[list[str]], bool]) -> tuple[list[list[str]], str, list[str]]:
    """The rows of a delimited file.

    Args:
        path: the file, ``.gz`` or not.
        is_header: whether a row names the columns that the caller needs; it settles the delimiter where several would do.

    Returns:
        Rows (an empty line is an empty row), the delimiter, and lines to report.

    Raises:
        UsageError: a quotation mark that nothing closes; binary content; more than ``MOST_BYTES``, unpacked.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error}); copy it again") from error
    if len(content) > MOST_BYTES:
        raise UsageError(f"{path}: more than {MOST_BYTES >> 30} GiB of text: save the table as Parquet")
    text, remarks = _text(path, content)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    named = re.match(r"\s*sep=(.)\n", text, re.IGNORECASE)
    if named:
        return _rows(path, text[named.end() :], named[1]), named[1], remarks
    delimiter = _delimiter(path, text, is_header)
    if delimiter != "," and not (delimiter == "\t" and path.name.lower().endswith((".tsv", ".tsv.gz"))):
        remarks.append(f"its columns are separated by {DELIMITERS[delimiter]}")
    return _rows(path, text, delimiter), delimiter, remarks


def _text(path: Path, content: bytes) -> tuple[str, list[str]]:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return content.decode(encoding), [] if encoding == "utf-8-sig" else ["it is in UTF-16"]
            except UnicodeDecodeError as error:
                raise UsageError(f"{path}: cannot be read as text ({encoding}, {error.reason}): write it as UTF-8") from error
    start = content[:2000]
    if b"\0" in start:
        for places, encoding in ((start[1::2], "utf-16-le"), (start[0::2], "utf-16-be")):
            if places.count(0) > len(places) * 0.6:
                try:
                    return content.decode(encoding), ["it is in UTF-16"]
                except UnicodeDecodeError:
                    pass
        raise UsageError(f"{path}: cannot be read as a table (it holds binary data)")
    try:
        return content.decode(), []
    except UnicodeDecodeError:
        pass
    remarks = ["it is not in UTF-8: read as Windows-1252 (Western European); if words look wrong, write it as UTF-8"]
    try:
        return content.decode("cp1252"), remarks
    except UnicodeDecodeError:
        return content.decode("latin-1"), remarks


def _rows(path: Path, text: str, delimiter: str, most: int | None = None) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=most is None)
    found: list[list[str]] = []
    try:
        for row in reader:
            found.append(row)
            if len(found) == most:
                break
    except csv.Error as error:
        raise UsageError(f"{path}: cannot be read as a table (after row {len(found)}: {error})") from error
    return found


def _delimiter(path: Path, text: str, is_header: Callable[[list[str]], bool]) -> str:
    """The one by which a row of the sample is a header, then by which most rows have one number of cells, of at least two."""
    best, delimiter = (False, 0.0, 0), ","
    for candidate in sorted(DELIMITERS, key=lambda d: d != "\t") if path.suffix.lower() == ".tsv" else DELIMITERS:
        try:
            rows = [row for row in _rows(path, text, candidate, SAMPLE) if any(cell.strip() for cell in row)]
        except UsageError:
            continue
        width, count = (
            Counter(len(row) for row in rows if len(row) > 1).most_common(1)[0] if any(len(r) > 1 for r in rows) else (1, 0)
        )
        named = any(is_header(row) for row in rows)
        score = (named and width > 1, count / max(len(rows), 1), width)
        if score > best:
            best, delimiter = score, candidate
    return delimiter
