"""Every table of the page as numbers beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from helpers.report_runs import make_study, operating, write

from scotoma.errors import RunError
from scotoma.reporting.build import build
from scotoma.reporting.csv_tables import Sheets, inert


def test_every_table_of_the_page_has_its_file_and_every_file_its_table(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    more = write(tmp_path / "more", operating("effusion"), {"command": "evaluate"})
    html = build([study, more], tmp_path / "both.html").read_text()
    captions = [c for c in re.findall(r"<caption>(.*?)</caption>", html) if "(continued)" not in c]
    named = re.findall(r'<small class="sheet">both_tables/(\w+\.csv)</small>', "".join(captions))
    files = {f.name for f in (tmp_path / "both_tables").glob("*.csv")} - {"index.csv"}
    assert len(named) == len(captions) == len(set(named)) > 10 and set(named) == files
    index = pd.read_csv(tmp_path / "both_tables" / "index.csv").set_index("file")["lines"]
    for name in files:
        assert len(pd.read_csv(tmp_path / "both_tables" / name)) == index[name] > 0


def test_numbers_are_those_of_the_rows(tmp_path: Path) -> None:
    build([study := make_study(tmp_path)])
    auroc = pd.read_csv(study / "tables" / "auroc.csv")
    one = auroc[(auroc["label"] == "SimCLR") & (auroc["evaluator"] == "linear") & (auroc["fraction"] == 0.1)].iloc[0]
    assert (one["value"], one["low"], one["high"], one["n"]) == (0.912, 0.912 - 0.02, 0.912 + 0.02, 1370)
    assert "kind" not in auroc and "severity" not in auroc
    classes = pd.read_csv(study / "tables" / "auroc_by_class.csv")
    assert set(classes["class"]) == {"glioma", "meningioma", "notumor", "pituitary"} and set(classes["fraction"]) == {0.1}


def test_only_files_of_an_earlier_page_are_removed(tmp_path: Path) -> None:
    def sheet(*names: str) -> None:
        sheets = Sheets()
        assert [sheets.add(n, pd.DataFrame({"label": ["a"], "value": [0.5], "low": [None]})) for n in names]
        sheets.write(tmp_path / "report.html")

    sheet("One table 2", "One table", "One table", "other")
    folder = tmp_path / "tables"
    files = {"one_table.csv", "one_table_2.csv", "one_table_3.csv", "other.csv", "index.csv"}
    assert {f.name for f in folder.iterdir()} == files
    assert (folder / "other.csv").read_text() == "label,value\na,0.5\n"
    (folder / "mine.csv").write_text("keep me")
    sheet("other")
    assert {f.name for f in folder.iterdir()} == {"other.csv", "mine.csv", "index.csv"}
    (folder / "index.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="tables"):
        sheet("other")


def test_texts_that_a_spreadsheet_would_calculate_are_texts(tmp_path: Path) -> None:
    texts = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\tx", "\rx", "a=b", "'", ""]
    frame = pd.DataFrame({"class": texts, "value": [-0.5] * len(texts), "=x": [1] * len(texts)})
    found = inert(frame)
    assert found["class"].tolist() == [f"'{t}" for t in texts[:6]] + texts[6:]
    assert found["value"].tolist() == frame["value"].tolist()
    assert found.columns.tolist() == ["class", "value", "'=x"]
    sheets = Sheets()
    sheets.add("one", pd.DataFrame({"class": ["=1+1", "b"], "value": [-1.0, 2.0]}))
    sheets.write(tmp_path / "report.html")
    assert (tmp_path / "tables" / "one.csv").read_text() == "class,value\n'=1+1,-1.0\nb,2.0\n"
