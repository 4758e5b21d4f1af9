"""Tables as programs and people write them: encodings, delimiters, titles, merged cells, and cells that stay as they stand."""

from __future__ import annotations

import datetime
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openpyxl import Workbook

from scotoma.data.labels import columns, spreadsheets
from scotoma.errors import UsageError

ROWS = [["code", "befund", "weight"], ["007", "krank", "61,5"], ["1E5", "gesünd", "70,25"], ["2.10", "krank", ""]]


def book(path: Path, fill: Callable[[Workbook], object]) -> Path:
    made = Workbook()
    fill(made)
    made.save(path)
    return path


def cells(frame: pd.DataFrame) -> dict[str, list[object]]:
    return {c: columns.values(frame[c]) for c in frame.columns}


def read(path: Path, *ids: str, missing: tuple[str, ...] = ()) -> dict[str, list[object]]:
    """The cells as they mean, ``ids`` being identifiers."""
    return cells(columns.recognise_roles(path.name, spreadsheets.read(path, ["code"]), missing, ids=ids)[0])


def written(separator: str, end: str = "\n", comma: str = ",") -> str:
    return end.join(separator.join(cell.replace(",", comma) for cell in row) for row in ROWS) + end


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (written(";").encode(), "semicolons"),
        (b"\xef\xbb\xbf" + written(";", "\r\n").encode(), "semicolons"),
        (written(",", comma=".").encode(), ""),
        (written(",", "\r", ".").encode(), ""),
        (written("\t", comma=".").encode("utf-16"), "UTF-16"),
        (written("\t", comma=".").encode("utf-16-le"), "UTF-16"),
        (written(";").encode("cp1252"), "Windows-1252"),
        (("SEP=;\r\n" + written(";", "\r\n")).encode(), ""),
        (("# of May\n\n;\n" + written(";")).encode(), "row 4 is its header; 3 above it are skipped"),
        (("My study, of May\n" + written(",", comma=".")).encode(), "row 2 is its header; 1 above it is skipped"),
        (("\n" + written(";") + ";;\n\n;;\n").encode(), "row 2 is its header"),
    ],
)
def test_one_table_as_people_s_programs_write_it(tmp_path: Path, content: bytes, said: str, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.csv").write_bytes(content)
    found = read(tmp_path / "t.csv", "code")
    assert found["code"] == ["007", "1E5", "2.10"]
    assert found["befund"] == ["krank", "gesünd", "krank"]
    assert found["weight"] == [61.5, 70.25, None]
    assert said in capsys.readouterr().err


def test_tsv_and_zipped_csv(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.tsv").write_text('code\ttext\nA\t"with ""quotes"", commas\nand lines"\n')
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"code,text\nA,b\n"))
    assert read(tmp_path / "t.tsv", "code") == {"code": ["A"], "text": ['with "quotes", commas\nand lines']}
    assert read(tmp_path / "t.csv.gz", "code") == {"code": ["A"], "text": ["b"]}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("code,a\n1,2\n3,4,5\n", "row 3 has 3 cells and the header 2"),
        ("code,a,b\n1,2,3\n\n3,4\n", "row 4 has 2 cells and the header 3"),
        ("code,a,a \n1,2,3\n", "'a' stands twice"),
        ('code,a\n1,"2\n3,4\n', "cannot be read as a table"),
        ("\n \n", "it is empty"),
        ("code,a\n1,\0\n", "binary"),
    ],
)
def test_what_cannot_be_a_table_is_refused_by_its_row(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UsageError, match=message):
        spreadsheets.read(tmp_path / "t.csv", ["code"])


def test_rows_are_named_by_their_number_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("title\n\ncode,a\n1,2\n,\n3,4\n")
    assert spreadsheets.read(tmp_path / "t.csv", ["code"]).index.tolist() == [4, 6]


