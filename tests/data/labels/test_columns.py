"""Columns in other spellings, identifiers written in several ways, and patients given once for a block of rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from scotoma.data import sources
from scotoma.data.labels import columns
from scotoma.errors import UsageError


def recognised(capsys, **given: list[object]) -> tuple[dict[str, str], str]:  # type: ignore[no-untyped-def]
    found = columns.recognise_columns("t", pd.DataFrame({k.replace("__", " "): v for k, v in given.items()}))
    return found, capsys.readouterr().err


def test_columns_in_other_spelling_are_taken_and_said(capsys) -> None:  # type: ignore[no-untyped-def]
    for spelled in ("Patient", "patient_id", "PatientID", "Patient__ID", "SUBJECT_ID"):
        found, err = recognised(capsys, **{spelled: ["a", "b"]})
        assert found == {spelled.replace("__", " "): "patient"}
        assert "is taken as patient" in err
    found, err = recognised(capsys, Image__Path=["a.png"], StudyInstanceUID=["1.2"], Split=["train"], Frame=[0])
    assert found == {"Image Path": "image_path", "StudyInstanceUID": "study", "Split": "split", "Frame": "frame"}
    found, err = recognised(capsys, mrn=[1], patient_id=[2], filename=["a"], path=["b/a"])
    assert found == {"patient_id": "patient", "filename": "image_path"}
    assert "'patient_id' is taken as patient ('mrn' is not)" in err


def test_a_column_that_stands_there_goes_before_other_spellings(capsys) -> None:  # type: ignore[no-untyped-def]
    found, err = recognised(capsys, patient=["a"], PatientID=["b"], split=["train"], Split=["x"], file=["c"], image_path=["d"])
    assert found == {}
    assert "column 'PatientID' is not used: 'patient' is" in err
    assert "column 'Split' is not used: 'split' is" in err
    assert "file" not in err


def test_a_split_under_a_vague_name_holds_nothing_else(capsys) -> None:  # type: ignore[no-untyped-def]
    assert recognised(capsys, subset=["train", "test", None])[0] == {"subset": "split"}
    assert recognised(capsys, subset=["A", "B"])[0] == {}
    assert recognised(capsys, dataset=["train", "train"])[0] == {}
    found, err = recognised(capsys, Group=["case", "control"])
    assert (found, "name it group if it is one" in err) == ({}, True)


def test_the_table_is_split_and_grouped_by_them(tmp_path: Path) -> None:
    pd.DataFrame({"File Name": ["a.png", "b.png"], "Patient ID": ["007", "7"], "SPLIT": ["Train", " test"]}).to_excel(
        tmp_path / "t.xlsx", index=False
    )
    found = sources.load(tmp_path / "t.xlsx").table
    assert found["image_path"].tolist() == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert found["patient"].nunique() == 1
    assert found["split"].tolist() == ["train", "test"]


def test_ids_written_in_several_ways(capsys) -> None:  # type: ignore[no-untyped-def]
    column = pd.Series(["K7", "k7", "K7 ", "K-7", "L8", "12", "1-2", "1 2", None], name="patient")
    found = columns.hash_identifiers("t", column)
    assert found[:3].nunique() == 1
    assert found.nunique() == 6
    assert found.isna().tolist() == [False] * 8 + [True]
    err = capsys.readouterr().err
    assert "patient: 1 ids differ from another in case, blanks or leading zeros alone" in err  # K7, but for blanks that are cut
    assert "1 ids differ from another in punctuation alone" in err  # K-7; 12 and 1-2 may well be two


def framed(values: list[str | None], **more: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame({"patient": pd.Series(values, dtype=object), **{k: pd.Series(v, dtype=object) for k, v in more.items()}})


def test_patients_once_for_a_block_are_filled_with_what_stands_in_the_same_rows(capsys) -> None:  # type: ignore[no-untyped-def]
    frame = framed(["A", None, None, "B", None, None, "C", None], dx=["x", None, None, "y", None, None, "x", None],
                   other=["1", None, None, "2", "3", None, "4", None])  # fmt: skip
    found = columns.fill_blocks("t", frame)
    assert found["patient"].tolist() == list("AAABBBCC")
    assert found["dx"].tolist() == list("xxxyyyxx")
    assert columns.values(found["other"]) == columns.values(frame["other"])
    assert "patient, dx: given once for every 3 rows" in capsys.readouterr().err


def test_blocks_of_several_lengths_are_refused_and_gaps_are_none() -> None:
    with pytest.raises(UsageError, match="patient stands in 3 of 8 rows, each value once"):
        columns.fill_blocks("t", framed(["A", None, None, None, "B", None, "C", None]))
    for values in (["A", None, "B", "C", "D", None], [None, "A", None, "B"]):
        with pytest.raises(UsageError, match="each value once"):
            columns.fill_blocks("t", framed(values))
        named = framed(values, study=[str(k // 2) for k in range(len(values))])  # what belongs together is known
        assert columns.values(columns.fill_blocks("t", named)["patient"]) == values
    for values in (["A", "A", None, "B", "B", None], ["A", "B"], [*map(str, range(39)), None]):
        assert columns.values(columns.fill_blocks("t", framed(values))["patient"]) == values


def test_a_label_once_for_a_block_is_said_where_no_patient_says_whose_it_is(capsys) -> None:  # type: ignore[no-untyped-def]
    frame = pd.DataFrame({"image_path": [f"{k}.png" for k in range(8)], "dx": ["x", None, None, "y", None, None, "x", None]})
    assert columns.values(columns.fill_blocks("t", frame)["dx"]) == columns.values(frame["dx"])  # blank may mean unlabelled
    assert "dx stands in one row of 3 only, as merged cells are saved: 5 rows are without" in capsys.readouterr().err
    columns.fill_blocks("t", frame.assign(dx=["x", None, "y", "x", None, None, "x", None]))
    assert capsys.readouterr().err == ""


def test_a_further_file_of_every_third_row_is_no_merged_cell(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame(
        {"image_path": [f"{k}.png" for k in range(9)], "raw": [f"raw/{k}.dcm" if k % 3 == 0 else None for k in range(9)]}
    )
    pd.testing.assert_frame_equal(columns.fill_blocks("scans", frame), frame)
    assert capsys.readouterr().err == ""
    columns.fill_blocks("scans", frame.assign(raw=[f"grade {k}" if k % 3 == 0 else None for k in range(9)]))
    assert "raw stands in one row of 3 only" in capsys.readouterr().err


def test_what_stands_in_the_first_row_alone_of_each_patient_is_said_and_not_filled(capsys) -> None:  # type: ignore[no-untyped-def]
    frame = pd.DataFrame({"patient": list("AAABBC"), "label": ["x", None, None, "y", None, "x"], "age": [1, 2, None, 3, None, 4]})
    assert columns.values(columns.fill_blocks("t", frame)["label"]) == ["x", None, None, "y", None, "x"]
    assert capsys.readouterr().err.startswith(
        "t: label: stands in the first row alone of each patient, and the 3 other rows have none"
    )
    columns.fill_blocks("t", frame.assign(label=["x", None, "y", "y", None, "x"]))
    columns.fill_blocks("t", frame.assign(label=list("xyxyxy")))
    assert not capsys.readouterr().err
