"""Columns of a table that identify a patient, recognised by their names and by what they hold.

The eighteen identifiers of the HIPAA safe harbour rule (45 CFR 164.514(b)(2)) as a table has them: names, record and account
numbers, dates, addresses, telephone numbers, free text. What is recognised here is in no store, row or page; see
``docs/concepts/privacy.md``. Recognition is no proof: a name in a column of two different values under a name of its own is not
found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

FEW = 5  # a category that fewer patients have than this is shown as OTHER: the usual smallest cell of published tables
OTHER = f"other (each fewer than {FEW})"
MISSING = "missing"  # what rows without a value are called, which are no part of OTHER
# Scotoma's own columns: keyed hashes, row ids, places of files. None is ever described.
STRUCTURE = ("image_path", "mask_path", "frame", "row", "split", "fold", "patient", "study", "series", "group", "region")
DERIVED = ("_shares", "_annotators", "_readers", "_agreement")  # what `annotators.combine` adds goes with it
_SAMPLE = 5000  # different values that are looked at

_PERSON = {"patient", "patients", "pat", "person", "subject", "participant", "first", "last", "full", "family", "given", "middle"}
_PERSON |= {"maiden", "birth", "mother", "other", "legal"}
_NAME = {"name", "names", "surname", "lastname", "firstname", "forename", "fullname", "initials", "patientname"}
_NAME |= {"nachname", "vorname", "familienname", "nom", "prenom", "nombre", "apellido", "apellidos"}
_NAME |= {"patientenname", "naam", "voornaam", "achternaam", "cognome", "apelido", "famille"}
_NUMBER = {"id", "ids", "nr", "no", "num", "number", "code", "key", "identifier"}
_STAFF = {
    "reader",
    "radiologist",
    "physician",
    "doctor",
    "referrer",
    "operator",
    "technologist",
    "technician",
    "clinician",
    "surgeon",
}
_STAFF |= {"nurse", "annotator", "reviewer", "arzt", "befunder"}
_TEXT = {"comment", "comments", "remark", "remarks", "note", "notes", "report", "narrative", "history", "freetext", "text"}
_TEXT |= {"description", "indication", "impression", "bemerkung", "bemerkungen", "anamnese", "befund", "befundtext"}
_TARGET = {"label", "labels", "target", "class", "diagnosis", "dx"}
_DIRECT = (
    ("a birth date", {"dob", "birth", "birthdate", "birthday", "born", "geburtsdatum", "geburtstag", "geb"}),
    ("a record number", {"mrn", "pid", "patientid", "patid"}),
    ("an accession number", {"accession", "accessionnumber", "accessionno"}),
    ("an address", {"address", "adresse", "anschrift", "street", "strasse", "straße"}),
    ("a telephone number", {"phone", "telephone", "telefon", "tel", "mobile", "fax"}),
    ("an e-mail address", {"email", "mail"}),
    ("an insurance or account number", {"ssn", "insurance", "versicherung", "versichertennummer", "nhs", "passport", "iban"}),
)
_ALONE = ("insurance", "mobile")  # with few different values: who pays; that a radiograph was taken at the bed
_MOST_KINDS = 12
_INDIRECT = (
    ("a place of residence", {"zip", "zipcode", "postcode", "postal", "postalcode", "plz", "city", "town", "wohnort"}),
    ("a date", {"date", "datum", "datetime", "timestamp", "studydate"}),
    ("an identifier", {"uid", "uuid", "guid"}),
)
_NOT_BIRTH = {"weight", "order", "type", "mode", "length"}

_EMAIL = re.compile(r"\S@\S+\.\w")
_CARET = re.compile(r"[^\W\d_]{2,}\^[^\W\d_]")  # DICOM's form of a person's name
# MR and MS in capitals are magnetic resonance and multiple sclerosis, DR is digital radiography, unless a point follows.
_TITLE = re.compile(r"\b((?i:prof|mrs|herr|frau|mme|dr\.|mr\.|ms\.)|[Dd]r|[Mm]r|[Mm]s)(?!\w)\.?\s+[^\W\d_]")
_COMMA = re.compile(r"[^\W\d_][\w'\u2019-]+,\s*[^\W\d_][\w'\u2019 .-]*$")
_STREET = re.compile(
    r"\w(str\.|straße|strasse|weg|platz|gasse)\W.*\d|\b(street|avenue|road|lane|boulevard)\b.*\d|\d.*\b(street|avenue|road|lane)\b",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?=.*[+()/ -])\+?[\d\s()/.-]{7,}$")
_UID = re.compile(r"\d+(\.\d+){4,}$")
_FILE = re.compile(r"([/~]|[A-Za-z]:\\).|.*\.(dcm|dicom|png|jpe?g|tiff?|bmp|nii|nii\.gz|npz|npy|gif|jp2|webp)$", re.IGNORECASE)
_MONTHS = "jan|feb|mar|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez"
_DATE = re.compile(
    rf"(\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.]\d{{2,4}}|(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])(\D|$)"
    rf"|\d{{1,2}}[. -]*({_MONTHS})|({_MONTHS})\w*\.? \d)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reason:
    """Why a column is left out.

    Args:
        text: what it holds, as "a birth date".
        direct: it names one person by itself, and is kept on no request.
    """

    text: str
    direct: bool = False


def identifying(table: pd.DataFrame, keep: Iterable[str] = ()) -> dict[str, Reason]:
    """The columns that identify patients, with why; ``STRUCTURE`` is not among them.

    Args:
        table: one row per image; ``patient`` or ``group`` states which rows are of one person, else each row is of its own.
        keep: columns that are wanted whatever they hold (targets); only a direct identifier is reported of these.
    """
    units, wanted, found = units_of(table), set(keep), {}
    for column in (c for c in table.columns if c not in STRUCTURE):
        name = str(column)
        if name.endswith("_shares") and name.removesuffix("_shares") in table.columns:
            continue
        reason = reason_of(name, table[column], units)
        if reason is not None and (reason.direct or name not in wanted):
            found[name] = reason
    for name in [n for n in map(str, table.columns) if n.endswith(DERIVED)]:
        base = next(name.removesuffix(end) for end in DERIVED if name.endswith(end))
        if base in found:
            found[name] = found[base]
    return found


def reason_of(name: str, column: pd.Series[Any], units: np.ndarray) -> Reason | None:
    """Why a column identifies; None where it does not.

    Args:
        name: of the column.
        column: its values.
        units: (n,) int, whose row each is.
    """
    import pandas as pd
    from pandas.api.types import is_datetime64_any_dtype

    by_name = reason_by_name(name)
    if by_name is not None and by_name.direct:
        few = name.strip().lower() in _ALONE and column.nunique() <= min(_MOST_KINDS, column.notna().sum() // 2)
        return replace(by_name, direct=not few)
    known = column.notna().to_numpy()
    if not known.any():
        return by_name
    if is_datetime64_any_dtype(column):
        return Reason("a date")
    texts = column[known].map(str).str.strip()
    codes, different = pd.factorize(texts)
    people = pd.DataFrame({"code": codes, "unit": units[known]}).drop_duplicates()
    held = np.bincount(people["code"], minlength=len(different))  # by how many patients each value
    count = int(people["unit"].nunique())
    numbers = pd.to_numeric(pd.Series(different[:_SAMPLE], dtype=object), errors="coerce")
    if numbers.notna().mean() > 0.5 and not _has_padding(different):
        return _of_numbers(name, numbers.dropna(), len(different), count) or by_name
    return _of_texts(name, different[:_SAMPLE].tolist(), held[:_SAMPLE], len(different), count) or by_name


def reason_by_name(name: str) -> Reason | None:
    """Why a column identifies, by its name alone: ``PatientBirthDate``, ``patient_name``, ``MRN``, ``Geburtsdatum``."""
    words = re.findall(r"[A-ZÄÖÜ]+(?![a-zäöüß])|[A-ZÄÖÜ]?[a-zäöüß]+|\d+", name)
    words = [w.lower() for w in words] or [name.lower()]
    tokens = set(words)
    if tokens & _NAME and tokens <= _NAME | _PERSON | {"of", "the", "de"}:
        return Reason("a person's name", True)
    for text, marks in _DIRECT:
        if tokens & marks and not (text == "a birth date" and tokens & _NOT_BIRTH):
            return Reason(text, True)
    if {"e", "mail"} <= tokens or {"social", "security"} <= tokens or {"health", "plan"} <= tokens:
        return Reason("an insurance or account number" if "mail" not in tokens else "an e-mail address", True)
    if "acc" in tokens and words[-1] in _NUMBER:
        return Reason("an accession number", True)
    if {"medical", "record"} <= tokens or {"hospital", "number"} <= tokens:
        return Reason("a record number", True)
    if words[-1] in _NUMBER and tokens & {"patient", "pat", "subject", "participant", "person", "case"} and len(words) < 4:
        return Reason("a record number", True)
    if words[-1] in _STAFF or (len(words) > 1 and words[-2] in _STAFF and words[-1] in _NAME | {"id", "code"}):
        return Reason("a member of staff")
    return next((Reason(text) for text, marks in _INDIRECT if tokens & marks), None)


def show_value(table: pd.DataFrame, column: str, value: object) -> str:
    """A value of a column as a message may show it: not where the column identifies patients."""
    if reason_of(column, table[column], units_of(table)) is not None:
        return "a value that is not shown here"
    return repr(value.item() if isinstance(value, np.generic) else value)


def rare(values: pd.Series[Any], units: np.ndarray) -> pd.Series[Any]:
    """Categories that fewer than ``FEW`` patients have, as ``OTHER``; missing values stay missing.

    Args:
        values: (n,) one category per row.
        units: (n,) int, whose row each is.
    """
    import pandas as pd

    pairs = pd.DataFrame({"value": values.to_numpy(), "unit": units}).dropna().drop_duplicates()
    counts = pairs["value"].value_counts()
    few = counts.index[counts < FEW]
    return values.where(~values.isin(few), OTHER)


def units_of(table: pd.DataFrame) -> np.ndarray:
    """(n,) int: whose row each is, by ``patient``, else ``group``; a row of nobody known is its own."""
    import pandas as pd

    for column in ("patient", "group"):
        if column in table.columns and table[column].notna().any():
            codes = pd.factorize(table[column])[0].astype(np.int64)
            alone = codes < 0
            codes[alone] = codes.max(initial=-1) + 1 + np.arange(alone.sum())
            return codes
    return np.arange(len(table))


def _has_padding(different: Any) -> bool:
    """Whether numbers are written with leading zeros, as identifiers are."""
    return any(re.match(r"0\d", v) for v in different[:_SAMPLE])


def _of_numbers(name: str, numbers: pd.Series[Any], different: int, people: int) -> Reason | None:
    whole = numbers[numbers % 1 == 0].astype("int64", errors="ignore")
    if len(whole) < len(numbers):
        return None  # measured
    dates = whole.between(19000101, 21001231) & (whole // 100 % 100).between(1, 12) & (whole % 100).between(1, 31)
    if dates.mean() > 0.9:
        return Reason("a date")
    alike = different > 2 and different >= 0.9 * people
    if alike and (whole.abs().min() >= 100_000 or ((words := re.findall(r"[a-z]+", name.lower())) and words[-1] in _NUMBER)):
        return Reason("an identifier: nearly all values differ")
    return None


def _of_texts(name: str, values: list[str], held: np.ndarray, different: int, people: int) -> Reason | None:
    def share(pattern: re.Pattern[str]) -> float:
        return sum(pattern.match(v) is not None for v in values) / len(values)

    for text, pattern in (("an e-mail address", _EMAIL), ("a person's name", _CARET)):
        if any(pattern.search(v) for v in values):
            return Reason(text, True)
    for text, pattern in (("an identifier", _UID), ("a date", _DATE), ("a telephone number", _PHONE), ("a file name", _FILE)):
        if share(pattern) > 0.5:
            return Reason(text)
    if share(_COMMA) > 0.5 or any(_TITLE.match(v) for v in values):
        return Reason("a person's name")
    if any(_STREET.search(v) for v in values):
        return Reason("an address")
    words = set(re.findall(r"[a-zäöüß]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))
    mostly = different > 2 and different > 0.5 * people  # each value stands for less than two patients
    long = [i for i, v in enumerate(values) if len(v) >= 30 and v.count(" ") >= 3 and held[i] < FEW]
    blank = any(" " in v for v in values)
    if not words & _TARGET and (long or (words & _TEXT and (blank or different < 2))):
        return Reason("free text")
    if mostly and not (words & _TARGET and different < people):
        return Reason("free text" if np.mean([" " in v for v in values]) > 0.5 else "an identifier: nearly all values differ")
    return None