def test_a_column_is_of_numbers_only_where_no_two_spellings_fall_together(tmp_path: Path) -> None:
    spelled = {
        "whole": ["1", "2", "3"], "halves": ["0.5", "1.0", "-2.25"], "gaps": ["1", "", "3"], "ones": ["1.0", "0.0", "1"],
        "zeros": ["01", "02", "3"], "exponents": ["1E5", "2E3", "100000"], "trailing": ["2.10", "2.1", "3"],
        "long": ["20230301181139587", "20230301181139588", "1"], "signed": ["+1", "1", "2"], "truth": ["TRUE", "false", ""],
        "mixed": ["1", "x", "3"], "space": [" a ", "b", "  "], "code": ["1", "2", "3"],
    }  # fmt: skip
    pd.DataFrame(spelled).to_csv(tmp_path / "t.csv", index=False)
    found = columns.recognise_roles("t", spreadsheets.read(tmp_path / "t.csv", ["code"]), ids=["code"])[0]
    kinds = {c: "f" if found[c].dtype.kind == "f" else "i" if found[c].dtype.kind == "i" else "text" for c in found.columns}
    numbers = {"whole": "i", "halves": "f", "gaps": "f", "ones": "f"}
    assert {c: k for c, k in kinds.items() if k != "text"} == numbers
    for column in ("zeros", "exponents", "trailing", "long", "signed", "mixed", "code"):
        assert found[column].tolist() == spelled[column]
    assert found["ones"].tolist() == [1, 0, 1]
    assert columns.values(found["truth"]) == [True, False, None]
    assert columns.values(found["space"]) == ["a", "b", None]


