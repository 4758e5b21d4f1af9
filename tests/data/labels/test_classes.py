"""Columns of classes as people write them: spellings, several findings in a cell, marks for unknown, and -1 beside 0 and 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma.commands.audit import audit
from scotoma.data import dataset as dataset_
from scotoma.data import sources
from scotoma.data.labels import classes, targets
from scotoma.errors import UsageError


def dataset(values: list[object], name: str = "dx") -> dataset_.Dataset:
    return dataset_.Dataset("t", pd.DataFrame({name: pd.Series(values, dtype=object)}))


def settled(values: list[object], chosen: tuple[str, ...] = (), separator: str | None = None) -> dataset_.Dataset:
    return classes.prepare_target(dataset(values), ["dx"], chosen, separator)[0]


def test_spellings_of_one_class_are_joined_in_the_most_frequent_one_and_said(capsys) -> None:  # type: ignore[no-untyped-def]
    found = settled(["Yes", "yes", "Yes", " YES", "no", "No", "no", None, "Mu\u0308d", "Müd", "müd "])
    assert sources.values(found.table["dx"]) == ["Yes"] * 4 + ["no"] * 3 + [None] + ["Müd"] * 3
    err = capsys.readouterr().err
    assert (
        "t: dx: classes that differ in case or blanks alone are joined: 'YES' (1), 'yes' (1) with 'Yes' (2); 'No' (1) with" in err
    )
    assert targets.read(found, ["dx"]).classes == ("Müd", "Yes", "no")
    settled(["a", "b", "a"])
    assert capsys.readouterr().err == ""


def test_a_chosen_class_s_spelling_goes_before_the_most_frequent(capsys) -> None:  # type: ignore[no-untyped-def]
    found = settled(["yes", "yes", "YES", "no"], ("Yes", "no"))
    assert sources.values(found.table["dx"]) == ["Yes"] * 3 + ["no"]
    assert "'yes' (2), 'YES' (1) with 'Yes' (0)" in capsys.readouterr().err
    found = settled(["yes", "Yes", "no"], ("Yes", "yes"))
    assert sources.values(found.table["dx"]) == ["yes", "Yes", "no"]


def test_minus_one_beside_zero_and_one_is_refused_until_it_is_settled() -> None:
    for values in ([1, 0, -1, None], ["1.0", "0.0", "-1.0"], [0.0, 1.0, -1.0]):
        with pytest.raises(UsageError, match=r"dx holds -1 beside 0 and 1 in 1 rows.*--missing=-1"):
            settled(values)
        assert settled(values, ("-1", "0", "1")) is not None
    for values in ([1, -1, 1, -1], [0, 1, 1], [-2, -1, 0, 1], ["-1", "0", "1", "x"]):
        settled(values)
    with pytest.raises(UsageError, match=r"holds '-1'.*--missing=-1"):
        targets.read(dataset_.Dataset("t", pd.DataFrame({"a": [0, 1, -1], "b": [0, 1, 1]})), ["a", "b"])


def test_marks_numbers_and_cells_of_several_findings_are_said(capsys) -> None:  # type: ignore[no-untyped-def]
    settled(["a", "-", "Unknown", "b", "N/A", "-"])
    assert "'-' (2), 'Unknown' (1), 'N/A' (1) taken as classes; `missing` '-,Unknown,N/A'" in capsys.readouterr().err
    settled(["2.1", "2.10", "3"])
    assert "'2.1' and '2.10': one number each, kept apart as classes" in capsys.readouterr().err
    settled(["A", "A|B", "B", "C; D"] * 3)
    assert "1 classes name several findings with '|' between (3 rows): `separator` '|'" in capsys.readouterr().err
    settled(["left, upper", "right, lower"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seed", range(3))
def test_findings_between_separators_as_a_slow_look_into_each_cell(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["Mass", "mass", "Effusion", "No Finding", "Edema "]
    cells = ["|".join(rng.choice(names, rng.integers(1, 4))) if rng.random() < 0.9 else None for _ in range(40)]
    found, columns = classes.prepare_target(dataset(list(cells)), ["dx"], (), "|")
    assert sorted(c.casefold() for c in columns) == sorted({n.strip().casefold() for n in names})
    for column in columns:
        for cell, value in zip(cells, sources.values(found.table[column]), strict=True):
            expected = None if cell is None else float(column.casefold() in [p.strip().casefold() for p in cell.split("|")])
            assert value == expected
    assert targets.read(found, columns).multilabel


def test_a_separator_that_will_not_do_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no cell of dx holds the separator '\|'"):
        settled(["a", "b"], separator="|")
    with pytest.raises(UsageError, match="the finding 'b' of dx is the name of a column"):
        classes.prepare_target(dataset_.Dataset("t", pd.DataFrame({"dx": ["a|b", "b"], "b": [1, 2]})), ["dx"], (), "|")


def test_several_0_1_targets_in_any_spelling() -> None:
    frame = pd.DataFrame({"a": ["1.0", "0.00", None, "1"], "b": [True, False, True, None]})
    found = targets.read(dataset_.Dataset("t", frame), ["a", "b"])
    np.testing.assert_array_equal(found.y, [[1, 1], [0, 0], [np.nan, 1], [1, np.nan]])


def test_the_audit_lists_what_labels_hold(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    paths = sources.load(grey_folder(6, ())).table["image_path"]
    frame = pd.DataFrame({"image_path": paths, "label": ["Yes", "yes", "no", "no", "-", "no"], "u": [1, 0, -1, 1, 0, None]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = {row["metric"]: row for row in audit(tmp_path / "t.csv", quiet=True) if row["evaluator"] == "audit"}
    assert found["look_alike_classes"]["value"] == 1
    assert found["missing_as_class"]["severity"] == "warning"
    found = {row["metric"]: row for row in audit(tmp_path / "t.csv", target=["u"], quiet=True) if row["evaluator"] == "audit"}
    assert (found["minus_one"]["severity"], found["minus_one"]["value"]) == ("error", 1)


def test_spellings_of_0_and_1_in_several_targets_are_no_classes_apart(capsys: pytest.CaptureFixture[str]) -> None:
    given = pd.DataFrame({"image_path": ["phantom:1"] * 4, "a": ["0", "1", "0.0", "1.0"], "b": [0, 1, 1, 0]})
    dataset = dataset_.Dataset("t", given)
    assert targets.read(classes.prepare_target(dataset, ["a", "b"])[0], ["a", "b"]).y[:, 0].tolist() == [0, 1, 0, 1]
    assert "kept apart" not in capsys.readouterr().err
    classes.prepare_target(dataset, ["a"])
    assert "'0' and '0.0', '1' and '1.0': one number each, kept apart as classes" in capsys.readouterr().err
