"""`split`: the user's own table, with who trains, chooses and tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma.cli import main
from scotoma.commands.split import split
from scotoma.data import dataset as dataset_
from scotoma.data import sources
from scotoma.data.io import read
from scotoma.data.splits import splits
from scotoma.data.store import store
from scotoma.errors import RunError, UsageError

NAMES = ("train", "val", "test")


def text(path: Path) -> pd.DataFrame:
    """A CSV as it was typed."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """400 rows of 150 patients at four sites; no image is ever read."""
    rng = np.random.default_rng(0)
    patient = rng.integers(0, 150, 400)
    site = np.array(list("ABCD"))[patient % 4]
    frame = pd.DataFrame(
        {
            "image_path": [f"img/{k}.png" for k in range(400)],
            "patient": [f"{p:05d}" for p in patient],
            "site": site,
            "date": [f"20{15 + (p + (k % 40 == 0)) % 6}-0{1 + k % 9}-11" for k, p in enumerate(patient)],
            "dx": np.where(rng.random(400) < 0.1, "", np.where(patient % 5 == 0, "sick", "well")),
            "u": (rng.random(400) < 0.3).astype(int),
            "v": (rng.random(400) < 0.1).astype(int),
            "note": "1.50",
        }
    )
    (tmp_path / "in").mkdir()
    frame.to_csv(tmp_path / "in" / "t.csv", index=False)
    return tmp_path / "in" / "t.csv"


def test_the_table_comes_back_as_it_was_typed_with_a_split_by_patient(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = cohort.parent / "s.csv"
    assert main(["split", str(cohort), "--out", str(out), "--target", "u,v"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    before, after = text(cohort), text(out)
    pd.testing.assert_frame_equal(after.drop(columns="split"), before)
    assert after.groupby("patient")["split"].nunique().max() == 1
    for name, share in zip(NAMES, (0.7, 0.1, 0.2), strict=True):
        rows = after[after["split"] == name]
        assert f"{name}: {len(rows)} images of {rows['patient'].nunique()} units (patient)" in said.err
        assert len(rows) == pytest.approx(400 * share, abs=8)
        for label in ("u", "v"):
            assert (rows[label] == "1").sum() == pytest.approx(share * (before[label] == "1").sum(), abs=2)
    assert sources.load(out).table["split"].value_counts().to_dict() == after["split"].value_counts().to_dict()


def test_shares_and_seeds(cohort: Path, tmp_path: Path) -> None:
    def drawn(**options: object) -> list[str]:
        return text(split(cohort, tmp_path / "s.csv", overwrite=True, quiet=True, **options))["split"].tolist()  # type: ignore[arg-type]

    half = drawn(shares=[0.5, 0.25, 0.25])
    assert [half.count(n) for n in NAMES] == pytest.approx([200, 100, 100], abs=4)
    assert drawn(seed=3) == drawn(seed=3) != drawn(seed=4)
    assert "val" not in drawn(shares=[0.8, 0, 0.2])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_paths_are_found_from_wherever_the_table_is_written(grey_folder, tmp_path: Path, suffix: str) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(3)
    for out in (root / f"t{suffix}", tmp_path / f"t{suffix}", tmp_path / "deep" / "er" / f"t{suffix}"):
        split(root, out, by="label", shares=[0.5, 0, 0.5], quiet=True)
        again = sources.load(out).table
        assert again["image_path"].tolist() == sources.load(root).table["image_path"].tolist()
        assert again.groupby("label")["split"].nunique().tolist() == [1, 1]
        assert again.groupby("label")["group"].nunique().tolist() == [1, 1]
        assert not set(again["group"]) & set(again["label"])  # a group may be a patient's name: a keyed hash once it is read
        second = tmp_path / "moved" / f"u{suffix}"
        split(out, second, shares=[0.5, 0, 0.5], quiet=True, overwrite=True)
        assert sources.load(second).table["image_path"].tolist() == again["image_path"].tolist()


def test_sites_for_an_external_test(cohort: Path, tmp_path: Path) -> None:
    found = text(split(cohort, tmp_path / "s.csv", target=["dx"], test_where="site=B,D", quiet=True))
    assert set(found["split"][found["site"].isin(["B", "D"])]) == {"test"}
    inside = found[found["site"].isin(["A", "C"])]
    assert set(inside["split"]) == {"train", "val"}
    assert (inside["split"] == "val").mean() == pytest.approx(1 / 8, abs=0.02)
    assert inside.groupby("patient")["split"].nunique().max() == 1


def test_rows_are_chosen_by_the_users_own_groups_and_a_wrong_one_lists_none(cohort: Path, tmp_path: Path) -> None:
    frame = text(cohort)
    frame["group"] = frame["patient"].map(lambda p: f"Family {p}")
    frame.to_csv(cohort.parent / "families.csv", index=False)
    first = frame["group"][0]
    found = text(split(cohort.parent / "families.csv", tmp_path / "s.csv", test_where=f"group={first}", quiet=True))
    assert set(found["group"][found["split"] == "test"]) == {first}
    for column in ("group", "patient"):
        with pytest.raises(UsageError, match=f"`test_where`: {column} has no row of 'Q'$"):
            split(cohort.parent / "families.csv", tmp_path / "t.csv", test_where=f"{column}=Q", quiet=True)


def test_patients_who_were_at_a_test_site_and_rows_of_no_site_are_left_out(cohort: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    frame = text(cohort)
    mover = frame["patient"].value_counts().index[0]
    rows = frame.index[frame["patient"] == mover]
    frame["site"] = np.where(frame["site"].isin(["B", "D"]), "D", "A")
    frame.loc[rows, "site"] = "A"
    frame.loc[rows[0], "site"] = "D"
    other = frame.index[(frame["patient"] != mover) & (frame["site"] == "A")][0]
    frame.loc[other, "site"] = ""
    frame.to_csv(cohort, index=False)
    found = text(split(cohort, tmp_path / "s.csv", test_where="site=D", quiet=True))["split"]
    assert found[rows].tolist() == ["test"] + [""] * (len(rows) - 1)
    assert found[other] == ""
    assert f"{len(rows)} images are left out" in capsys.readouterr().err


def test_what_came_later_tests(cohort: Path, tmp_path: Path) -> None:
    found = text(split(cohort, tmp_path / "s.csv", test_after="date=2019-06-30", quiet=True))
    late = found["date"] > "2019-06-30"
    assert set(found["split"][late]) == {"test"}
    assert set(found["split"][~late & ~found["patient"].isin(found["patient"][late])]) == {"train", "val"}
    assert set(found["split"][~late & found["patient"].isin(found["patient"][late])]) == {""}
    assert (~late & found["patient"].isin(found["patient"][late])).any()
    numbers = text(split(cohort, tmp_path / "n.csv", test_after="v=0", quiet=True))  # any ordered column
    assert (numbers["v"][numbers["split"] == "test"] == "1").all()


def test_folds_are_by_patient_and_balanced_and_each_becomes_a_split(cohort: Path, tmp_path: Path) -> None:
    folds = split(cohort, tmp_path / "f.csv", target=["dx"], folds=4, quiet=True)
    found = text(folds)
    assert set(found["fold"]) == set("0123")
    assert found.groupby("patient")["fold"].nunique().max() == 1
    assert np.ptp([((found["fold"] == f) & (found["dx"] == "sick")).sum() for f in "0123"]) <= 4
    assert np.ptp(found["fold"].value_counts()) <= 8
    assert set(found["split"][found["fold"] == "0"]) == {"test"}
    assert set(found["split"][found["fold"] != "0"]) == {"train", "val"}
    third = text(split(folds, tmp_path / "f3.csv", test_where="fold=3", quiet=True))
    assert ((third["split"] == "test") == (third["fold"] == "3")).all()
    outside = text(split(cohort, tmp_path / "o.csv", test_where="site=A", folds=3, quiet=True))
    assert set(outside["split"][outside["site"] == "A"]) == {"test"}


def test_new_rows_move_nothing_and_come_near_the_shares(cohort: Path, tmp_path: Path) -> None:
    whole = text(cohort)
    whole.iloc[:250].to_csv(cohort.parent / "old.csv", index=False)
    first = split(cohort.parent / "old.csv", tmp_path / "first.csv", target=["u", "v"], quiet=True)
    second = text(split(cohort, tmp_path / "second.csv", target=["u", "v"], keep=str(first), seed=9, quiet=True))
    assert second["split"][:250].tolist() == text(first)["split"].tolist()
    assert second.groupby("patient")["split"].nunique().max() == 1
    assert [(second["split"] == n).sum() for n in NAMES] == pytest.approx([280, 40, 80], abs=15)
    assert set(second["split"]) == set(NAMES)


def test_a_row_that_bridges_an_earlier_split_is_left_out(cohort: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    first = text(split(cohort, cohort.parent / "first.csv", quiet=True))
    trained = first["patient"][first["split"] == "train"].iloc[0]
    tested = first.index[first["split"] == "test"][0]
    more = pd.concat([text(cohort), text(cohort).loc[[tested]].assign(patient=trained)])
    more.to_csv(cohort.parent / "more.csv", index=False)
    second = text(split(cohort.parent / "more.csv", tmp_path / "s.csv", keep=str(cohort.parent / "first.csv"), quiet=True))
    assert second["split"].tolist() == [*first["split"], ""]
    assert "1 images bridge two sides" in capsys.readouterr().err


def test_without_patients_copies_stay_together_and_the_split_holds_when_used(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(12)
    for k in range(4):
        (root / "left" / f"copy_{k}.png").write_bytes((root / "left" / f"scan_{k}.png").read_bytes())
    (root / "left" / "scan_9.png").write_bytes(b"broken")
    out = split(root, tmp_path / "t.csv", target=["label"], quiet=True)
    found = sources.load(out)
    of = dict(zip([Path(p).name for p in found.table["image_path"]], sources.values(found.table["split"]), strict=True))
    assert all(of[f"copy_{k}.png"] == of[f"scan_{k}.png"] for k in range(4))
    assert of["scan_9.png"] is None
    assert set(of.values()) == {*NAMES, None}
    dataset, opened = store.prepare(found, 32, quiet=True)
    split_of = splits.make(dataset, opened, None, 0)
    assert (split_of.unit, split_of.made) == ("near-duplicate", False)


def test_labels_and_raw_patients_of_a_spreadsheet_are_written(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(6, classes=())
    pd.DataFrame(
        {
            "scan": [f"scan_{k // 2}" for k in range(12)],
            "patient": [f"P{k // 4}" for k in range(12)],
            "dx": list("aabbabbbaaba"),
            "who": list("XY") * 6,
        }
    ).to_csv(tmp_path / "l.csv", index=False)
    out = split(
        root,
        tmp_path / "t.parquet",
        labels=str(tmp_path / "l.csv"),
        on="scan",
        annotators="majority",
        shares=[0.5, 0, 0.5],
        quiet=True,
    )
    found = pd.read_parquet(out)
    assert found["patient"].tolist() == ["P0", "P0", "P1", "P1", "P2", "P2"]
    assert sources.values(found["dx"]) == ["a", "b", None, "b", "a", None]
    assert found["dx_annotators"].tolist() == [2] * 6
    assert found.groupby("patient")["split"].nunique().max() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "t.txt"}, "name a .csv or a .parquet"),
        ({"shares": [0.5, 0.5]}, "three numbers"),
        ({"shares": [0.5, 0.3, 0.1]}, "sum to 1"),
        ({"folds": 1}, "at least 2"),
        ({"test_where": "site=A", "test_after": "date=2019"}, "one of `test_where`"),
        ({"test_where": "site"}, "COLUMN=VALUE"),
        ({"test_where": "sight=A"}, "did you mean 'site'"),
        ({"test_where": "site=A,Z"}, "no row of 'Z'; it has A, B, C, D"),
        ({"test_after": "site=3"}, "dates or numbers"),
        ({"test_after": "date=2035-01-01"}, "nothing is left for .*test"),
        ({"target": ["dxx"]}, "did you mean 'dx'"),
        ({"by": "sites"}, "did you mean 'site'"),
        ({"by": "note"}, r"too few units \(patient \+ note\)"),
        ({"keep": "t.csv"}, "no column split"),
    ],
)
def test_a_wrong_request_leaves_nothing(cohort: Path, tmp_path: Path, options: dict[str, object], message: str,
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(cohort.parent)
    with pytest.raises(UsageError, match=message):
        split(cohort, **{"out": tmp_path / "s.csv", "quiet": True} | options)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert [p.name for p in cohort.parent.iterdir()] == ["t.csv"]


def test_nothing_is_overwritten_or_half_written(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.csv"
    out.write_text("mine")
    with pytest.raises(UsageError, match="`overwrite`"):
        split(cohort, out)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", full)
        with pytest.raises(RunError, match="No space left"):
            split(cohort, out, overwrite=True, quiet=True)
    assert out.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "s.csv"]
    split(cohort, out, overwrite=True, quiet=True)
    assert len(text(out)) == 400


def test_a_table_of_windows_keeps_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image_path": [f"{k}.png" for k in range(20)], "patient": range(20)})
    shown = read.Display(((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0)))
    data = dataset_.Dataset("bleeds", frame, display=shown)
    with pytest.raises(UsageError, match=r"a CSV cannot hold: write `out` .*s.parquet"):
        split(data, tmp_path / "s.csv", quiet=True)
    path = split(data, tmp_path / "s.parquet", quiet=True)
    assert sources.load(path).display == shown
    again = split(path, tmp_path / "t.parquet", seed=1, quiet=True)
    assert sources.load(again).display == shown
