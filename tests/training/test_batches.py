"""What methods require beside images: columns, pairs, masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma.data import dataset, sources
from scotoma.data.datamodule import DataModule, gather
from scotoma.data.io import read
from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Requirements
from scotoma.training import batches


def made(data: object, **options: object) -> DataModule:
    return gather(data=data, size=16, quiet=True, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def phantoms() -> DataModule:
    return made("phantom:80")


def with_columns(data_module: DataModule, **columns: object) -> DataModule:
    return replace(data_module, dataset=replace(data_module.dataset, table=data_module.dataset.table.assign(**columns)))


def test_columns_become_numbers_and_say_what_they_are(phantoms: DataModule) -> None:
    n = len(phantoms.dataset)
    words = np.array(["b", None, "a", "c"], object)[np.arange(n) % 4]
    ages = np.array(["058Y", "006M", None, "010D"], object)[np.arange(n) % 4]
    flags = np.array([1.0, np.nan, 0.0, 0.0])[np.arange(n) % 4]
    data_module = with_columns(phantoms, words=words, ages=ages, flags=flags, numbers=np.arange(n, dtype=float))
    positions = np.arange(4, 40)
    described, values = batches.make_columns(data_module, ("words", "ages", "flags", "numbers"), positions)
    assert values is not None and values.dtype == np.float32 and values.shape == (36, 4)
    assert [c.classes for c in described] == [("a", "b", "c"), (), ("0", "1"), ()]
    np.testing.assert_array_equal(values[:4, 0], [1, np.nan, 0, 2])
    np.testing.assert_array_equal(values[:4, 2], [1, np.nan, 0, 0])
    years = values[:4, 1] * described[1].std + described[1].mean
    np.testing.assert_allclose(years, [58, 0.5, np.nan, 10 / 365.25], atol=0.01)
    np.testing.assert_allclose(values[:, 3] * described[3].std + described[3].mean, positions, rtol=1e-5)
    np.testing.assert_allclose([values[:, 3].mean(), values[:, 3].std()], [0, 1], atol=1e-6)


def test_columns_that_say_nothing_are_refused(phantoms: DataModule) -> None:
    n = len(phantoms.dataset)
    data_module = with_columns(phantoms, same=1.0, empty=None)
    for name, message in (("same", "fewer than two"), ("agee", "did you mean 'age'"), ("empty", "fewer than two")):
        with pytest.raises(UsageError, match=message):
            batches.make_columns(data_module, (name,), np.arange(n))


def test_a_column_that_is_the_target_shows_only_the_labels_that_a_draw_may_see() -> None:
    data_module = made("phantom:60", target=["sex"])
    assert data_module.target is not None
    seen = np.array([1, 5, 9])
    hidden = replace(data_module, target=data_module.target.only(seen))
    described, values = batches.make_columns(hidden, ("sex",), np.arange(12))
    assert values is not None and described[0].classes == data_module.target.classes
    assert np.flatnonzero(~np.isnan(values[:, 0])).tolist() == seen.tolist()
    np.testing.assert_array_equal(values[seen, 0], data_module.target.y[seen])


def test_partners_are_of_one_patient_band_or_study(phantoms: DataModule) -> None:
    positions = phantoms.pretraining
    frame = phantoms.dataset.table.iloc[positions]
    for spec, group in (("patient", frame["patient"]), ("age:10", frame["age"] // 10), ("sex", frame["sex"])):
        found, _ = batches.make_batches(phantoms, positions, Requirements(pairs=spec), 0)
        assert found.pairs is not None
        at = np.arange(len(positions))
        batch = found[np.zeros(len(at), np.int64), at]
        rng_rows = np.stack(
            [np.flatnonzero((found.store.batch(found.rows) == p.numpy()).all((1, 2, 3)))[0] for p in batch["paired_images"]]
        )
        group = group.to_numpy()
        assert (group[rng_rows] == group[at]).all(), spec
        alone = pd.Series(group).map(pd.Series(group).value_counts()).to_numpy() == 1
        assert ((rng_rows == at) == alone).all(), spec


def test_pairs_that_cannot_be_are_refused(phantoms: DataModule) -> None:
    positions = np.arange(len(phantoms.dataset))
    data_module = with_columns(phantoms, own=positions)
    for spec, message in (("own", "no two"), ("age:ten", "COLUMN:WIDTH"), ("site", "no column 'site'")):
        with pytest.raises(UsageError, match=message):
            batches.make_pairing(data_module, spec, positions)


@pytest.mark.parametrize("by", ["frame", "header"])
def test_the_next_slice_follows_by_place_or_frame(phantoms: DataModule, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    n = len(phantoms.dataset)
    order = np.random.default_rng(0).permutation(n)
    data_module = with_columns(phantoms, study=np.arange(n) // 10, frame=order if by == "frame" else np.arange(n))
    if by == "header":
        monkeypatch.setitem(vars(data_module.store), "facts", data_module.store.facts.assign(slice_position=order * 2.5 - 30))
    found, _ = batches.make_batches(data_module, np.arange(n), Requirements(pairs="next:study"), 0)
    at = np.arange(n)
    batch = found[np.zeros(n, np.int64), at]
    pixels = found.store.batch(found.rows)
    follows = batch["follows"].numpy() == 1
    assert 0.25 < follows.mean() < 0.65
    for k in at[follows]:
        later = [j for j in range(k // 10 * 10, k // 10 * 10 + 10) if order[j] > order[k]]
        nearest = min(later, key=lambda j: order[j])
        assert (batch["paired_images"][k].numpy() == pixels[nearest]).all()


def test_regions_lie_on_their_images(tmp_path: Path) -> None:
    frame = sources.load("phantom:30").table
    frame["mask_path"] = [None if k % 5 == 0 else p.split("#")[0] + "#heart" for k, p in enumerate(frame["image_path"])]
    data_module = made(dataset.Dataset("phantoms", frame))
    positions = np.arange(3, 27)
    found, _ = batches.make_batches(data_module, positions, Requirements(masks=True), 0)
    batch = found[np.zeros(24, np.int64), np.arange(24)]
    inside = batch["masks"].numpy()
    side = data_module.store.side
    assert inside.shape == (24, 1, side, side) and inside.dtype == np.uint8
    for k, position in enumerate(positions):
        path, number = frame["mask_path"][position], int(frame["frame"][position])
        wanted = (
            np.zeros((side, side, 1)) if not isinstance(path, str) else read.square_labels(read.read_labels(path, number), side)
        )
        np.testing.assert_array_equal(inside[k, 0], wanted[:, :, 0])
        assert inside[k].any() == isinstance(path, str)


def test_without_masks_regions_are_refused(phantoms: DataModule) -> None:
    data_module = with_columns(phantoms, mask_path=None)
    with pytest.raises(UsageError, match="mask_path"):
        batches.make_batches(data_module, np.arange(4), Requirements(masks=True), 0)
