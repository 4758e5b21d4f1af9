"""Which columns identify patients, by name and by content; and what the usual metadata of images look like beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scotoma.data import phi

N = 60  # patients, two rows each
RNG = np.random.default_rng(0)
FIRST = ["Anna", "Bela", "Cleo", "Dora", "Emil", "Fritz"]


def each(values: object) -> list[object]:
    """Two rows a patient."""
    return np.repeat(np.array(list(values), object), 2).tolist()  # type: ignore[call-overload]


PEOPLE = [f"{FIRST[k % 6]}{k}" for k in range(N)]
IDENTIFYING = {
    # by name
    "PatientName": (each(PEOPLE), "a person's name", True),
    "name": (each(PEOPLE), "a person's name", True),
    "Vorname": (["Hans", "Eva"] * N, "a person's name", True),
    "first name": (["Hans", "Eva"] * N, "a person's name", True),
    "MRN": (each(range(N)), "a record number", True),
    "medical_record_number": (each(range(N)), "a record number", True),
    "patientNumber": (each(range(N)), "a record number", True),
    "dob": (["1931"] * 2 * N, "a birth date", True),
    "Birth Date": ([1931.0] * 2 * N, "a birth date", True),
    "Geburtsdatum": (["x"] * 2 * N, "a birth date", True),
    "home_address": (["x"] * 2 * N, "an address", True),
    "Telefon": ([None] * 2 * N, "a telephone number", True),
    "e-mail": (["x"] * 2 * N, "an e-mail address", True),
    "AccessionNumber": (each(range(N)), "an accession number", True),
    "insurance": (["Medicare", "Other"] * N, "an insurance or account number", False),
    "mobile": ([0, 1] * N, "a telephone number", False),
    "mobile ": ([f"0171 55{k:04d}" for k in range(2 * N)], "a telephone number", True),
    "insurance_no": (["AOK", "TK"] * N, "an insurance or account number", True),
    "social security": ([1.0] * 2 * N, "an insurance or account number", True),
    "zip": ([10115, 20095] * N, "a place of residence", False),
    "Study Date": (["x"] * 2 * N, "a date", False),
    "radiologist": (["A", "B"] * N, "a member of staff", False),
    "physician_name": (["A", "B"] * N, "a member of staff", False),
    # by content
    "c1": (each(f"{p}@clinic.example" for p in PEOPLE), "an e-mail address", True),
    "c2": (["Zwxy^Hans"] + ["none"] * (2 * N - 1), "a person's name", True),
    "c3": (each(f"Mueller, {p}" for p in FIRST * 10), "a person's name", False),
    "c4": (["Dr. Who", "Prof. Why"] * N, "a person's name", False),
    "c5": (each(f"2001-0{k % 9 + 1}-11" for k in range(N)), "a date", False),
    "c6": (each(f"{k % 28 + 1}.03.2011" for k in range(N)), "a date", False),
    "c7": ([20010203, 19990112] * N, "a date", False),
    "c8": (pd.to_datetime(["2001-02-03", "2002-02-03"] * N), "a date", False),
    "c9": (each(f"+49 30 1234{k:03}" for k in range(N)), "a telephone number", False),
    "d1": (each(f"1.2.840.113619.{k}.1" for k in range(N)), "an identifier", False),
    "d2": (each(f"scans/{p}.dcm" for p in PEOPLE), "a file name", False),
    "d3": (["Hauptstraße 12", None] * N, "an address", False),
    "d4": (each(700_000 + RNG.permutation(9000)[:N]), "an identifier: nearly all values differ", False),
    "d5": (each(f"{k:04}" for k in range(N)), "an identifier: nearly all values differ", False),
    "d6": (each(PEOPLE), "an identifier: nearly all values differ", False),
    "d7": (["Came with his wife from Bonn, coughing", None] + [None] * (2 * N - 2), "free text", False),
    "d8": (each(f"{p} has a nodule" for p in PEOPLE), "free text", False),
    "Bemerkung": (["mit Frau Q"] + ["keine"] * (2 * N - 1), "free text", False),
    "scan_id": (each(range(N)), "an identifier: nearly all values differ", False),
}
HARMLESS = {
    "age": each(RNG.integers(1, 90, N)),
    "age_as_typed": each([*(str(a) for a in RNG.integers(1, 90, N - 1)), "unknown"]),
    "sex": ["F", "M"] * N,
    "view": ["PA", "LATERAL", None] * (2 * N // 3),
    "site_name": ["Hospital A", "Hospital B"] * N,
    "birth_weight": each(RNG.normal(3000, 400, N).round()),
    "volume_mm3": each(RNG.uniform(0, 1e6, N)),
    "dose": each(RNG.uniform(0, 3, N).round(2)),
    "year": each(RNG.integers(2001, 2020, N)),
    "reader1": ["benign", "malignant"] * N,
    "diagnosis": ["pneumonia of the left lower lobe", "nothing at all to be seen here"] * N,
    "label": each(f"class {k % 40}" for k in range(N)),
    "vendor": ["SIEMENS", "GE MEDICAL SYSTEMS"] * N,
    "tnm": ["T1/N0", "T2/N1", "T3/N1"] * (2 * N // 3),
    "constant": ["A"] * 2 * N,
    "empty": [None] * 2 * N,
    "flag": [True, False] * N,
    "left_is_male": [1.0, None] * N,
    "lesion_number": [1, 2] * N,
    "contrast": ["none", "iodine"] * N,
}  # fmt: skip


@pytest.mark.parametrize("column", IDENTIFYING)
def test_what_identifies_is_recognised(column: str) -> None:
    values, text, direct = IDENTIFYING[column]
    table = pd.DataFrame({"patient": each(range(N)), column: values})
    assert phi.identifying(table) == {column: phi.Reason(text, direct)}
    assert list(phi.identifying(table, [column])) == ([column] if direct else [])


@pytest.mark.parametrize("column", HARMLESS)
def test_metadata_are_kept(column: str) -> None:
    assert phi.identifying(pd.DataFrame({"patient": each(range(N)), column: HARMLESS[column]})) == {}


def test_columns_of_scotoma_are_none_and_what_readings_add_goes_with_its_column() -> None:
    table = pd.DataFrame({name: each(PEOPLE) for name in phi.STRUCTURE})
    table["dx"], table["note"] = ["a", "b"] * N, each(f"{p} has a nodule" for p in PEOPLE)
    for name in ("dx", "note"):
        table[f"{name}_shares"] = each(f'{{"{p}": 1}}' for p in PEOPLE)
        table[f"{name}_agreement"] = 1.0
    assert set(phi.identifying(table)) == {"note", "note_shares", "note_agreement"}


def test_a_value_counts_by_patients_and_not_by_rows() -> None:
    """Thirty rows a patient: names under a name of their own are as many as patients, and no category."""
    who = np.repeat(np.arange(8), 30)
    table = pd.DataFrame({"patient": who, "wer": np.array(PEOPLE)[who]})
    assert set(phi.identifying(table)) == {"wer"}
    assert phi.identifying(table.drop(columns="patient")) == {}  # nothing states that eight values are of eight people
    assert set(phi.identifying(table.rename(columns={"patient": "group"}))) == {"wer"}


def test_rare_categories_are_one() -> None:
    values = pd.Series(["A"] * 6 + ["B"] * 6 + ["C"] * 4 + [None], dtype=object)
    units = np.array([0, 1, 2, 3, 4, 5, *[6] * 3, 7, 8, 9, 10, 11, 12, 13, 14])
    assert phi.rare(values, units).tolist() == ["A"] * 6 + [phi.OTHER] * 10 + [None]  # B: four patients


@pytest.mark.parametrize("name", ["Patientenname", "nom_de_famille", "naam", "Achternaam", "AccNo", "acc_nr"])
def test_direct_identifiers_under_names_of_other_languages_are_kept_by_no_flag(name: str) -> None:
    reason = phi.reason_by_name(name)
    assert reason is not None and reason.direct


@pytest.mark.parametrize(
    ("values", "person"),
    [
        ("Dr. Who", True),
        ("Mr Jones", True),
        ("DR. WHO", True),
        ("MRS JONES", True),
        ("MS lesion", False),
        ("MR T1", False),
        ("DR chest", False),
    ],
)
def test_a_title_is_no_modality_and_no_disease(values: str, person: bool) -> None:
    reason = phi.reason_of("kind", pd.Series([values, "other"] * N), np.arange(2 * N) // 4)
    assert (reason is not None and reason.text == "a person's name") is person
