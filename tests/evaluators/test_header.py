from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from helpers.contexts import context

from scotoma.data.store.store import Store
from scotoma.evaluators import header


def auroc(rows: list[dict[str, object]]) -> float:
    return next(r["value"] for r in rows if r["metric"] == "auroc" and "class" not in r)


def test_sizes_that_tell_the_classes_apart_are_found_out(tmp_path: Path) -> None:
    made = context(tmp_path)
    assert 0.2 < auroc(header.evaluate(made)) < 0.8  # sizes say nothing; the pixels would say all
    facts = made.store.facts
    y_of_row = made.target.y[np.argsort(made.dataset.table["row"].to_numpy())]
    facts.assign(width=100 + 20 * y_of_row).to_parquet(tmp_path / "facts.parquet")
    made.store = Store(tmp_path, 32, 1)
    assert auroc(header.evaluate(made)) == 1


def test_pixels_are_not_seen(tmp_path: Path) -> None:
    made, other = context(tmp_path / "a"), context(tmp_path / "b", seed=5)
    other.store.facts.assign(width=made.store.facts["width"]).to_parquet(tmp_path / "b" / "facts.parquet")
    other.store = Store(tmp_path / "b", 32, 1)
    assert not np.array_equal(made.store.pixels, other.store.pixels)
    np.testing.assert_array_equal(header.inputs(made), header.inputs(other))


def test_names_and_the_tables_own_sizes_count(tmp_path: Path) -> None:
    made = context(tmp_path)
    table = made.dataset.table.assign(orig_w=np.where(made.target.y == 1, 640, 512), orig_h=480)
    made.dataset = replace(made.dataset, table=table)
    assert auroc(header.evaluate(made)) == 1
    again = context(tmp_path / "vendors")
    y_of_row = again.target.y[np.argsort(again.dataset.table["row"].to_numpy())]
    again.store.facts.assign(vendor=np.where(y_of_row == 1, "A", None)).to_parquet(tmp_path / "vendors" / "facts.parquet")
    again.store = Store(tmp_path / "vendors", 32, 1)
    assert auroc(header.evaluate(again)) == 1


def test_missing_and_odd_values_are_numbers(tmp_path: Path) -> None:
    made = context(tmp_path)
    width = pd.Series([None, "wide", *range(118)], dtype=object).astype(str).where(lambda s: s != "None", None)
    made.store.facts.assign(width=width, bits=None).to_parquet(tmp_path / "facts.parquet")
    made.store = Store(tmp_path, 32, 1)
    made.dataset = replace(made.dataset, table=made.dataset.table)
    assert np.isfinite(header.inputs(made)).all()
