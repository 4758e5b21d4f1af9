from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.lookalike import draw_image, text

from scotoma.data.datasets import base
from scotoma.data.sources import values
from scotoma.errors import UsageError


def test_a_file_is_found_with_or_without_gz_and_read_alike(tmp_path: Path) -> None:
    text(tmp_path / "a.csv.gz", "x, y,z", "1,2,3")
    text(tmp_path / "b.csv", "x,y,z", "1,2,3")
    for name in ("a.csv", "b.csv"):
        frame = base.read(base.find(tmp_path, "layout", name), ("z", "y"))
        assert frame.to_dict("list") == {"z": [3], "y": [2]}
    assert base.optional(tmp_path, "c.csv", "b.csv") == tmp_path / "b.csv"
    assert base.optional(tmp_path, "c.csv") is None
    with pytest.raises(UsageError, match=r"no c\.csv or d\.csv there; expected below this folder: c\.csv; images/1\.png"):
        base.find(tmp_path, "c.csv\n  images/1.png", "c.csv", "d.csv")
    with pytest.raises(UsageError, match=r"no column 'w'.* x, y, z"):
        base.read(tmp_path / "b.csv", ("x", "w"))


@pytest.mark.parametrize("broken", [gzip.compress(b"x,y\n" + bytes(range(256)) * 50)[:-30], b"\x1f\x8bnothing", b""])
def test_a_broken_table_is_one_line(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "a.csv.gz").write_bytes(broken)
    with pytest.raises(UsageError, match="cannot be read") as error:
        base.read(tmp_path / "a.csv.gz", ("x",))
    assert "\n" not in str(error.value)


def test_findings_under_every_policy_against_the_obvious_loop() -> None:
    published = pd.DataFrame({"Lung Opacity": [1.0, 0.0, -1.0, np.nan], "No Finding": [np.nan, -1.0, 0.0, 1.0]})
    for uncertain in ("missing", "0", "1"):
        for blank in ("missing", "0"):
            found = base.findings(published, list(published.columns), uncertain, blank)
            assert list(found.columns) == ["lung_opacity", "no_finding"]
            for name in published.columns:
                expected = []
                for value in published[name]:
                    if value != value:
                        expected.append(None if blank == "missing" else 0.0)
                    elif value == -1:
                        expected.append(None if uncertain == "missing" else float(uncertain))
                    else:
                        expected.append(value)
                assert values(found[base.snake(name)]) == expected, (uncertain, blank)
    for wrong in ({"uncertain": "2", "blank": "0"}, {"uncertain": "0", "blank": "1"}):
        with pytest.raises(UsageError, match="is none of missing, 0"):
            base.findings(published, ["No Finding"], **wrong)
    with pytest.raises(UsageError, match="another value"):
        base.findings(pd.DataFrame({"x": [2.0]}), ["x"], "missing", "missing")


def test_one_hot() -> None:
    frame = pd.DataFrame({"MEL": [1.0, 0, 0, np.nan], "NV": [0.0, 1, 0, np.nan]})
    assert values(base.one_hot(frame, ("MEL", "NV"))) == ["mel", "nv", None, None]
    with pytest.raises(UsageError, match="two classes"):
        base.one_hot(frame.assign(NV=1.0), ("MEL", "NV"))


def test_ages_and_sexes_however_they_are_written() -> None:
    assert values(base.age(pd.Series([61, "061Y", "7", 414, -1, None, "unknown", 0]))) == [61, 61, 7, None, None, None, None, 0]
    assert values(base.age(pd.Series([61.5, np.nan]))) == [61.5, None]
    assert values(base.sex(pd.Series(["female", "Male", "F", "m", "Unknown", None]))) == ["F", "M", "F", "M", None, None]
    assert values(base.sex(pd.Series([np.nan, np.nan]))) == [None, None]


def test_names_become_columns() -> None:
    assert [base.snake(n) for n in ("Pleural Effusion", "Pleural_Thickening", "EKG/Lead (1)")] == [
        "pleural_effusion", "pleural_thickening", "ekg_lead_1",
    ]  # fmt: skip


def test_what_lies_on_the_disk(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/10.jpg", "b/.hidden.png", "a10/1.png", "a2/1.png"):
        draw_image(tmp_path / name)
    text(tmp_path / "b" / "notes.txt", "none")
    assert base.files(tmp_path, ["b", "absent"]) == ["b/2.PNG", "b/10.jpg"]
    assert base.folders(tmp_path, "a*") == ["a2", "a10"]
    asked = pd.Series(["b/2.PNG", "b/3.png", "c/1.png", "b/notes.txt"])
    assert values(base.on_disk(asked, tmp_path)) == ["b/2.PNG", None, None, "b/notes.txt"]
    asked = pd.Series(["10", "2.PNG", "7", 2, "2.jpeg", "10.1"])
    assert values(base.by_name(asked, tmp_path, ["b"])) == ["b/10.jpg", "b/2.PNG", None, "b/2.PNG", "b/2.PNG", None]
