"""Splits: no unit on two sides, shares kept, label fractions nested."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotoma.data import dataset as dataset_
from scotoma.data import sources
from scotoma.data.dataset import Dataset
from scotoma.data.splits import splits
from scotoma.data.store import store
from scotoma.errors import UsageError


@dataclass
class Facts:
    """What a split reads of a store."""

    hashes: np.ndarray
    facts: pd.DataFrame
    path: Path = Path("/no/such/store")

    @property
    def pixels(self) -> np.ndarray:
        """Black: an image that states nothing is no copy of another."""
        return np.zeros((len(self.facts), 16, 16, 1), np.uint8)

    def __len__(self) -> int:
        return len(self.facts)


def material(patients: list[object] | None, contents: list[str] | None = None, **columns: object) -> tuple[Dataset, Facts]:
    n = len(patients if patients is not None else next(iter(columns.values())))  # type: ignore[arg-type]
    frame = pd.DataFrame({"row": np.arange(n), **columns})
    if patients is not None:
        frame["patient"] = pd.Series(patients, dtype=object)
    hashes = np.random.default_rng(1).integers(0, 256, (n, 32), dtype=np.uint8)
    return Dataset("scans", frame), Facts(
        hashes, pd.DataFrame({"content": contents or [f"c{i}" for i in range(n)], "error": None, "width": 16, "height": 16})
    )


def sides(codes: object, of: np.ndarray) -> int:
    """On how many sides the most scattered value stands."""
    return int(pd.Series(of).groupby(pd.Series(codes).to_numpy()).nunique().max())


tables = st.integers(8, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 14), min_size=n, max_size=n),
        st.lists(st.integers(0, 40), min_size=n, max_size=n),
        st.lists(st.integers(-1, 2), min_size=n, max_size=n),
        st.integers(0, 1000),
    )
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_no_patient_and_no_image_stands_on_two_sides(drawn: tuple[list[int], list[int], list[int], int]) -> None:
    patients, contents, strata, seed = drawn
    dataset, facts = material([f"P{p}" for p in patients], [f"c{c}" for c in contents])
    try:
        split = splits.make(dataset, facts, np.array(strata), seed)  # type: ignore[arg-type]
    except UsageError as error:
        assert "too few patients or groups" in str(error)
        return
    assert split.made
    assert split.unit == "patient"
    assert set(split.of) <= set(dataset_.SPLITS)
    assert sides(patients, split.of) == 1
    assert sides(contents, split.of) == 1
    assert np.array_equal(split.of, splits.make(dataset, facts, np.array(strata), seed).of)  # type: ignore[arg-type]


def test_shares_strata_and_seeds() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 700, 2000)
    classes = (patients * 7919 % 10 < 2).astype(int)  # a fifth, by patient
    dataset, facts = material([f"P{p}" for p in patients])
    split = splits.make(dataset, facts, classes, 0)  # type: ignore[arg-type]
    for name, share in splits.SHARES.items():
        rows = split.rows(name)
        assert len(rows) / 2000 == pytest.approx(share, abs=0.01)
        for c in (0, 1):
            assert (classes[rows] == c).sum() / (classes == c).sum() == pytest.approx(share, abs=0.03)
    other = splits.make(dataset, facts, classes, 1)  # type: ignore[arg-type]
    assert (other.of != split.of).mean() > 0.3
    shuffled = rng.permutation(2000)
    moved = splits.make(Dataset("scans", dataset.table.iloc[shuffled].reset_index(drop=True)), facts, classes[shuffled], 0)  # type: ignore[arg-type]
    assert sides(patients[shuffled], moved.of) == 1


def test_units_without_a_label_train() -> None:
    dataset, facts = material([f"P{k // 2}" for k in range(80)])
    strata = np.where(np.arange(80) < 40, -1, np.arange(80) % 2)
    split = splits.make(dataset, facts, strata, 0)  # type: ignore[arg-type]
    assert set(split.of[:40]) == {"train"}
    assert set(split.of[40:]) == {"train", "val", "test"}


def test_a_unit_joins_patient_and_group_and_near_duplicates_of_what_has_neither() -> None:
    dataset, facts = material(["a", None, "a", None], group=[1, 1, 2, 2])
    codes, unit = splits.units(dataset, facts)  # type: ignore[arg-type]
    assert (codes.tolist(), unit) == ([0, 0, 0, 0], "patient + group")
    codes, unit = splits.units(Dataset("scans", dataset.table.drop(columns="patient")), facts)  # type: ignore[arg-type]
    assert (codes.tolist(), unit) == ([0, 0, 1, 1], "group")
    facts.hashes[3] = facts.hashes[0]
    codes, unit = splits.units(Dataset("scans", dataset.table[["row"]]), facts)  # type: ignore[arg-type]
    assert (codes.tolist(), unit) == ([0, 1, 2, 0], "near-duplicate")


def test_rows_of_one_number_are_linked_by_way_of_others() -> None:
    assert splits.link(np.array([0, 0, 1, 2, 3]), np.array(["x", "y", "y", "z", "z"])).tolist() == [0, 0, 0, 1, 1]
    assert splits.link(np.array([5, 6, 5])).tolist() == [0, 1, 0]


@pytest.mark.parametrize(("patients", "contents", "what"), [
    (["a", "b", "c", "a"], None, "1 patient stands"),
    (["a", "b", "c", "d"], ["x", "y", "z", "x"], "1 image with its copies stands"),
])  # fmt: skip
def test_a_leaking_split_is_refused_until_allowed(patients: list[object], contents: list[str] | None, what: str) -> None:
    dataset, facts = material(patients, contents, split=["train", "train", "val", "test"])
    with pytest.raises(UsageError, match=f"{what} on more than one side.*--allow_leakage"):
        splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]
    split = splits.make(dataset, facts, None, 0, allow_leakage=True)  # type: ignore[arg-type]
    assert split.of.tolist() == ["train", "train", "val", "test"]
    assert not split.made


def test_a_group_on_two_sides_is_refused() -> None:
    dataset, facts = material(None, group=[1, 1, 2], split=["train", "test", "val"])
    with pytest.raises(UsageError, match="1 group stands"):
        splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]


def test_rows_outside_the_given_split_stay_outside_and_do_not_leak() -> None:
    dataset, facts = material(["a", "b", "c", "c"], split=["train", "val", "test", None])
    assert splits.make(dataset, facts, None, 0).of.tolist() == ["train", "val", "test", ""]  # type: ignore[arg-type]


def test_a_given_split_may_lack_a_side_and_gets_none_by_itself() -> None:
    """An outside test set has no training rows, a table for pretraining no test rows; neither is anything to mend."""
    for only in ("train", "test"):
        dataset, facts = material([f"P{k}" for k in range(18)], split=[only] * 18)
        of = splits.make(dataset, facts, None, 0).of  # type: ignore[arg-type]
        assert set(of) == ({"train", "val"} if only == "train" else {"test"})


def test_too_few_patients_for_a_split_is_said() -> None:
    dataset, facts = material(["a", "a", "a"])
    with pytest.raises(
        UsageError, match=r"too few patients .*\(1 patient\); to pretrain .*; or leave out the column patient where"
    ):
        splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]
    facts.facts["patient"] = dataset.table["patient"].to_numpy()  # it is the files' own
    with pytest.raises(UsageError, match=r"\(1 patient, as the files' headers say\); to pretrain") as told:
        splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]
    assert "leave out the column" not in str(told.value)


def test_images_of_one_patient_are_pretrained_on_as_the_message_says() -> None:
    dataset, facts = material(["a"] * 6, [f"c{k}" for k in range(6)], split=["train"] * 6)
    split = splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]
    assert (split.of == "train").all()
    dataset, facts = material(["a"] * 6, [f"c{k}" for k in range(6)], split=["train"] * 4 + ["test"] * 2)
    with pytest.raises(UsageError, match=r"1 patient stands on more than one side .*in which every row is train, or use"):
        splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]


def test_validation_rows_are_carved_out_wherever_the_training_rows_stand() -> None:
    given = np.array(["test"] * 20 + ["train"] * 16)
    dataset, facts = material([f"P{k}" for k in range(36)], split=given)
    split = splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]
    assert (split.of[:20] == "test").all() and (split.of[20:] == "val").sum() == 2


def test_validation_rows_are_carved_out_of_training_by_patient() -> None:
    patients = [f"P{k // 3}" for k in range(240)]
    dataset, facts = material(patients, split=["train"] * 180 + ["test"] * 60)
    split = splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]
    assert set(split.of[180:]) == {"test"}
    assert (split.of[:180] == "val").mean() == pytest.approx(1 / 8, abs=0.02)
    assert sides(patients, split.of) == 1


def test_no_choice_is_made_on_images_that_the_encoder_was_trained_on() -> None:
    patients = [f"P{k // 3}" for k in range(240)]
    dataset, facts = material(patients, split=["train"] * 180 + ["test"] * 60)
    before = splits.make(dataset, facts, None, 0).of  # type: ignore[arg-type]
    earlier = {name: side for name, side in zip(patients, before, strict=True) if name != "P0"}
    strata = np.arange(240) // 3 % 2  # a target, which the pretraining did not have
    of = splits.make(dataset, facts, strata, 7, earlier=earlier).of  # type: ignore[arg-type]
    assert (of[3:] == before[3:]).all()
    everything = splits.make(dataset, facts, strata, 7, earlier={name: "train" for name in patients}).of  # type: ignore[arg-type]
    assert (everything == "val").any()  # else there is nothing to choose by


def test_patients_known_to_an_earlier_run_keep_their_split() -> None:
    patients = [f"P{k % 30}" for k in range(90)]
    dataset, facts = material(patients)
    earlier = {"P0": "test", "P1": "train", "c2": "val", "P3": "test", "c63": "train"}
    for seed in range(5):
        of = splits.make(dataset, facts, None, seed, earlier=earlier).of  # type: ignore[arg-type]
        assert set(of[0::30]) == {"test"}
        assert set(of[1::30]) == {"train"}
        assert set(of[2::30]) == {"val"}
        assert of[[3, 33, 63]].tolist() == [
            "test",
            "test",
            "",
        ]  # the last bridges: its patient is tested on, its image was trained on
        assert sides(patients, np.where(of == "", "test", of)) == 1


FRACTIONS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.333, 0.5, 0.75, 0.99, 1.0)


def test_a_row_that_bridges_two_sides_is_left_out_and_nothing_known_moves(capsys) -> None:  # type: ignore[no-untyped-def]
    patients = ["A", "A", "A", "B", "B", "N", "N", "O", None, "M", "M"]
    contents = ["a0", "a1", "b3", "b3", "b4", "a0", "b4", "o", "b3", "a1", "m"]
    dataset, facts = material(patients, contents)
    earlier = {"A": "train", "a0": "train", "a1": "train", "B": "test", "b3": "test", "b4": "test"}
    of = splits.make(dataset, facts, None, 0, earlier=earlier).of  # type: ignore[arg-type]
    # row 2 is patient A's and B's image; N, new, has one image of either; M has a training image, so all of M trains
    assert of[[0, 1, 2, 3, 4, 5, 6]].tolist() == ["train", "train", "", "test", "test", "", ""]
    assert of[7] in dataset_.SPLITS
    assert of[[8, 9, 10]].tolist() == ["test", "train", "train"]
    assert "3 images bridge two sides" in capsys.readouterr().err


def test_new_units_bring_the_whole_to_its_shares() -> None:
    """An earlier half without test rows: most of the new patients test."""
    patients = [f"P{k // 2}" for k in range(400)]
    dataset, facts = material(patients)
    earlier = {f"P{k}": "train" for k in range(100)}
    y = np.arange(400) // 2 % 4 == 0
    of = splits.make(dataset, facts, y.astype(int), 0, earlier=earlier).of  # type: ignore[arg-type]
    assert set(of[:200]) == {"train"}
    assert [(of == s).sum() for s in dataset_.SPLITS] == pytest.approx([280, 40, 80], abs=2)  # a patient has two rows
    assert [(of[y] == s).sum() for s in dataset_.SPLITS] == pytest.approx([70, 10, 20], abs=2)


def test_label_fractions_are_nested_and_count_each_class() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice([-1, 0, 1, 2], 400, p=[0.2, 0.6, 0.18, 0.02])
    rows = np.flatnonzero(rng.random(400) < 0.7)
    for seed in range(3):
        drawn = [splits.label_fraction(y, rows, f, seed) for f in FRACTIONS]
        for fraction, chosen in zip(FRACTIONS, drawn, strict=True):
            assert np.array_equal(chosen, np.unique(chosen))
            assert np.array_equal(chosen, splits.label_fraction(y, rows, fraction, seed))
            assert set(chosen) <= set(rows[y[rows] >= 0])
            for c in range(3):
                assert (y[chosen] == c).sum() == max(1, round(fraction * (y[rows] == c).sum()))
        assert all(set(small) <= set(large) for small, large in pairwise(drawn))
    assert set(splits.label_fraction(y, rows, 1, 0)) == set(rows[y[rows] >= 0])
    assert set(splits.label_fraction(y, rows, 0.1, 0)) != set(splits.label_fraction(y, rows, 0.1, 1))
    assert len(splits.label_fraction(y, rows[:0], 0.5, 0)) == 0


def test_label_fractions_of_several_targets_keep_a_positive_and_a_negative_of_each() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((300, 4)) < [0.5, 0.1, 0.05, 0.9]).astype(np.float32)
    y[rng.random((300, 4)) < 0.3] = np.nan
    y[:40] = np.nan
    y[[50, 90], 2] = 1  # rare
    rows = np.arange(250)
    labelled = 210 - int(np.isnan(y[40:250]).all(1).sum())
    for seed in range(3):
        drawn = [splits.label_fraction(y, rows, f, seed) for f in FRACTIONS]
        for fraction, chosen in zip(FRACTIONS, drawn, strict=True):
            assert len(chosen) == len(set(chosen.tolist()))
            assert len(chosen) == max(len(drawn[0]), round(fraction * labelled))
            assert not np.isnan(y[chosen]).all(1).any()
            for value in (0, 1):
                assert (y[chosen] == value).any(0).all()
        assert len(drawn[0]) <= 8
        assert all(set(small) <= set(large) for small, large in pairwise(drawn))


def test_cohort_counts_images_units_and_classes() -> None:
    split = splits.Split(np.array(["train", "train", "test", "val", "train"]), np.array([0, 0, 1, 2, 3]), "patient", True)
    rows = splits.cohort(split, np.array([0, 1, 1, -1, 1]), ("a", "b"))
    found = {(r["metric"], r["split"], r.get("class")): r["value"] for r in rows}
    assert found["images", "train", None] == 3
    assert found["patients", "train", None] == 2
    assert found["images", "train", "b"] == 2
    assert found["images", "test", "a"] == 0
    several = splits.cohort(split, np.array([[1, np.nan], [1, 0], [0, 1], [1, 1], [np.nan, 1]]), ("u", "v"))
    of_train = {(r["metric"], r["class"]): r["value"] for r in several if "class" in r and r["split"] == "train"}
    assert of_train == {("images", "u"): 2, ("images", "v"): 1, ("missing", "u"): 1, ("missing", "v"): 1}


def test_a_drawn_split_of_phantoms_is_by_patient(tmp_path: Path) -> None:
    dataset, opened = store.prepare(sources.load("phantom:90"), 16, out=tmp_path / "s", quiet=True)
    split = splits.make(dataset, opened, dataset.table["cardiomegaly"].to_numpy(), 0)
    assert split.unit == "patient"
    assert sides(dataset.table["patient"], split.of) == 1


def test_the_published_groups_of_real_images_are_kept_apart(data_root: Path) -> None:
    frame = pd.read_csv(data_root / "brain_tumor_mri" / "table.csv")
    dataset, facts = material(None, split=frame["split"].tolist(), group=frame["group"].tolist())
    split = splits.make(dataset, facts, None, 0)  # type: ignore[arg-type]
    assert not split.made
    assert split.unit == "group"