def test_every_word_for_missing_is_counted(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    words = ["Mass", "NA", "n/a", "NIL", "none", "none", "Cyst"]
    (tmp_path / "t.csv").write_text("code,kind\n" + "".join(f"{k},{word}\n" for k, word in enumerate(words)))
    assert read(tmp_path / "t.csv", "code")["kind"] == words
    assert "kind 'NA' (1 cell), kind 'n/a' (1 cell), kind 2 more such words (3 cells); `missing`" in capsys.readouterr().err


def test_words_for_missing_are_classes_among_words_and_missing_among_numbers(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.csv").write_text(
        "code,kind,size,patient,grade\na,None,1,P1,-1\nb,Mass,NA,n/a,1.0\nc,null,3,P2,0\nd,,null,NULL,-1.0\ne,nan,,P3,1\n"
    )
    assert read(tmp_path / "t.csv", "code", "patient") == {
        "code": ["a", "b", "c", "d", "e"], "kind": ["None", "Mass", "null", None, None], "size": [1, None, 3, None, None],
        "patient": ["P1", None, "P2", None, "P3"], "grade": [-1, 1, 0, -1, 1],
    }  # fmt: skip
    err = capsys.readouterr().err
    assert "read as classes: kind 'None' (1 cell), kind 'null' (1 cell)" in err
    assert "size 'NA', 'null' (2 cells)" in err
    assert "patient 'n/a', 'NULL' (2 cells)" in err
    found = read(tmp_path / "t.csv", "code", "patient", missing=("None", "-1", "P2"))
    assert found["kind"] == [None, "Mass", "null", None, None]
    assert found["grade"] == [None, 1, 0, None, 1]
    assert found["patient"] == ["P1", None, None, None, "P3"]


def test_commas_are_decimal_in_semicolon_tables_unless_they_may_be_thousands(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("code;a;b;c;d\n1,5;1,5;1,234;7;x,1\n2;2;2,345;8,25;2,1\n")
    assert read(tmp_path / "t.csv", "code") == {
        "code": ["1,5", "2"], "a": [1.5, 2], "b": ["1,234", "2,345"], "c": [7, 8.25], "d": ["x,1", "2,1"],
    }  # fmt: skip


def test_cells_of_a_workbook_are_as_they_are_shown(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    def fill(made: Workbook) -> None:
        sheet = made.active
        noon = datetime.datetime(2024, 5, 3, 12, 30)
        for row in (["code", "zip", "when", "n", "ok"], [7, 42, noon.date(), 1.5, True], ["007", 7, "x", 2.0, False],
                    [8.0, 1234, noon, 123456789012, True], ["1E5", None, None, "#N/A", None]):  # fmt: skip
            sheet.append(row)
        for row in (2, 3, 4):
            sheet.cell(row, 2).number_format = "00000"

    assert read(book(tmp_path / "t.xlsx", fill), "code") == {
        "code": ["7", "007", "8", "1E5"], "zip": ["00042", "00007", "01234", None],
        "when": ["2024-05-03", "x", "2024-05-03T12:30:00", None], "n": [1.5, 2, 123456789012, None],
        "ok": [True, False, True, None],
    }  # fmt: skip
    assert "1 cells that hold an error such as #N/A are read as missing" in capsys.readouterr().err


def test_the_first_visible_sheet_with_title_and_merged_ranges(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    def fill(made: Workbook) -> None:
        made.active.append(["code", "old"])
        made.active.sheet_state = "hidden"
        sheet = made.create_sheet("new")
        for row in (["A title over all"], [], ["code", "patient", " dx "], ["a", "P", "x"], ["b", None, None], ["c", "Q", "y"]):
            sheet.append(row)
        sheet.merge_cells("A1:C1")
        sheet.merge_cells("B4:B5")
        sheet.merge_cells("C4:C5")
        made.create_sheet("notes")
        made.active = 1

    assert read(book(tmp_path / "t.xlsx", fill)) == {"code": ["a", "b", "c"], "patient": ["P", "P", "Q"], "dx": ["x", "x", "y"]}
    err = capsys.readouterr().err
    assert "of 3 sheets (2 of them hidden or empty) the first visible one with cells is read, number 2" in err
    assert "2 cells of merged ranges are filled" in err
    assert "row 3 is its header; 2 above it are skipped" in err


def test_workbooks_that_would_be_read_wrong_are_refused(tmp_path: Path) -> None:
    def formulas(made: Workbook) -> None:
        made.active.append(["code", "dx"])
        made.active.append(["a", '=IF(1>0,"x","y")'])

    def far(made: Workbook) -> None:
        made.active.append(["code", "dx"])
        made.active.cell(1_048_576, 16_384, "here")

    with pytest.raises(UsageError, match=r"1 cells hold formulas without their values .*row 2"):
        spreadsheets.read(book(tmp_path / "f.xlsx", formulas))
    with pytest.raises(UsageError, match="remove the cell far off, in row 1048576"):
        spreadsheets.read(book(tmp_path / "g.xlsx", far))
    (tmp_path / "t.xls").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"save it as \.xlsx or \.csv"):
        spreadsheets.read(tmp_path / "t.xls")


@pytest.mark.parametrize("seed", range(3))
def test_any_text_comes_back_as_it_was(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    letters = np.array(list("aZ09;,|\t.\"\n'#=-éß日"))
    texts = [["x" + "".join(rng.choice(letters, rng.integers(0, 8))).rstrip() + "x" for _ in range(3)] for _ in range(30)]
    frame = pd.DataFrame(texts, columns=["code", "b", "c"])
    for separator in ",;\t":
        frame.to_csv(tmp_path / "t.csv", index=False, sep=separator)
        assert spreadsheets.read(tmp_path / "t.csv", ["code"]).to_numpy().tolist() == texts


def test_an_empty_first_sheet_is_passed_over_and_a_header_of_two_rows_is_refused(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    def empty_first(made: Workbook) -> None:
        made.active["B2"] = "  "
        sheet = made.create_sheet("data")
        sheet.append(["code", "label"]), sheet.append(["a", 1])

    assert read(book(tmp_path / "first.xlsx", empty_first), "code") == {"code": ["a"], "label": [1]}
    assert "of 2 sheets (1 of them hidden or empty) the first visible one with cells is read, number 2" in capsys.readouterr().err

    def two_rows(made: Workbook) -> None:
        for row in (["code", "findings", None], [None, "oedema", "effusion"], ["a", 1, 0]):
            made.active.append(row)
        made.active.merge_cells("A1:A2"), made.active.merge_cells("B1:C1")

    with pytest.raises(UsageError, match="rows 1 and 2 seem to be a header of two rows: write each column's whole name in one row"):
        read(book(tmp_path / "two.xlsx", two_rows), "code")
    (tmp_path / "t.csv").write_text("title,,\ncode,findings,\n,oedema,effusion\na,1,0\n")
    with pytest.raises(UsageError, match="rows 2 and 3 seem to be a header of two rows"):
        read(tmp_path / "t.csv", "code")
    (tmp_path / "t.csv").write_text("code,label,\n,1,\na,0,\n")  # a first row that names nothing is none
    assert read(tmp_path / "t.csv", "code") == {"code": [None, "a"], "label": [1, 0]}


def test_row_names_before_one_column_are_a_column(tmp_path: Path) -> None:
    pd.Series([1, 0, 1], index=["a.png", "b.png", "c.png"], name="label").to_csv(tmp_path / "t.csv")
    assert read(tmp_path / "t.csv", "Unnamed: 0") == {"Unnamed: 0": ["a.png", "b.png", "c.png"], "label": [1, 0, 1]}
